"""Position encodings for attention.

Attention itself is invariant to the order of the characters before the current one. A policy
encodes the order at one of three points, and leaves the other two unchanged:

  embed   adds to the embedding; it needs the number of characters read before.
  rotate  rotates queries and keys, before their product.
  bias    adds to the scores, before the softmax.

The last two depend only on distances. They count positions from the start of the current piece;
cached positions before it are negative. The numbers, and so the rounding, are the same wherever
the piece lies in a text.
"""

from collections.abc import Mapping
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from charlm_jax.config.schema import ModelConfig
from charlm_jax.core.errors import lookup


class Embed(Protocol):
    """(embeddings x_BTD, positions places_BT from 0, learned table) -> x_BTD."""

    def __call__(
        self, x_BTD: jax.Array, places_BT: jax.Array, table_LD: jax.Array | None
    ) -> jax.Array: ...


class Rotate(Protocol):
    """(queries or keys x_BTHK, positions places_T, which may be negative) -> x_BTHK."""

    def __call__(self, x_BTHK: jax.Array, places_T: np.ndarray) -> jax.Array: ...


class Bias(Protocol):
    """(distances, positive for earlier positions, heads) -> bias of the scores, or None."""

    def __call__(self, distance_TS: np.ndarray, heads: int) -> np.ndarray | None: ...


def _add_nothing(x_BTD: jax.Array, places_BT: jax.Array, table_LD: jax.Array | None) -> jax.Array:
    return x_BTD


def _do_not_rotate(x_BTHK: jax.Array, places_T: np.ndarray) -> jax.Array:
    return x_BTHK


def _no_bias(distance_TS: np.ndarray, heads: int) -> np.ndarray | None:
    return None


class Position(NamedTuple):
    """Position encoding policy.

    Attributes:
      embed: transformation of the embedding.
      rotate: transformation of queries and keys.
      bias: term added to the scores, (H, T, S).
      counts: whether positions are counted; `embed` is called only if they are.
      learns: whether it has a table of max_length vectors, which limits how much is read.
    """

    embed: Embed = _add_nothing
    rotate: Rotate = _do_not_rotate
    bias: Bias = _no_bias
    counts: bool = False
    learns: bool = False


def add_learned(x_BTD: jax.Array, places_BT: jax.Array, table_LD: jax.Array | None) -> jax.Array:
    """Add a learned vector for every position (Gehring et al. 2017, section 3.1).

    Positions beyond the table have no vector; 0 is added there.
    """
    assert table_LD is not None
    return x_BTD + jnp.take(table_LD, places_BT, axis=0, mode="fill", fill_value=0.0)


def add_sinusoids(x_BTD: jax.Array, places_BT: jax.Array, table_LD: jax.Array | None) -> jax.Array:
    """Add sines and cosines of the position (Vaswani et al. 2017, sections 3.4 and 3.5).

        x = sqrt(D) * embedding + (sin(p w_0), ..., cos(p w_0), ...)    w_j = 10000^(-2j/D)

    The paper interleaves sines and cosines; here each has its own half, which is the same up to
    the order of the stream's entries.
    """
    del table_LD
    width = x_BTD.shape[-1]
    angles = places_BT[:, :, None].astype(jnp.float32) * _frequencies(width)[None, None, :]
    waves_BTD = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)[..., :width]
    return x_BTD * np.float32(np.sqrt(width)) + waves_BTD


def rotate_pairs(x_BTHK: jax.Array, places_T: np.ndarray) -> jax.Array:
    """Rotate pairs of entries by an angle that grows with the position.

        (a, b) -> (a cos pw - b sin pw, b cos pw + a sin pw)

    for the pairs (x_j, x_(j + K/2)) with w_j = 10000^(-2j/K). Products of queries and keys then
    depend only on the distance. The paper pairs neighbours, which is the same up to the order.

    Source: Su et al. 2021, section 3.2.
    """
    angles_TK = places_T[:, None] * _frequencies(x_BTHK.shape[-1])[None, :]
    cos_1T1K = np.cos(angles_TK).astype(np.float32)[None, :, None, :]
    sin_1T1K = np.sin(angles_TK).astype(np.float32)[None, :, None, :]
    a, b = jnp.split(x_BTHK, 2, axis=-1)
    turned = (a * cos_1T1K - b * sin_1T1K, b * cos_1T1K + a * sin_1T1K)
    return jnp.concatenate(turned, axis=-1)


def linear_bias(distance_TS: np.ndarray, heads: int) -> np.ndarray:
    """Lower a score in proportion to the distance (Press et al. 2022, section 3).

    The bias is -m_h x distance with slopes m_h = 2^(-8h/H) for h = 1 .. H. (If H is not a power of
    two, the authors' code mixes the slopes of two powers; this is the paper's formula.)
    """
    slopes_H = 2.0 ** (-8.0 * np.arange(1, heads + 1) / heads)
    return (-slopes_H[:, None, None] * distance_TS[None]).astype(np.float32)


def _frequencies(width: int) -> np.ndarray:
    """Return radians per position, one for every pair of entries."""
    return (10_000.0 ** (-np.arange(0, width, 2) / width)).astype(np.float32)


POSITIONS: Mapping[str, Position] = {
    "none": Position(),
    "learned": Position(embed=add_learned, counts=True, learns=True),
    "sinusoidal": Position(embed=add_sinusoids, counts=True),
    "rotary": Position(rotate=rotate_pairs),
    "alibi": Position(bias=linear_bias),
}


def build_position(model: ModelConfig) -> Position:
    """Return the policy named in a config."""
    return lookup(POSITIONS, model.position, "config.model.position")
