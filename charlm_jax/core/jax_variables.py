"""Mistakes in the environment variables of JAX, such as `JAX_PLATFORMS=cuda` without a GPU."""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from charlm_jax.core.errors import CharlmError, describe_exception

_PLATFORM = ("JAX_PLATFORMS", "JAX_PLATFORM_NAME")
_NAMED = re.compile(r"environment '(?P<variable>\w+)'|JAX flag (?P<flag>\w+)")


@contextmanager
def named_variables() -> Iterator[None]:
    """Raise a `CharlmError` that names the variable in place of JAX's error about it.

    JAX reads its variables when it is imported, and looks for devices when it first computes. An
    unknown flag in XLA_FLAGS is out of reach: XLA aborts the process, with a line that names it.
    """
    try:
        yield
    except (AssertionError, RuntimeError, ValueError) as error:
        mistake = None if isinstance(error, CharlmError) else _mistake(error)
        if mistake is None:
            raise
        raise mistake from error


def _mistake(error: Exception) -> CharlmError | None:
    """Return the error for a variable that is at fault; None if none is."""
    named = _NAMED.search(str(error))
    variable = (named["variable"] or named["flag"]).upper() if named else ""
    if variable in os.environ:
        return CharlmError(
            f"{variable}={os.environ[variable]!r} in the environment is not a value that JAX "
            f"knows: correct it, or unset it"
        )
    platform = next((name for name in _PLATFORM if os.environ.get(name)), None)
    jax = sys.modules.get("jax")
    if platform is None or not hasattr(jax, "devices"):
        return None
    try:
        jax.devices()  # type: ignore[union-attr]
    except Exception as failure:
        reason = f" ({describe_exception(failure)})" if str(failure) else ""
        return CharlmError(
            f"{platform}={os.environ[platform]!r} in the environment: JAX finds no such device "
            f"here{reason}: write {platform}=cpu, install JAX for that device, or unset it"
        )
    return None
