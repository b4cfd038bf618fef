"""Passages and prompts for a report, chosen independently of any model."""

import numpy as np

from charlm_jax.data.large_text import Text
from charlm_jax.data.splits import Part, size, target_positions
from charlm_jax.evaluation.protocol import EvalProtocol, Sliding, Stream
from charlm_jax.inference.run import Run

PASSAGE = 1000
"""Number of characters whose surprisal is shown."""

READ_BEFORE = 1000
"""Number of characters that a model reads before the passage."""

_PROMPT, _LONGEST_PROMPT = 40, 60


def choose_passage(text: Text, part: Part) -> range:
    """Choose a passage near the middle of a part, beginning at the start of a line.

    Args:
      text: the whole text.
      part: part to choose from.

    Returns:
      Positions of at most `PASSAGE` characters of one stretch, each of which has a predictor. They
      begin after a newline if the preceding `PASSAGE` characters contain one.
    """
    middle = size(part) // 2
    for stretch in part:
        if middle < len(stretch):
            break
        middle -= len(stretch)
    stretch = target_positions(stretch)
    latest = max(stretch.start, min(stretch.start + middle, stretch.stop - 1) - PASSAGE // 2)
    newline = text.rfind("\n", max(stretch.start - 1, latest - PASSAGE), latest)
    start = latest if newline < 0 else newline + 1
    return range(start, min(start + PASSAGE, stretch.stop))


def first_words(text: Text, part: Part, *, unit: str = "characters") -> str:
    """Return the first words of a part, about 40 symbols, without a word cut at its start.

    Bytes are cut where a character of UTF-8 begins; those from 128 on count as letters.
    """
    start, stop = part[0].start, part[0].stop
    is_bytes = unit == "bytes"

    def is_letter(symbol: str) -> bool:
        return symbol.isalnum() or (is_bytes and symbol >= "\x80")

    def is_boundary(n: int) -> bool:
        return not is_bytes or n == len(text) or not "\x80" <= text[n] < "\xc0"

    if start > 0 and is_letter(text[start - 1]):
        near = range(start, min(start + _PROMPT, stop - 1))
        starts = (n + 1 for n in near if not is_letter(text[n]))
        whole = filter(is_boundary, range(start, min(start + 4, stop)))
        start = next(starts, next(whole, start))
    end = min(start + _PROMPT, stop)
    longest = min(start + _LONGEST_PROMPT, stop)
    ends = (n for n in range(end, longest) if not is_letter(text[n]))
    whole = filter(is_boundary, range(end, max(end - 4, start), -1))
    return text[start : next(ends, next(whole, end))]


def passage_nll(run: Run, text: Text, passage: range, *, first: int) -> np.ndarray:
    """Compute the surprisal of each character of a passage.

    Args:
      run: run whose model reads the passage.
      text: the whole text, as symbols.
      passage: positions in the text, from 1.
      first: first position that the model may read; above 0 if the passage is of another file.

    Returns:
      nll_N in nats, one entry per character; `reads_before` describes their context.
    """
    read, protocol = _how_read(run, text, passage, first)
    return run.score(read, protocol).nll_N[-len(passage) :]


def passage_predictions(
    run: Run, text: Text, passage: range, *, first: int
) -> dict[int, list[tuple[str, float]]]:
    """Compute the most probable characters at each position of a passage.

    Arguments are those of `passage_nll`.

    Returns:
      Position in the passage -> symbols with their probabilities, the most probable first.
    """
    read, protocol = _how_read(run, text, passage, first)
    top = run.top_predictions(read, protocol)
    rows = zip(top.symbols[-len(passage) :], top.probability_NG[-len(passage) :], strict=True)
    return {
        position: list(zip(symbols, probability_G.tolist(), strict=True))
        for position, (symbols, probability_G) in enumerate(rows)
    }


def _how_read(run: Run, text: Text, passage: range, first: int) -> tuple[str, EvalProtocol]:
    """Return the text that is read to score a passage, and the protocol."""
    before = _read_before(run, passage, first)
    read = run.vocabulary.to_text(text[passage.start - before : passage.stop])
    return read, Stream() if run.model.max_length is None else Sliding(before, targets=0)


def reads_before(run: Run, passage: range, *, first: int) -> str:
    """Describe what `passage_nll` lets a model read before a character."""
    before = _read_before(run, passage, first)
    if run.model.max_length is not None:
        return f"the {before:,} characters before it"
    description = f"all characters before it, starting {before:,} before the passage"
    if run.model.keeps_positions:
        description += f", of which attention keeps the last {run.config.evaluation_context:,}"
    return description


def _read_before(run: Run, passage: range, first: int) -> int:
    """Return the characters read before the passage; before each character if length is limited."""
    own = run.config.evaluation_context
    return min(READ_BEFORE if run.model.max_length is None else own, passage.start - first)
