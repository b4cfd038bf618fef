"""Progress of long computations, reported to a callback."""

from collections.abc import Callable

Report = Callable[[str, int, int], None]
"""Callback with a phase, such as `scoring runs/first`, the units done, and their total."""


def report_nothing(phase: str, done: int, total: int) -> None:
    """Ignore progress."""
    del phase, done, total
