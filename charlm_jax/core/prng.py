"""Named streams of PRNG keys, derived from one root key. A key is never reused."""

import enum

import jax
import jax.numpy as jnp
import numpy as np

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
