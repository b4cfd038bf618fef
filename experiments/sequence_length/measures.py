"""Measurements of the study: losses of each condition, and comparisons between lengths.

A condition is a model trained at one length, with its state reset or carried from batch to batch,
within one budget, once per seed. All conditions are scored on the same characters under the same
evaluation protocols; training losses at different lengths are never compared.

Dimensions in this module: S seeds, N scored characters.
"""

from collections.abc import Mapping, Sequence
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
from charlm_jax.data.splits import Part
from charlm_jax.evaluation.bootstrap import Difference, Interval, mean_interval, std_over_seeds

STATES = ("reset", "carried")
BUDGETS = ("characters", "seconds")
RateKey = tuple[str, int, str]  # model, length, state


class Condition(NamedTuple):
    """Training settings of runs that differ only in their seed.

    Attributes:
      model: config name.
      length: T, characters in a training sequence.
      state: `reset` before every sequence, or `carried` from batch to batch.
      budget: training budget, equal for all lengths: `characters` or `seconds`.
      rate: learning rate, chosen for this model, length and state.
      characters: characters read in training.
      seconds: training time on an idle machine.
      flops: floating-point operations in the matrix products of one run's training.
      seeds: one per run.
    """

    model: str
    length: int
    state: str
    budget: str
    rate: float
    characters: int
    seconds: float
    flops: float
    seeds: tuple[int, ...]


class ConditionLosses(NamedTuple):
    """Per-character losses of a condition's runs on held-out text, in nats.

    Attributes:
      window_SN: losses in windows of the validation context.
      stream_SN: losses with the state carried through the whole held-out text.
      far_SN: losses in windows far longer than the training length; None if not measured.
      second: mean loss on a second held-out part, scored like `stream_SN`. It is used to choose the
        best length, so that the choice and the reported losses rest on different characters.
    """

    window_SN: np.ndarray
    stream_SN: np.ndarray
    far_SN: np.ndarray | None
    second: float


class Measurements(NamedTuple):
    """Measurements of one condition, in nats per character.

    Attributes:
      window: mean loss in windows of the validation context.
      stream: mean loss with the state carried through the text.
      spread: standard deviation over seeds of the mean `stream` loss; None for one run.
      cold_start: window loss less stream loss, for the same runs and characters.
      by_place: loss by number of characters read before the target, in geometric bins; empty
        without `far_SN`. See `losses_by_place`.
      by_class: stream loss by kind of character.
    """

    window: Interval
    stream: Interval
    spread: float | None
    cold_start: Interval
    by_place: Sequence[GroupLoss]
    by_class: Sequence[GroupLoss]


class LengthComparison(NamedTuple):
    """Comparison of conditions that differ only in length with the best of them.

    Attributes:
      model: config name of all conditions.
      state: `reset` or `carried`.
      budget: `characters` or `seconds`.
      lengths: T of each condition, ascending.
      best: index of the condition with the lowest `ConditionLosses.second`.
      to_best: stream loss of each condition less that of the best; None for the best itself.
      by_class: stream loss of the shortest length less the best, by kind of character; empty if
        the shortest is the best.
    """

    model: str
    state: str
    budget: str
    lengths: tuple[int, ...]
    best: int
    to_best: Sequence[Difference | None]
    by_class: Mapping[str, Difference]

    @property
    def best_length(self) -> int:
        """T of the best condition."""
        return self.lengths[self.best]

    def is_best(self, condition: Condition) -> bool:
        """Returns whether a condition is the best of this comparison."""
        best = (self.model, self.state, self.budget, self.best_length)
        return (condition.model, condition.state, condition.budget, condition.length) == best

    @property
    def as_good(self) -> tuple[int, ...]:
        """Lengths not significantly worse than the best, and the best itself."""
        return tuple(
            length
            for length, difference in zip(self.lengths, self.to_best, strict=True)
            if difference is None or not difference.is_significant or difference.mean < 0
        )


def measure_condition(
    losses: ConditionLosses, *, text: str, part: Part, window: int, reach: int
) -> Measurements:
    """Measure one condition.

    Args:
      losses: losses of its runs.
      text: the whole text, which determines the kinds of characters.
      part: scored part of the text.
      window: context of `losses.window_SN`, in characters.
      reach: context of `losses.far_SN`, in characters.
    """
    return Measurements(
        window=mean_interval(losses.window_SN),
        stream=mean_interval(losses.stream_SN),
        spread=std_over_seeds(losses.stream_SN),
        cold_start=mean_interval(losses.window_SN - losses.stream_SN),  # run by run
        by_place=losses_by_place(losses, part, window=window, reach=reach),
        by_class=breakdown(losses.stream_SN, character_classes(text, part), CLASSES),
    )


