"""A text whose every character has a colour: how surprising it was, or to whom the less."""

import unicodedata
from collections.abc import Sequence

import numpy as np

from charlm_jax.report.colours import LEVELS
from charlm_jax.report.html import Markup, element, escape, markup
from charlm_jax.types import bits

STEP_NATS = 0.5
"""From one colour to the next; the last is for all beyond."""

_SEEN_NATS = 2.0  # from which on white space is shown by a sign
_SIGNS = {" ": "␣", "\n": "↵", "\t": "⇥"}
_HALF = LEVELS // 2


def heat_text(text: str, nll_N: np.ndarray, *, label: str) -> Markup:
    """A text, coloured by how surprising each character was.

    Args:
      text: N characters.
      nll_N: nats.
      label: what it is, for those who cannot see it.
    """
    cells = [
        _cell(symbol, nats, f"h{_level(nats)}", nats, f"{nats:.3f} nats, {bits(nats):.3f} bits")
        for symbol, nats in zip(text, nll_N.tolist(), strict=True)
    ]
    return element("div", *cells, class_="heat", role="img", aria_label=label)


def difference_text(text: str, less_N: np.ndarray, *, label: str) -> Markup:
    """A text, coloured by how much more surprising each character was to one run than to another.

    Args:
      text: N characters.
      less_N: nats of the second run less those of the first; above 0 the first was the better.
      label: what it is, for those who cannot see it.
    """
    cells = [
        _cell(symbol, abs(nats), f"d{_signed_level(nats)}", nats, f"{nats:+.3f} nats")
        for symbol, nats in zip(text, less_N.tolist(), strict=True)
    ]
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


def _cell(symbol: str, strength: float, look: str, nats: float, title: str) -> Markup:
    """A character in its colour, and behind it what a line may break at."""
    is_seen = strength >= _SEEN_NATS
    if symbol == "\n":
        sign = _SIGNS[symbol] if is_seen else element("i", _SIGNS[symbol])
        return markup(element("span", sign, class_=look, title=title), "\n")
    if symbol in _SIGNS and is_seen:
        return markup(element("span", _SIGNS[symbol], class_=look, title=title), element("wbr"))
    shown = f"◌{symbol}" if unicodedata.category(symbol)[0] == "M" else escape(symbol)
    return element("span", shown, class_=look, title=title)
