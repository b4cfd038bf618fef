"""A page about one text: how surprising it is to a model, or to two, character by character."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from charlm_jax._version import __version__
from charlm_jax.core.types import bits
from charlm_jax.evaluation.text_score import (
    GUESSES,
    TextScore,
    score_lines,
    sort_by_surprisal,
    surprisal_difference,
)
from charlm_jax.inference.run import Run
from charlm_jax.report.html.heat_text import HeatMap, heat_blocks, sign
from charlm_jax.report.html.markup import Markup, element, markup, table
from charlm_jax.report.html.page import Block, Section, write_page
from charlm_jax.storage.weights import averaged_in_words

SHOWN = 10_000
"""Characters that a page colours, from the text's first on; each has its guesses."""

_ROWS = 20  # of a table
_LONGEST_NAME, _LONGEST_LINE = 40, 160
_BEFORE = 30  # characters that are shown before a surprising one

_READ = {
    "stream": "Every character is predicted from all that was read before it, from the text's "
    "first character on.",
    "window": "The text is read in windows, and the model begins each anew: the first characters "
    "of a window have little before them, and look the more surprising.",
    "sliding": "Every character is predicted from the same number before it, so that the text's "
    "first have no figure.",
}


class Reading(NamedTuple):
    """A run, and what it made of a text.

    Attributes:
      label: the run's name.
      run: whose model read.
      score: of the whole text.
      how: the arguments of `TrainedModel.score`, beside the text, that gave it.
    """

    label: str
    run: Run
    score: TextScore
    how: Mapping[str, Any]

    def unknown_in_words(self, text: str) -> str:
        """How many characters the model does not know, and what became of them; "" where none."""
        count = int(np.sum(~self.run.vocabulary.knows(text)))
        noun = "character" if count == 1 else "characters"
        became = "left out" if self.how["unknown"] == "drop" else "replaced"
        return f"{count:,} unknown {noun} {became}" if count else ""


def difference_in_words(first: Reading, second: Reading) -> str:
    """By how much the second run was the more surprised, on the characters that both scored."""
    less_N = surprisal_difference(first.score, second.score)
    if not less_N.size:
        return f"{first.label} and {second.label} scored no character in common"
    return (
        f"{second.label} less {first.label}: {less_N.mean():+.4f} nats per character over "
        f"{less_N.size:,} that both scored"
    )


class _Shown(NamedTuple):
    """The characters that a page colours, as one run sees them.

    Attributes:
      label: the run's name.
      nll_N: nats; NaN where there is no figure.
      expected: a place's likeliest characters, in words.
      unknown: for the places of characters that the model does not know, what became of them.
      rule: how it was read.
    """

    label: str
    nll_N: np.ndarray
    expected: Mapping[int, str]
    unknown: Mapping[int, str]
    rule: str

    def notes(self) -> list[str]:
        """What is said of each character beside its figure."""
        notes = []
        for place in range(len(self.nll_N)):
            became, expected = self.unknown.get(place), self.expected.get(place)
            lines = [became and f"unknown to the model: {became}", expected]
            notes.append("\n".join(filter(None, lines)) or "not scored: too little before it")
        return notes


def write_text_page(readings: Sequence[Reading], text: str, path: Path | str, *, name: str) -> Path:
    """Write a page about a text.

    Args:
      readings: of one run or two.
      text: what they read.
      path: where to. A page that charlm wrote is replaced, nothing else is.
      name: of the text.

    Returns:
      The file. The same readings give the same bytes.

    Raises:
      CharlmError: a file that is something else or cannot be written.
    """
    shown = [_show(reading, text[:SHOWN]) for reading in readings]
    sections = [
        Section("Surprise, character by character", _maps(readings, shown, text)),
        Section("The most surprising characters", [_characters(one, text) for one in shown]),
        Section("The most surprising lines", [_lines(readings, text)]),
    ]
    readers = " and ".join(reading.label[:_LONGEST_NAME] for reading in readings)
    title = f"{name[-_LONGEST_NAME:]}, read by {readers}"
    return write_page(path, title=title, lead=[_lead(readings, text, name)], sections=sections)


def _show(reading: Reading, text: str) -> _Shown:
    score, how = reading.score, reading.how
    places = np.flatnonzero(~reading.run.vocabulary.knows(text)).tolist()
    is_replaced = how["unknown"] == "replace" and places
    words = f"read as {sign(how['replacement'])}" if is_replaced else "left out"
    unknown = dict.fromkeys(places, words)
    nll_N, expected = score.along(len(text)), _expected(reading, text)
    return _Shown(reading.label, nll_N, expected, unknown, score.rule)


