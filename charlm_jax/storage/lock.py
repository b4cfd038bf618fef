"""Lock of a run's directory: one process writes at a time.

It is a `flock` of the operating system, released when the process ends for any reason. Some network
disks have none: there the lock file names the process and machine that write, and a message says if
that process has died or the machine is another one.
"""

import errno
import fcntl
import os
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from charlm_jax.core.caller_warnings import warn_caller
from charlm_jax.core.errors import CharlmError, write_error
from charlm_jax.core.typed_numbers import parse_whole_number

_TRIES = 10

# Answers of disks without file locks.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@contextmanager
def held(file: Path) -> Iterator[TextIO]:
    """Hold a lock file, created with its directory if necessary, and yield it open.

    On a disk without file locks, the name of the process in the file takes their place, with a
    warning.

    Raises:
      CharlmError: another process holds it, or it cannot be written.
    """
    with _open(file) as opened:
        is_locked = _try_for_a_while(opened.fileno())
        opened.seek(0)
        owner = opened.read().strip()
        if is_locked is None:
            _refuse_owner(file, owner)
            warn_caller(
                f"the disk of {file.parent} has no file locks: make sure that no process on "
                f"another machine trains there",
            )
        elif not is_locked:
            raise CharlmError(
                f"{file.parent} is in use by process {owner.partition(' ')[0] or '?'}: wait for "
                f"it, stop it, or choose another workdir"
            )
        if not is_still(file, opened):
            raise CharlmError(f"{file.parent} was just moved aside: try again")
        try:
            yield opened
        finally:
            if is_locked is None:
                opened.truncate(0)


def record_owner(opened: TextIO) -> None:
    """Write this process's id and machine into the lock file that it holds.

    Raises:
      CharlmError: it cannot be written.
    """
    try:
        opened.truncate(0)
        opened.write(f"{os.getpid()} {socket.gethostname()}\n")
        opened.flush()
    except OSError as error:
        raise write_error(opened.name, error) from error


def is_held(file: Path) -> bool | None:
    """Returns whether a process holds a lock file; None if nothing can tell."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        return False
    except OSError:
        return None
    with os.fdopen(descriptor, encoding="utf-8", errors="replace") as opened:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None
        is_free = _try(descriptor)
        if is_free is not None:
            return not is_free
        owner = opened.read().strip()
        return _is_alive(owner) if owner else False


def is_still(file: Path, opened: TextIO) -> bool:
    """Returns whether an open file still has this path; a run may have been moved or removed."""
    try:
        return os.path.samestat(os.fstat(opened.fileno()), file.stat())
    except OSError:
        return False


def _refuse_owner(file: Path, owner: str) -> None:
    """Refuse a lock file that names a process which may still write."""
    if not owner:
        return
    process, _, machine = owner.partition(" ")
    is_alive = _is_alive(owner)
    if is_alive:
        raise CharlmError(
            f"{file.parent} is in use by process {process}: wait for it, stop it, or choose "
            f"another workdir"
        )
    if is_alive is None:
        raise CharlmError(
            f"{file.parent} may be in use by process {process} on {machine or 'another machine'}, "
            f"and its disk has no file locks: if that process has ended, remove {file}"
        )


def _is_alive(owner: str) -> bool | None:
    """Returns whether a recorded process runs on this machine; None for another machine."""
    process, _, machine = owner.partition(" ")
    number = parse_whole_number(process)
    if machine != socket.gethostname() or number is None:
        return None
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True  # somebody else's process
    return True


def _open(file: Path) -> TextIO:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        return file.open("a+", encoding="utf-8", errors="replace")
    except OSError as error:
        raise write_error(file.parent, error) from error


def _try_for_a_while(descriptor: int) -> bool | None:
    """Try to lock several times, because `is_held` takes the lock for a moment."""
    for _ in range(_TRIES):
        if _try(descriptor) is not False:
            break
        time.sleep(0.02)
    return _try(descriptor)


def _try(descriptor: int) -> bool | None:
    """Try to lock; returns None if the disk has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return None
        raise
    return True
