"""Python modules run in separate processes, as all timed code in the benchmarks is."""

import contextlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parent.parent

# The benchmarks measure the CPU; workers that share a GPU would also fill its memory.
SETTING = {
    "JAX_PLATFORMS": "cpu",
    "CUDA_VISIBLE_DEVICES": "",
    "KERAS_BACKEND": "tensorflow",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}


def child_environment() -> dict[str, str]:
    """Return our environment with the settings of all measurements and `benchmarks` importable."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, **SETTING, "PYTHONPATH": os.pathsep.join(paths)}


class ModuleProcess:
    """`python -m MODULE ARGUMENTS` with piped input and output; keeps its standard error."""

    def __init__(self, module: str, *arguments: str) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115, `close` closes it
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            encoding="utf-8",
            env=child_environment(),
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self.stdin: IO[str] = self._process.stdin
        self.stdout: IO[str] = self._process.stdout

    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def wait(self) -> int:
        """Discard the rest of the output and return the exit status."""
        self.stdout.read()
        return self._process.wait()

    def last_words(self) -> str:
        """Return the last line of standard error, or the exit status if it is empty."""
        status = self.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"exit status {status}"

    def close(self, patience_seconds: float = 0.0) -> None:
        """End the process: terminate it if patience is positive, and kill it after that time."""
        if patience_seconds > 0:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(patience_seconds)
        self._process.kill()
        self._process.wait()
        with contextlib.suppress(BrokenPipeError):
            self.stdin.close()
        self.stdout.close()
        self._errors.close()
