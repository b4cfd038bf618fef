"""SVG charts in the colours of the page: lines with bands, and means with intervals.

A chart is as wide as the page: places across it are in per cent, and type, marks and strokes keep
their size. This module computes coordinates; `templates/charts.svg.j2` draws.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from markupsafe import Markup

from charlm_jax.report.html.rendering import format_coordinate, render
from charlm_jax.report.html.ticks import Axis, format_tick
from charlm_jax.report.palette import PAGE_SERIES

_LABEL_HEIGHT = 16.0

# Line charts.
_UNITS = 1000.0  # across and down the drawing of lines, which is stretched to the plot
_MAX_MARKS = 24  # per line

# Span charts.
_SPAN_HEIGHT = 40.0
_MAX_LETTERS = 48

_COLOURS = len(PAGE_SERIES["light"])
_DASHES = ("", "9 3", "9 3 2 3", "4 2")
_DOTS = "1.5 2.5"
# Outlines of marks by colour: corners, turn in corners, radius.
_SHAPES = (
    (12, 0.0, 2.9),
    (4, 0.5, 3.8),
    (3, 0.0, 4.0),
    (4, 0.0, 4.0),
    (3, 0.5, 4.0),
    (5, 0.0, 3.7),
    (6, 0.5, 3.6),
)


class DataPoint(NamedTuple):
    """A value, with the ends of its interval if it has one."""

    x: float
    y: float
    low: float = math.nan
    high: float = math.nan


class Line(NamedTuple):
    """One line of a chart.

    Attributes:
      label: title shown when the pointer is on the line.
      style_index: index of its colour, dashes and marks; lines of one group share it.
      points: data from left to right.
      is_dotted: True to draw it dotted, with hollow marks.
    """

    label: str
    style_index: int
    points: Sequence[DataPoint]
    is_dotted: bool = False


class Span(NamedTuple):
    """A mean with its interval, and the values that it averages."""

    label: str
    style_index: int
    mean: float
    low: float
    high: float
    values: Sequence[float]


_Label = tuple[str, float, float, float, str]
"""Text, x in per cent, distances to the right and down in pixels, and the anchor of the text."""

_Mark = tuple[float, float, str, str, bool]
"""x and y, outline, title, and a flag for hollow marks."""


class _DrawnLine(NamedTuple):
    label: str
    css_class: str
    path: str
    dashes: str
    band: str
    marks: Sequence[_Mark]


class _DrawnSpan(NamedTuple):
    label: _Label
    css_class: str
    y: float
    ends: tuple[float, float] | None
    values: Sequence[tuple[str, float]]
    mark: _Mark


def line_chart(
    lines: Sequence[Line],
    *,
    title: str,
    x: Axis,
    y: Axis,
    verticals: Sequence[tuple[str, float]] = (),
) -> Markup:
    """Draw lines with bands for their intervals, clipped to the axes.

    Args:
      lines: lines whose values the axes can show.
      title: text alternative for screen readers.
      x: axis from left to right.
      y: axis from the bottom up.
      verticals: labels and x of dashed vertical lines.
    """

    def to_xy(value_x: float, value_y: float) -> tuple[float, float]:
        return 100 * x.fraction(value_x), 100 * (1 - y.fraction(value_y))

    return render(
        "charts.svg.j2",
        "line_chart",
        title=title,
        units=_UNITS,
        x_label=x.label,
        x_ticks=[(format_tick(tick), to_xy(tick, y.low)[0]) for tick in x.ticks],
        y_label=y.label,
        y_ticks=[(format_tick(tick), to_xy(x.low, tick)[1]) for tick in y.ticks],
        verticals=[
            _vertical(label, to_xy(value, y.low)[0], 12 + _LABEL_HEIGHT * row)
            for row, (label, value) in enumerate(verticals)
        ],
        lines=[_drawn_line(line, to_xy) for line in lines],
    )


def span_chart(
    spans: Sequence[Span], verticals: Sequence[tuple[str, float]], *, title: str, x: Axis
) -> Markup:
    """Draw means with their intervals.

    Args:
      spans: rows from the top down.
      verticals: labels and x of dashed lines across all rows.
      title: text alternative for screen readers.
      x: axis from left to right.
    """
    top = 8 + _LABEL_HEIGHT * len(verticals)
    bottom = top + _SPAN_HEIGHT * len(spans) + 4

    def to_x(value: float) -> float:
        return 100 * x.fraction(value)

    # Labels are on the left, unless a vertical line would cross them there.
    is_left = not verticals or max(to_x(value) for _, value in verticals) > 50
    return render(
        "charts.svg.j2",
        "span_chart",
        title=title,
        height=bottom + 42,
        top=top,
        bottom=bottom,
        x_label=x.label,
        x_ticks=[(format_tick(tick), to_x(tick)) for tick in x.ticks],
        verticals=[
            _vertical(label, to_x(value), 12 + _LABEL_HEIGHT * row)
            for row, (label, value) in enumerate(verticals)
        ],
        spans=[
            _drawn_span(span, top + _SPAN_HEIGHT * row, to_x, is_left=is_left)
            for row, span in enumerate(spans)
        ],
    )


def swatch(style_index: int) -> Markup:
    """Draw a line sample for a legend."""
    return render(
        "charts.svg.j2",
        "swatch",
        css_class=series_class(style_index),
        dashes=_dashes(style_index),
        outline=_mark_outline(style_index, 16, 6),
    )


def series_class(style_index: int) -> str:
    """Return the CSS class that sets the colour of a series."""
    return f"s{style_index % _COLOURS}"


def _vertical(label: str, x: float, label_y: float) -> tuple[float, _Label]:
    """Place a vertical line's label on the side that has room."""
    if x < 50:
        return x, (label, x, 4, label_y, "start")
    return x, (label, x, -4, label_y, "end")


