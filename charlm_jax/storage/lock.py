"""Lock of a run's directory: one process writes at a time.

It is a `flock` of the operating system, released when the process ends for any reason. Some network
disks have none: there a second file, which only one process can create, names the process that
writes, its machine and when it started. It is taken over from a process of this machine that has
died; if the machine is another one, a message says so.
"""

import contextlib
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
from charlm_jax.core.files import read_regular
from charlm_jax.core.typed_numbers import parse_whole_number

_TRIES = 10

# On disks without file locks: the process that writes, and the one that takes over from a dead one.
_CLAIM, _TAKEOVER = CLAIM_FILES = ("lock.claim", "lock.takeover")

# Answers of disks without file locks.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@contextmanager
def held(file: Path) -> Iterator[TextIO]:
    """Hold a lock file, created with its directory if necessary, and yield it open.

    On a disk without file locks, a claim beside the file takes their place, with a warning.

    Raises:
      CharlmError: another process holds it, or it cannot be written.
    """
    with _open(file) as opened, contextlib.ExitStack() as stack:
        is_locked = _try_for_a_while(opened.fileno())
        had_claim = is_locked is None and stack.enter_context(_claimed(file.parent))
        opened.seek(0)
        owner = opened.read().strip()
        if is_locked is None:
            if not had_claim:  # an earlier version named its process here alone
                _refuse_owner(file, owner)
            warn_caller(
                f"the disk of {file.parent} has no file locks: make sure that no process on "
                f"another machine trains there",
            )
        elif not is_locked:
            raise _in_use(file, owner.partition(" ")[0] or "?")
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


def read_owner(file: Path) -> str:
    """Return the id of the process that a lock file names; ? if it names none."""
    words = (_read(file) or "").split()
    return words[0] if words else "?"


def is_held(file: Path) -> bool | None:
    """Return whether a process holds a lock file; None if nothing can tell."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        return False
    except OSError:
        return None
    with os.fdopen(descriptor, encoding="utf-8", errors="replace") as opened:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None
        is_free = _try(descriptor, fcntl.LOCK_SH)  # shared: this look keeps no other from one
        if is_free is not None:
            return not is_free
        claim = _read(file.with_name(_CLAIM))
        owner = opened.read().strip() if claim is None else claim
        return _is_alive(owner) if owner or claim is not None else False


def is_still(file: Path, opened: TextIO) -> bool:
    """Return whether an open file still has this path; a run may have been moved or removed."""
    try:
        return os.path.samestat(os.fstat(opened.fileno()), file.stat())
    except OSError:
        return False


def _in_use(file: Path, process: str) -> CharlmError:
    return CharlmError(
        f"{file.parent} is in use by process {process}: wait for it, stop it, or choose another "
        f"workdir"
    )


def _refuse_owner(file: Path, owner: str) -> None:
    """Refuse a lock file that names a process which may still write."""
    if not owner:
        return
    process, machine, _ = _words(owner)
    is_alive = _is_alive(owner)
    if is_alive:
        raise _in_use(file, process)
    if is_alive is None:
        raise CharlmError(
            f"{file.parent} may be in use by process {process or '?'} on "
            f"{machine or 'another machine'}, "
            f"and its disk has no file locks: if that process has ended, remove {file}"
        )


def _is_alive(owner: str) -> bool | None:
    """Return whether a recorded process runs on this machine; None for another machine."""
    process, machine, start = _words(owner)
    number = parse_whole_number(process)
    if machine != socket.gethostname() or number is None:
        return None
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True  # somebody else's process
    return not start or start == _start_of(process)  # the number may be another process's by now


def _words(owner: str) -> tuple[str, str, str]:
    """Return the id, the machine and the start of a recorded process; empty if not recorded."""
    process, machine, start, *_ = [*owner.split(), "", "", ""]
    return process, machine, start


def _start_of(process: str) -> str:
    """Return when a process of this machine started, in clock ticks; empty outside Linux."""
    stat_of = _read(Path("/proc") / process / "stat")
    return "" if stat_of is None else stat_of.rpartition(")")[2].split()[19]


def _read(file: Path) -> str | None:
    """Return the content of a file; None if it cannot be read."""
    try:
        return read_regular(file).decode("utf-8", "replace").strip()
    except OSError:
        return None


@contextmanager
def _claimed(folder: Path) -> Iterator[bool]:
    """Hold the claim to a folder; yields whether it was taken over from a process that has died.

    Raises:
      CharlmError: another process has it, or it cannot be written.
    """
    try:
        opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise write_error(folder, error) from error
    try:
        is_new = _create(_CLAIM, folder, opened)
        if not is_new:
            _take_over(folder, opened)
        try:
            yield not is_new
        finally:  # the folder may have been moved
            _remove(_CLAIM, opened)
    finally:
        os.close(opened)


def _take_over(folder: Path, opened: int) -> None:
    """Replace the claim of a process that has died; one process at a time does."""
    if not _create(_TAKEOVER, folder, opened):
        raise CharlmError(
            f"another process takes {folder} over: try again; if that process has ended, remove "
            f"{folder / _TAKEOVER}"
        )
    try:
        claim = _read(folder / _CLAIM)
        if claim is not None:
            _refuse_owner(folder / _CLAIM, claim or "? ?")  # empty if it was just created
            _remove(_CLAIM, opened)
        if not _create(_CLAIM, folder, opened):
            raise CharlmError(f"{folder} was just taken by another process: choose another workdir")
    finally:
        _remove(_TAKEOVER, opened)


def _create(name: str, folder: Path, opened: int) -> bool:
    """Create a file that names this process; returns False if there is one."""
    try:
        descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644, dir_fd=opened)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(f"{os.getpid()} {socket.gethostname()} {_start_of(str(os.getpid()))}\n")
    except FileExistsError:
        return False
    except OSError as error:
        raise write_error(folder, error) from error
    return True


def _remove(name: str, opened: int) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=opened)


def _open(file: Path) -> TextIO:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        return file.open("a+", encoding="utf-8", errors="replace")
    except OSError as error:
        raise write_error(file.parent, error) from error


def _try_for_a_while(descriptor: int) -> bool | None:
    """Try to lock several times, because `is_held` shares the lock for a moment."""
    for _ in range(_TRIES):
        if _try(descriptor) is not False:
            break
        time.sleep(0.02)
    return _try(descriptor)


def _try(descriptor: int, kind: int = fcntl.LOCK_EX) -> bool | None:
    """Try to lock; returns None if the disk has no locks."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return None
        raise
    return True
