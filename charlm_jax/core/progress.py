"""Progress of long computations, reported to a callback."""

from collections.abc import Callable

Report = Callable[[str, float], None]
"""Callback with a phase, such as `scoring runs/first`, and the share of it that is done."""


def report_nothing(phase: str, share: float) -> None:
    """Ignore progress."""
    del phase, share
