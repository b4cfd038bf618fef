"""The figures of a comparison by arm, by place in a window, and by class of character."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from charlm_jax.analysis.loss_breakdown import (
    CLASSES,
    GroupLoss,
    breakdown,
    character_classes,
    geometric_bins,
    positions_in_window,
)
from charlm_jax.comparison.compare import Baseline, Comparison, Row, RunGroup
from charlm_jax.data.dataset import Dataset
from charlm_jax.data.splits import Part
from charlm_jax.data.splits import target_positions as scored
from charlm_jax.evaluation.results import Evaluation
from charlm_jax.evaluation.scoring import sliding_targets

# Windows by place go on for so many times the training length, but for that no further than this.
_LONGER, _MOST_PLACES = 4, 1024


class Place(NamedTuple):
    """The loss of characters before which `first` to `last` were read."""

    first: int
    last: int
    cell: GroupLoss


class Scores(NamedTuple):
    """Figures of a part of the text.

    Attributes:
      split: the part.
      mode: how it was scored.
      rules: the same in words; several where the arms' models keep unlike much.
      characters: how many were scored, by every run.
      rows: what is said of each arm.
      means: of each arm, the mean loss of each run, in nats.
      baselines: simple predictors on the same characters.
      trained: of each arm, the length of the sequences that it was trained on.
      windows: of each arm, the length of the windows behind `places`.
      places: of each arm, its loss by how much was read, in windows of their own.
      classes: of each arm, its loss by the class of a character.
    """

    split: str
    mode: str
    rules: Sequence[str]
    characters: int
    rows: Sequence[Row]
    means: Sequence[Sequence[float]]
    baselines: Sequence[Baseline]
    trained: Sequence[int]
    windows: Sequence[int]
    places: Sequence[Sequence[Place]]
    classes: Sequence[Sequence[GroupLoss]]


def find_scores(comparison: Comparison, dataset: Dataset) -> Scores:
    """Everything that a page says of a comparison.

    Args:
      comparison: of arms.
      dataset: their text.
    """
    arms = comparison.arms
    first = arms[0].evaluations[0]
    part = dataset.part(first.split)
    class_N = character_classes(dataset.corpus.text, part)[_scored_targets(part, first)]
    windows = _window_lengths(arms, part)
    return Scores(
        split=first.split,
        mode=first.mode,
        rules=[*dict.fromkeys(found.rule for arm in arms for found in arm.evaluations)],
        characters=first.characters,
        rows=comparison.rows(),
        means=[[found.loss_nats for found in arm.evaluations] for arm in arms],
        baselines=comparison.baselines,
        trained=[arm.runs[0].config.data.sequence_length for arm in arms],
        windows=windows,
        places=[_by_place(arm, part, length) for arm, length in zip(arms, windows, strict=True)],
        classes=[breakdown(arm.nll_SN, class_N, CLASSES, block=first.block) for arm in arms],
    )


def _scored_targets(part: Part, evaluation: Evaluation) -> np.ndarray:
    """Which of a part's targets were scored, counted from its first."""
    everything = np.concatenate([np.arange(x.start, x.stop) for x in map(scored, part)])
    if evaluation.mode != "sliding":
        return np.arange(len(everything))
    assert evaluation.context is not None and evaluation.targets is not None
    places_P = sliding_targets(part, context=evaluation.context, most=evaluation.targets)
    return np.searchsorted(everything, places_P)


def _window_lengths(arms: Sequence[RunGroup], part: Part) -> list[int]:
    """Of windows that go on beyond what was trained, and are as long as they can be for all."""
    trained = max(run.config.data.sequence_length for arm in arms for run in arm.runs)
    longest = max(trained, min(_LONGER * trained, _MOST_PLACES))
    rule = arms[0].evaluations[0]
    if rule.mode == "window" and rule.context is not None:
        longest = max(longest, rule.context)
    longest = min(longest, max(len(scored(stretch)) for stretch in part))
    return [min(longest, arm.runs[0].model.max_length or longest) for arm in arms]


def _by_place(arm: RunGroup, part: Part, length: int) -> list[Place]:
    """The loss in windows of so many characters, by what was read of them before."""
    split = arm.evaluations[0].split
    nll_SN = np.stack(
        [run.evaluate_once(split=split, mode="window", context=length)[1] for run in arm.runs]
    )
    p_N = positions_in_window(part, length)
    bins = geometric_bins(int(p_N.max()))
    group_N = np.searchsorted([last for _, last in bins], p_N)
    named = {f"{a}-{b}" if a < b else f"{a}": (a, b) for a, b in bins}
    return [Place(*named[cell.label], cell) for cell in breakdown(nll_SN, group_N, [*named])]
