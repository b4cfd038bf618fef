"""Block bootstrap: intervals for a mean held-out loss and for the difference of two.

A group is one training setup, run once for each of its seeds; every run is scored on the same text.
Letters of this module: S runs of a group (R of another), N characters in the text's order, K blocks
of consecutive characters, D bootstrap samples.

Losses of neighbouring characters are correlated, so blocks of text are resampled (Künsch 1989).
Runs differ by their seed, so they are resampled too; a sample uses the same blocks of every run,
since runs and blocks are crossed (Owen 2007). Of n units, n - 1 are sampled with replacement: the
variance of the sample mean is then the unbiased estimate s^2 / n, whereas n of n would give two
thirds of it for three seeds (Rao and Wu 1988). An interval is the mean, plus and minus the standard
deviation of the sample means times Student's t. The degrees of freedom are Satterthwaite's, from
the variances that runs and blocks contribute, so intervals from two or three seeds are wider.

Coverage of the 95 % interval on 400 synthetic texts of 60 blocks: 95 % for one run; 94, 94 and 96 %
for two, three and five runs when seeds and text contribute equal error; 93 % and 95 % for three and
five runs when the seeds contribute twice as much. Of 1,000 pairs of groups that differ only by the
chance of their seeds, 2, 3, 6 and 5 % differ significantly with two, three, five and ten runs each.
(With percentiles of the sample means, 14 % did with three runs.)

Sources: Künsch 1989, Annals of Statistics 17; Owen 2007, Annals of Applied Statistics 1; Rao and
Wu 1988, Journal of the American Statistical Association 83; Satterthwaite 1946, Biometrics
Bulletin 2; blocks of 1,000 characters are our choice.
"""

import math
from collections.abc import Callable, Sequence
from numbers import Real
from typing import NamedTuple

import numpy as np
from scipy.special import stdtr, stdtrit

from charlm_jax.core.errors import CharlmError
from charlm_jax.core.html_table import html_table
from charlm_jax.core.limits import require_within
from charlm_jax.evaluation.block_sums import (
    BLOCK,
    BlockSums,
    Losses,
    as_block_sums,
    check_same_blocks,
    without_empty,
)

# Block counts in memory at once: memory does not grow with the number of bootstrap samples.
_COUNTS_AT_ONCE = 2**22


FEWEST_DRAWS = 100
"""Fewest bootstrap samples: fewer give no variance to rely on, and have no tail."""


class Interval(NamedTuple):
    """A mean and the ends of its interval, in nats per character unless said otherwise."""

    mean: float
    low: float
    high: float

    def describe(self, digits: int = 4) -> str:
        """Format the mean with its interval; the mean alone if the text is a single block.

        >>> Interval(0.21, -0.0001, 0.42).describe(2)
        '0.21 [0.00, 0.42]'
        >>> Interval(0.21, -math.inf, math.inf).describe(2)
        '0.21'
        """
        mean = f"{self.mean:z.{digits}f}"
        if not math.isfinite(self.low):
            return mean
        return f"{mean} [{self.low:z.{digits}f}, {self.high:z.{digits}f}]"

    def describe_ends(self) -> str:
        """Format the interval alone; a text of a single block has none.

        >>> print(Interval(0.2, -0.1, 0.5).describe_ends())
        [-0.1000, 0.5000]
        >>> print(Interval(0.2, -math.inf, math.inf).describe_ends())
        none: one block
        """
        is_one_block = not math.isfinite(self.low)
        return "none: one block" if is_one_block else f"[{self.low:z.4f}, {self.high:z.4f}]"

    def _repr_html_(self) -> str:
        return html_table([["mean", f"{self.mean:z.4f}"], ["interval", self.describe_ends()]])


class Difference(NamedTuple):
    """The mean of a - b and the ends of its interval, in nats per character."""

    mean: float
    low: float
    high: float

    @property
    def is_significant(self) -> bool:
        """True if 0 lies outside the interval."""
        return not self.low <= 0 <= self.high

    def describe(self) -> str:
        """Format the difference with its interval, and say if it is not significant.

        >>> Difference(-0.0123, -0.015, -0.0098).describe()
        '-0.0123 [-0.0150, -0.0098]'
        >>> Difference(0.001, -0.002, 0.004).describe()
        '+0.0010 [-0.0020, +0.0040], not significant'
        >>> Difference(0.001, -math.inf, math.inf).describe()
        '+0.0010, not significant'
        """
        mean = f"{self.mean:+.4f}"
        ends = f" [{self.low:+.4f}, {self.high:+.4f}]" if math.isfinite(self.low) else ""
        return f"{mean}{ends}" if self.is_significant else f"{mean}{ends}, not significant"

    def _repr_html_(self) -> str:
        rows = [
            ["difference", f"{self.mean:+.4f}"],
            ["interval", Interval(*self).describe_ends()],
            ["significant", "yes" if self.is_significant else "no"],
        ]
        return html_table(rows)


