"""Named streams of PRNG keys, derived from one root key. A key is never reused."""

import enum

import jax


class KeyStream(enum.IntEnum):
    """Purpose of a stream of keys. The numbers determine a run's results: never renumber."""

    PARAMETERS = 0
    ORDER = 1
    DROPOUT = 2
    SAMPLING = 3


def stream_key(seed: int, stream: KeyStream) -> jax.Array:
    """Return the key of one stream; steps and epochs fold in their numbers."""
    return jax.random.fold_in(jax.random.key(seed), stream)
