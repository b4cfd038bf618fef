"""A text whose every character has a colour: how surprising it was, or to whom the less."""

import math
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from charlm_jax.core.types import bits
from charlm_jax.report.html.colours import LEVELS
from charlm_jax.report.html.markup import Markup, details, element, markup

STEP_NATS = 0.5
"""From one colour to the next; the last is for all beyond."""

_SEEN_NATS = 2.0  # from which on white space is shown by a sign
_SIGNS = {" ": "␣", "\n": "↵", "\t": "⇥"}
_HALF = LEVELS // 2


class HeatMap(NamedTuple):
    """How surprising a text was to one reader.

    Attributes:
      label: the reader's name.
      nll_N: nats of every character; NaN where there is no figure.
      rule: what was read before a character, in words.
      notes: what else is said of each character, a line or none.
    """

    label: str
    nll_N: np.ndarray
    rule: str
    notes: Sequence[str] = ()


def heat_blocks(text: str, maps: Sequence[HeatMap]) -> list[Markup]:
    """A text as one reader sees it, or as two do with the difference; then the text alone.

    Args:
      text: N characters.
      maps: one or two.
    """
    drawn = []
    for label, nll_N, rule, notes in maps:
        scored_N = nll_N[~np.isnan(nll_N)]
        mean = f"{scored_N.mean():.4f} nats on average" if scored_N.size else "nothing scored"
        caption = f"{label}: {mean}. Read: {rule}."
        name = f"Surprise of {label} at every character of the passage"
        drawn.append(_figure(caption, heat_text(text, nll_N, label=name, notes=notes)))
    blocks = [heat_legend(), element("div", *drawn, class_="maps")]
    if len(maps) == 2:
        blocks += _difference_blocks(text, *maps)
    plain = element("div", text, class_="text")
    return [*blocks, details("The passage as plain text", plain)]


def _difference_blocks(text: str, first: HeatMap, second: HeatMap) -> list[Markup]:
    one, other = first.label, second.label
    less_N = second.nll_N - first.nll_N
    if np.isnan(less_N).all():
        return [element("p", f"{one} and {other} scored no character in common.")]
    name = f"Surprise of {other} less that of {one}, at every character of the passage"
    caption = f"{other} less {one}: {np.nanmean(less_N):+.4f} nats on average."
    drawn = _figure(caption, difference_text(text, less_N, label=name))
    return [difference_legend(one, other), drawn]


def _figure(caption: str, drawn: Markup) -> Markup:
    return element("figure", element("figcaption", caption), drawn)


def heat_text(text: str, nll_N: np.ndarray, *, label: str, notes: Sequence[str] = ()) -> Markup:
    """A text, coloured by how surprising each character was.

    Args:
      text: N characters.
      nll_N: nats; NaN where there is no figure.
      label: what it is, for those who cannot see it.
      notes: what else is said of each character, a line or none.
    """
    rows = zip(text, nll_N.tolist(), notes or [""] * len(text), strict=True)
    cells = [_heat_cell(symbol, nats, note) for symbol, nats, note in rows]
    return element("div", *cells, class_="heat", role="img", aria_label=label)


def difference_text(text: str, less_N: np.ndarray, *, label: str) -> Markup:
    """A text, coloured by how much more surprising each character was to one run than to another.

    Args:
      text: N characters.
      less_N: nats of the second run less those of the first; above 0 the first was the better. NaN
        where one of them has no figure.
      label: what it is, for those who cannot see it.
    """
    rows = zip(text, less_N.tolist(), strict=True)
    cells = [_difference_cell(symbol, nats) for symbol, nats in rows]
    return element("div", *cells, class_="heat", role="img", aria_label=label)


def heat_legend() -> Markup:
    """What the colours of `heat_text` mean."""
    lows = [level * STEP_NATS for level in range(LEVELS)]
    words = [f"{low:g}" for low in lows] + [f"{LEVELS * STEP_NATS:g} and more"]
    return _legend("h", words, "Nats, from")


def difference_legend(first: str, second: str) -> Markup:
    """What the colours of `difference_text` mean."""
    values = [STEP_NATS * (level - _HALF) for level in range(LEVELS + 1)]
    words = [f"{value:+g}" if value else "0" for value in values]
    return markup(
        _legend("d", words, "Nats, about"),
        element(
            "p",
            f"Below 0 {second} was less surprised, above 0 {first} was.",
            class_="note",
        ),
    )


def _legend(letter: str, words: Sequence[str], unit: str) -> Markup:
    swatches = [
        element("span", word, class_=f"{letter}{level}") for level, word in enumerate(words)
    ]
    return element("p", element("span", unit), *swatches, class_="scale")


def _level(nats: float) -> int:
    return min(max(int(nats / STEP_NATS), 0), LEVELS)


def _signed_level(nats: float) -> int:
    return min(max(round(nats / STEP_NATS) + _HALF, 0), LEVELS)


def sign(symbol: str) -> str:
    """A character by itself, as one that can be seen.

    >>> [sign(symbol) for symbol in ("a", " ", "\u0301")]
    ['a', '␣', '◌\u0301']
    """
    return f"◌{symbol}" if unicodedata.category(symbol)[0] == "M" else _SIGNS.get(symbol, symbol)


def _heat_cell(symbol: str, nats: float, note: str) -> Markup:
    if math.isnan(nats):
        return _cell(symbol, 0.0, "none", note)
    return _cell(symbol, nats, f"h{_level(nats)}", f"{nats:.3f} nats, {bits(nats):.3f} bits", note)


def _difference_cell(symbol: str, nats: float) -> Markup:
    if math.isnan(nats):
        return _cell(symbol, 0.0, "none", "not scored by both")
    return _cell(symbol, abs(nats), f"d{_signed_level(nats)}", f"{nats:+.3f} nats")


def _cell(symbol: str, strength: float, look: str, *lines: str) -> Markup:
    """A character in its colour, and behind it what a line may break at."""
    shown: str = sign(symbol)
    looks = {"class_": look, "title": "\n".join(filter(None, lines)) or None}
    if symbol not in _SIGNS:
        return element("span", shown, **looks)
    is_seen = strength >= _SEEN_NATS
    if symbol == "\n":
        return markup(element("span", shown if is_seen else element("i", shown), **looks), "\n")
    if is_seen:
        return markup(element("span", shown, **looks), element("wbr"))
    return element("span", symbol, **looks)
