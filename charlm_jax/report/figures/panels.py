"""Panels of curves with intervals, and heat maps of tables."""

import math
import textwrap
from collections.abc import Sequence
from itertools import cycle
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from charlm_jax.evaluation.bootstrap import Interval
from charlm_jax.report.figures.base import DOTS_PER_INCH, InlineFigure
from charlm_jax.report.palette import FIGURE_SERIES, GREY

_MARKERS = ("o", "s", "^", "D", "v", "P", "X")  # distinguish series when printed in grey


class IntervalCurve(NamedTuple):
    """One curve.

    Attributes:
      label: name in the legend.
      x: positions of the points, above 0.
      points: mean and interval at each x.
      is_dashed: True to draw the line dashed.
      marks: x of points that are drawn larger.
      others: x and y of single points beside the curve.
      has_bars: True to draw intervals as bars, not as a band; a single point has one in any case.
    """

    label: str
    x: Sequence[float]
    points: Sequence[Interval]
    is_dashed: bool = False
    marks: Sequence[float] = ()
    others: Sequence[tuple[float, float]] = ()
    has_bars: bool = False


class Panel(NamedTuple):
    """One set of axes.

    Attributes:
      title: text above the axes.
      curves: curves in the order of the legend.
      lines: labels and y of horizontal lines, such as baselines.
      x_marks: x of vertical lines.
    """

    title: str
    curves: Sequence[IntervalCurve]
    lines: Sequence[tuple[str, float]] = ()
    x_marks: Sequence[float] = ()


