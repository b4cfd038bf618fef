"""Comparison of several groups with the best of them: intervals that hold all at once.

Of seven intervals of 95 % each, one misses 0 by chance far more often than in 5 % of studies. Here
the level is that of the whole family of differences: on about 95 % of texts and seeds, none of its
intervals misses the true difference. Letters of this module: A groups, S runs of a group, N
characters, K blocks of consecutive characters, D bootstrap samples, P pairs of groups (the family).

Every bootstrap sample has the same blocks for all groups. The text's part of a difference and its
variance are those of the samples; the seeds' part is normal, with one variance for all groups,
estimated from all their runs, since two or three runs of a group say little about its own. The
critical value is the quantile of the family's largest studentised difference: a sampled difference
over its standard error, whose square is sampled too, as a chi-square of K - 1 degrees of freedom
for the text of each difference, plus one of the seeds' degrees of freedom for all differences. The
seeds' variance may differ between groups after all, so no interval is narrower than that of its
difference alone (`charlm_jax.evaluation.bootstrap`), which uses the runs of these two groups only.

Eight equal groups on 1,000 synthetic texts of 112 blocks, with standard deviations of 0.08 nats for
the difficulty of a block, 0.02 for a group in a block and 0.005 for a seed, with one, two and three
runs per group: at least one group was said to be worse than the best on

- 2.6, 2.0 and 2.5 % of texts, if the best was chosen in advance (one by one: 12, 13 and 13 %);
- 1.5, 4.2 and 3.5 %, if it was chosen by the same runs on another text (one by one: 11, 37 and
  34 %): from one run as an independent choice, from more as one that is not, which if it were
  taken as independent would give 8.7 and 9.2 %;
- 6.5, 5.8 and 5.1 %, if it was chosen by these losses (one by one: 52, 42 and 45 %). With one run,
  another 3,500 texts gave 6.2 %: slightly more than promised.

It was never said to be better than all others. If the seeds of one group vary four times as much as
those of the others, a group is said to be worse on up to 11 % of texts with two runs, and 8 % with
three. `python -m tests.evaluation.family_rates` prints such shares.

Sources: Dunnett 1955, Journal of the American Statistical Association 50 (differences from one
group); Tukey 1953 (all pairs); Westfall and Young 1993, Resampling-based multiple testing (largest
studentised difference); Holm 1979, Scandinavian Journal of Statistics 6; the lower limit of an
interval's width is our choice.
"""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from charlm_jax.core.errors import CharlmError
from charlm_jax.core.limits import require_within
from charlm_jax.evaluation.block_sums import (
    BLOCK,
    BlockSums,
    Losses,
    as_block_sums,
    check_same_blocks,
    subtract_runs,
    without_empty,
)
from charlm_jax.evaluation.bootstrap import (
    Difference,
    SamplingError,
    check_bootstrap_options,
    in_pieces,
    sampling_error,
    satterthwaite,
    times_drawn,
)


class BestComparison(NamedTuple):
    """Comparison of each group with the best.

    Attributes:
      best: index of the best group.
      differences: loss of each group minus that of the best, in nats per character, with
        simultaneous intervals; None for the best itself.
      p_values: two-sided p-values of the differences after Holm's adjustment, which is step-down:
        one may fall below 1 - level where the interval still contains 0; None for the best itself.
      looked_at: number of differences in the family.
    """

    best: int
    differences: Sequence[Difference | None]
    p_values: Sequence[float | None]
    looked_at: int

    @property
    def is_best(self) -> bool:
        """True if the interval of every other group lies above 0; False if there is no other."""
        others = [difference for difference in self.differences if difference is not None]
        return bool(others) and all(difference.low > 0 for difference in others)

    @property
    def as_good(self) -> tuple[int, ...]:
        """Indices of the groups that are not worse than the best, and of the best itself."""
        return tuple(
            index
            for index, difference in enumerate(self.differences)
            if difference is None or difference.low <= 0
        )

    def describe(self, names: Sequence[str]) -> str:
        """Describe what the comparison shows of the best group.

        Args:
          names: name of each group.

        >>> above, around = Difference(0.02, 0.01, 0.03), Difference(0.01, -0.01, 0.03)
        >>> BestComparison(0, [None, above, above], [None, 0.0, 0.0], 2).describe("abc")
        'a is the best of 3 groups (2 comparisons)'
        >>> BestComparison(0, [None, above, around], [None, 0.0, 0.4], 2).describe("abc")
        'a was chosen as the best of 3 groups. Not worse: c (2 comparisons)'
        >>> BestComparison(0, [None], [None], 0).describe("a")
        'a is the only group'
        """
        if len(names) == 1:
            return f"{names[0]} is the only group"
        count = f"({self.looked_at} comparison{'s' * (self.looked_at != 1)})"
        if self.is_best:
            return f"{names[self.best]} is the best of {len(names)} groups {count}"
        rivals = ", ".join(names[index] for index in self.as_good if index != self.best)
        chosen = f"{names[self.best]} was chosen as the best of {len(names)} groups"
        return f"{chosen}. Not worse: {rivals} {count}"


