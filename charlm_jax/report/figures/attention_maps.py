"""Where attention looks: a map for every head, and how far back each of them goes."""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.ticker import MaxNLocator

from charlm_jax.analysis.activations import mean_attention_distance
from charlm_jax.report.figures.base import (
    add_axes,
    add_title,
    blank_figure,
    label_characters,
    save_figure,
    shown,
)

_MOST_HEADS = 64  # drawn of one layer
_MOST_INCHES = 16.0  # of all maps side by side
_WEIGHT_TICKS = (0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0)


def save_attention_maps(
    weights_THS: np.ndarray, symbols: str, path: Path | str, *, layer: str, title: str
) -> None:
    """Draw the attention weights of one layer, a map for every head.

    Rows are the characters that look, read downwards; columns those that are looked at. What lies
    ahead of a character is grey. Colours go with the square root of the weight, from 0 to 1 in
    every figure, so that weights of a few hundredths can be seen beside 1.

    Args:
      weights_THS: rows over S = T that are probabilities.
      symbols: the T characters.
      path: where to; its ending names the format.
      layer: what heads are named after.
      title: stands above all.

    Raises:
      CharlmError: the file cannot be written.
    """
    length, heads, _ = weights_THS.shape
    drawn = min(heads, _MOST_HEADS)
    columns = math.ceil(math.sqrt(drawn))
    rows = math.ceil(drawn / columns)
    side = min(max(0.105 * length, 3.4), 8.0, _MOST_INCHES / columns)
    room = 0.08 * max(len(shown(symbol)) for symbol in symbols)
    across, down, left, top = side + room + 0.32, side + room + 0.52, room + 0.6, 0.95
    width, height = left + columns * across + 0.9, top + rows * down
    size = min(max(10.0, 0.9 * width), 15.0)
    figure = blank_figure(width, height)
    is_ahead_TS = np.triu(np.ones((length, length), bool), k=1)
    distance_H = mean_attention_distance(weights_THS)
    for head in range(drawn):
        row, column = divmod(head, columns)
        axes = add_axes(
            figure, left=left + column * across, top=top + row * down, width=side, height=side
        )
        image = axes.imshow(
            np.ma.masked_array(weights_THS[:, head], is_ahead_TS),
            cmap="viridis",
            norm=PowerNorm(0.5, vmin=0.0, vmax=1.0),
            interpolation_stage="data",
        )
        axes.set_facecolor("#e4e4e4")
        words = f"{layer}, head {head}: mean distance {distance_H[head]:.1f} characters"
        axes.set_title(words, fontsize=min(2.6 * side, 12.0), pad=4)
        fits = label_characters(axes.xaxis, symbols, inches=side)
        label_characters(axes.yaxis, symbols, inches=side)
    unit = "character" if fits else "position of the character"
    middle = top + (rows * down - room - 0.52) / 2
    words = f"{unit} that is looked at"
    figure.text(0.5, 0.08 / height, words, ha="center", fontsize=size)
    words, y = f"{unit} that looks, read downwards", 1 - middle / height
    figure.text(0.08 / width, y, words, va="center", rotation=90, fontsize=size)
    tall = 0.5 * rows * down
    bar_axes = add_axes(figure, left=width - 1.1, top=middle - tall / 2, width=0.15, height=tall)
    figure.colorbar(image, cax=bar_axes, ticks=_WEIGHT_TICKS)
    bar_axes.set_ylabel("attention weight", fontsize=size)
    title += "" if drawn == heads else f" (the first {drawn} of {heads} heads)"
    add_title(figure, title, size=size)
    save_figure(figure, path)


def save_attention_distances(
    distances: Mapping[str, np.ndarray], length: int, path: Path | str, *, title: str
) -> None:
    """Draw how far back each head of each layer looks, with what equal weights would give.

    Args:
      distances: layer -> distance_H in characters.
      length: T, how many characters were read.
      path: where to; its ending names the format.
      title: stands above all.

    Raises:
      CharlmError: the file cannot be written.
    """
    heads = [len(distance_H) for distance_H in distances.values()]
    wanted = sum(max(1.0, 0.42 * count) for count in heads) + 1.5
    is_roomy = wanted <= _MOST_INCHES
    width = min(max(wanted, 6.4), _MOST_INCHES)
    figure = blank_figure(width, 4.4)
    axes = add_axes(figure, left=0.75, top=0.7, width=width - 1.0, height=2.9)
    places = [
        [place + 0.8 * ((head + 0.5) / count - 0.5) for head in range(count)]
        for place, count in enumerate(heads)
    ]
    for x_H, distance_H in zip(places, distances.values(), strict=True):
        axes.vlines(x_H, 0.0, distance_H, color="#0072b2", linewidth=2)
        axes.plot(x_H, distance_H, color="#0072b2", marker="o", markersize=6, linestyle="none")
        for x, distance in zip(x_H, distance_H, strict=True) if is_roomy else ():
            words = f"{distance:.1f}"
            axes.annotate(words, (x, distance), (0, 6), textcoords="offset points", ha="center")
    equal = (length - 1) / 4
    axes.axhline(equal, color="#d55e00", linestyle="--")
    words = f"equal weights on all that was read: {equal:.1f}"
    axes.annotate(
        words,
        (1.0, equal),
        (0, 5),
        xycoords=axes.get_yaxis_transform(),
        textcoords="offset points",
        ha="right",
        color="#d55e00",
    )
    axes.set_xticks(range(len(distances)), list(distances))
    if is_roomy:
        axes.xaxis.remove_overlapping_locs = False  # a middle head stands where its layer does
        flat = [(x, head) for x_H in places for head, x in enumerate(x_H)]
        axes.set_xticks([x for x, _ in flat], [str(head) for _, head in flat], minor=True)
    axes.tick_params(axis="x", which="major", length=0, pad=20 if is_roomy else 6)
    axes.tick_params(axis="x", which="minor", length=0, labelsize=9)
    axes.set_xlabel("head, by layer" if is_roomy else "layer")
    axes.set_ylabel("mean attention distance, characters")
    axes.set_xlim(-0.5, len(distances) - 0.5)
    axes.set_ylim(0.0, 1.15 * max(equal, *(float(d.max()) for d in distances.values())) or 1.0)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=8, steps=[1, 2, 5, 10]))
    axes.grid(axis="y", color="#dddddd", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    add_title(figure, title)
    save_figure(figure, path)
