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


@contextmanager
def without_current_folder() -> Iterator[None]:
    """Take the current folder from `sys.path`, where `python -m` and `python -c` put it first.

    An entry for it elsewhere stays: an editable install or PYTHONPATH has added it.
    """
    first = sys.path[0] if sys.path else None
    if first not in ("", os.getcwd()):
        yield
        return
    del sys.path[0]
    try:
        yield
    finally:
        sys.path.insert(0, first)
