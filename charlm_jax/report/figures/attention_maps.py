"""Maps of attention weights per head, and mean attention distances of heads."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.ticker import MaxNLocator

from charlm_jax.report.figures.base import (
    InlineFigure,
    add_axes,
    add_title,
    blank_figure,
    label_characters,
    visible_symbol,
)
from charlm_jax.report.palette import BLUE, VERMILION

_MAX_HEADS = 64  # drawn per layer
_MAX_INCHES = 16.0  # of all maps side by side
_WEIGHT_TICKS = (0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0)


def draw_attention_maps(
    weights_THS: np.ndarray,
    distance_H: np.ndarray,
    symbols: str,
    *,
    heads: Sequence[int],
    layer: str,
    unit: str,
    title: str,
) -> InlineFigure:
    """Draw the attention weights of one layer, a map per head.

    Rows are queries, columns are keys. Keys after the query are grey. The colour scale is the
    square root of the weight, from 0 to 1 in every figure, so that weights of a few hundredths are
    visible next to 1.

    Args:
      weights_THS: probabilities over S = T for each query and head.
      distance_H: mean attention distance of each head, in symbols.
      symbols: the T symbols.
      heads: numbers of the H heads.
      layer: name of the layer.
      unit: `characters` or `bytes`.
      title: title of the figure.
    """
    length, drawn = len(symbols), min(len(heads), _MAX_HEADS)
    columns = math.ceil(math.sqrt(drawn))
    rows = math.ceil(drawn / columns)
    side = min(max(0.105 * length, 3.4), 8.0, _MAX_INCHES / columns)
    room = 0.08 * max(len(visible_symbol(symbol)) for symbol in symbols)
    across, down, left, top = side + room + 0.32, side + room + 0.52, room + 0.6, 0.95
    width, height = left + columns * across + 0.9, top + rows * down
    size = min(max(10.0, 0.9 * width), 15.0)
    figure = blank_figure(width, height)
    is_ahead_TS = np.triu(np.ones((length, length), bool), k=1)
    for index, head in enumerate(heads[:drawn]):
        row, column = divmod(index, columns)
        axes = add_axes(
            figure, left=left + column * across, top=top + row * down, width=side, height=side
        )
        image = axes.imshow(
            np.ma.masked_array(weights_THS[:, index], is_ahead_TS),
            cmap="viridis",
            norm=PowerNorm(0.5, vmin=0.0, vmax=1.0),
            interpolation_stage="data",
        )
        axes.set_facecolor("#e4e4e4")
        heading = f"{layer}, head {head}: mean distance {distance_H[index]:.1f} {unit}"
        axes.set_title(heading, fontsize=min(2.6 * side, 12.0), pad=4)
        fits = label_characters(axes.xaxis, symbols, inches=side)
        label_characters(axes.yaxis, symbols, inches=side)
    label = unit.removesuffix("s")
    label = label if fits else f"position of the {label}"
    middle = top + (rows * down - room - 0.52) / 2
    figure.text(0.5, 0.08 / height, f"{label} attended to (key)", ha="center", fontsize=size)
    figure.text(
        0.08 / width,
        1 - middle / height,
        f"{label} that attends (query), read downwards",
        va="center",
        rotation=90,
        fontsize=size,
    )
    tall = 0.5 * rows * down
    bar_axes = add_axes(figure, left=width - 1.1, top=middle - tall / 2, width=0.15, height=tall)
    figure.colorbar(image, cax=bar_axes, ticks=_WEIGHT_TICKS)
    bar_axes.set_ylabel("attention weight", fontsize=size)
    title += "" if drawn == len(heads) else f" (the first {drawn} of {len(heads)} heads)"
    add_title(figure, title, size=size)
    return figure


def draw_attention_distances(
    distances: Mapping[str, np.ndarray], length: int, *, window: int, unit: str, title: str
) -> InlineFigure:
    """Draw the mean attention distance of every head, and that of equal weights.

    Args:
      distances: layer -> distance_H in symbols.
      length: T, the number of symbols read.
      window: most positions that one position attends to, as in `config.model.window`; 0 for all.
      unit: `characters` or `bytes`.
      title: title of the figure.
    """
    heads = [len(distance_H) for distance_H in distances.values()]
    wanted = sum(max(1.0, 0.42 * count) for count in heads) + 1.5
    is_roomy = wanted <= _MAX_INCHES
    width = min(max(wanted, 6.4), _MAX_INCHES)
    figure = blank_figure(width, 4.4)
    axes = add_axes(figure, left=0.75, top=0.7, width=width - 1.0, height=2.9)
    x_LH = [
        [layer + 0.8 * ((head + 0.5) / count - 0.5) for head in range(count)]
        for layer, count in enumerate(heads)
    ]
    for x_H, distance_H in zip(x_LH, distances.values(), strict=True):
        axes.vlines(x_H, 0.0, distance_H, color=BLUE, linewidth=2)
        axes.plot(x_H, distance_H, color=BLUE, marker="o", markersize=6, linestyle="none")
        for x, distance in zip(x_H, distance_H, strict=True) if is_roomy else ():
            axes.annotate(
                f"{distance:.1f}", (x, distance), (0, 6), textcoords="offset points", ha="center"
            )
    farthest_T = np.minimum(np.arange(length), (window or length) - 1)
    equal = farthest_T.mean() / 2
    axes.axhline(equal, color=VERMILION, linestyle="--")
    axes.annotate(
        f"equal weights: {equal:.1f}",
        (1.0, equal),
        (0, 5),
        xycoords=axes.get_yaxis_transform(),
        textcoords="offset points",
        ha="right",
        color=VERMILION,
    )
    axes.set_xticks(range(len(distances)), list(distances))
    if is_roomy:
        axes.xaxis.remove_overlapping_locs = False  # the position of a middle head is its layer's
        flat = [(x, head) for x_H in x_LH for head, x in enumerate(x_H)]
        axes.set_xticks([x for x, _ in flat], [str(head) for _, head in flat], minor=True)
    axes.tick_params(axis="x", which="major", length=0, pad=20 if is_roomy else 6)
    axes.tick_params(axis="x", which="minor", length=0, labelsize=9)
    axes.set_xlabel("head, by layer" if is_roomy else "layer")
    axes.set_ylabel(f"mean attention distance, {unit}")
    axes.set_xlim(-0.5, len(distances) - 0.5)
    axes.set_ylim(0.0, 1.15 * max(equal, *(float(d.max()) for d in distances.values())) or 1.0)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=8, steps=[1, 2, 5, 10]))
    axes.grid(axis="y", color="#dddddd", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    add_title(figure, title)
    return figure
