"""Axes of SVG charts: range, scale and ticks of a quantity."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple


class Axis(NamedTuple):
    """An axis of a chart.

    Attributes:
      label: name of the quantity, with its unit.
      low: first value shown.
      high: last value shown.
      ticks: labelled values.
      is_log: True for a logarithmic scale.
    """

    label: str
    low: float
    high: float
    ticks: Sequence[float]
    is_log: bool = False

    def fraction(self, value: float) -> float:
        """Return a value's position along the axis, from 0 at its start to 1 at its end."""
        scale: Callable[[float], float] = math.log if self.is_log else float
        return (scale(value) - scale(self.low)) / (scale(self.high) - scale(self.low))


def linear_axis(label: str, values: Iterable[float], *, max_ticks: int = 6) -> Axis:
    """Return an axis that shows all finite values, with round ticks.

    A round first and last tick may exceed `max_ticks` by one each.
    """
    finite = [value for value in values if math.isfinite(value)]
    low, high = min(finite), max(finite)
    if high - low < 1e-9 * max(1.0, abs(high)):
        low, high = low - 0.5 * max(abs(low), 1e-3), high + 0.5 * max(abs(high), 1e-3)
    step = _round_step((high - low) / (max_ticks - 1))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return Axis(label, first * step, last * step, [n * step for n in range(first, last + 1)])


def _round_step(minimum: float) -> float:
    """Return the smallest of 1, 2, 5, 10, ... times a power of ten that is at least `minimum`."""
    power = 10.0 ** math.floor(math.log10(minimum))
    return next(k * power for k in (1, 2, 5, 10) if k * power >= minimum * (1 - 1e-9))


def doubling_axis(label: str, low: float, high: float) -> Axis:
    """Return a logarithmic axis with ticks at powers of two."""
    first, last = math.floor(math.log2(low)), max(math.ceil(math.log2(high)), 1)
    ticks = [2.0**power for power in range(first, last + 1, 1 + (last - first) // 8)]
    return Axis(label, low, max(high, 2 * low), [t for t in ticks if low <= t <= high], True)


def format_tick(value: float) -> str:
    """Format the label of a tick.

    >>> [format_tick(value) for value in (1500, 20_000, 3_000_000, 0.25, 0.3 - 0.1)]
    ['1,500', '20k', '3M', '0.25', '0.2']
    """
    if abs(value) >= 1e6:
        return f"{value / 1e6:g}M"
    if abs(value) >= 1e4:
        return f"{value / 1e3:g}k"
    return f"{value:,.6g}"
