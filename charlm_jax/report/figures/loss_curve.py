"""Curves of training and held-out losses."""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from charlm_jax.comparison.run_facts import Curve, RunFacts
from charlm_jax.report.figures.base import InlineFigure
from charlm_jax.report.palette import BLUE, DARK_GREY, FIGURE_SERIES, VERMILION
from charlm_jax.storage.weights import describe_average

# Markers and line styles differ too, for printing in grey.
_STYLES: Sequence[Mapping[str, Any]] = (
    {"color": BLUE, "marker": "o", "markersize": 5, "linestyle": "-", "linewidth": 2},
    {"color": VERMILION, "marker": "s", "markersize": 7, "linestyle": ":", "fillstyle": "none"},
    {"color": DARK_GREY, "marker": "^", "markersize": 6, "linestyle": "--", "fillstyle": "none"},
)
_HELD_OUT: Mapping[str, Any] = {"linestyle": "--", "markersize": 4}
_OTHER_WEIGHTS: Mapping[str, Any] = {"linestyle": ":", "markersize": 4, "fillstyle": "none"}
_LINES, _MARKERS = ("-", "-.", ":"), ("o", "s", "^")  # where the colours begin again


def draw_learning_curves(curves: Mapping[str, Sequence[float]]) -> InlineFigure:
    """Draw training losses by epoch in one set of axes.

    Args:
      curves: label -> loss of epochs 1, 2, ... in nats per character; three curves can be
        distinguished.
    """
    figure, axes = _loss_axes("epoch", "training loss, nats per character")
    for (label, loss_nats), style in zip(curves.items(), cycle(_STYLES), strict=False):
        axes.plot(range(1, len(loss_nats) + 1), loss_nats, label=label, **style)
    axes.legend(edgecolor="none", framealpha=1)
    return figure


def draw_losses_by_step(runs: Sequence[RunFacts]) -> InlineFigure:
    """Draw training and held-out losses by step, in a colour per run.

    The eighth run has the first colour again, with other lines and markers. Raw weights of runs
    that are scored with averaged weights are dotted, with hollow markers.

    Args:
      runs: facts about the runs; each has rows of metrics.
    """
    nouns = " or ".join(dict.fromkeys(run.unit.removesuffix("s") for run in runs))
    figure, axes = _loss_axes("step", f"loss, nats per {nouns}")
    names = Counter(run.name for run in runs)
    for number, (run, color) in enumerate(zip(runs, cycle(FIGURE_SERIES), strict=False)):
        own = run.name if names[run.name] == 1 else run.workdir
        name = f"{own}, " if len(runs) > 1 else ""
        turn = number // len(FIGURE_SERIES) % len(_LINES)
        style = {"color": color, "linestyle": _LINES[turn], "linewidth": 1.0}
        _plot(axes, run.training, f"{name}training", **style)
        for weights, curve in run.held_out.items():
            label = f"{name}held out{describe_average(weights)}"
            look = _HELD_OUT if weights == run.weights else _OTHER_WEIGHTS
            _plot(axes, curve, label, color=color, marker=_MARKERS[turn], **look)
    # Named one by one: matplotlib leaves out labels that begin with an underscore.
    handles, labels = [*axes.lines], [str(line.get_label()) for line in axes.lines]
    if len(runs) == 1:
        axes.legend(handles, labels, edgecolor="none", framealpha=1)
    else:  # too many curves to leave room between them
        figure.set_figwidth(8.4)
        figure.legend(handles, labels, loc="outside right upper", frameon=False, fontsize=9)
    return figure


def _loss_axes(x_label: str, y_label: str) -> tuple[InlineFigure, Axes]:
    figure = InlineFigure(figsize=(6.4, 3.8), dpi=160, facecolor="white", layout="constrained")
    axes = figure.add_subplot(xlabel=x_label, ylabel=y_label, facecolor="white")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axes.grid(color="#dddddd", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _plot(axes: Axes, curve: Curve, label: str, **style: Any) -> None:
    if curve:
        steps, losses_nats = zip(*curve, strict=True)
        axes.plot(steps, losses_nats, label=label.replace("$", r"\$"), **style)