def _expected(reading: Reading, text: str) -> dict[int, str]:
    """For each scored place its guesses in words, such as `e 45.1 · ␣ 20.3 %`."""
    places_N = reading.score.places_N
    places_N = places_N[places_N < len(text)]
    if not places_N.size:
        return {}
    found = reading.run.guesses(text[: places_N[-1] + 1], **reading.how)
    rows = zip(found.places_N.tolist(), found.symbols, found.probability_NG.tolist(), strict=True)
    return {place: _guesses_in_words(symbols, shares) for place, symbols, shares in rows}


def _guesses_in_words(symbols: str, shares: Sequence[float]) -> str:
    pairs = zip(symbols, shares, strict=True)
    return " · ".join(f"{sign(symbol)} {100 * share:.1f}" for symbol, share in pairs) + " %"


def _lead(readings: Sequence[Reading], text: str, name: str) -> Markup:
    lines = text.count("\n") + (not text.endswith("\n"))
    facts = [("Text", f"{name}: {len(text):,} characters, {lines:,} lines")]
    facts += [(reading.label, _figure(reading, text)) for reading in readings]
    facts += [("Difference", difference_in_words(*readings))] if len(readings) == 2 else []
    facts += [("Written by", f"charlm_jax {__version__}")]
    return element("dl", *(markup(element("dt", x), element("dd", y)) for x, y in facts))


def _figure(reading: Reading, text: str) -> str:
    score, run = reading.score, reading.run
    facts = [
        f"{score.bits_per_char:.4f} bits ({score.loss_nats:.4f} nats) per character over "
        f"{score.characters:,} characters",
        reading.unknown_in_words(text),
        f"read: {score.rule}",
        f"checkpoint {run.checkpoint:,}{averaged_in_words(run.weights)}",
    ]
    return "; ".join(filter(None, facts))


def _maps(readings: Sequence[Reading], shown: Sequence[_Shown], text: str) -> list[Block]:
    ways = {reading.label: _READ[reading.score.mode] for reading in readings}
    is_one_way = len(set(ways.values())) == 1
    blocks: list[Block] = [
        "The darker or, on a dark page, the brighter, the less was a character expected. Point at "
        f"one, or touch it, for its figure and the {GUESSES} characters that the model held "
        "likeliest in its place, in per cent. What is underlined with dots has no figure.",
        *([*ways.values()][:1] if is_one_way else [f"{x}: {way}" for x, way in ways.items()]),
    ]
    if len(text) > SHOWN:
        blocks.append(
            f"Coloured are the first {SHOWN:,} of {len(text):,} characters, so that the page stays "
            f"small. The averages above the colours are theirs."
        )
    maps = [HeatMap(one.label, one.nll_N, one.rule, one.notes()) for one in shown]
    return [*blocks, *heat_blocks(text[:SHOWN], maps)]


def _characters(shown: _Shown, text: str) -> Markup:
    places = sorted(shown.expected, key=lambda place: -shown.nll_N[place])[:_ROWS]
    rows = [
        [
            _in_line(text[max(place - _BEFORE, 0) : place]),
            ", ".join(filter(None, [sign(text[place]), shown.unknown.get(place)])),
            shown.expected[place],
            f"{bits(shown.nll_N[place]):.2f}",
            f"{text.count(chr(10), 0, place) + 1:,}",
        ]
        for place in places
    ]
    columns = ["after", "came", "held likeliest", "bits", "line"]
    among = f", among the first {SHOWN:,}" if len(text) > SHOWN else ""
    return table(columns, rows, caption=f"{shown.label}{among}", text_columns=3)


def _in_line(text: str) -> str:
    """A piece of text with signs for what a table would not show."""
    shown = "".join(sign(symbol) if symbol in "\n\t" else symbol for symbol in text)
    return shown.removesuffix(" ") + sign(" ") if shown.endswith(" ") else shown


def _lines(readings: Sequence[Reading], text: str) -> Markup:
    first, *others = [score_lines(text, reading.score) for reading in readings]
    rows = []
    for line in sort_by_surprisal(first)[:_ROWS]:
        cut = "…" if len(line.text) > _LONGEST_LINE else ""
        figures = [line, *(lines[line.number - 1] for lines in others)]
        rows.append(
            [
                (_in_line(line.text[:_LONGEST_LINE]) or sign("\n")) + cut,
                f"{line.number:,}",
                f"{line.characters:,}",
                *(_bits(figure.bits_per_char) for figure in figures),
            ]
        )
    columns = ["line", "number", "scored", *(reading.label for reading in readings)]
    ranked = f", by the figure of {readings[0].label}" if others else ""
    return table(columns, rows, caption=f"Bits per character{ranked}")


def _bits(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
