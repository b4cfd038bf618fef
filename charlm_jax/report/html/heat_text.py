"""Text with characters coloured by a value: surprise, a difference of surprises, or a unit's state.

One hue stands for one quantity: from no colour, for the lowest values, to the strongest. The
difference of two models has two, on either side of none.
"""

import math
import unicodedata
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from markupsafe import Markup

from charlm_jax.core.types import bits
from charlm_jax.report.html.page import block_html, details, figure
from charlm_jax.report.html.rendering import format_percent, render
from charlm_jax.report.palette import SURPRISE

LEVELS = len(SURPRISE["light"])
"""Highest level of surprise, in bits: it has no upper end. Level 0 has no colour."""

DIFFERENCE_LEVELS = 12
"""Highest level of a difference: half of them are on each side of none."""

DIFFERENCE_STEP = 0.5
"""Bits per level of a difference."""

LATIN_1 = "Models read bytes here: a character is a byte, from 128 on shown as a letter of Latin-1."
"""Remark on a text of bytes."""

_GROUPS = ("a", "b", "ab")  # radio buttons of the first model, the second, and their difference
_VISIBLE_BITS = 3.0  # from here on white space is shown as a sign
_SIGNS = {" ": "␣", "\n": "↵", "\t": "⇥"}
_NAMES = {" ": "space", "\n": "new line", "\t": "tab"}
_HALF = DIFFERENCE_LEVELS // 2

Predictions = Mapping[int, Sequence[tuple[str, float]]]
"""Position -> most probable characters with their probabilities, the most probable first."""


class HeatMap(NamedTuple):
    """Per-character losses of a text under one model.

    Attributes:
      label: name of the model's run.
      nll_N: losses in nats; NaN for characters that were not scored.
      rule: description of what was read before each character.
      predictions: most probable characters, at most five for each position.
      notes: position -> line added to what is shown of a character.
    """

    label: str
    nll_N: np.ndarray
    rule: str
    predictions: Predictions
    notes: Mapping[int, str]


class _Cell(NamedTuple):
    """One character of a coloured text.

    Attributes:
      text: the character, or a sign for it.
      css_class: class of its colour.
      tip: lines shown when the pointer is on it, or the keys have chosen it.
      bars: value of a style attribute, with the lengths of the tip's bars; empty for none.
      name: name for screen readers of a character that cannot be seen; empty for others.
      is_faint: True if the text is a sign that should not stand out.
      line_break: possible line break after it; empty for none.
    """

    text: str
    css_class: str
    tip: str
    bars: str = ""
    name: str = ""
    is_faint: bool = False
    line_break: str = ""


class _Stretch(NamedTuple):
    """Neighbouring characters of a coloured text that look alike.

    Attributes:
      text: the characters, or signs for them.
      css_class: classes of their look.
    """

    text: str
    css_class: str


def heat_blocks(text: str, maps: Sequence[HeatMap]) -> list[Markup]:
    """Render a text coloured for one model, or for two and their difference, and as plain text.

    Args:
      text: N characters.
      maps: losses under one or two models.
    """
    drawings = []
    for group, heat_map in zip(_GROUPS, maps, strict=False):
        scored_N = heat_map.nll_N[~np.isnan(heat_map.nll_N)]
        mean = f"mean {bits(scored_N.mean()):.3f} bits" if scored_N.size else "no character scored"
        drawing = heat_text(text, heat_map, group=group)
        drawings.append(figure(f"{heat_map.label}: {mean}. Context: {heat_map.rule}.", drawing))
    blocks = [heat_legend(), *drawings]
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
    mean = bits(float(np.nanmean(difference_N)))
    caption = f"{second.label} minus {first.label}: mean {mean:+.3f} bits."
    drawing = difference_text(text, difference_N, label=name, group=_GROUPS[-1])
    return [*difference_legend(first.label, second.label), figure(caption, drawing)]


def heat_text(text: str, heat_map: HeatMap, *, group: str) -> Markup:
    """Render a text coloured by the losses of its characters.

    The pointer, or the arrow keys, choose the character of which more is shown: the characters are
    radio buttons, so that a page without a script has the keys too.

    Args:
      text: N characters.
      heat_map: their losses, and what is shown of them.
      group: name of the radio buttons, unique in the page.
    """
    cells = [
        _heat_cell(
            symbol, nats, heat_map.predictions.get(position, ()), heat_map.notes.get(position, "")
        )
        for position, (symbol, nats) in enumerate(zip(text, heat_map.nll_N.tolist(), strict=True))
    ]
    label = f"Loss of {heat_map.label} at every character of the passage"
    return _coloured_text(text, cells, label=label, group=group)


def difference_text(text: str, difference_N: np.ndarray, *, label: str, group: str) -> Markup:
    """Render a text coloured by the difference of two models' losses.

    Args:
      text: N characters.
      difference_N: the second model's losses minus the first's, in nats; NaN for characters that
        one of them did not score.
      label: text alternative for screen readers.
      group: name of the radio buttons, unique in the page.
    """
    rows = zip(text, difference_N.tolist(), strict=True)
    cells = [_difference_cell(symbol, nats) for symbol, nats in rows]
    return _coloured_text(text, cells, label=label, group=group)


