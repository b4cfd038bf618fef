"""Files that are written whole or not at all."""

import contextlib
import os
import re
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

# `run.json.01234567.partial`. Earlier versions wrote to `run.json.partial`.
_TEMPORARY = re.compile(r"(?P<name>.+?)(\.[0-9a-f]{8})?\.partial", re.DOTALL)

# No writer is busy for longer: the data are in memory when the file is opened.
_ABANDONED_SECONDS = 600.0


def atomic_write(path: Path, data: bytes) -> None:
    """Write a file, or replace it, as a whole.

    The data go to a temporary file of a unique name in the same folder, reach the disk, and only
    then get the final name: a process that is killed leaves the older file as it was, and two
    writers of one file do not meet. A link is replaced, not followed.

    Temporary files that killed writers of the same file left behind are removed once they are too
    old to be in use.

    Raises:
      OSError: the file could not be written; no temporary file is left.
    """
    remove_temporary_files(path, older_than=_ABANDONED_SECONDS)
    temporary = _temporary_path(path)
    try:
        with synced_file(temporary) as file:
            file.write(data)
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def check_writable(path: Path) -> None:
    """Make a temporary file as `atomic_write` would, and remove it.

    Raises:
      OSError: `atomic_write` would fail.
    """
    temporary = _temporary_path(path)
    temporary.open("xb").close()
    temporary.unlink()


@contextlib.contextmanager
def synced_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a new file for writing; its data are on the disk when it is closed.

    Some file systems report only at that point that they are full.

    Raises:
      FileExistsError: the name is taken, if only by a link.
    """
    with path.open("xb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def final_name(name: str) -> str:
    """Returns the name that a temporary file was to get, and any other name unchanged.

    >>> final_name("run.json.01234567.partial"), final_name("run.json")
    ('run.json', 'run.json')
    """
    match = _TEMPORARY.fullmatch(name)
    return match["name"] if match else name


def remove_temporary_files(path: Path, *, older_than: float = 0.0) -> None:
    """Remove what killed writers of a file left behind, as far as that is possible.

    Args:
      path: the file that they were to write.
      older_than: seconds since the last change; 0 only where nobody else can be writing.
    """
    with contextlib.suppress(OSError):
        for other in path.parent.iterdir():
            if path.name == final_name(other.name) != other.name:
                is_old = time.time() - other.lstat().st_mtime >= older_than
                # No writer of today uses the name without a token, but a user may.
                may_be_users = older_than > 0 and other.name == f"{path.name}.partial"
                if is_old and not may_be_users:
                    other.unlink()


def _temporary_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.{secrets.token_hex(4)}.partial")
