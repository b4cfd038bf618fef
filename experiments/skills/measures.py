"""The record of a run on a text of one skill."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from charlm_jax.analysis.loss_breakdown import geometric_bins, positions_in_window
from charlm_jax.core.trees import count_parameters
from charlm_jax.data.dataset import Dataset
from charlm_jax.data.skills import END, SkillSource
from charlm_jax.data.synthetic import parse_source
from charlm_jax.evaluation.block_sums import BlockSums, block_sums
from charlm_jax.evaluation.protocol import Stream, Window, all_positions
from charlm_jax.inference.run import Run
from experiments.block_records import WIDE_BLOCK, Sums, to_sums
from experiments.skills.arms import FIRST_PLACES, SEQUENCE_LENGTH


class PartAnswers(NamedTuple):
    """Answers of a part of the text that count, among its P characters.

    An answer counts if the model has read the end before its episode, and if its place in the
    episode is not below that of `FIRST_PLACES`.

    Attributes:
      best_P: losses of the best predictor, in nats.
      place_P: place of each character in its episode, from 1.
      window_P: mask of the answers that count in windows of the training length.
      stream_P: mask of those that count with the state carried on; it includes the former.
    """

    best_P: np.ndarray
    place_P: np.ndarray
    window_P: np.ndarray
    stream_P: np.ndarray

    def by_place(self, nll_P: np.ndarray) -> Mapping[str, BlockSums]:
        """Return sums over the answers that count in windows, by their place in the episode."""
        return {
            f"{first}-{last}": block_sums([nll_P], mask_N=mask_P, block=WIDE_BLOCK)
            for first, last in geometric_bins(SEQUENCE_LENGTH)
            if (mask_P := self.window_P & (first <= self.place_P) & (self.place_P <= last)).any()
        }


def measure_run(run: Run) -> dict[str, Any]:
    """Return the record of a run: its losses above the best ones, summed over blocks of text.

    In windows of the training length, every model reads what it has been trained on; the loss with
    the state carried on tells whether it also lasts.
    """
    answers = part_answers(run.dataset(), "test")
    window_P, stream_P = (
        run.evaluate(protocol, split="test")[1] - answers.best_P
        for protocol in (Window(SEQUENCE_LENGTH), Stream())
    )
    return {
        **measure_search(run),
        "excess": _sums(window_P, answers.window_P),
        "stream": _sums(stream_P, answers.stream_P),
        "stream_same": _sums(stream_P, answers.window_P),
        "by_place": {name: to_sums(x)[0] for name, x in answers.by_place(window_P).items()},
    }


def measure_search(run: Run) -> dict[str, Any]:
    """Return the record of a run of the search: its loss above the best on the second part."""
    dataset = run.dataset()
    answers = part_answers(dataset, "valid")
    excess_P = run.evaluate(Window(SEQUENCE_LENGTH), split="valid")[1] - answers.best_P
    return {
        **measure_text(dataset),
        "parameters": count_parameters(run.params),
        "second": round(float(excess_P[answers.window_P].mean()), 6),
    }


def measure_text(dataset: Dataset) -> dict[str, Any]:
    """Return the fields of a record that the text alone determines.

    They are the number of answers that count in the third part, and the loss above the best of the
    predictor that knows the last character alone.
    """
    answers = part_answers(dataset, "test")
    last_P = last_character_nats(dataset, answer_mask(dataset)) - answers.best_P
    by_place = answers.by_place(last_P)
    return {
        "fingerprint": dataset.fingerprint,
        "best_loss": round(float(answers.best_P.mean()), 6),
        "answers": _counts(answers.window_P),
        "last_character": _sums(last_P, answers.window_P),
        "stream_answers": _counts(answers.stream_P),
        "stream_last_character": _sums(last_P, answers.stream_P),
        "place_counts": {name: found.counts_K.tolist() for name, found in by_place.items()},
        "last_character_by_place": {name: to_sums(found)[0] for name, found in by_place.items()},
    }


def _sums(nll_P: np.ndarray, mask_P: np.ndarray) -> Sums:
    return to_sums(block_sums([nll_P], mask_N=mask_P))[0]


def _counts(mask_P: np.ndarray) -> list[int]:
    counts: list[int] = block_sums([mask_P], mask_N=mask_P).counts_K.tolist()
    return counts


def part_answers(dataset: Dataset, split: str) -> PartAnswers:
    """Return the answers of a part that count.

    Args:
      dataset: the text and its split.
      split: name of the part.
    """
    text, part = dataset.corpus.text[:], dataset.part(split)
    places_P = all_positions(part)
    place_P = episode_places(text)[places_P]
    first_P, is_answer_P = places_P + 1 - place_P, answer_mask(dataset)[places_P]

    def counts(context: int) -> np.ndarray:
        """Return the answers whose episode begins after the first character that is read."""
        mask_P: np.ndarray = is_answer_P & (first_P > places_P - positions_in_window(part, context))
        return mask_P

    best_P = _source(dataset).nll_nats(text)[places_P]
    return PartAnswers(best_P, place_P, counts(SEQUENCE_LENGTH), counts(len(text)))


def answer_mask(dataset: Dataset) -> np.ndarray:
    """Return a mask of the answers of the text, from the place of `FIRST_PLACES` on."""
    text, source = dataset.corpus.text[:], _source(dataset)
    mask_N: np.ndarray = source.is_answer(text) & (
        episode_places(text) >= FIRST_PLACES.get(source.task, 1)
    )
    return mask_N


def _source(dataset: Dataset) -> SkillSource:
    source = parse_source(dataset.corpus.name)
    assert isinstance(source, SkillSource)
    return source


def episode_places(text: str) -> np.ndarray:
    r"""Return the place of each character in its episode, from 1.

    >>> episode_places("ab\nc\n").tolist()
    [1, 2, 3, 1, 2]
    """
    is_end_N = np.frombuffer(text.encode("ascii"), np.uint8) == ord(END)
    number_N = np.arange(1, len(text) + 1)
    ended_N = np.maximum.accumulate(np.where(is_end_N, number_N, 0))
    place_N: np.ndarray = number_N - np.concatenate([[0], ended_N[:-1]])
    return place_N


def last_character_nats(dataset: Dataset, is_answer_N: np.ndarray) -> np.ndarray:
    """Return losses on the third part of the best predictor of answers from one character alone.

    It counts which characters follow which among the answers of the first part.

    Args:
      dataset: the text and its split.
      is_answer_N: mask of the answers.

    Returns:
      Negative log-likelihoods in nats, one per character; those of answers are meant.
    """
    ids_N, symbols = dataset.ids_N[:], len(dataset.vocabulary)
    train_P, test_P = (all_positions(dataset.part(split)) for split in ("train", "test"))
    train_P = train_P[is_answer_N[train_P]]
    counts_VV = np.full((symbols, symbols), 1 / symbols)
    np.add.at(counts_VV, (ids_N[train_P - 1], ids_N[train_P]), 1)
    nll_VV = -np.log(counts_VV / counts_VV.sum(axis=1, keepdims=True))
    nll_P: np.ndarray = nll_VV[ids_N[test_P - 1], ids_N[test_P]]
    return nll_P
