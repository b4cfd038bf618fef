"""Plot of training loss by epoch."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from charlm_jax.report.figures.base import save_figure
from charlm_jax.report.palette import BLUE, DARK_GREY, VERMILION

# Markers and line styles differ too, for printing in grey.
_STYLES: Sequence[Mapping[str, Any]] = (
    {"color": BLUE, "marker": "o", "markersize": 5, "linestyle": "-", "linewidth": 2},
    {"color": VERMILION, "marker": "s", "markersize": 7, "linestyle": ":", "fillstyle": "none"},
    {"color": DARK_GREY, "marker": "^", "markersize": 6, "linestyle": "--", "fillstyle": "none"},
)


def save_learning_curves(curves: Mapping[str, Sequence[float]], path: Path | str) -> None:
    """Draw training losses by epoch in one set of axes.

    Args:
      curves: label -> loss of epochs 1, 2, ... in nats per character; three curves can be
        distinguished.
      path: file to write; its ending names the format, such as .png or .svg.

    Raises:
      CharlmError: the file cannot be written, or its ending is not a known format.
    """
    figure = Figure(figsize=(6.4, 3.8), dpi=160, facecolor="white", layout="constrained")
    axes = figure.add_subplot(
        xlabel="epoch", ylabel="training loss, nats per character", facecolor="white"
    )
    for (label, loss_nats), style in zip(curves.items(), cycle(_STYLES), strict=False):
        axes.plot(range(1, len(loss_nats) + 1), loss_nats, label=label, **style)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axes.grid(color="#dddddd", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(edgecolor="none", framealpha=1)
    save_figure(figure, path)
