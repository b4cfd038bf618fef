"""The axes of charts: what they show of a quantity, and where their ticks are."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple


class Axis(NamedTuple):
    """What is shown of a quantity, and how.

    Attributes:
      label: with its unit.
      low: the first value shown.
      high: the last.
      ticks: values that are written.
      is_log: whether equal ratios are equally far apart.
    """

    label: str
    low: float
    high: float
    ticks: Sequence[float]
    is_log: bool = False

    def share(self, value: float) -> float:
        """How far along the axis a value lies: 0 at its beginning, 1 at its end."""
        scale: Callable[[float], float] = math.log if self.is_log else float
        return (scale(value) - scale(self.low)) / (scale(self.high) - scale(self.low))


def linear_axis(label: str, values: Iterable[float], *, most_ticks: int = 6) -> Axis:
    """An axis that shows all the values that are finite, with round ticks."""
    finite = [value for value in values if math.isfinite(value)]
    low, high = min(finite), max(finite)
    if high - low < 1e-9 * max(1.0, abs(high)):
        low, high = low - 0.5 * max(abs(low), 1e-3), high + 0.5 * max(abs(high), 1e-3)
    step = _round_step((high - low) / (most_ticks - 1))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return Axis(label, first * step, last * step, [n * step for n in range(first, last + 1)])


def _round_step(least: float) -> float:
    """The smallest of 1, 2, 5, 10, ... times a power of ten that is no less."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(k * power for k in (1, 2, 5, 10) if k * power >= least * (1 - 1e-9))


def doubling_axis(label: str, low: float, high: float) -> Axis:
    """A logarithmic axis, with ticks at powers of two."""
    first, last = math.floor(math.log2(low)), max(math.ceil(math.log2(high)), 1)
    ticks = [2.0**power for power in range(first, last + 1, 1 + (last - first) // 8)]
    return Axis(label, low, max(high, 2 * low), [t for t in ticks if low <= t <= high], True)


def short(value: float) -> str:
    """A tick's number.

    >>> short(1500), short(20_000), short(3_000_000), short(0.25), short(0.3 - 0.1)
    ('1,500', '20k', '3M', '0.25', '0.2')
    """
    for letter, unit in (("M", 1e6), ("k", 1e4)):
        if abs(value) >= unit:
            return f"{value / (1e6 if letter == 'M' else 1e3):g}{letter}"
    return f"{value:,.6g}"
