"""Runs side by side: on the same characters, under the same rule, beside simple predictors.

Runs that differ by their seed alone are one arm. Everything is computed from the losses of single
characters, which every run keeps in its folder once they were needed.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from charlm_jax.comparison.grouping import group_runs
from charlm_jax.core.errors import CharlmError
from charlm_jax.core.json_files import to_jsonable
from charlm_jax.core.trees import count_parameters
from charlm_jax.core.types import bits
from charlm_jax.data.dataset import Dataset, load_dataset
from charlm_jax.data.download import Progress
from charlm_jax.data.splits import Part
from charlm_jax.data.splits import target_positions as scored
from charlm_jax.evaluation.baselines import compressed_bits_per_char, uniform_nll, unigram_nll
from charlm_jax.evaluation.bootstrap import (
    Difference,
    Interval,
    difference,
    mean_interval,
    std_over_seeds,
)
from charlm_jax.evaluation.ngram import tuned_ngram
from charlm_jax.evaluation.results import Evaluation
from charlm_jax.evaluation.scoring import SLIDING_TARGETS, sliding_targets
from charlm_jax.inference.run import Run
from charlm_jax.storage.workdir import Workdir

_LONGEST_ORDER = 12  # of the n-gram; on a megabyte of prose 9 is the best


class RunGroup(NamedTuple):
    """Runs that differ by their seed alone.

    Attributes:
      name: in what it differs from the others.
      runs: one for each seed.
      evaluations: a figure of each.
      nll_SN: their losses in nats, a row for each run.
    """

    name: str
    runs: Sequence[Run]
    evaluations: Sequence[Evaluation]
    nll_SN: np.ndarray

    @property
    def parameters(self) -> int:
        """Of the model."""
        return count_parameters(self.runs[0].params)


class Row(NamedTuple):
    """What is said of an arm.

    Attributes:
      name: of the arm.
      seeds: of its runs.
      parameters: of its model.
      loss: its mean, in nats per character, over runs and blocks of text.
      bits_per_char: the mean in bits.
      spread: standard deviation over the runs' means, None for one run.
      difference: its loss less that of the first arm; None for that.
    """

    name: str
    seeds: tuple[int, ...]
    parameters: int
    loss: Interval
    bits_per_char: float
    spread: float | None
    difference: Difference | None


class Baseline(NamedTuple):
    """What a simple predictor pays for the same characters.

    `loss` has no ends for a compressor, which does not say what a single character costs.
    """

    name: str
    loss: Interval | None
    bits_per_char: float


class Comparison(NamedTuple):
    """Arms under one rule.

    Attributes:
      arms: in the order in which their first runs were named.
      baselines: on the same characters.
    """

    arms: Sequence[RunGroup]
    baselines: Sequence[Baseline]

    def rows(self) -> list[Row]:
        """One for each arm."""
        first = self.arms[0]
        block = first.evaluations[0].block
        return [
            Row(
                name=arm.name,
                seeds=tuple(run.config.seed for run in arm.runs),
                parameters=arm.parameters,
                loss=mean_interval(arm.nll_SN, block=block),
                bits_per_char=bits(float(np.mean(arm.nll_SN, dtype=np.float64))),
                spread=std_over_seeds(arm.nll_SN),
                difference=None
                if arm is first
                else difference(arm.nll_SN, first.nll_SN, block=block),
            )
            for arm in self.arms
        ]


def compare(
    runs: Sequence[Run],
    *,
    split: str = "valid",
    mode: str = "window",
    context: int | None = None,
    targets: int = SLIDING_TARGETS,
    progress: Progress | None = None,
) -> Comparison:
    """Score runs on the same characters, or read what they have kept of such a score.

    Args:
      runs: of one text, vocabulary and split.
      split: `valid`, `test` or `train`.
      mode: as in `Run.evaluate`.
      context: as in `Run.evaluate`; None where all runs validate with the same.
      targets: as in `Run.evaluate`.
      progress: told how a download of the text goes.

    Raises:
      CharlmError: no run, the same run twice, runs of unlike texts or splits, unlike contexts.
    """
    if not runs:
        raise CharlmError("nothing to compare: name the folders of runs")
    refuse_unlike_texts(runs)
    _refuse_unlike_contexts(runs, mode, context)
    arms = []
    for name, group in group_runs(runs).items():
        found = []
        for run in group:
            reads_on = mode == "stream" and not run.model.keeps_positions
            found.append(
                run.evaluate_once(
                    split=split,
                    mode=mode,
                    context=None if reads_on else context,
                    targets=targets,
                    progress=progress,
                )
            )
        evaluations, losses = zip(*found, strict=True)
        arms.append(RunGroup(name, group, evaluations, np.stack(losses)))
    dataset = load_dataset(runs[0].config, progress=progress)
    return Comparison(arms, find_baselines(dataset, arms[0].evaluations[0]))


def find_baselines(dataset: Dataset, evaluation: Evaluation) -> list[Baseline]:
    """What simple predictors pay for the characters of an evaluation, read by the same rule.

    All are fitted to the training part, which is also what they are scored on where the evaluation
    is of that. An n-gram sees no further back than the rule lets a model see. Compressors have read
    the training part and pay for the whole part, even where `sliding` scores some of it: they do
    not say what a single character costs.
    """
    train, part = dataset.part("train"), _by_rule(dataset.part(evaluation.split), evaluation)
    symbols, ids_N = len(dataset.vocabulary), dataset.ids_N
    ngram = tuned_ngram(ids_N, train, symbols=symbols, orders=_orders(evaluation))
    losses = {
        "uniform": uniform_nll(ids_N, part, symbols),
        "unigram": unigram_nll(ids_N, train, part, symbols),
        f"{ngram.order}-gram (Kneser-Ney)": ngram.nll(ids_N, part),
    }
    if evaluation.mode == "sliding":
        assert evaluation.context is not None and evaluation.targets is not None
        places_P = sliding_targets(part, context=evaluation.context, most=evaluation.targets)
        everything = np.concatenate([np.arange(x.start, x.stop) for x in map(scored, part)])
        losses = {name: x[np.searchsorted(everything, places_P)] for name, x in losses.items()}
    found = [
        Baseline(
            name, mean_interval(nll_N[None], block=evaluation.block), bits(float(nll_N.mean()))
        )
        for name, nll_N in losses.items()
    ]
    texts = ("".join(dataset.corpus.text[x.start : x.stop] for x in p) for p in (train, part))
    compressed = compressed_bits_per_char(*texts)
    return found + [Baseline(name, None, size) for name, size in compressed.items()]


def baselines_in_words(split: str, mode: str) -> str:
    """What a reader of `find_baselines` has to know, in a sentence or two."""
    words = "Uniform, unigram and n-gram predict the same characters by the same rule; compressors "
    words += "have read the training part"
    words += ", and pay for the whole part that is scored." if mode == "sliding" else " before."
    if split == "train":
        words += " All but uniform were fitted to the very text that they are scored on here."
    return words


def _by_rule(part: Part, evaluation: Evaluation) -> Part:
    """The stretches over which the rule reads on: under `window` they are the windows."""
    if evaluation.mode != "window":
        return part
    assert evaluation.context is not None
    return tuple(
        range(start, min(start + evaluation.context, stretch.stop))
        for stretch in map(scored, part)
        for start in range(stretch.start, stretch.stop, evaluation.context)
    )


def _orders(evaluation: Evaluation) -> range:
    """Of an n-gram that looks no further back than the rule allows."""
    longest = _LONGEST_ORDER
    if evaluation.mode != "stream" and evaluation.context is not None:
        longest = min(longest, evaluation.context + 1)
    return range(1, longest + 1)


def refuse_unlike_texts(runs: Sequence[Run]) -> None:
    """See that runs are of one text, vocabulary and split.

    Raises:
      CharlmError: two are not.
    """
    prints = [Workdir(run.workdir).read_fingerprint() for run in runs]
    for run, fingerprint in zip(runs, prints, strict=True):
        if fingerprint != prints[0]:
            raise CharlmError(
                f"{run.workdir} and {runs[0].workdir} cannot be compared: their text, vocabulary "
                f"or split is not the same"
            )


def _refuse_unlike_contexts(runs: Sequence[Run], mode: str, context: int | None) -> None:
    readers = [run for run in runs if mode != "stream" or run.model.keeps_positions]
    own = sorted({run.config.evaluation_context for run in readers})
    if context is None and len(own) > 1:
        contexts = ", ".join(map(str, own))
        raise CharlmError(
            f"these runs validate with unlike contexts ({contexts}): name one with --context"
        )


def to_json(comparison: Comparison) -> dict[str, Any]:
    """In JSON's terms: the rule, the arms and the baselines; null where an interval has no end."""
    evaluation = comparison.arms[0].evaluations[0]
    rule = {
        name: value
        for name, value in dataclasses.asdict(evaluation).items()
        if name in ("mode", "context", "split", "fingerprint", "targets", "characters")
    }
    arms = [{**row._asdict(), "difference": _judged(row.difference)} for row in comparison.rows()]
    for arm, found in zip(arms, comparison.arms, strict=True):
        arm["workdirs"] = [str(run.workdir) for run in found.runs]
        arm["checkpoints"] = [run.checkpoint for run in found.runs]
    baselines = [
        {
            "name": b.name,
            "loss_nats": b.bits_per_char * math.log(2),
            "bits_per_char": b.bits_per_char,
        }
        for b in comparison.baselines
    ]
    values: dict[str, Any] = to_jsonable({**rule, "arms": arms, "baselines": baselines})
    return values


def _judged(found: Difference | None) -> dict[str, Any] | None:
    return None if found is None else {**found._asdict(), "is_significant": found.is_significant}
