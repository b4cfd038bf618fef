"""Pages about one text: the loss of every character under one model, or two."""

from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from charlm_jax._version import __version__
from charlm_jax.comparison.readings import (
    CharacterReading,
    Reading,
    describe_difference,
    read_characters,
)
from charlm_jax.comparison.units import reading_units
from charlm_jax.core.types import bits
from charlm_jax.evaluation.text_score import TextScore, score_lines, sort_by_surprisal
from charlm_jax.report.headline import reading_headline
from charlm_jax.report.html.heat_text import LATIN_1, HeatMap, heat_blocks, sign
from charlm_jax.report.html.page import PageBlock, Section, Table, write_page
from charlm_jax.report.html.rendering import format_percent, render
from charlm_jax.report.unit_text import unit_blocks
from charlm_jax.storage.weights import describe_average

COLOURED_CHARACTERS = 10_000
"""Number of characters at the start of a text that a page colours, with their top predictions."""

_ROWS = 20  # of a table
_MAX_NAME, _MAX_LINE = 40, 160
_CONTEXT = 30  # characters shown before a surprising one

_MODES = {
    "stream": "Every character is predicted from all preceding characters of {whole}{kept}.",
    "window": "The text is read in windows, each from an empty state: the first characters of a "
    "window have little context, and higher losses.",
    "sliding": "Every character is predicted from the same number of preceding characters; the "
    "first characters of the text are not scored.",
}


def write_text_page(readings: Sequence[Reading], text: str, path: Path | str, *, name: str) -> Path:
    """Write a page about a text.

    Args:
      readings: scores of the text under one run or two.
      text: text that was scored, as symbols.
      path: file to write. Only a page that charlm wrote is replaced.
      name: name of the text.

    Returns:
      The file. The same readings give the same bytes.

    Raises:
      CharlmError: the file is something else, or cannot be written.
    """
    shown = [read_characters(reading, text[:COLOURED_CHARACTERS]) for reading in readings]
    sections = [
        Section("Surprise at every character", surprisal_blocks(readings, shown, text)),
        Section("The most surprising characters", [_character_table(x, text) for x in shown]),
        Section("The most surprising lines", [_line_table(readings, text)]),
    ]
    units = reading_units(readings[0], text, most=COLOURED_CHARACTERS)
    if units is not None:
        sections.append(Section("Text coloured by one unit", unit_blocks(units)))
    sections.append(Section("How it was scored", [_facts(readings, text, name)]))
    sentences = reading_headline(readings, name)
    lead = [render("blocks.html.j2", "headline", sentences=sentences)]
    readers = " and ".join(reading.label[:_MAX_NAME] for reading in readings)
    title = f"{name[-_MAX_NAME:]}, scored by {readers}"
    return write_page(path, title=title, lead=lead, sections=sections)


def _facts(readings: Sequence[Reading], text: str, name: str) -> Markup:
    lines = text.count("\n") + (not text.endswith("\n"))
    unit = readings[0].run.vocabulary.unit
    facts = [("Text", f"{name}: {len(text):,} {unit}, {lines:,} lines")]
    facts += [(reading.label, _summary(reading, text)) for reading in readings]
    if len(readings) == 2:
        facts.append(("Difference", describe_difference(*readings)))
    facts.append(("Written by", f"charlm_jax {__version__}"))
    return render("blocks.html.j2", "facts", pairs=facts)


def _summary(reading: Reading, text: str) -> str:
    score, run = reading.score, reading.run
    facts = [
        f"{score.bits_per_char:.4f} bits ({score.loss_nats:.4f} nats) per "
        f"{run.vocabulary.noun} over {score.characters:,} {run.vocabulary.unit}",
        reading.describe_unknown(text),
        f"read: {score.rule}",
        f"checkpoint {run.checkpoint:,}{describe_average(run.weights)}",
    ]
    return "; ".join(filter(None, facts))


