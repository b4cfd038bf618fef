"""Losses in records: sums over blocks of text, from which intervals follow without training.

See `charlm_jax.evaluation.block_sums`. Results are always computed from the rounded sums.
"""

from collections.abc import Sequence

import numpy as np

from charlm_jax.evaluation.block_sums import BlockSums

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