def mean_interval(
    nll_SN: Losses,
    *,
    mask_N: np.ndarray | None = None,
    block: int = BLOCK,
    draws: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Return the mean loss of a group, with its interval over runs and blocks of text.

    Args:
      nll_SN: negative log-likelihoods in nats, a row per run; or their sums over blocks, which give
        the same interval, bit for bit.
      mask_N: True for the characters to include; all if None. The mask does not move block
        boundaries; a block without an included character is left out.
      block: number of characters in a block; the last may be shorter and is weighted by its size.
        Sums have their own blocks and mask.
      draws: number of bootstrap samples.
      level: confidence level of the interval, in (0, 1).
      seed: seed of the bootstrap samples.

    Returns:
      The mean over runs and characters, and its interval. The interval is infinite if there is only
      one block, since its variance is unknown. With one run, it does not cover the variation
      between seeds.

    Raises:
      CharlmError: there is no run, a row is empty or not one-dimensional, the runs differ in
        length, the mask has another length, is not boolean or includes no character, a loss is not
        finite, or a number is out of range.
    """
    check_bootstrap_options(draws=draws, level=level, seed=seed)
    group = without_empty(as_block_sums(nll_SN, mask_N=mask_N, block=block))
    return Interval(*_mean_and_ends([group], draws, level, seed, is_paired=True))


def difference(
    a_SN: Losses,
    b_RN: Losses,
    *,
    mask_N: np.ndarray | None = None,
    block: int = BLOCK,
    draws: int = 2000,
    level: float = 0.95,
    seed: int = 0,
    is_paired: bool = True,
) -> Difference:
    """Return the mean loss of one group minus that of another, with its interval.

    Both groups use the same sampled blocks, so the difficulty that a block has for both cancels.
    Their runs are sampled independently: equal seeds in two groups have nothing in common.

    Args:
      a_SN: negative log-likelihoods in nats, a row per run; or their sums over blocks.
      b_RN: losses of the other group, on the same characters.
      mask_N: True for the characters to include; all if None.
      block: number of characters in a block.
      draws: number of bootstrap samples.
      level: confidence level of the interval, in (0, 1).
      seed: seed of the bootstrap samples.
      is_paired: False samples the blocks of each group independently, to show what pairing gains.

    Returns:
      The difference, negative if a is better.

    Raises:
      CharlmError: the groups differ in length, or an argument is invalid (see `mean_interval`).
    """
    check_bootstrap_options(draws=draws, level=level, seed=seed)
    a, b = (as_block_sums(nll, mask_N=mask_N, block=block) for nll in (a_SN, b_RN))
    check_same_blocks(a, b)
    a, b = without_empty(a), without_empty(b)
    return Difference(*_mean_and_ends([a, b], draws, level, seed, is_paired=is_paired))


def std_over_seeds(nll_SN: Losses) -> float | None:
    """Return the standard deviation (over S - 1) of the run means, in nats; None for one run.

    Raises:
      CharlmError: the losses are invalid (see `block_sums`).
    """
    means_S = as_block_sums(nll_SN).means_S
    return float(np.std(means_S, ddof=1)) if len(means_S) > 1 else None


class SamplingError(NamedTuple):
    """Uncertainty of a mean.

    Attributes:
      variance: variance of the mean; infinite if it is unknown, since there is only one block.
      freedom: degrees of freedom of the variance.
    """

    variance: float
    freedom: float

    def half_width(self, level: float) -> float:
        """Return half the width of Student's interval, at a confidence level in (0, 1)."""
        if not self.variance or not math.isfinite(self.variance):
            return self.variance
        return math.sqrt(self.variance) * float(stdtrit(self.freedom, (1 + level) / 2))

    def p_value(self, mean: float) -> float:
        """Return Student's two-sided p-value of a mean, under the hypothesis that it is 0."""
        if not self.variance:
            return float(mean == 0)
        return 2 * float(stdtr(self.freedom, -abs(mean) / math.sqrt(self.variance)))


def sampling_error(
    groups: Sequence[BlockSums], *, draws: int, seed: int, is_paired: bool = True
) -> SamplingError:
    """Return the uncertainty of the first group's mean, minus the second group's if given.

    Args:
      groups: one or two groups on the same blocks, without empty ones.
      draws: number of bootstrap samples.
      seed: seed of the bootstrap samples.
      is_paired: False samples the blocks of each group independently.
    """
    blocks = len(groups[0].counts_K)
    if blocks == 1:
        return SamplingError(math.inf, 1.0)
    generator = np.random.default_rng(seed)
    first_D, *second_D = in_pieces(
        lambda count: _drawn_means(groups, count, generator, is_paired=is_paired), draws, blocks
    )
    variance = float(np.var(first_D - sum(second_D)))
    return SamplingError(variance, _degrees_of_freedom(groups, variance) if variance else math.inf)


def in_pieces(sample: Callable[[int], np.ndarray], draws: int, blocks: int) -> np.ndarray:
    """Return bootstrap samples, computed in pieces whose block counts fit into memory.

    Args:
      sample: function that returns a given number of samples, along the last axis.
      draws: number of samples in all.
      blocks: number of blocks that each sample counts.
    """
    most = max(1, _COUNTS_AT_ONCE // blocks)
    return np.concatenate(
        [sample(min(most, draws - start)) for start in range(0, draws, most)], axis=-1
    )


def _mean_and_ends(
    groups: Sequence[BlockSums], draws: int, level: float, seed: int, *, is_paired: bool
) -> tuple[float, float, float]:
    """Return the first group's mean, minus the second group's if given, and its interval."""
    half = sampling_error(groups, draws=draws, seed=seed, is_paired=is_paired).half_width(level)
    mean = groups[0].mean - sum(group.mean for group in groups[1:])
    return mean, mean - half, mean + half


def _degrees_of_freedom(groups: Sequence[BlockSums], variance: float) -> float:
    """Satterthwaite's: each group's runs contribute a part of the variance, blocks the rest."""
    parts = []
    for group in groups:
        runs = len(group.sums_SK)
        if runs > 1:
            parts.append((float(np.var(group.means_S, ddof=1)) / runs, runs - 1))
    rest = max(variance - sum(part for part, _ in parts), 0.0)
    parts.append((rest, len(groups[0].counts_K) - 1))
    return satterthwaite(variance, parts)


def satterthwaite(variance: float, parts: Sequence[tuple[float, int]]) -> float:
    """Return the degrees of freedom of a positive variance, at least 1.

    Args:
      variance: the whole variance.
      parts: estimates of its parts, with the degrees of freedom of each.
    """
    return max(variance**2 / sum(part**2 / freedom for part, freedom in parts), 1.0)


def _drawn_means(
    groups: Sequence[BlockSums], draws: int, generator: np.random.Generator, *, is_paired: bool
) -> np.ndarray:
    """Return means_AD: the mean of each group A over the runs and blocks of each sample."""
    means: list[np.ndarray] = []
    for group in groups:
        if not means or not is_paired:
            blocks_DK = times_drawn(len(group.counts_K), draws, generator)
        runs_DS = times_drawn(len(group.sums_SK), draws, generator)
        sums_D = np.sum(blocks_DK @ group.sums_SK.T * runs_DS, axis=1) / runs_DS.sum(axis=1)
        means.append(sums_D / (blocks_DK @ group.counts_K))
    return np.stack(means)


def times_drawn(units: int, draws: int, generator: np.random.Generator) -> np.ndarray:
    """Return the counts of n units among n - 1 sampled with replacement; a single unit is kept."""
    if units == 1:
        return np.ones((draws, 1))
    picks = generator.integers(units, size=(draws, units - 1))
    picks += units * np.arange(draws)[:, None]
    counts = np.bincount(picks.ravel(), minlength=draws * units)
    return counts.reshape(draws, units).astype(np.float64)


def check_bootstrap_options(*, draws: int, level: float, seed: int) -> None:
    """Check the options of a bootstrap.

    Raises:
      CharlmError: a number is not whole or out of range.
    """
    require_within("draws", draws, FEWEST_DRAWS)
    require_within("seed", seed, 0)
    if not isinstance(level, Real) or not 0 < level < 1:
        raise CharlmError(f"level={level!r} is not allowed: it must lie between 0 and 1")
