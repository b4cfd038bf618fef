"""Losses in records: sums over blocks of text, from which intervals follow without training.

See `charlm_jax.evaluation.block_sums`. Results are always computed from the rounded sums.
"""

from collections.abc import Sequence

import numpy as np

from charlm_jax.evaluation.block_sums import BlockSums, block_sums

WIDE_BLOCK = 4_000  # characters, where a group has few in each 1,000
_DIGITS = 4  # decimals of a nat

Sums = tuple[float, ...]
"""Losses summed over blocks, in nats."""


def to_sums(sums: BlockSums) -> list[Sums]:
    """Return the rounded sums of each run."""
    return [tuple(round(float(x), _DIGITS) for x in sums_K) for sums_K in sums.sums_SK]


def from_sums(rows: Sequence[Sums], counts: Sequence[int]) -> BlockSums:
    """Return the losses of several runs.

    Args:
      rows: sums of each run.
      counts: number of characters in each block.
    """
    return BlockSums(np.array(rows, np.float64), np.array(counts, np.int64))


def context_lengths(reach: int) -> list[int]:
    """Return the powers of 2 below a context length, and the length itself.

    >>> context_lengths(10)
    [1, 2, 4, 8, 10]
    """
    return [2**power for power in range(reach.bit_length()) if 2**power < reach] + [reach]


def target_sums(nll_P: np.ndarray, places_P: np.ndarray) -> BlockSums:
    """Sum the losses of targets over the wide blocks of the text that they lie in.

    Args:
      nll_P: losses of the targets, in nats.
      places_P: places of the targets within the scored text, ascending.
    """
    nll_N, mask_N = np.zeros(places_P[-1] + 1), np.zeros(places_P[-1] + 1, bool)
    nll_N[places_P], mask_N[places_P] = nll_P, True
    return block_sums([nll_N], mask_N=mask_N, block=WIDE_BLOCK)
