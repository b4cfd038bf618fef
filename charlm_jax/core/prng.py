"""One root key, and named streams from it. A spent key is never used again."""

import enum

import jax


class KeyStream(enum.IntEnum):
    """What a stream of keys is for. Numbers are part of a run's meaning: never renumber."""

    PARAMETERS = 0
    ORDER = 1
    DROPOUT = 2
    SAMPLING = 3


def stream_key(seed: int, stream: KeyStream) -> jax.Array:
    """The key of one stream; a step or an epoch folds its number in."""
    return jax.random.fold_in(jax.random.key(seed), stream)