def draw_panels(
    panels: Sequence[Panel],
    *,
    title: str,
    x_label: str,
    y_label: str,
    ordered: bool = False,
    ticks: Sequence[float] | None = None,
    is_y_logarithmic: bool = False,
    y_range: tuple[float, float] | None = None,
    columns: int | None = None,
) -> InlineFigure:
    """Draw curves over a logarithmic x, in panels that share both axes and one legend.

    Curves of one label look alike in all panels.

    Args:
      panels: panels from left to right, row by row.
      title: title of the figure.
      x_label: quantity and unit of x.
      y_label: quantity and unit of y.
      ordered: True if the curves are steps of one quantity, to colour them from dark to light.
      ticks: ticks of x; powers of 2 if None.
      is_y_logarithmic: True for a logarithmic y as well, with ticks at powers of 2.
      y_range: range of y; that of the curves if None.
      columns: number of panels in a row; all if None.
    """
    columns = min(columns or len(panels), len(panels))
    rows = -(-len(panels) // columns)
    size = (min(16.0, 2.4 + 4.1 * columns), 0.9 + 3.7 * rows)
    figure = InlineFigure(figsize=size, dpi=DOTS_PER_INCH, facecolor="white", layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    fullest = sorted(panels, key=lambda panel: len(panel.curves), reverse=True)
    labels = list(dict.fromkeys(curve.label for panel in fullest for curve in panel.curves))
    styles = _ordered_styles(len(labels)) if ordered else _styles()
    style_of = dict(zip(labels, styles, strict=False))
    for axes, panel in zip(grid.flat, panels, strict=False):
        for curve in panel.curves:
            _draw(axes, curve, style_of[curve.label])
        for (label, y), linestyle in zip(panel.lines, cycle((":", "--", "-.")), strict=False):
            axes.axhline(y, color=GREY, linestyle=linestyle, linewidth=1.2, label=label or None)
        for x in panel.x_marks:
            axes.axvline(x, color="#bbbbbb", linewidth=1.0, zorder=0)
        axes.set_title(panel.title, fontsize=10, parse_math=False)
        axes.grid(color="#e2e2e2", linewidth=0.7)
        axes.spines[["top", "right"]].set_visible(False)
    curves = [curve for panel in panels for curve in panel.curves]
    grid[0, 0].set_xscale("log", base=2)
    _label(grid[0, 0].xaxis, [x for curve in curves for x in curve.x], ticks)
    if is_y_logarithmic:
        grid[0, 0].set_yscale("log", base=2)
        _label(grid[0, 0].yaxis, [y for curve in curves for point in curve.points for y in point])
    if y_range is not None:
        grid[0, 0].set_ylim(*y_range)
    figure.supylabel(y_label, fontsize=10)
    figure.supxlabel(x_label, fontsize=10)
    figure.suptitle(_wrapped(title, size[0]), fontsize=10.5)
    legends = [zip(*axes.get_legend_handles_labels(), strict=True) for axes in grid.flat]
    handles = {label: handle for legend in legends for handle, label in legend}
    figure.legend(
        [*handles.values()], [*handles], loc="outside right center", frameon=False, fontsize=9
    )
    return figure


def draw_heat_map(
    values_RC: np.ndarray,
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    title: str,
    x_label: str,
    y_label: str,
    unit: str,
) -> InlineFigure:
    """Draw a table of numbers as coloured cells with their values; dark is low.

    Args:
      values_RC: numbers; cells with NaN stay empty.
      rows: labels of the rows from the top down.
      columns: labels of the columns from the left.
      title: title of the figure.
      x_label: quantity that the columns are steps of.
      y_label: quantity that the rows are steps of.
      unit: quantity and unit of the numbers.
    """
    height, width = values_RC.shape
    size = (min(16.0, 2.4 + 0.62 * width), 1.7 + 0.42 * height)
    figure = InlineFigure(figsize=size, dpi=DOTS_PER_INCH, facecolor="white", layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(values_RC, cmap="cividis", aspect="auto", interpolation="nearest")
    low, high = np.nanmin(values_RC), np.nanmax(values_RC)
    for row, column in np.ndindex(height, width):
        value = values_RC[row, column]
        if not math.isnan(value):
            colour = "white" if value < (low + high) / 2 else "black"
            axes.text(
                column, row, f"{value:.2f}", ha="center", va="center", color=colour, fontsize=8.5
            )
    axes.set_xticks(range(width), columns, rotation=45 if width > 8 else 0)
    axes.set_yticks(range(height), rows)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    figure.suptitle(_wrapped(title, size[0]), fontsize=10.5)
    figure.colorbar(image, label=unit)
    return figure


def _wrapped(title: str, inches: float) -> str:
    """Break a title into lines that fit a figure's width."""
    letters = int(12.5 * inches)
    return "\n".join(textwrap.fill(line, letters) for line in title.splitlines())


def _styles() -> Any:
    return (
        {"color": colour, "marker": marker}
        for colour, marker in cycle(zip(FIGURE_SERIES, _MARKERS, strict=True))
    )


def _ordered_styles(count: int) -> Any:
    shades = matplotlib.colormaps["viridis"](np.linspace(0.0, 0.9, count))
    return ({"color": tuple(c), "marker": m} for c, m in zip(shades, cycle(_MARKERS), strict=False))


def _draw(axes: Axes, curve: IntervalCurve, style: dict[str, Any]) -> None:
    low, high = ([getattr(point, end) for point in curve.points] for end in ("low", "high"))
    if curve.has_bars or len(curve.x) == 1:
        axes.vlines(curve.x, low, high, color=style["color"], alpha=0.5)
    else:
        axes.fill_between(curve.x, low, high, color=style["color"], alpha=0.16, linewidth=0)
    axes.plot(
        curve.x,
        [point.mean for point in curve.points],
        linestyle="--" if curve.is_dashed else "-",
        linewidth=1.8,
        markersize=4.5,
        label=curve.label,
        fillstyle="none" if curve.is_dashed else "full",
        **style,
    )

    marked = [(x, p.mean) for x, p in zip(curve.x, curve.points, strict=True) if x in curve.marks]
    for x, y in marked:
        axes.plot([x], [y], **style, markersize=9, markeredgecolor="white", zorder=5)
    if curve.others:
        axes.plot(*zip(*curve.others, strict=True), linestyle="", markersize=4, alpha=0.6, **style)


def _label(axis: Axis, values: Sequence[float], ticks: Sequence[float] | None = None) -> None:
    if ticks is None:
        first, last = math.floor(math.log2(min(values))), math.ceil(math.log2(max(values)))
        ticks = [2.0**power for power in range(first, last + 1, 1 + (last - first) // 9)]
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
