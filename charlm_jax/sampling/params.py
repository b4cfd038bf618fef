"""Sampling parameters: all settings that determine how a text continues a prompt."""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from numbers import Real
from typing import Any, TypedDict

import numpy as np

from charlm_jax.core.errors import CharlmError
from charlm_jax.core.limits import MAX_INT32, require_within
from charlm_jax.data.vocabulary import UNKNOWN_POLICIES

MODES = ("carried", "window")


class SamplingFields(TypedDict, total=False):
    """Keyword arguments that change fields of `SamplingParams`."""

    scale: float
    top_k: int
    top_p: float
    min_p: float
    seed: int
    stop: Sequence[str]
    mode: str | None
    context: int | None
    unknown: str
    replacement: str


@dataclasses.dataclass(frozen=True)
class SamplingParams:
    """Settings that determine how a text continues a prompt.

    Attributes:
      scale: scale factor of the logits, 1 / temperature, in [0, inf].
      top_k: number of most probable symbols to sample from; 0 is all.
      top_p: probability of the nucleus, the fewest of these that reach it; 1 is all, 0 the best.
      min_p: minimum probability of these relative to the best; 0 is all.
        `charlm_jax.sampling.policies` defines the three truncations; the scale acts after them.
      seed: root of the noise, in [0, 2**32). The same noise is used at every scale.
      stop: stop strings. The first to occur ends the text and is not part of it; the prompt does
        not count.
      mode: `carried` or `window`, which `charlm_jax.sampling.decoding` defines; if None, `carried`
        unless the model has learned positions.
      context: number of characters in the window, or of past positions that attention keeps; the
        training length if None.
      unknown: treatment of characters of the prompt that the model does not know: `error`, `drop`
        or `replace`.
      replacement: character that replaces them.

    Raises:
      CharlmError: a value is not allowed.
    """

    scale: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0
    stop: Sequence[str] = ()
    mode: str | None = None
    context: int | None = None
    unknown: str = "error"
    replacement: str = " "

    def __post_init__(self) -> None:
        require_within("seed", self.seed, 0, 2**32 - 1)
        check_top_k(self.top_k)
        check_share("top_p", self.top_p)
        check_share("min_p", self.min_p)
        check_scale(self.scale)
        if isinstance(self.stop, str):
            raise CharlmError(
                f"stop={self.stop!r} is a string, not a list of strings: write stop=[{self.stop!r}]"
            )
        stop = tuple(self.stop) if isinstance(self.stop, Iterable) else (self.stop,)
        if not all(isinstance(text, str) for text in stop):
            raise CharlmError(f"stop={self.stop!r} is not allowed: it must be a list of strings")
        if "" in stop:
            raise CharlmError("stop='' is not allowed: it must have at least one character")
        object.__setattr__(self, "stop", stop)
        if self.mode not in (None, *MODES):
            known = ", ".join(MODES)
            raise CharlmError(f"mode={self.mode!r} is not known: it must be one of {known}")
        if self.context is not None:
            require_within("context", self.context, 1, MAX_INT32)
        if self.unknown not in UNKNOWN_POLICIES:
            known = ", ".join(UNKNOWN_POLICIES)
            raise CharlmError(f"unknown={self.unknown!r}: it must be {known}")

    @property
    def truncations(self) -> dict[str, Any]:
        """The truncations by name, as `charlm_jax.sampling.policies.build_policy` takes them."""
        return {"top_k": self.top_k, "top_p": self.top_p, "min_p": self.min_p}


_REAL_KINDS = "biufV"
"""Kinds of dtypes of real numbers; that of bfloat16 is V."""


def _require_number(name: str, value: Any) -> None:
    """Raise a `CharlmError` for anything but one number, of Python or an array's."""
    is_scalar = getattr(value, "ndim", None) == 0 and np.asarray(value).dtype.kind in _REAL_KINDS
    if not isinstance(value, Real) and not is_scalar:
        is_list = name == "scale" and isinstance(value, (list, tuple))
        hint = f"; sample takes several as scales={value!r}" if is_list else ""
        raise CharlmError(f"{name}={value!r} is not allowed: it must be a number{hint}")


def check_scale(scale: float) -> float:
    """Return a scale factor in [0, inf]; inf if it is beyond the range of float32.

    Raises:
      CharlmError: the scale is not a number, negative or NaN.
    """
    _require_number("scale", scale)
    if not scale >= 0:  # NaN too
        raise CharlmError(f"scale={scale} is not allowed: it must lie in [0, inf]; inf is greedy")
    is_too_large = scale > float(np.finfo(np.float32).max)
    return math.inf if is_too_large else abs(float(scale))  # -0 is 0


def check_top_k(k: int) -> int:
    """Return a number of symbols, at most the largest int32.

    Raises:
      CharlmError: the number is negative or not whole.
    """
    _require_number("top_k", k)
    if not k >= 0 or k % 1:
        raise CharlmError(
            f"top_k={k} is not allowed: it must be a whole number, at least 0; 0 keeps all symbols"
        )
    return min(int(k), MAX_INT32)


def check_share(name: str, share: float) -> float:
    """Return the value of `top_p` or `min_p`.

    Raises:
      CharlmError: the value is not a number in [0, 1].
    """
    _require_number(name, share)
    if not 0 <= share <= 1:
        every = {"top_p": 1, "min_p": 0}[name]
        raise CharlmError(
            f"{name}={share} is not allowed: it must lie in [0, 1]; {every} keeps all symbols"
        )
    return float(share)
