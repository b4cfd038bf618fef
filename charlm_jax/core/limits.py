"""Ranges of whole numbers."""

import operator

from charlm_jax.core.errors import CharlmError

MAX_INT32 = 2**31 - 1
"""Largest number of characters, position and step: all are counted in int32."""


def require_within(name: str, value: int, least: int, most: int | None = None) -> None:
    """Raise a `CharlmError` for anything but a whole number in [least, most]; no limit if None."""
    try:
        number = operator.index(value)
    except TypeError as error:
        raise CharlmError(f"{name}={value!r} is not allowed: it must be a whole number") from error
    if most is None and number < least:
        raise CharlmError(f"{name}={value} is not allowed: it must be at least {least}")
    if most is not None and not least <= number <= most:
        raise CharlmError(f"{name}={value} is not allowed: it must lie in [{least}, {most}]")
