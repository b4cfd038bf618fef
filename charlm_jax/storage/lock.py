"""Lock of a run's directory: one process writes at a time.

It is a `flock` of the operating system, released when the process ends for any reason.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from charlm_jax.core.errors import CharlmError, write_error

_TRIES = 10


@contextmanager
def held(file: Path) -> Iterator[TextIO]:
    """Hold a lock file, created with its directory if necessary, and yield it open.

    Raises:
      CharlmError: another process holds it, or it cannot be written.
    """
    with _open(file) as opened:
        if not _try_for_a_while(opened.fileno()):
            opened.seek(0)
            raise CharlmError(
                f"{file.parent} is in use by process {opened.read().strip() or '?'}: wait for it, "
                f"stop it, or choose another workdir"
            )
        if not _is_still(file, opened):
            raise CharlmError(f"{file.parent} was just moved aside: try again")
        yield opened


def record_owner(opened: TextIO) -> None:
    """Write this process's id into the lock file that it holds.

    Raises:
      CharlmError: it cannot be written.
    """
    try:
        opened.truncate(0)
        opened.write(f"{os.getpid()}\n")
        opened.flush()
    except OSError as error:
        raise write_error(opened.name, error) from error


def is_held(file: Path) -> bool:
    """Returns whether a process holds a lock file."""
    try:
        with file.open(encoding="utf-8") as opened:
            return not _try(opened.fileno())
    except OSError:
        return False


def _open(file: Path) -> TextIO:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        return file.open("a+", encoding="utf-8")
    except OSError as error:
        raise write_error(file.parent, error) from error


def _is_still(file: Path, opened: TextIO) -> bool:
    """Returns whether an open file still has this path; a run may have been moved."""
    try:
        return os.path.samestat(os.fstat(opened.fileno()), file.stat())
    except FileNotFoundError:
        return False


def _try_for_a_while(descriptor: int) -> bool:
    """Try to lock several times, because `is_held` takes the lock for a moment."""
    for _ in range(_TRIES):
        if _try(descriptor):
            return True
        time.sleep(0.02)
    return False


def _try(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
