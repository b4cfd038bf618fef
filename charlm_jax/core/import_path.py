"""Folders that Python imports from, changed for the duration of one import."""

import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def first_on_path(folder: Path) -> Iterator[None]:
    """Put a folder first on `sys.path`, as Python does with the folder of a script."""
    entry = str(folder)
    sys.path.insert(0, entry)
    importlib.invalidate_caches()  # the folder may have new files
    try:
        yield
    finally:
        if entry in sys.path:
            sys.path.remove(entry)


def imports_current_folder() -> bool:
    """Return whether Python has put the current folder first on `sys.path`.

    It does so for `python -m`, `python -c` and in a notebook, unless it is started with `-P`.
    """
    return not sys.flags.safe_path and sys.path[:1] in ([""], [os.getcwd()])


@contextmanager
def without_current_folder() -> Iterator[None]:
    """Take the current folder from `sys.path`, where `python -m` and `python -c` put it first.

    An entry for it elsewhere stays: an editable install or PYTHONPATH has added it.
    """
    if not imports_current_folder():
        yield
        return
    first = sys.path.pop(0)
    try:
        yield
    finally:
        sys.path.insert(0, first)
