"""Readings of a text by one or two runs: scores and top predictions, as plain data."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from charlm_jax.evaluation.text_score import TextScore, surprisal_difference
from charlm_jax.inference.run import Run


class Reading(NamedTuple):
    """A run, and its score of a text.

    Attributes:
      label: name of the run.
      run: run whose model read the text.
      score: score of the whole text.
      how: keyword arguments of `TrainedModel.score` that produced it.
    """

    label: str
    run: Run
    score: TextScore
    how: Mapping[str, Any]

    def is_unknown(self, text: str) -> np.ndarray:
        """Return a mask of the symbols of a text that the model does not know: boolean (N,).

        Newlines that only separate lines are not read, and so are not among them.
        """
        vocabulary = self.run.vocabulary
        if self.score.separate_lines:
            text = text.replace("\n", vocabulary.symbols[0])  # any that is known
        return ~vocabulary.knows(text)

    def describe_unknown(self, text: str) -> str:
        """Count the symbols of a text that the model does not know; "" if there are none."""
        vocabulary = self.run.vocabulary
        count = int(self.is_unknown(text).sum())
        noun = vocabulary.noun if count == 1 else vocabulary.unit
        treatment = "left out" if self.how["unknown"] == "drop" else "replaced"
        return f"{count:,} unknown {noun} {treatment}" if count else ""


def describe_difference(first: Reading, second: Reading) -> str:
    """Describe the mean difference of two losses, over the characters that both scored."""
    difference_N = surprisal_difference(first.score, second.score)
    if not difference_N.size:
        return f"{first.label} and {second.label} have no scored character in common"
    return (
        f"{second.label} minus {first.label}: {difference_N.mean():+.4f} nats per "
        f"{first.run.vocabulary.noun} over {difference_N.size:,} {first.run.vocabulary.unit} "
        f"scored by both"
    )


class CharacterReading(NamedTuple):
    """Losses and top predictions of one run for the characters of a text.

    Attributes:
      label: name of the run.
      nll_N: losses in nats; NaN for characters that were not scored.
      predictions: position -> most probable symbols with their probabilities, for each scored
        character.
      unknown: positions of characters outside the model's vocabulary.
      replacement: symbol that was read instead; None if they were left out.
      rule: description of what was read before each character.
    """

    label: str
    nll_N: np.ndarray
    predictions: Mapping[int, Sequence[tuple[str, float]]]
    unknown: frozenset[int]
    replacement: str | None
    rule: str


def read_characters(reading: Reading, text: str) -> CharacterReading:
    """Look up the losses of a text's first characters, and compute the top predictions.

    Args:
      reading: score of the whole text.
      text: its first N characters or bytes, as symbols.
    """
    score, how = reading.score, reading.how
    return CharacterReading(
        label=reading.label,
        nll_N=score.along(len(text)),
        predictions=_top_predictions(reading, text),
        unknown=frozenset(np.flatnonzero(reading.is_unknown(text)).tolist()),
        replacement=how["replacement"] if how["unknown"] == "replace" else None,
        rule=score.rule,
    )


def _top_predictions(reading: Reading, text: str) -> dict[int, list[tuple[str, float]]]:
    positions_N = reading.score.positions_N
    positions_N = positions_N[positions_N < len(text)]
    if not positions_N.size:
        return {}
    last = int(positions_N[-1])
    read = reading.run.vocabulary.to_text(text[: last + 1])
    result = reading.run.top_predictions(read, **reading.how)
    rows = zip(
        result.positions_N.tolist(), result.symbols, result.probability_NG.tolist(), strict=True
    )
    return {
        position: list(zip(symbols, probabilities, strict=True))
        for position, symbols, probabilities in rows
        if position <= last  # not the newline that ends what is read of separate lines
    }
