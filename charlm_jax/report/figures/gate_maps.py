"""Maps of the gates and states of a recurrent layer over a text."""

import math
from collections.abc import Mapping

import numpy as np
from matplotlib.colors import Normalize, SymLogNorm

from charlm_jax.report.figures.base import (
    DOTS_PER_INCH,
    InlineFigure,
    add_axes,
    add_title,
    blank_figure,
    label_characters,
)

_MIN_DOTS, _MAX_DOTS = 200, 600  # height of a panel


def draw_gate_maps(
    gates: Mapping[str, np.ndarray],
    states: Mapping[str, np.ndarray],
    symbols: str,
    *,
    title: str,
) -> InlineFigure:
    """Draw every unit of a recurrent layer over the text, a panel per gate and state.

    A unit is the same row in every panel. Arrays with another number of units than the last state
    are left out. Rows are sorted by the unit's mean in the last state, the greatest on top: units
    that hold a value for long are at the edges, units that change often in the middle. States that
    exceed 1 have a colour scale that is logarithmic beyond +-1.

    Args:
      gates: name -> gate (T, H), in [0, 1].
      states: name -> candidate, cell or hidden (T, H), of either sign; at least one.
      symbols: the T characters.
      title: title of the figure.
    """
    last, last_TH = list(states.items())[-1]
    order_H = np.argsort(-last_TH.mean(axis=0), kind="stable")
    units = len(order_H)
    # A whole number of dots per unit, so that all rows have the same height.
    dots = min(units * math.ceil(_MIN_DOTS / units), _MAX_DOTS)
    across, down = min(max(0.13 * len(symbols), 6.5), 14.0), dots / DOTS_PER_INCH
    left, top, between = 0.7, 0.8, 0.55
    panels = [
        (name, values_TH)
        for name, values_TH in (*gates.items(), *states.items())
        if values_TH.shape == last_TH.shape
    ]
    width, height = left + across + 1.0, top + len(panels) * (down + between) + 0.1
    figure = blank_figure(width, height)
    for row, (name, values_TH) in enumerate(panels):
        upper = top + row * (down + between)
        axes = add_axes(figure, left=left, top=upper, width=across, height=down)
        is_gate, label = name in gates, name.replace("_", " ")
        image = axes.imshow(
            values_TH.T[order_H],
            aspect="auto",
            cmap="viridis" if is_gate else "RdBu_r",
            norm=Normalize(0.0, 1.0) if is_gate else _state_norm(values_TH),
            interpolation="nearest" if units <= dots else "auto",
            interpolation_stage="data",
        )
        mean = f", {values_TH.mean():.2f} on average" if is_gate else ""
        axes.set_title(label + mean, fontsize=9, loc="left", pad=4)
        axes.set_yticks([])
        axes.set_ylabel(f"{units} units, sorted\nby mean {last}", fontsize=9)
        fits = label_characters(axes.xaxis, symbols, inches=across)
        bar_axes = add_axes(figure, left=left + across + 0.12, top=upper, width=0.12, height=down)
        figure.colorbar(image, cax=bar_axes, label=label, format="%g")
    axes.set_xlabel("character read" if fits else "position of the character read")
    add_title(figure, title)
    return figure


def _state_norm(values_TH: np.ndarray) -> Normalize:
    """Return a symmetric norm, at least from -1 to 1, so that figures can be compared."""
    limit = float(np.abs(values_TH).max())
    if limit <= 1.0:
        return Normalize(-1.0, 1.0)
    return SymLogNorm(linthresh=1.0, vmin=-limit, vmax=limit)
