"""Reads of regular files, and atomic writes: a file is written completely or not at all."""

import contextlib
import errno
import os
import re
import secrets
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from charlm_jax.core.errors import CharlmError

# `run.json.01234567.partial`. Earlier versions wrote to `run.json.partial`.
_TEMPORARY = re.compile(r"(?P<name>.+?)(\.[0-9a-f]{8})?\.partial", re.DOTALL)

# No writer pauses longer: the data are in memory when the file is opened, or come in pieces.
_ABANDONED_SECONDS = 600.0


def atomic_write(path: Path, data: bytes, *, replace: bool = True) -> None:
    """Write or replace a file atomically, as `atomic_file` does.

    Arguments and errors are those of `atomic_file`.
    """
    with atomic_file(path, replace=replace) as file:
        file.write(data)


@contextlib.contextmanager
def atomic_file(path: Path, *, replace: bool = True) -> Iterator[IO[bytes]]:
    """Open a file that appears, or replaces another, when the block ends without an error.

    The data are written to a temporary file with a unique name in the same folder, synced to disk,
    and only then renamed: a killed process leaves the old file unchanged, and two writers of one
    file do not interfere. A link is replaced, not followed.

    Temporary files left by killed writers of the same file are removed once they are too old to be
    in use.

    Args:
      path: path of the file.
      replace: whether a file that exists is replaced; if not, one of several writers succeeds.

    Raises:
      FileExistsError: `replace` is False, and the name is taken, even by a broken link.
      OSError: the file could not be written; no temporary file is left.
    """
    remove_temporary_files(path, older_than=_ABANDONED_SECONDS)
    temporary = _temporary_path(path)
    try:
        with synced_file(temporary) as file:
            yield file
        if replace or not _link(temporary, path):
            os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _link(file: Path, path: Path) -> bool:
    """Give a file a second name that is not taken; returns False if the disk has no such links."""
    try:
        os.link(file, path)
    except OSError as error:
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from error
        return False
    return True


def read_regular(path: Path) -> bytes:
    """Return the content of a regular file; a link is followed.

    A pipe or a device is refused without waiting for its data.

    Raises:
      OSError: the file cannot be read, or is not a regular one.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        return file.read()


def user_path(path: Path | str) -> Path:
    """Return a path that somebody typed, with `~` and `~name` replaced by home folders.

    Raises:
      CharlmError: it is not a path.
    """
    if "\0" in str(path):
        raise CharlmError(f"{str(path)!r} is not a path: it has a NUL byte")
    return Path(os.path.expanduser(path))


def check_writable(path: Path) -> None:
    """Check that `atomic_write` would work, by creating and removing a temporary file.

    Raises:
      OSError: `atomic_write` would fail.
    """
    temporary = _temporary_path(path)
    temporary.open("xb").close()
    temporary.unlink()


@contextlib.contextmanager
def synced_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a new file for writing, and sync it to disk before it is closed.

    Some file systems report only then that they are full.

    Raises:
      FileExistsError: the name is taken, even by a broken link.
    """
    with path.open("xb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def stored_path(path: str) -> str:
    """Return a path as it is stored: the bytes of its name as UTF-8, in any locale.

    Bytes that are not UTF-8 become lone surrogates, as Python has them in a UTF-8 locale.
    """
    try:
        return os.fsencode(path).decode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # no name of this locale: it is stored text already
        return path


def local_path(text: str) -> str:
    """Return a path as this locale has it, from the form that `stored_path` returns."""
    try:
        return os.fsdecode(text.encode("utf-8", "surrogateescape"))
    except UnicodeEncodeError:
        return text


def final_name(name: str) -> str:
    """Return the final name of a temporary file, and any other name unchanged.

    >>> final_name("run.json.01234567.partial"), final_name("run.json")
    ('run.json', 'run.json')
    """
    match = _TEMPORARY.fullmatch(name)
    return match["name"] if match else name


def is_temporary(name: str) -> bool:
    """Return whether a name is that of a temporary file of `atomic_write`, with its token.

    >>> is_temporary("run.json.01234567.partial"), is_temporary("notes.partial")
    (True, False)
    """
    match = _TEMPORARY.fullmatch(name)
    return match is not None and match[2] is not None


def remove_temporary_files(path: Path, *, older_than: float = 0.0) -> None:
    """Remove the temporary files of killed writers of a file; errors are ignored.

    Args:
      path: final path of the file.
      older_than: minimum seconds since the last change; 0 only if no other process can be writing.
    """
    with contextlib.suppress(OSError):
        for other in path.parent.iterdir():
            if path.name == final_name(other.name) != other.name:
                is_old = time.time() - other.lstat().st_mtime >= older_than
                # No current writer uses the name without a token, but a user may.
                may_be_users = older_than > 0 and other.name == f"{path.name}.partial"
                if is_old and not may_be_users:
                    other.unlink()


def _temporary_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.{secrets.token_hex(4)}.partial")
