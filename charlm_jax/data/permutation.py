"""Random permutations of numbers too many for an array: any stretch of one is computed alone."""

import jax
import numpy as np

_ROUNDS = 8


def permute(key: jax.Array, places: np.ndarray, *, size: int) -> np.ndarray:
    """Return the numbers at some places of a random permutation of 0 to size - 1.

    Every number is at exactly one place. A Feistel network permutes the numbers of 2 k bits, where
    2^(2 k) is at least `size` and less than 4 times it; a result that is not below `size` is
    permuted again until it is. Not all permutations occur, only one for each of the 2^256 keys of
    the eight rounds, which are drawn from `key`.

    Args:
      key: JAX key.
      places: places, from 0 to size - 1.
      size: number of numbers, from 1 to 2^32.

    Returns:
      The numbers, int64.

    Source: Black and Rogaway 2002, "Ciphers with arbitrary finite domains" (cycle walking); Luby
    and Rackoff 1988 (Feistel networks); the round function is the finalizer of MurmurHash3 (Appleby
    2011), our choice for its speed, since nobody is to be kept from guessing the order.
    """
    bits = np.uint32(max(1, ((size - 1).bit_length() + 1) // 2))
    mask = np.uint32((1 << int(bits)) - 1)
    keys = np.asarray(jax.random.bits(key, (_ROUNDS,), "uint32"))
    numbers = places.astype(np.uint32)
    outside = np.arange(len(numbers))
    while len(outside):
        walking = numbers[outside]
        left, right = walking >> bits, walking & mask
        for round_key in keys:
            left, right = right, left ^ (_mix(right ^ round_key) & mask)
        numbers[outside] = (left << bits) | right
        outside = outside[numbers[outside] >= size]
    return numbers.astype(np.int64)


def _mix(x: np.ndarray) -> np.ndarray:
    """Return a hash of each number, uint32."""
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return x ^ (x >> np.uint32(16))
