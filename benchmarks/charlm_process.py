"""`charlm` commands as a user starts them, watched from outside."""

import contextlib
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.subprocesses import ModuleProcess
from charlm_jax.core.errors import CharlmError

POLL_SECONDS = 0.02
PATIENCE_SECONDS = 120.0  # for a run that was asked to stop, and saves itself


class CharlmProcess:
    """A command that runs, in a `with` block at whose end it is asked to stop."""

    def __init__(self, *arguments: str) -> None:
        self._start = time.perf_counter()
        self._process = ModuleProcess("charlm_jax", *arguments)

    def __enter__(self) -> "CharlmProcess":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.close(PATIENCE_SECONDS)

    @property
    def seconds(self) -> float:
        """Since it was started."""
        return time.perf_counter() - self._start

    def wait(self) -> None:
        """Return when it is done; a `CharlmError` with its last words where it failed."""
        if self._process.wait() != 0:
            raise CharlmError(self._process.last_words())

    def read(self, characters: int) -> str:
        """So many characters of what it prints, as soon as they are there."""
        text = self._process.stdout.read(characters)
        if len(text) < characters:
            raise CharlmError(self._process.last_words())
        return text

    def rows(self, metrics_file: Path) -> Iterator[dict[str, Any]]:
        """The rows of a run's metrics as they are written, until it ends."""
        seen = 0
        while True:
            has_ended = self._process.has_ended()  # asked first: after that no row can come
            lines = read_lines(metrics_file)
            yield from (json.loads(line) for line in lines[seen:])
            seen = len(lines)
            if has_ended:
                return self.wait()
            time.sleep(POLL_SECONDS)


def read_lines(file: Path) -> Sequence[str]:
    """The whole lines of a file that grows; none where it is not there yet."""
    with contextlib.suppress(FileNotFoundError):
        return file.read_text(encoding="utf-8").split("\n")[:-1]
    return []
