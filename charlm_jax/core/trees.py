"""Trees of arrays: their leaves by path, and their sizes."""

import jax

from charlm_jax.core.types import Params


def count_parameters(params: Params) -> int:
    """How many numbers a tree of arrays holds."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
