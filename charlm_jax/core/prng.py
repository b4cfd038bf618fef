"""Named streams of PRNG keys, derived from one root key."""

import enum
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import random as random_extension

IMPLEMENTATION = "threefry2x32"


class KeyStream(enum.IntEnum):
    """Purpose of a stream of keys. The numbers determine a run's results: never renumber."""

    PARAMETERS = 0
    ORDER = 1
    DROPOUT = 2
    SAMPLING = 3


def stream_key(seed: int, stream: KeyStream) -> jax.Array:
    """Return the key of one stream; steps and epochs fold in their numbers."""
    return jax.random.fold_in(root_key(seed), stream)


def root_key(seed: int) -> jax.Array:
    """Return the key that `jax.random.key(seed)` is by default, whatever the process's settings.

    `jax.random.key` would add jax_random_seed_offset and follow jax_default_prng_impl.

    Args:
      seed: seed in [0, 2**32).
    """
    words_2 = jnp.asarray(np.array([0, seed], np.uint32))
    return jax.random.wrap_key_data(words_2, impl=IMPLEMENTATION)


def key_from_row(key: jax.Array, row: jax.Array | int) -> jax.Array:
    """Return a key that draws a batch's rows from `row` on, as `key` draws them in the whole batch.

    An array that is drawn with the key has the bits of `array[row:]`, where `array` is drawn with
    the original key and has more rows. Rows are the first axis. Keys that are split from the key,
    or folded, draw from the same row.

    Args:
      key: key of the whole batch, or one that this function returned; rows then add up.
      row: index of the first row, uint32.
    """
    words_3 = jax.random.key_data(key)
    if words_3.shape == (2,):
        words_3 = jnp.append(words_3, jnp.uint32(0))
    words_3 = words_3.at[2].add(jnp.asarray(row).astype(jnp.uint32))
    return jax.random.wrap_key_data(words_3, impl=_ROWS)


def key_of_batch(key: jax.Array) -> jax.Array:
    """Return a key of the whole batch, for what all of its rows share.

    Args:
      key: key of the whole batch, or one that `key_from_row` returned, or one derived from it.
    """
    words = jax.random.key_data(key)
    return _whole(words) if words.shape[-1] == 3 else key


def _whole(words_3: jax.Array) -> jax.Array:
    return jax.random.wrap_key_data(words_3[:2], impl=IMPLEMENTATION)


def _with_row(keys: jax.Array, words_3: jax.Array) -> jax.Array:
    """Append the first row to the words of keys."""
    words = jax.random.key_data(keys)
    row = jnp.broadcast_to(words_3[2], (*words.shape[:-1], 1))
    return jnp.concatenate([words, row], axis=-1)


def _seed_rows(seed: jax.Array) -> jax.Array:
    raise TypeError("a key of rows is made by key_from_row")


def _split_rows(words_3: jax.Array, shape: Sequence[int]) -> jax.Array:
    return _with_row(jax.random.split(_whole(words_3), tuple(shape)), words_3)


def _fold_in_rows(words_3: jax.Array, data: int) -> jax.Array:
    return _with_row(jax.random.fold_in(_whole(words_3), data), words_3)


def _bits_of_rows(words_3: jax.Array, bit_width: int, shape: Sequence[int]) -> jax.Array:
    """Return random bits: Threefry of each value's index in the whole array, as JAX counts them.

    The two words of the 64-bit index are the two inputs (`jax_threefry_partitionable`).
    """
    if bit_width != 32 or not shape:
        raise TypeError(f"a key of rows draws rows of 32 bits, not {bit_width} of shape {shape}")
    rest = math.prod(shape[1:])
    rows_B = words_3[2] + jnp.arange(shape[0], dtype=jnp.uint32)
    high_B, low_B = (jnp.expand_dims(x_B, range(1, len(shape))) for x_B in _product(rows_B, rest))
    low = low_B + jnp.arange(rest, dtype=jnp.uint32).reshape(1, *shape[1:])
    high = jnp.broadcast_to(high_B, low.shape) + (low < low_B).astype(jnp.uint32)
    threefry: Any = random_extension.threefry2x32_p
    one, other = threefry.bind(words_3[0], words_3[1], high, low)
    return one ^ other


def _product(x: jax.Array, factor: int) -> tuple[jax.Array, jax.Array]:
    """Return the high and the low 32 bits of x times a factor below 2**32, by halves of words."""
    a_high, a_low = x >> 16, x & 0xFFFF
    b_high, b_low = jnp.uint32(factor >> 16), jnp.uint32(factor & 0xFFFF)
    one, other, low = a_high * b_low, a_low * b_high, a_low * b_low
    middle = (low >> 16) + (one & 0xFFFF) + (other & 0xFFFF)
    high = a_high * b_high + (one >> 16) + (other >> 16) + (middle >> 16)
    return high, (middle << 16) | (low & 0xFFFF)


_ROWS = random_extension.define_prng_impl(
    key_shape=(3,),
    seed=_seed_rows,
    split=_split_rows,
    random_bits=_bits_of_rows,
    fold_in=_fold_in_rows,
    name="threefry2x32_rows",
    tag="rows",
)