def surprisal_blocks(
    readings: Sequence[Reading], shown: Sequence[CharacterReading], text: str
) -> list[PageBlock]:
    """Render a text coloured by its losses, with the top predictions at every character.

    Args:
      readings: scores of the text under one run or two.
      shown: losses and top predictions of its first `COLOURED_CHARACTERS` characters.
      text: text that was scored, as symbols.
    """
    modes = {reading.label: _read_before(reading.score) for reading in readings}
    blocks: list[PageBlock] = [
        "Stronger colours mark higher losses. Point at a character, touch it, or choose it by the "
        "arrow keys for its loss, its probability and the five most probable characters. "
        "Characters with a dotted underline are not scored.",
    ]
    if readings[0].run.vocabulary.unit == "bytes":
        blocks.append(LATIN_1)
    if len(set(modes.values())) == 1:
        blocks += set(modes.values())
    else:
        blocks += [f"{label}: {mode}" for label, mode in modes.items()]
    if len(text) > COLOURED_CHARACTERS:
        blocks.append(
            f"Only the first {COLOURED_CHARACTERS:,} of {len(text):,} characters are coloured, to "
            f"keep the page small. The means above them are over these characters."
        )
    maps = [HeatMap(x.label, x.nll_N, x.rule, x.predictions, _notes(x)) for x in shown]
    return [*blocks, *heat_blocks(text[:COLOURED_CHARACTERS], maps)]


def _read_before(score: TextScore) -> str:
    context, is_separate = score.protocol.context, score.separate_lines
    whole = "its line" if is_separate else "the text"
    kept = f", of which attention keeps the last {context:,}" if context else ""
    lines = " Every line is read on its own, from an empty state." if is_separate else ""
    return f"{_MODES[score.protocol.mode].format(whole=whole, kept=kept)}{lines}"


def _notes(shown: CharacterReading) -> dict[int, str]:
    """Return a line for each character that the model does not know."""
    return {n: f"unknown to the model: {_treatment(shown)}" for n in shown.unknown}


def _treatment(shown: CharacterReading) -> str:
    return "left out" if shown.replacement is None else f"read as {sign(shown.replacement)}"


def _format_predictions(predictions: Sequence[tuple[str, float]]) -> str:
    """Format symbols with their probabilities: `e 45.1 % · ␣ 20.3 %`."""
    return " · ".join(f"{sign(symbol)} {format_percent(p)}" for symbol, p in predictions)


def _character_table(shown: CharacterReading, text: str) -> Table:
    rows = []
    ranked = sorted(shown.predictions, key=lambda position: -shown.nll_N[position])
    for position in ranked[:_ROWS]:
        symbol = sign(text[position])
        rows.append(
            [
                _on_one_line(text[max(position - _CONTEXT, 0) : position]),
                f"{symbol}, {_treatment(shown)}" if position in shown.unknown else symbol,
                _format_predictions(shown.predictions[position]),
                f"{bits(shown.nll_N[position]):.2f}",
                f"{text.count(chr(10), 0, position) + 1:,}",
            ]
        )
    among = f", among the first {COLOURED_CHARACTERS:,}" if len(text) > COLOURED_CHARACTERS else ""
    return Table(
        ["text before", "character", "most probable", "bits", "line"],
        rows,
        f"{shown.label}{among}",
        text_columns=3,
    )


def _on_one_line(text: str) -> str:
    """Mark white space with signs where a table would not show it."""
    shown = "".join(sign(symbol) if symbol in "\n\t" else symbol for symbol in text)
    return shown.removesuffix(" ") + sign(" ") if shown.endswith(" ") else shown


def _line_table(readings: Sequence[Reading], text: str) -> Table:
    first, *others = [score_lines(text, reading.score) for reading in readings]
    rows = []
    vocabulary = readings[0].run.vocabulary
    for line in sort_by_surprisal(first)[:_ROWS]:
        text = vocabulary.shown(vocabulary.to_text(line.text))
        cut = "…" if len(text) > _MAX_LINE else ""
        scores = [line, *(lines[line.number - 1] for lines in others)]
        rows.append(
            [
                (_on_one_line(text[:_MAX_LINE]) or sign("\n")) + cut,
                f"{line.number:,}",
                f"{line.characters:,}",
                *("-" if x.bits_per_char is None else f"{x.bits_per_char:.3f}" for x in scores),
            ]
        )
    ranked = f", ranked by {readings[0].label}" if others else ""
    if not readings[0].score.separate_lines:
        ranked += ". Each line was read after the lines before it, on which its figure depends"
    return Table(
        ["line", "number", "scored", *(reading.label for reading in readings)],
        rows,
        f"Bits per {vocabulary.noun}{ranked}",
    )
