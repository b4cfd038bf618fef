"""Warnings at the line of the code that called the package."""

import sys
import warnings

_BETWEEN = ("charlm_jax", "contextlib", "functools")  # packages and modules of the calls between


def warn_caller(message: str) -> None:
    """Warn at the line that called the package, however many calls lie between."""
    frame, level = sys._getframe(1), 2
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] in _BETWEEN:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)
