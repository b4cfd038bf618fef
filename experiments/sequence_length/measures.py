"""How long should training sequences be? What the runs of the study say, in numbers.

An arm is a model trained at one length, with its state reset or carried from batch to batch, within
one budget, once for each seed. All arms are scored on the same characters by the same rules; the
training losses of unlike lengths are never compared.
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
RateKey = tuple[str, int, str]  # model, length, state
BUDGETS = ("characters", "seconds")


class Arm(NamedTuple):
    """Runs that differ by their seed alone.

    Attributes:
      model: its name.
      length: T, characters in a training sequence.
      state: `reset` before every sequence, or `carried` from batch to batch.
      budget: what all arms of a group have the same of: `characters` or `seconds`.
      rate: the learning rate that was chosen for it.
      characters: read in training.
      seconds: that this takes on an idle machine.
      flops: floating-point operations of the matrix products of one run's training.
      seeds: of its runs.
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


class Losses(NamedTuple):
    """What the runs of an arm pay for every held-out character, in nats, a row for each run.

    Attributes:
      window_SN: in windows of the validation's length.
      stream_SN: with the state carried through the whole held-out text.
      far_SN: in windows that go far beyond the training length; None where that was not asked.
      second: their mean on another part of the text, read as for `stream_SN`: what the best length
        is chosen by, so that it is not chosen on the characters that the figures are of.
    """

    window_SN: np.ndarray
    stream_SN: np.ndarray
    far_SN: np.ndarray | None
    second: float


class Figures(NamedTuple):
    """What is measured of an arm, in nats per character.

    Attributes:
      window: mean loss in windows of the validation's length.
      stream: mean loss with the state carried on.
      spread: of the stream's mean over seeds; None for one run.
      cold_start: what beginning anew costs: window less stream, of the same runs and characters.
      by_place: loss by characters read before the target, in geometric bins; empty without far_SN.
        See `losses_by_place`.
      by_class: loss by kind of character, with the state carried on.
    """

    window: Interval
    stream: Interval
    spread: float | None
    cold_start: Interval
    by_place: Sequence[GroupLoss]
    by_class: Sequence[GroupLoss]


class Group(NamedTuple):
    """Arms that differ by their length alone, the shortest first.

    Attributes:
      model: of all.
      state: of all.
      budget: of all.
      lengths: T of each.
      best: place of the one with the lowest `Losses.second`.
      to_best: for each, its loss under `stream` less that of the best; None for the best.
      by_class: the same for each kind of character, of the shortest less the best; empty where
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
        """T of the best."""
        return self.lengths[self.best]

    def is_best(self, arm: Arm) -> bool:
        """Whether that arm is the best of this group."""
        here = (self.model, self.state, self.budget, self.best_length)
        return (arm.model, arm.state, arm.budget, arm.length) == here

    @property
    def as_good(self) -> tuple[int, ...]:
        """Lengths that are not shown to be worse than the best, and the best itself."""
        return tuple(
            length
            for length, found in zip(self.lengths, self.to_best, strict=True)
            if found is None or not found.is_significant or found.mean < 0
        )


def measure_arm(losses: Losses, *, text: str, part: Part, window: int, reach: int) -> Figures:
    """The figures of one arm.

    Args:
      losses: of its runs.
      text: the whole text, for the kinds of characters.
      part: what was scored.
      window: of `losses.window_SN`.
      reach: of `losses.far_SN`.
    """
    return Figures(
        window=mean_interval(losses.window_SN),
        stream=mean_interval(losses.stream_SN),
        spread=std_over_seeds(losses.stream_SN),
        cold_start=mean_interval(losses.window_SN - losses.stream_SN),  # run by run
        by_place=losses_by_place(losses, part, window=window, reach=reach),
        by_class=breakdown(losses.stream_SN, character_classes(text, part), CLASSES),
    )


def losses_by_place(losses: Losses, part: Part, *, window: int, reach: int) -> list[GroupLoss]:
    """Loss by characters read before the target, free of which characters happen to stand there.

    Every loss is taken less what the same run pays for the same character when it reads on, and the
    run's mean of the latter is added: a control variate, whose mean over all characters is what was
    taken away. Places within the shorter windows are read off these, since they come more often.

    Args:
      losses: of an arm's runs.
      part: what was scored.
      window: of `losses.window_SN`.
      reach: of `losses.far_SN`.

    Returns:
      A cell for each of the geometric bins to `reach`; nothing without `losses.far_SN`.
    """
    if losses.far_SN is None:
        return []
    mean_S1 = losses.stream_SN.mean(axis=1, keepdims=True, dtype=np.float64)
    usual_SN = losses.stream_SN - mean_S1
    bins = geometric_bins(reach)
    names = [in_words(*ends) for ends in bins]

    def cells(nll_SN: np.ndarray, context: int) -> list[GroupLoss]:
        group_N = np.searchsorted([last for _, last in bins], positions_in_window(part, context))
        return breakdown(nll_SN - usual_SN, group_N, names)

    near = sum(last <= window for _, last in bins)
    return cells(losses.window_SN, window)[:near] + cells(losses.far_SN, reach)[near:]


def in_words(first: int, last: int) -> str:
    """A bin's name.

    >>> in_words(4, 4), in_words(5, 6)
    ('4', '5-6')
    """
    return f"{first}" if first == last else f"{first}-{last}"


def group_arms(losses: Mapping[Arm, Losses], *, text: str, part: Part) -> list[Group]:
    """Arms that differ by their length alone, compared with the best among them.

    Args:
      losses: of arms in any order.
      text: the whole text.
      part: what was scored.
    """
    groups: dict[tuple[str, str, str], list[Arm]] = {}
    for arm in losses:
        groups.setdefault((arm.model, arm.state, arm.budget), []).append(arm)
    class_N = character_classes(text, part)
    return [
        _group({arm: losses[arm] for arm in sorted(arms, key=lambda arm: arm.length)}, class_N)
        for arms in groups.values()
    ]


def _group(losses: Mapping[Arm, Losses], class_N: np.ndarray) -> Group:
    arms = list(losses)
    shortest = arms[0]
    best = min(arms, key=lambda arm: losses[arm].second)
    by_class = {}
    for index, name in enumerate(CLASSES) if shortest != best else ():
        mask_N = class_N == index
        if mask_N.any():
            streams = (losses[arm].stream_SN for arm in (shortest, best))
            by_class[name] = run_by_run(*streams, mask_N=mask_N)
    return Group(
        *(best.model, best.state, best.budget),
        lengths=tuple(arm.length for arm in arms),
        best=arms.index(best),
        to_best=[
            None if arm == best else run_by_run(losses[arm].stream_SN, losses[best].stream_SN)
            for arm in arms
        ],
        by_class=by_class,
    )


def carried_less_reset(losses: Mapping[Arm, Losses]) -> dict[tuple[str, int], Difference]:
    """By model and length, what carrying the state changes within the budget of characters."""
    found = {
        (arm.model, arm.length, arm.state): rows
        for arm, rows in losses.items()
        if arm.budget == "characters"
    }
    return {
        (model, length): run_by_run(rows.stream_SN, found[model, length, "reset"].stream_SN)
        for (model, length, state), rows in found.items()
        if state == "carried" and (model, length, "reset") in found
    }


def run_by_run(
    a_SN: np.ndarray, b_SN: np.ndarray, *, mask_N: np.ndarray | None = None
) -> Difference:
    """The mean of a - b, where run s of both arms begins with the same weights.

    Seeds that are lucky at one length are lucky at others: what such runs share falls out.
    """
    return Difference(*mean_interval(a_SN - b_SN, mask_N=mask_N))
