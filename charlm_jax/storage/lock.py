"""The lock of a run's folder: one process writes at a time."""

import fcntl
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass

_LOCK_TRIES = 10


def _locked(descriptor: int) -> bool:
    """Try to take the lock of an open file, and say whether that worked."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _locked_soon(descriptor: int) -> bool:
    """The same, with a little patience: `is_held` takes the lock for a moment."""
    for _ in range(_LOCK_TRIES):
        if _locked(descriptor):
            return True
        time.sleep(0.02)
    return False