def compare_with_best(
    groups: Sequence[Losses],
    *,
    best: int,
    is_choice_independent: bool,
    is_paired_by_run: bool,
    mask_N: np.ndarray | None = None,
    block: int = BLOCK,
    draws: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> BestComparison:
    """Compare every group with the best, with intervals that hold all at once.

    A group may be called the best only if the interval of every other group lies above 0. A group
    whose interval does not is not worse, which does not show that both are equal; if its interval
    lies below 0, it is better. With one run in every group, the intervals cover the variation of
    the text only: they are about these trained models, and say nothing of other seeds.

    Args:
      groups: losses of each group on the same characters, in nats: a row per run, or sums over
        blocks.
      best: index of the group that the others are compared with.
      is_choice_independent: True if `best` was chosen without anything that these losses depend on:
        in advance, by other runs on other text, or, if every group has one run, on other text. The
        family is then the differences from the best, one fewer than the groups. False if it was
        chosen by these losses, or by losses of the same runs on other text, where a lucky seed is
        lucky again. Any group could then have been the best, so the family is all pairs of groups.
      is_paired_by_run: True if run s of all groups has the same seed and shares variation; seeds
        are then compared run by run. False if equal seeds have nothing in common.
      mask_N: True for the characters to include; all if None.
      block: number of characters in a block.
      draws: number of bootstrap samples, at least 100.
      level: confidence level of the family, in (0, 1).
      seed: seed of the bootstrap samples.

    Returns:
      The differences from the best. No interval is narrower than that of `difference`, or of
      `mean_interval(subtract_runs(group, best))` if paired by run, of the same draws and seed. A
      single group has no difference. All intervals are infinite if there is only one block.

    Raises:
      CharlmError: there is no group, `best` is not the index of one, two differ in text or, if
        paired by run, in their number of runs, or an argument is invalid (see `mean_interval`).
    """
    check_bootstrap_options(draws=draws, level=level, seed=seed)
    require_within("best", best, 0)
    if best >= len(groups):
        raise CharlmError(
            f"best={best} is not a group: it must be the index of one of {len(groups)} groups"
        )
    sums = [as_block_sums(losses, mask_N=mask_N, block=block) for losses in groups]
    for other in sums[1:]:
        check_same_blocks(sums[0], other)
    sums = [without_empty(group) for group in sums]
    differences = {
        index: (subtract_runs(group, sums[best]),) if is_paired_by_run else (group, sums[best])
        for index, group in enumerate(sums)
        if index != best
    }
    if is_choice_independent:
        pairs = [(index, best) for index in differences]
    else:
        pairs = list(itertools.combinations(range(len(sums)), 2))
    family = _family_error(
        sums, pairs, is_paired_by_run=is_paired_by_run, draws=draws, level=level, seed=seed
    )
    intervals, p_values = {}, {}
    for index, compared in differences.items():
        alone = sampling_error(compared, draws=draws, seed=seed)
        shared = family.errors[frozenset((index, best))]
        mean = sums[index].mean - sums[best].mean
        half = max(alone.half_width(level), family.critical * math.sqrt(shared.variance))
        intervals[index] = Difference(mean, mean - half, mean + half)
        p_values[index] = max(alone.p_value(mean), shared.p_value(mean))
    adjusted = _adjusted(p_values, looked_at=len(pairs))
    return BestComparison(
        best=best,
        differences=[intervals.get(index) for index in range(len(sums))],
        p_values=[adjusted.get(index) for index in range(len(sums))],
        looked_at=len(pairs),
    )


class _FamilyError(NamedTuple):
    """Uncertainty of each pair's difference, and the critical value that the family shares."""

    errors: dict[frozenset[int], SamplingError]
    critical: float


def _family_error(
    groups: Sequence[BlockSums],
    pairs: Sequence[tuple[int, int]],
    *,
    is_paired_by_run: bool,
    draws: int,
    level: float,
    seed: int,
) -> _FamilyError:
    blocks = len(groups[0].counts_K)
    if blocks == 1 or not pairs:
        errors = {frozenset(pair): SamplingError(math.inf, 1.0) for pair in pairs}
        return _FamilyError(errors, 1.0)
    # In the order of their means, groups have the same samples however they are passed.
    order = sorted(range(len(groups)), key=lambda index: groups[index].mean)
    place = {index: place for place, index in enumerate(order)}
    groups = [groups[index] for index in order]
    first_P, second_P = np.array(sorted(sorted((place[a], place[b])) for a, b in pairs)).T
    generator = np.random.default_rng(seed)
    text_PD = _text_differences(groups, first_P, second_P, draws, generator)
    seeds_A, seeds_freedom = _variances_of_means(groups, is_paired_by_run=is_paired_by_run)
    seeds_AD = np.sqrt(seeds_A)[:, None] * generator.normal(size=(len(groups), draws))
    units = max(seeds_freedom, 1)  # if no group has two runs, seeds have no variance
    seeds_error_D = generator.chisquare(units, draws) / units
    errors, largest_D = {}, np.zeros(draws)
    for pair, (first, second) in enumerate(zip(first_P, second_P, strict=True)):
        text, seeds = float(np.var(text_PD[pair])), float(seeds_A[first] + seeds_A[second])
        variance, parts = text + seeds, [(text, blocks - 1), (seeds, units)]
        freedom = satterthwaite(variance, parts) if variance else math.inf
        errors[frozenset((order[first], order[second]))] = SamplingError(variance, freedom)
        text_error_D = generator.chisquare(blocks - 1, draws) / (blocks - 1)
        if variance:
            sampled_D = text_PD[pair] + seeds_AD[first] - seeds_AD[second]
            variance_D = text * text_error_D + seeds * seeds_error_D
            np.maximum(largest_D, np.abs(sampled_D) / np.sqrt(variance_D), out=largest_D)
    return _FamilyError(errors, float(np.quantile(largest_D, level)))


def _text_differences(
    groups: Sequence[BlockSums],
    first_P: np.ndarray,
    second_P: np.ndarray,
    draws: int,
    generator: np.random.Generator,
) -> np.ndarray:
    """Return the difference of each pair in samples of blocks, less its mean over the samples."""
    counts_K = groups[0].counts_K
    sums_AK = np.stack([group.sums_SK.mean(axis=0) for group in groups])
    sums_PK = sums_AK[first_P] - sums_AK[second_P]

    def sample(count: int) -> np.ndarray:
        blocks_DK = times_drawn(len(counts_K), count, generator)
        return sums_PK @ blocks_DK.T / (blocks_DK @ counts_K)

    text_PD = in_pieces(sample, draws, len(counts_K))
    return text_PD - text_PD.mean(axis=1, keepdims=True)


def _variances_of_means(
    groups: Sequence[BlockSums], *, is_paired_by_run: bool
) -> tuple[np.ndarray, int]:
    """Return the variance that seeds give each group's mean, and its degrees of freedom."""
    residuals = [group.means_S - group.mean for group in groups]
    freedom = sum(len(residual_S) - 1 for residual_S in residuals)
    if is_paired_by_run:  # the residuals of groups and seeds together, as in two-way tables
        residuals = list(np.stack(residuals) - np.mean(residuals, axis=0))
        freedom -= len(residuals[0]) - 1
    squares = sum(float(np.sum(residual_S**2)) for residual_S in residuals)
    runs_A = np.array([len(residual_S) for residual_S in residuals])
    return (squares / freedom if freedom else 0.0) / runs_A, freedom


def _adjusted(p_values: dict[int, float], *, looked_at: int) -> dict[int, float]:
    """Return Holm's adjusted p-values, of a family that may have other members."""
    adjusted, largest = {}, 0.0
    for rank, index in enumerate(sorted(p_values, key=lambda index: p_values[index])):
        largest = max(largest, min(1.0, p_values[index] * (looked_at - rank)))
        adjusted[index] = largest
    return adjusted
