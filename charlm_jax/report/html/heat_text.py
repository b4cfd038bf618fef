"""Text with characters coloured by their loss, or by the difference of two losses."""

import math
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from markupsafe import Markup

from charlm_jax.core.types import bits
from charlm_jax.report.html.page import block_html, details, figure
from charlm_jax.report.html.rendering import render

LEVELS = 12
"""Highest level of heat; level 0 is the lowest loss. A difference has half of them on each side."""

STEP_NATS = 0.5
"""Nats per level; the last level has no upper end."""

LATIN_1 = "Models read bytes here: a character is a byte, from 128 on shown as a letter of Latin-1."
"""Remark on a text of bytes."""

_VISIBLE_NATS = 2.0  # from here on white space is shown as a sign
_SIGNS = {" ": "␣", "\n": "↵", "\t": "⇥"}
_HALF = LEVELS // 2


class HeatMap(NamedTuple):
    """Per-character losses of a text under one model.

    Attributes:
      label: name of the model's run.
      nll_N: losses in nats; NaN for characters that were not scored.
      rule: description of what was read before each character.
      notes: lines added to each character's title; empty for none.
    """

    label: str
    nll_N: np.ndarray
    rule: str
    notes: Sequence[str] = ()


class _Cell(NamedTuple):
    """One character of a coloured text.

    Attributes:
      text: the character, or a sign for it.
      css_class: class of its colour.
      title: lines shown when the pointer is on it.
      is_faint: True if the text is a sign that should not stand out.
      line_break: possible or forced line break after it; empty for none.
    """

    text: str
    css_class: str
    title: str
    is_faint: bool = False
    line_break: str = ""


def heat_blocks(text: str, maps: Sequence[HeatMap]) -> list[Markup]:
    """Render a text coloured for one model, or for two and their difference, and as plain text.

    Args:
      text: N characters.
      maps: losses under one or two models.
    """
    drawings = []
    for label, nll_N, rule, notes in maps:
        scored_N = nll_N[~np.isnan(nll_N)]
        mean = f"mean {scored_N.mean():.4f} nats" if scored_N.size else "no character scored"
        name = f"Loss of {label} at every character of the passage"
        drawing = heat_text(text, nll_N, label=name, notes=notes)
        drawings.append(figure(f"{label}: {mean}. Context: {rule}.", drawing))
    blocks = [heat_legend(), render("blocks.html.j2", "grid", css_class="maps", blocks=drawings)]
    if len(maps) == 2:
        blocks += _difference_blocks(text, *maps)
    return [*blocks, details("The passage as plain text", plain_text(text))]


def plain_text(text: str) -> Markup:
    """Render a text, preserving its white space."""
    return render("blocks.html.j2", "plain_text", text=text)


def _difference_blocks(text: str, first: HeatMap, second: HeatMap) -> list[Markup]:
    difference_N = second.nll_N - first.nll_N
    if np.isnan(difference_N).all():
        return [block_html(f"{first.label} and {second.label} have no scored character in common.")]
    name = f"Loss of {second.label} minus {first.label} at every character of the passage"
    caption = f"{second.label} minus {first.label}: mean {np.nanmean(difference_N):+.4f} nats."
    drawing = difference_text(text, difference_N, label=name)
    return [*difference_legend(first.label, second.label), figure(caption, drawing)]


def heat_text(text: str, nll_N: np.ndarray, *, label: str, notes: Sequence[str] = ()) -> Markup:
    """Render a text coloured by the losses of its characters.

    Args:
      text: N characters.
      nll_N: losses in nats; NaN for characters that were not scored.
      label: text alternative for screen readers.
      notes: lines added to each character's title; empty for none.
    """
    rows = zip(text, nll_N.tolist(), notes or [""] * len(text), strict=True)
    return _coloured_text(label, [_heat_cell(symbol, nats, note) for symbol, nats, note in rows])


def difference_text(text: str, difference_N: np.ndarray, *, label: str) -> Markup:
    """Render a text coloured by the difference of two models' losses.

    Args:
      text: N characters.
      difference_N: the second model's losses minus the first's, in nats; NaN for characters that
        one of them did not score.
      label: text alternative for screen readers.
    """
    rows = zip(text, difference_N.tolist(), strict=True)
    return _coloured_text(label, [_difference_cell(symbol, nats) for symbol, nats in rows])


def _coloured_text(label: str, cells: Sequence[_Cell]) -> Markup:
    return render("blocks.html.j2", "coloured_text", label=label, cells=cells)


def heat_legend() -> Markup:
    """Render the legend of `heat_text`."""
    labels = [f"{level * STEP_NATS:g}" for level in range(LEVELS)]
    labels.append(f"{LEVELS * STEP_NATS:g} and more")
    return render("blocks.html.j2", "scale", unit="Nats, from", labels=labels, letter="h")


def difference_legend(first: str, second: str) -> list[Markup]:
    """Render the legend of `difference_text`."""
    values = [STEP_NATS * (level - _HALF) for level in range(LEVELS + 1)]
    labels = [f"{value:+g}" if value else "0" for value in values]
    note = Markup('<p class="note">{}</p>').format(
        f"Below 0 {second} has the lower loss, above 0 {first}."
    )
    return [
        render("blocks.html.j2", "scale", unit="Nats, about", labels=labels, letter="d"),
        note,
    ]


def sign(symbol: str) -> str:
    """Return a visible sign for white space, a carrier for a combining mark, else the symbol.

    >>> [sign(symbol) for symbol in ("a", " ", "\u0301")]
    ['a', '␣', '◌\u0301']
    """
    return f"◌{symbol}" if unicodedata.category(symbol)[0] == "M" else _SIGNS.get(symbol, symbol)


def _heat_cell(symbol: str, nats: float, note: str) -> _Cell:
    if math.isnan(nats):
        return _cell(symbol, 0.0, "none", note)
    level = min(max(int(nats / STEP_NATS), 0), LEVELS)
    return _cell(symbol, nats, f"h{level}", f"{nats:.3f} nats, {bits(nats):.3f} bits", note)


def _difference_cell(symbol: str, nats: float) -> _Cell:
    if math.isnan(nats):
        return _cell(symbol, 0.0, "none", "not scored by both models")
    level = min(max(round(nats / STEP_NATS) + _HALF, 0), LEVELS)
    return _cell(symbol, abs(nats), f"d{level}", f"{nats:+.3f} nats")


def _cell(symbol: str, strength: float, css_class: str, *lines: str) -> _Cell:
    """Return a cell that shows white space as a sign if `strength`, in nats, is high."""
    title = "\n".join(filter(None, lines))
    is_visible = strength >= _VISIBLE_NATS
    if symbol == "\n":
        return _Cell(sign(symbol), css_class, title, is_faint=not is_visible, line_break="\n")
    if symbol in _SIGNS and is_visible:
        return _Cell(sign(symbol), css_class, title, line_break=Markup("<wbr>"))
    return _Cell(symbol if symbol in _SIGNS else sign(symbol), css_class, title)