def losses_by_place(
    losses: ConditionLosses, part: Part, *, window: int, reach: int
) -> list[GroupLoss]:
    """Compute the loss by number of preceding characters, adjusted for hard characters.

    The stream loss of the same run at the same character is a control variate: it is subtracted,
    and the run's mean stream loss is added. Positions inside the shorter windows are taken from
    those windows, where they occur more often.

    Args:
      losses: losses of a condition's runs.
      part: scored part of the text.
      window: context of `losses.window_SN`, in characters.
      reach: context of `losses.far_SN`, in characters.

    Returns:
      One entry per geometric bin up to `reach`; none without `losses.far_SN`.
    """
    if losses.far_SN is None:
        return []
    mean_S1 = losses.stream_SN.mean(axis=1, keepdims=True, dtype=np.float64)
    usual_SN = losses.stream_SN - mean_S1
    bins = geometric_bins(reach)
    names = [bin_name(*ends) for ends in bins]

    def cells(nll_SN: np.ndarray, context: int) -> list[GroupLoss]:
        group_N = np.searchsorted([last for _, last in bins], positions_in_window(part, context))
        return breakdown(nll_SN - usual_SN, group_N, names)

    near = sum(last <= window for _, last in bins)
    return cells(losses.window_SN, window)[:near] + cells(losses.far_SN, reach)[near:]


def bin_name(first: int, last: int) -> str:
    """Returns the label of a bin of positions.

    >>> bin_name(4, 4), bin_name(5, 6)
    ('4', '5-6')
    """
    return f"{first}" if first == last else f"{first}-{last}"


def compare_lengths(
    losses: Mapping[Condition, ConditionLosses], *, text: str, part: Part
) -> list[LengthComparison]:
    """Compare conditions that differ only in length with the best of them.

    Args:
      losses: losses of each condition.
      text: the whole text.
      part: scored part of the text.
    """
    groups: dict[tuple[str, str, str], list[Condition]] = {}
    for condition in losses:
        key = (condition.model, condition.state, condition.budget)
        groups.setdefault(key, []).append(condition)
    class_N = character_classes(text, part)
    return [
        _compare({x: losses[x] for x in sorted(group, key=lambda x: x.length)}, class_N)
        for group in groups.values()
    ]


def _compare(losses: Mapping[Condition, ConditionLosses], class_N: np.ndarray) -> LengthComparison:
    conditions = list(losses)
    shortest = conditions[0]
    best = min(conditions, key=lambda condition: losses[condition].second)
    best_SN = losses[best].stream_SN
    by_class = {}
    for index, name in enumerate(CLASSES) if shortest != best else ():
        mask_N = class_N == index
        if mask_N.any():
            by_class[name] = run_by_run(losses[shortest].stream_SN, best_SN, mask_N=mask_N)
    return LengthComparison(
        model=best.model,
        state=best.state,
        budget=best.budget,
        lengths=tuple(condition.length for condition in conditions),
        best=conditions.index(best),
        to_best=[
            None if condition == best else run_by_run(losses[condition].stream_SN, best_SN)
            for condition in conditions
        ],
        by_class=by_class,
    )


def carried_less_reset(
    losses: Mapping[Condition, ConditionLosses],
) -> dict[tuple[str, int], Difference]:
    """Returns, by model and length, the stream loss with carried state less that with reset state.

    Only conditions with the budget of characters are compared.
    """
    streams = {
        (condition.model, condition.length, condition.state): rows.stream_SN
        for condition, rows in losses.items()
        if condition.budget == "characters"
    }
    return {
        (model, length): run_by_run(stream_SN, streams[model, length, "reset"])
        for (model, length, state), stream_SN in streams.items()
        if state == "carried" and (model, length, "reset") in streams
    }


def run_by_run(
    a_SN: np.ndarray, b_SN: np.ndarray, *, mask_N: np.ndarray | None = None
) -> Difference:
    """Compute the mean of a - b, where run s of both conditions starts from the same weights.

    A lucky seed is lucky at all lengths; pairing the runs removes this shared variation.
    """
    return Difference(*mean_interval(a_SN - b_SN, mask_N=mask_N))