def strength_text(
    text: str, strength_N: np.ndarray, is_marked_N: np.ndarray, *, label: str
) -> Markup:
    """Render a text coloured by a strength, with some characters underlined.

    Args:
      text: N characters.
      strength_N: values from 0, without colour, to 1.
      is_marked_N: mask of the underlined characters.
      label: text alternative for screen readers.
    """
    level_N = np.round(LEVELS * strength_N).astype(int)
    stretches: list[_Stretch] = []
    for symbol, level, is_marked in zip(text, level_N.tolist(), is_marked_N.tolist(), strict=True):
        look = f"h{level} u" if is_marked else f"h{level}"
        shown = f"{sign(symbol)}\n" if symbol == "\n" else symbol
        if symbol not in _SIGNS:
            shown = sign(symbol)
        if stretches and stretches[-1].css_class == look:
            stretches[-1] = _Stretch(stretches[-1].text + shown, look)
        else:
            stretches.append(_Stretch(shown, look))
    return render("blocks.html.j2", "stretches", label=label, stretches=stretches)


def heat_legend() -> Markup:
    """Render the legend of `heat_text`."""
    labels = [*map(str, range(LEVELS)), f"{LEVELS}+"]
    return render("blocks.html.j2", "scale", unit="Bits of surprise:", labels=labels, letter="h")


def strength_legend(weak: str, strong: str) -> Markup:
    """Render the legend of `strength_text`, with the meaning of its two ends."""
    labels = [weak, *([""] * (LEVELS - 1)), strong]
    return render("blocks.html.j2", "scale", unit="", labels=labels, letter="h")


def difference_legend(first: str, second: str) -> list[Markup]:
    """Render the legend of `difference_text`."""
    values = [DIFFERENCE_STEP * (level - _HALF) for level in range(DIFFERENCE_LEVELS + 1)]
    labels = [f"{value:+g}" if value else "0" for value in values]
    labels = [f"≤ {labels[0]}", *labels[1:-1], f"≥ {labels[-1]}"]
    note = Markup('<p class="note">{}</p>').format(
        f"Below 0 {second} has the lower loss, above 0 {first}."
    )
    return [
        render("blocks.html.j2", "scale", unit="Bits, about", labels=labels, letter="d"),
        note,
    ]


def sign(symbol: str) -> str:
    """Return a visible sign for white space, a carrier for a combining mark, else the symbol.

    >>> [sign(symbol) for symbol in ("a", " ", "\u0301")]
    ['a', '␣', '◌\u0301']
    """
    return f"◌{symbol}" if unicodedata.category(symbol)[0] == "M" else _SIGNS.get(symbol, symbol)


def _heat_cell(
    symbol: str, nats: float, predictions: Sequence[tuple[str, float]], note: str
) -> _Cell:
    if math.isnan(nats):
        return _cell(symbol, 0.0, "none", note or "not scored: too little context")
    value = bits(nats)
    level = min(max(int(value + 0.5), 0), LEVELS)
    head = f"{value:.2f} bits ({format_percent(math.exp(-nats))})"
    rows = [
        f"{'▸' if each == symbol else ''}\t{sign(each)}\t{format_percent(p):>6}"
        for each, p in predictions
    ]
    bars = ";".join(
        f"--{name}:{100 * p:.0f}"
        for name, (_, p) in zip("abcde", predictions, strict=False)
        if p >= 0.005
    )
    return _cell(symbol, value, f"h{level}", head, *rows, note, bars=bars)


def _difference_cell(symbol: str, nats: float) -> _Cell:
    if math.isnan(nats):
        return _cell(symbol, 0.0, "none", "not scored by both models")
    value = bits(nats)
    level = min(max(round(value / DIFFERENCE_STEP) + _HALF, 0), DIFFERENCE_LEVELS)
    return _cell(symbol, abs(value), f"d{level}", f"{value:+.2f} bits")


def _cell(symbol: str, strength: float, css_class: str, *lines: str, bars: str = "") -> _Cell:
    """Return a cell that shows white space as a sign if `strength`, in bits, is high."""
    tip = "\n".join(filter(None, lines))
    name = ""
    if symbol.isspace():
        name = f"{_NAMES.get(symbol, f'U+{ord(symbol):04X}')}, {lines[0].partition(' (')[0]}"
    is_visible = strength >= _VISIBLE_BITS
    shown = symbol if symbol in _SIGNS and symbol != "\n" and not is_visible else sign(symbol)
    is_faint = symbol == "\n" and not is_visible
    can_break = symbol in _SIGNS and symbol != "\n" and is_visible
    line_break = Markup("<wbr>") if can_break else ""
    return _Cell(shown, css_class, tip, bars, name, is_faint, line_break)


def _coloured_text(text: str, cells: Sequence[_Cell], *, label: str, group: str) -> Markup:
    """Render cells by line: a browser lays out one line again when a character is chosen."""
    ends = [n for n, symbol in enumerate(text, start=1) if symbol == "\n"]
    starts = [0, *ends]
    lines = [cells[a:b] for a, b in zip(starts, [*ends, len(cells)], strict=True) if a < b]
    return render("blocks.html.j2", "coloured_text", label=label, lines=lines, group=group)
