"""Scores of a comparison: by group, by position in a window, and by class of character."""

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
from charlm_jax.comparison.compare import Baseline, Comparison, GroupResult, RunGroup
from charlm_jax.core.progress import Report, report_nothing
from charlm_jax.data.dataset import Dataset
from charlm_jax.data.splits import Part, target_positions
from charlm_jax.evaluation.protocol import Window, all_positions

# Windows by position: a multiple of the training length, but at most this many characters unless
# the training length is greater.
_LONGER, _MOST_PLACES = 4, 1024


class PositionLoss(NamedTuple):
    """Loss of characters with `first` to `last` characters read before them."""

    first: int
    last: int
    cell: GroupLoss


class Scores(NamedTuple):
    """Scores on a part of the text.

    Attributes:
      split: name of the part.
      mode: mode of the evaluation protocol.
      rules: descriptions of the protocol; several if the models keep different contexts.
      unit: unit of the text, `characters` or `bytes`.
      characters: number of characters scored by every run.
      block_characters: number of characters of the text in a block of the intervals.
      rows: results of each group.
      means: for each group, mean loss of each run, in nats.
      baselines: simple predictors on the same characters.
      trained: for each group, length of its training sequences.
      windows: for each group, length of the windows that `by_position` is scored in.
      by_position: for each group, loss by number of characters read.
      classes: for each group, loss by class of character.
    """

    split: str
    mode: str
    rules: Sequence[str]
    unit: str
    characters: int
    block_characters: int
    rows: Sequence[GroupResult]
    means: Sequence[Sequence[float]]
    baselines: Sequence[Baseline]
    trained: Sequence[int]
    windows: Sequence[int]
    by_position: Sequence[Sequence[PositionLoss]]
    classes: Sequence[Sequence[GroupLoss]]


def find_scores(
    comparison: Comparison, dataset: Dataset, report: Report = report_nothing
) -> Scores:
    """Compute the scores of a comparison.

    Args:
      comparison: run groups.
      dataset: text of the runs.
      report: callback for the progress of the computation.
    """
    groups = comparison.groups
    first = groups[0].evaluations[0]
    protocol, part = first.key.protocol, dataset.thinned_part(first.key.split)
    scored = dataset.thinned_part(first.key.split, read_before=protocol.read_before)
    scored_N = np.searchsorted(all_positions(part), protocol.positions(scored))
    class_N = character_classes(dataset.corpus.text, part, unit=dataset.corpus.unit)[scored_N]
    windows = _window_lengths(groups, part)
    by_position = [
        _by_position(group, part, length, report)
        for group, length in zip(groups, windows, strict=True)
    ]
    report("computing intervals", 0)
    return Scores(
        split=first.key.split,
        mode=protocol.mode,
        rules=comparison.rules,
        unit=comparison.unit,
        characters=first.characters,
        block_characters=first.block_characters,
        rows=comparison.rows(),
        means=[[evaluation.loss_nats for evaluation in group.evaluations] for group in groups],
        baselines=comparison.baselines,
        trained=[group.runs[0].config.data.sequence_length for group in groups],
        windows=windows,
        by_position=by_position,
        classes=[breakdown(group.nll_SN, class_N, CLASSES, block=first.block) for group in groups],
    )


def _window_lengths(groups: Sequence[RunGroup], part: Part) -> list[int]:
    """Return window lengths: longer than in training, if text and model allow it."""
    trained = max(run.config.data.sequence_length for group in groups for run in group.runs)
    longest = max(trained, min(_LONGER * trained, _MOST_PLACES))
    protocol = groups[0].evaluations[0].key.protocol
    if isinstance(protocol, Window):
        longest = max(longest, protocol.context)
    longest = min(longest, max(len(target_positions(stretch)) for stretch in part))
    return [min(longest, group.runs[0].model.max_length or longest) for group in groups]


def _by_position(group: RunGroup, part: Part, length: int, report: Report) -> list[PositionLoss]:
    """Compute the loss in windows of `length` characters, by number of characters read."""
    split = group.evaluations[0].key.split
    nll_SN = np.stack(
        [
            run.evaluate(Window(length), split=split, cache=True, report=report)[1]
            for run in group.runs
        ]
    )
    p_N = positions_in_window(part, length)
    bins = geometric_bins(int(p_N.max()))
    group_N = np.searchsorted([last for _, last in bins], p_N)
    named = {f"{a}-{b}" if a < b else f"{a}": (a, b) for a, b in bins}
    return [PositionLoss(*named[cell.label], cell) for cell in breakdown(nll_SN, group_N, [*named])]