def _drawn_line(line: Line, to_xy: Callable[[float, float], tuple[float, float]]) -> _DrawnLine:
    every = math.ceil(len(line.points) / _MAX_MARKS)
    banded = [p for p in line.points if math.isfinite(p.low) and math.isfinite(p.high)]
    corners = [to_xy(p.x, p.low) for p in banded] + [to_xy(p.x, p.high) for p in reversed(banded)]
    lowest = min(line.points, key=lambda p: p.y)
    marked = [
        (p, *to_xy(p.x, p.y))
        for number, p in enumerate(line.points, start=1)
        if number % every == 0 or p is lowest
    ]
    return _DrawnLine(
        label=line.label,
        css_class=series_class(line.style_index),
        path=_path(map(_in_units, (to_xy(p.x, p.y) for p in line.points))),
        dashes=_DOTS if line.is_dotted else _dashes(line.style_index),
        band=_path(map(_in_units, corners)) + "Z" if len(banded) > 1 else "",
        marks=[
            (
                x,
                y,
                _mark_outline(line.style_index),
                f"{line.label}: {p.y:.4f} at {format_tick(p.x)}",
                line.is_dotted,
            )
            for p, x, y in marked
            if -1e-6 <= y <= 100 + 1e-6  # others are cut off, as the line is
        ],
    )


def _in_units(place: tuple[float, float]) -> tuple[float, float]:
    """Convert a position from per cent."""
    x, y = place
    return x * _UNITS / 100, y * _UNITS / 100


def _drawn_span(
    span: Span, top: float, to_x: Callable[[float], float], *, is_left: bool
) -> _DrawnSpan:
    is_long = len(span.label) > _MAX_LETTERS
    label = span.label[: _MAX_LETTERS - 1] + "…" if is_long else span.label
    x, anchor = (0, "start") if is_left else (100, "end")
    y = top + 25
    return _DrawnSpan(
        label=(label, x, 0, top + 13, anchor),
        css_class=series_class(span.style_index),
        y=y,
        ends=(to_x(span.low), to_x(span.high)) if math.isfinite(span.low) else None,
        values=[
            (f"one run: {value:.4f}", to_x(value))
            for value in (span.values if len(span.values) > 1 else ())
        ],
        mark=(
            to_x(span.mean),
            y,
            _mark_outline(span.style_index),
            f"{span.label}: {span.mean:.4f}",
            False,
        ),
    )


def _dashes(style_index: int) -> str:
    return _DASHES[style_index // _COLOURS % len(_DASHES)]


def _mark_outline(style_index: int, x: float = 0.0, y: float = 0.0) -> str:
    corners, turn, radius = _SHAPES[style_index % _COLOURS]
    angles = (2 * math.pi * (n + turn) / corners for n in range(corners))
    return _path((x + radius * math.sin(a), y - radius * math.cos(a)) for a in angles) + "Z"


def _path(corners: Iterable[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{format_coordinate(x)} {format_coordinate(y)}" for x, y in corners)
