"""Losses summed over blocks of text: a few hundred numbers, from which every interval follows.

A group is one training setup, run once for each of its seeds; every run is scored on the same text.
Letters of this module: S runs of a group, N characters in the text's order, K blocks of consecutive
characters.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from charlm_jax.core.errors import CharlmError
from charlm_jax.core.limits import require_within

Runs = Sequence[np.ndarray] | np.ndarray
"""Negative log-likelihoods in nats: a row of N per run."""

BLOCK = 1000  # characters


class BlockSums(NamedTuple):
    """Losses of a group, summed over blocks of text.

    The arrays can be saved and read again: in JSON too, which keeps every bit of a float.

    Attributes:
      sums_SK: sums of losses in nats, for each run and block; 0 in a block without a character.
      counts_K: number of included characters in each block; 0 in a block without any, so that sums
        under different masks of a text have the same blocks.
    """

    sums_SK: np.ndarray
    counts_K: np.ndarray

    @property
    def means_S(self) -> np.ndarray:
        """Mean loss of each run, in nats per character."""
        sums_SK, counts_K = without_empty(self)
        means_S: np.ndarray = sums_SK.sum(axis=1) / counts_K.sum()
        return means_S

    @property
    def mean(self) -> float:
        """Mean loss over runs and characters, in nats per character."""
        return float(np.mean(self.means_S))


Losses = Runs | BlockSums
"""Losses of a group: per character, or summed over blocks."""


def block_sums(nll_SN: Runs, *, mask_N: np.ndarray | None = None, block: int = BLOCK) -> BlockSums:
    """Sum losses over blocks of consecutive characters.

    Args:
      nll_SN: negative log-likelihoods in nats, a row per run.
      mask_N: True for the characters to include, boolean; all if None. The mask does not move block
        boundaries.
      block: number of characters in a block; the last may be shorter.

    Returns:
      The sums, in float64, and the counts, in int64.

    Raises:
      CharlmError: there is no run, a row is empty or not one-dimensional, the runs differ in
        length, the mask has another length, is not boolean or includes no character, a loss is not
        finite, or the block is not a positive whole number.
    """
    require_within("block", block, 1)
    rows = [np.asarray(nll_N) for nll_N in nll_SN]
    if not rows or any(row.ndim != 1 or not row.size for row in rows):
        raise CharlmError("a group needs at least one run, and a non-empty row of losses per run")
    lengths = [len(row) for row in rows]
    if len(set(lengths)) > 1:
        raise CharlmError(f"the runs have {lengths} losses: all must be for the same text")
    mask_N = np.ones(lengths[0], bool) if mask_N is None else np.asarray(mask_N)
    if mask_N.dtype != bool:
        raise CharlmError(f"the mask has dtype {mask_N.dtype}: it must be boolean")
    if mask_N.shape != rows[0].shape:
        raise CharlmError(
            f"the mask has shape {mask_N.shape}, but the runs have {lengths[0]} losses"
        )
    starts_K = np.arange(0, lengths[0], block)
    counts_K = np.add.reduceat(mask_N, starts_K, dtype=np.int64)
    if not counts_K.any():
        raise CharlmError("the mask includes no character: it must be True for at least one")
    with np.errstate(invalid="ignore"):
        sums = [np.add.reduceat(np.where(mask_N, x, 0), starts_K, dtype=np.float64) for x in rows]
    for run, sums_K in enumerate(sums):
        if not np.isfinite(sums_K).all():
            index = int(np.argmax(mask_N & ~np.isfinite(rows[run])))
            raise CharlmError(
                f"run {run} has a loss of {rows[run][index]} at position {index}: it must be finite"
            )
    return BlockSums(np.stack(sums), counts_K)


def subtract_runs(a: BlockSums, b: BlockSums) -> BlockSums:
    """Subtract the losses of one group from those of another, run by run.

    The mean interval of the result is that of a paired difference: run s of both groups has the
    same seed, and the variation that both share cancels.

    Args:
      a: losses of a group.
      b: losses of another group on the same characters, in the same order of seeds.

    Raises:
      CharlmError: the groups have different blocks or numbers of runs, or sums are invalid.
    """
    a, b = validated(a), validated(b)
    check_same_blocks(a, b)
    runs = len(a.sums_SK), len(b.sums_SK)
    if runs[0] != runs[1]:
        raise CharlmError(
            f"the groups have {runs[0]} and {runs[1]} runs: a difference run by run needs the same "
            f"seeds in both"
        )
    return BlockSums(a.sums_SK - b.sums_SK, a.counts_K)


def join_runs(parts: Sequence[BlockSums]) -> BlockSums:
    """Join the runs of one group that were summed separately.

    Args:
      parts: losses of one or more runs each, on the same characters.

    Returns:
      All runs, in the order of the parts.

    Raises:
      CharlmError: there is no part, two have different blocks, or sums are invalid.
    """
    if not parts:
        raise CharlmError("no runs to join: give at least one")
    first, *others = (validated(part) for part in parts)
    for other in others:
        check_same_blocks(first, other)
    return BlockSums(
        np.concatenate([first.sums_SK, *(other.sums_SK for other in others)]), first.counts_K
    )


def as_block_sums(
    losses: Losses, *, mask_N: np.ndarray | None = None, block: int = BLOCK
) -> BlockSums:
    """Return losses summed over blocks; sums are checked and returned as they are.

    Args:
      losses: losses per character, a row per run, or their sums.
      mask_N: True for the characters to include; None for sums.
      block: number of characters in a block; the default for sums, which have their own blocks.

    Raises:
      CharlmError: the losses are invalid (see `block_sums`), the sums are, or sums are given with a
        mask or another block.
    """
    if not isinstance(losses, BlockSums):
        return block_sums(losses, mask_N=mask_N, block=block)
    if mask_N is not None or block != BLOCK:
        raise CharlmError(
            "sums of blocks cannot be masked or cut into other blocks: give mask_N and block to "
            "block_sums"
        )
    return validated(losses)


def validated(sums: BlockSums) -> BlockSums:
    """Return sums as arrays of float64 and int64, once they are found to be valid.

    Raises:
      CharlmError: they are not `BlockSums`, their shapes disagree, no character is included, or a
        number is impossible.
    """
    if not isinstance(sums, BlockSums):
        raise CharlmError(
            f"{type(sums).__name__} is given in place of BlockSums: sum the losses with block_sums"
        )
    try:
        sums_SK = np.ascontiguousarray(sums.sums_SK, np.float64)
        counts_K = np.asarray(sums.counts_K)
    except (TypeError, ValueError) as error:
        raise CharlmError(
            "the sums or counts are no arrays of numbers, or rows of different lengths: there must "
            "be a row of sums for each run, and a count for each block"
        ) from error
    if sums_SK.ndim != 2 or not len(sums_SK) or counts_K.shape != sums_SK.shape[1:]:
        raise CharlmError(
            f"the sums have shape {np.shape(sums.sums_SK)} and the counts {counts_K.shape}: there "
            f"must be a row of sums for each run, and a count for each block"
        )
    if not np.issubdtype(counts_K.dtype, np.integer) or not (counts_K >= 0).all():
        raise CharlmError("the counts of the blocks must be integers of at least 0")
    if not counts_K.any():
        raise CharlmError("the blocks include no character: at least one must have some")
    wrong_SK = ~np.isfinite(sums_SK) | ((counts_K == 0) & (sums_SK != 0))
    if wrong_SK.any():
        run, index = (int(x[0]) for x in np.nonzero(wrong_SK))
        raise CharlmError(
            f"run {run} has a sum of {sums_SK[run, index]} over the {counts_K[index]} characters "
            f"of block {index}: it must be finite, and 0 without characters"
        )
    return BlockSums(sums_SK, counts_K.astype(np.int64))


def check_same_blocks(a: BlockSums, b: BlockSums) -> None:
    """Check that two groups are of the same characters, as far as counts tell.

    Raises:
      CharlmError: the counts differ.
    """
    if np.array_equal(a.counts_K, b.counts_K):
        return
    totals = int(a.counts_K.sum()), int(b.counts_K.sum())
    if totals[0] != totals[1]:
        raise CharlmError(
            f"the groups have {totals[0]} and {totals[1]} losses: both must be for the same text"
        )
    raise CharlmError(
        f"the groups have {totals[0]} losses each, in different blocks: both must be for the same "
        f"text, cut in the same way"
    )


def without_empty(sums: BlockSums) -> BlockSums:
    """Return only the blocks that include a character."""
    is_included_K = sums.counts_K > 0
    return BlockSums(sums.sums_SK[:, is_included_K], sums.counts_K[is_included_K])
