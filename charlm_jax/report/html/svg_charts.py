"""Charts as SVG that lies in the page and takes its colours from it: lines, and intervals.

A chart is drawn as wide as a phone is, and grows with the screen up to a point; the letters of its
axes can then be read on both.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from charlm_jax.report.html.colours import SERIES
from charlm_jax.report.html.markup import Markup, element, number
from charlm_jax.report.html.ticks import Axis, short

_WIDTH = 400.0

_LABEL_HEIGHT = 15.0

# Of a chart of lines.
_HEIGHT = 270.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 52.0, 18.0, 10.0, 40.0
_EDGE = 5.0  # room for marks that lie on the edge
_MOST_MARKS = 24  # of one line

# Of a chart of intervals.
_SIDE = 12.0
_SPAN_HEIGHT = 40.0
_MOST_LETTERS = 56

_COLOURS = len(SERIES["light"])
_DASHES = (None, "9 3", "9 3 2 3", "4 2")
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

At = Callable[[float, float], tuple[float, float]]
"""The place in a drawing of values of x and y."""


class Point(NamedTuple):
    """A value, with the ends of its interval if it has one."""

    x: float
    y: float
    low: float = math.nan
    high: float = math.nan


class Line(NamedTuple):
    """One line of a chart.

    Attributes:
      label: what a pointer on it is told.
      look: lines of the same look belong together.
      points: from left to right.
      is_dotted: drawn so, with empty marks.
    """

    label: str
    look: int
    points: Sequence[Point]
    is_dotted: bool = False


class Span(NamedTuple):
    """A mean with its interval, and the single values that it is the mean of."""

    label: str
    look: int
    mean: float
    low: float
    high: float
    values: Sequence[float]


def line_chart(
    lines: Sequence[Line],
    *,
    title: str,
    x: Axis,
    y: Axis,
    upright: Sequence[tuple[str, float]] = (),
) -> Markup:
    """Lines with the bands of their intervals; what lies outside the axes is cut off.

    Args:
      lines: with points whose values have a place on the axes.
      title: what the chart shows, for those who cannot see it.
      x: from left to right.
      y: from the bottom up.
      upright: values of x at which a dashed line stands, with their labels.
    """
    width, height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

    def at(place: float, value: float) -> tuple[float, float]:
        return x.share(place) * width, (1 - y.share(value)) * height

    wide, high = width + 2 * _EDGE, height + 2 * _EDGE
    inside = element(  # a drawing in the drawing cuts off what is outside it
        "svg",
        *[_band(line, at) for line in lines],
        *[_line(line, at) for line in lines],
        x=_LEFT - _EDGE,
        y=_TOP - _EDGE,
        width=wide,
        height=high,
        viewBox=f"{number(-_EDGE)} {number(-_EDGE)} {number(wide)} {number(high)}",
    )
    rows = []
    for place, (label, value) in enumerate(upright):
        across = _LEFT + x.share(value) * width
        rows.append(_rule(across, _TOP, across, _TOP + height, look="across"))
        rows.append(_beside(label, across, _TOP + 12 + _LABEL_HEIGHT * place))
    return _chart(title, _HEIGHT, _grid(x, y, width, height), *rows, inside)


def span_chart(
    spans: Sequence[Span], lines: Sequence[tuple[str, float]], *, title: str, x: Axis
) -> Markup:
    """Means with their intervals.

    Args:
      spans: from the top down.
      lines: values across all of them, with their labels, on top.
      title: what the chart shows, for those who cannot see it.
      x: from left to right.
    """
    top = 8 + _LABEL_HEIGHT * len(lines)
    down = top + _SPAN_HEIGHT * len(spans) + 4

    def at(value: float) -> float:
        return _SIDE + x.share(value) * (_WIDTH - 2 * _SIDE)

    rows = [_rule(at(tick), top, at(tick), down) for tick in x.ticks]
    rows += [_label_at(short(tick), at(tick), down + 15) for tick in x.ticks]
    rows.append(_label_at(x.label, _WIDTH / 2, down + 33))
    for place, (label, value) in enumerate(lines):
        y = 12 + _LABEL_HEIGHT * place
        rows.append(_rule(at(value), y + 3, at(value), down, look="across"))
        rows.append(_beside(label, at(value), y))
    is_free = not lines or max(at(value) for _, value in lines) > _WIDTH / 2  # the left side
    for row, span in enumerate(spans):
        rows.append(_span(span, top + _SPAN_HEIGHT * row, at, is_left=is_free))
    return _chart(title, down + 39, *rows)


def swatch(look: int) -> Markup:
    """A piece of a line, for a legend."""
    line = element("path", d="M1 6L31 6", stroke_dasharray=_dash(look, is_dotted=False))
    group = element("g", line, _mark(look, 16, 6), class_=_series(look))
    return element("svg", group, viewBox="0 0 32 12", class_="swatch", aria_hidden="true")


def _chart(title: str, height: float, *children: Markup) -> Markup:
    """A drawing of `_WIDTH` and some height."""
    view = f"0 0 {number(_WIDTH)} {number(height)}"
    named = element("title", title)
    return element(
        "svg", named, *children, viewBox=view, role="img", aria_label=title, class_="chart"
    )


def _rule(x1: float, y1: float, x2: float, y2: float, *, look: str = "grid") -> Markup:
    """A straight line."""
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=look)


def _label_at(text: str, x: float, y: float, anchor: str = "middle") -> Markup:
    """Words that begin at a place, end there, or have it in their middle."""
    return element("text", text, x=x, y=y, text_anchor=anchor)


def _series(look: int) -> str:
    """The class of what is drawn in the colour of a look; `f` and the same is filled with it."""
    return f"s{look % _COLOURS}"


def _mark(look: int, x: float, y: float, *children: Markup, is_hollow: bool = False) -> Markup:
    """A look's mark around a place."""
    corners, turn, radius = _SHAPES[look % _COLOURS]
    angles = (2 * math.pi * (n + turn) / corners for n in range(corners))
    outline = _path((x + radius * math.sin(a), y - radius * math.cos(a)) for a in angles) + "Z"
    filled = "hollow" if is_hollow else f"f{look % _COLOURS}"
    return element("path", *children, d=outline, class_=filled)


