"""The record of a run on a text of one skill."""

from typing import Any

import numpy as np

from charlm_jax.analysis.loss_breakdown import geometric_bins, positions_in_window
from charlm_jax.core.trees import count_parameters
from charlm_jax.data.dataset import Dataset
from charlm_jax.data.skills import END, SkillSource
from charlm_jax.data.synthetic import parse_source
from charlm_jax.evaluation.block_sums import BlockSums, block_sums
from charlm_jax.evaluation.protocol import Stream, Window, all_positions
from charlm_jax.inference.run import Run
from experiments.block_records import WIDE_BLOCK, to_sums
from experiments.run_measures import validation_curve
from experiments.skills.arms import BATCH_SIZE, SEQUENCE_LENGTH


def measure_run(run: Run) -> dict[str, Any]:
    """Return the record of a run: its losses above the best ones, summed over blocks of text.

    Only answers count whose episode the model has read from its beginning. In windows of the
    training length, every model reads what it has been trained on; the loss with the state carried
    on tells whether it also lasts.
    """
    source = parse_source(run.config.data.corpus)
    assert isinstance(source, SkillSource)
    dataset = run.dataset()
    text = dataset.corpus.text[:]
    best_N, is_answer_N, place_N = (
        source.nll_nats(text),
        source.is_answer(text),
        episode_places(text),
    )
    begin_N = np.arange(len(text)) + 1 - place_N

    def excess(split: str, context: int, nll_P: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the losses above the best, and which characters are answers that count."""
        part = dataset.part(split)
        places_P = all_positions(part)
        first_read_P = places_P - positions_in_window(part, context)
        counts_P = is_answer_N[places_P] & (begin_N[places_P] > first_read_P)
        return nll_P - best_N[places_P], counts_P

    window, stream = Window(SEQUENCE_LENGTH), Stream()
    valid_P, counts_P = excess("valid", SEQUENCE_LENGTH, run.evaluate(window, split="valid")[1])
    second = valid_P[counts_P].mean()
    window_P, counts_P = excess("test", SEQUENCE_LENGTH, run.evaluate(window, split="test")[1])
    evaluation, nll_P = run.evaluate(stream, split="test")
    stream_P, stream_counts_P = excess("test", len(text), nll_P)
    last_P = excess("test", SEQUENCE_LENGTH, last_character_nats(dataset, is_answer_N))[0]

    def by_place(nll_P: np.ndarray) -> dict[str, BlockSums]:
        """Return sums over the answers that count in windows, by their place in the episode."""
        return {
            f"{first}-{last}": block_sums([nll_P], mask_N=mask_P, block=WIDE_BLOCK)
            for first, last in geometric_bins(SEQUENCE_LENGTH)
            if (mask_P := counts_P & (first <= test_place_P) & (test_place_P <= last)).any()
        }

    answers = block_sums([window_P], mask_N=counts_P)
    stream_answers = block_sums([stream_P], mask_N=stream_counts_P)
    test_place_P = place_N[all_positions(dataset.part("test"))]
    window_by_place, last_by_place = by_place(window_P), by_place(last_P)
    return {
        "seed": run.config.seed,
        "fingerprint": dataset.fingerprint,
        "parameters": count_parameters(run.params),
        "curve": validation_curve(run, BATCH_SIZE * SEQUENCE_LENGTH),
        "second": round(float(second), 6),
        "answers": answers.counts_K.tolist(),
        "excess": to_sums(answers)[0],
        "last_character": to_sums(block_sums([last_P], mask_N=counts_P))[0],
        "stream_answers": stream_answers.counts_K.tolist(),
        "stream": to_sums(stream_answers)[0],
        "stream_last_character": to_sums(block_sums([last_P], mask_N=stream_counts_P))[0],
        "place_counts": {name: found.counts_K.tolist() for name, found in window_by_place.items()},
        "by_place": {name: to_sums(found)[0] for name, found in window_by_place.items()},
        "last_character_by_place": {
            name: to_sums(found)[0] for name, found in last_by_place.items()
        },
        "loss": round(evaluation.loss_nats, 6),
        "best_loss": round(float(evaluation.loss_nats - stream_P.mean()), 6),
    }


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
