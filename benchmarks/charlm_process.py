"""`charlm` commands run as subprocesses and observed from outside."""

import contextlib
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.subprocesses import ModuleProcess
from charlm_jax.core.errors import CharlmError

POLL_SECONDS = 0.02
PATIENCE_SECONDS = 120.0  # time for a run to save itself after SIGTERM


class CharlmProcess:
    """Running command; a context manager that asks it to stop on exit."""

    def __init__(self, *arguments: str) -> None:
        self._start = time.perf_counter()
        self._process = ModuleProcess("charlm_jax", *arguments)

    def __enter__(self) -> "CharlmProcess":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.close(PATIENCE_SECONDS)

    @property
    def seconds(self) -> float:
        """Seconds since the command was started."""
        return time.perf_counter() - self._start

    def wait(self) -> None:
        """Wait for the command to end; raise `CharlmError` with its last error line on failure."""
        if self._process.wait() != 0:
            raise CharlmError(self._process.last_words())

    def read(self, characters: int) -> str:
        """Return the next `characters` characters of output; raise `CharlmError` if it ends."""
        text = self._process.stdout.read(characters)
        if len(text) < characters:
            raise CharlmError(self._process.last_words())
        return text

    def rows(self, metrics_file: Path) -> Iterator[dict[str, Any]]:
        """Yield the rows of a run's metrics as they are written, until the command ends."""
        seen = 0
        while True:
            has_ended = self._process.has_ended()  # checked first: no row follows the end
            lines = read_lines(metrics_file)
            yield from (json.loads(line) for line in lines[seen:])
            seen = len(lines)
            if has_ended:
                return self.wait()
            time.sleep(POLL_SECONDS)


def read_lines(file: Path) -> Sequence[str]:
    """Return the complete lines of a growing file; empty if it does not exist yet."""
    with contextlib.suppress(FileNotFoundError):
        return file.read_text(encoding="utf-8").split("\n")[:-1]
    return []
