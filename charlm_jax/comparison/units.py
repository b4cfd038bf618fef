"""Units of a run that follow a property of a text: picked on one stretch, scored on another."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from charlm_jax.analysis.unit_ranking import PIECE, PIECES, UnitRanking, cut_pieces, rank_units
from charlm_jax.comparison.readings import Reading
from charlm_jax.data.dataset import Dataset
from charlm_jax.data.large_text import Text
from charlm_jax.data.splits import Part
from charlm_jax.inference.run import Run


class RunUnits(NamedTuple):
    """The units of a run that follow properties best, and the texts that show them.

    Attributes:
      label: name of the run.
      picked_on: text that units were picked on, in words.
      tested_on: text that they were scored on, in words.
      ranking: the units.
      texts: for each pick, the text of its piece, as symbols.
    """

    label: str
    picked_on: str
    tested_on: str
    ranking: UnitRanking
    texts: Sequence[str]


def corpus_units(run: Run, dataset: Dataset, split: str, *, label: str) -> RunUnits | None:
    """Pick units on the training text of a run, and score them on a held-out part.

    If the part is the training text itself, pieces of it alternate between the two.

    Args:
      run: run whose units are ranked.
      dataset: text of the run.
      split: part that units are scored on.
      label: name of the run.

    Returns:
      The units; None if the model has no recurrent layer, or the text is too short.
    """
    text, length = dataset.corpus.text, _piece_length(run)
    if split == "train":
        pieces = cut_pieces(text, dataset.thinned_part("train"), length, 2 * PIECES)
        chosen = (pieces[::2], pieces[1::2])
        words = ("every other piece of the training text", "the pieces between them")
    else:
        chosen = (
            cut_pieces(text, dataset.thinned_part("train"), length, PIECES),
            cut_pieces(text, dataset.thinned_part(split), length, PIECES),
        )
        words = ("the training text", f"the held-out text ({split})")
    return _find(run, text, dataset.ids_N, chosen, words, label)


def reading_units(reading: Reading, text: str, *, most: int) -> RunUnits | None:
    """Pick units on the first half of a text that was read, and score them on the second.

    Args:
      reading: score of the text.
      text: the text, as symbols.
      most: number of characters from the start that may be used.

    Returns:
      The units; None if the model has no recurrent layer, or the text is too short.
    """
    run, how, is_cut = reading.run, reading.how, len(text) > most
    text = text[:most]
    if reading.score.separate_lines and "\n" not in run.vocabulary.symbols:
        text = text.replace("\n", "")  # which only separate lines, as in `split_lines`
    ids_N = run.vocabulary.encode(
        run.vocabulary.to_text(text), unknown=how["unknown"], replacement=how["replacement"]
    )
    read, middle = "".join(run.vocabulary.symbols[index] for index in ids_N), len(ids_N) // 2
    halves: Sequence[Part] = [(range(middle),), (range(middle, len(ids_N)),)]
    chosen = tuple(cut_pieces(read, half, _piece_length(run), PIECES) for half in halves)
    whole = f"its first {most:,} {run.vocabulary.unit}" if is_cut else "the text"
    words = (f"the first half of {whole}", "the second half")
    return _find(run, read, ids_N, chosen, words, reading.label)


def _piece_length(run: Run) -> int:
    return min(PIECE, run.model.max_length or PIECE)


def _spread(pieces: Sequence[range], count: int) -> list[range]:
    """Return a given number of pieces, evenly spaced among all."""
    return [pieces[(2 * n + 1) * len(pieces) // (2 * count)] for n in range(count)]


def _find(
    run: Run,
    text: Text,
    ids_N: np.ndarray,
    chosen: Sequence[Sequence[range]],
    words: tuple[str, str],
    label: str,
) -> RunUnits | None:
    count = min(map(len, chosen))  # as many pieces of each, so that one program reads both
    picked, tested = (_spread(pieces, count) for pieces in chosen)
    ranking = rank_units(
        run.model,
        run.params,
        text=text,
        ids_N=ids_N,
        picked=picked,
        tested=tested,
        kinds=run.config.model.layers,
        unit=run.vocabulary.unit,
    )
    if ranking is None:
        return None
    texts = [text[pick.shown.start : pick.shown.stop] for pick in ranking.picks]
    picked_on, tested_on = words
    return RunUnits(label, picked_on, tested_on, ranking, texts)
