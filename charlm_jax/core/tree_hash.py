"""Hashes of trees of arrays: 64 bits computed on the arrays' device, and SHA-256 on the host."""

import hashlib
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from charlm_jax.core.trees import describe_leaf, leaves_by_path

_GOLDEN_RATIO = 0x9E3779B9  # 2**32 / 1.618..., an odd number whose multiples spread evenly


def hash_tree(tree: Any, *, by_leaf: bool = False) -> jax.Array:
    """Return a 64-bit hash, as two words, for testing whether trees are equal bit for bit.

        hash_w = sum over positions n of mix(bits[n] ^ mix(n + salt(w)))  mod 2^32

    Positions run through the concatenated leaves: a few loops over one long array compile much
    faster than a few for every leaf. Integer sums do not depend on their order, so the hash does
    not depend on how a machine splits the work. It guards against mistakes, not an adversary.

    Args:
      tree: arrays of 32-bit, 16-bit, 8-bit or boolean values; order matters, names do not.
      by_leaf: whether to add up each leaf by itself, which is the same hash. Leaves that are
        divided among devices stay so; joined, they would be gathered on each of them.

    Returns:
      hash_2, uint32.

    Source: the mixing function is the finaliser of MurmurHash3 (Appleby 2011).
    """
    leaves = [_bits(jnp.asarray(leaf)) for leaf in jax.tree.leaves(tree)]
    if not by_leaf:
        leaves = [jnp.concatenate([jnp.zeros(0, jnp.uint32), *(x.ravel() for x in leaves)])]
    hash_2, first = jnp.zeros(2, jnp.uint32), 0
    for bits in leaves:
        hash_2, first = hash_2 + _hash_leaf(bits, first), first + bits.size
    return hash_2


def _hash_leaf(bits: jax.Array, first: int) -> jax.Array:
    """Return the share of a leaf in the hash; its first position is `first`."""
    place = jnp.uint32(first % 2**32) + _indices(bits.shape)
    salts = [jnp.uint32(((word + 1) * _GOLDEN_RATIO) % 2**32) for word in range(2)]
    return jnp.stack([jnp.sum(_mix(bits ^ _mix(place + salt)), dtype=jnp.uint32) for salt in salts])


def _indices(shape: tuple[int, ...]) -> jax.Array:
    """Return the index of each element among all, mod 2^32, without a change of shape."""
    indices = jnp.zeros(shape, jnp.uint32)
    for axis in range(len(shape)):
        stride = math.prod(shape[axis + 1 :]) % 2**32
        indices += jnp.uint32(stride) * jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
    return indices


def format_hash(words: Any) -> str:
    """Return a hash as 16 hexadecimal digits."""
    high, low = (int(word) for word in words)
    return f"{high:08x}{low:08x}"


def content_hash(tree: Any) -> str:
    """Return the SHA-256 of a tree's paths, dtypes, shapes and values, as 64 hexadecimal digits.

    >>> content_hash({"bias": np.zeros(2, np.float32)})[:8]
    '6c4e4c69'
    """
    digest = hashlib.sha256()
    for path, leaf in leaves_by_path(tree).items():
        x = np.asarray(leaf)
        digest.update(f"{path}: {describe_leaf(x.dtype, x.shape)}\n".encode())
        digest.update(x.tobytes())
    return digest.hexdigest()


def _bits(x: jax.Array) -> jax.Array:
    if x.dtype == bool:
        return x.astype(jnp.uint32)
    unsigned = {4: jnp.uint32, 2: jnp.uint16, 1: jnp.uint8}[x.dtype.itemsize]
    return jax.lax.bitcast_convert_type(x, unsigned).astype(jnp.uint32)


def _mix(x: jax.Array) -> jax.Array:
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)