def _grid(x: Axis, y: Axis, width: float, height: float) -> Markup:
    down, rows = _TOP + height, []
    for tick in y.ticks:
        at = _TOP + (1 - y.share(tick)) * height
        rows.append(_rule(_LEFT, at, _LEFT + width, at))
        rows.append(_label_at(short(tick), _LEFT - 5, at + 4, "end"))
    for tick in x.ticks:
        at = _LEFT + x.share(tick) * width
        rows.append(_rule(at, down, at, down + 4))
        rows.append(_label_at(short(tick), at, down + 16))
    rows.append(_rule(_LEFT, down, _LEFT + width, down, look="axis"))
    rows.append(_label_at(x.label, _LEFT + width / 2, _HEIGHT - 6))
    turned = f"translate(10 {number(_TOP + height / 2)}) rotate(-90)"
    rows.append(element("text", y.label, text_anchor="middle", transform=turned))
    return element("g", *rows)


def _band(line: Line, at: At) -> Markup:
    sound = [p for p in line.points if math.isfinite(p.low) and math.isfinite(p.high)]
    if len(sound) < 2:
        return Markup("")
    corners = [at(p.x, p.low) for p in sound] + [at(p.x, p.high) for p in reversed(sound)]
    return element("path", d=_path(corners) + "Z", class_=f"band f{line.look % _COLOURS}")


def _line(line: Line, at: At) -> Markup:
    path = element(
        "path",
        d=_path(at(p.x, p.y) for p in line.points),
        stroke_dasharray=_dash(line.look, line.is_dotted),
    )
    every = math.ceil(len(line.points) / _MOST_MARKS)
    marks = [
        _mark(
            line.look,
            *at(p.x, p.y),
            element("title", f"{line.label}: {p.y:.4f} at {short(p.x)}"),
            is_hollow=line.is_dotted,
        )
        for p in line.points[every - 1 :: every]
    ]
    return element("g", element("title", line.label), path, *marks, class_=_series(line.look))


def _dash(look: int, is_dotted: bool) -> str | None:
    return _DOTS if is_dotted else _DASHES[look // _COLOURS % len(_DASHES)]


def _path(corners: Iterable[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{number(x)} {number(y)}" for x, y in corners)


def _beside(label: str, x: float, y: float) -> Markup:
    """The label of a vertical line, on the side that has room."""
    is_left = x < _WIDTH / 2
    return _label_at(label, x + (4 if is_left else -4), y, "start" if is_left else "end")


def _span(span: Span, top: float, at: Callable[[float], float], *, is_left: bool) -> Markup:
    middle, is_long = top + 24, len(span.label) > _MOST_LETTERS
    label = span.label[: _MOST_LETTERS - 1] + "…" if is_long else span.label
    side = (_SIDE, top + 13, "start") if is_left else (_WIDTH - _SIDE, top + 13, "end")
    rows = [_label_at(label, *side)]
    if math.isfinite(span.low):
        rows.append(_rule(at(span.low), middle, at(span.high), middle, look="whisker"))
    for value in span.values if len(span.values) > 1 else ():
        title = element("title", f"one run: {value:.4f}")
        rows.append(element("circle", title, cx=at(value), cy=middle + 9, r=2, class_="hollow"))
    title = element("title", f"{span.label}: {span.mean:.4f}")
    rows.append(_mark(span.look, at(span.mean), middle, title))
    return element("g", *rows, class_=_series(span.look))
