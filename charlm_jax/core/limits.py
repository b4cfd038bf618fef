"""Ranges of whole numbers."""

import operator

from charlm_jax.core.errors import CharlmError

MAX_INT32 = 2**31 - 1
"""Largest number of characters, position and step: all are counted in int32."""


def require_within(name: str, value: int, least: int, most: int) -> None:
    """Raise a `CharlmError` for anything but a whole number in [least, most]."""
    try:
        number = operator.index(value)
    except TypeError as error:
        raise CharlmError(f"{name}={value!r} is not allowed: it must be a whole number") from error
    if not least <= number <= most:
        raise CharlmError(f"{name}={value} is not allowed: it must lie in [{least}, {most}]")
