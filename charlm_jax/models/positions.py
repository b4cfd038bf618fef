"""How attention is told where a character stands.

Attention by itself sees a set: it is the same for any order of what lies before a character. A
policy says the order in one of three places, and leaves the other two as they are:

  embed   adds something to the embedding; it needs to know how much was read before.
  rotate  turns queries and keys, before their product.
  bias    is added to the scores, before the softmax.

The last two depend on distances alone. They count places from the first of the piece that is read,
and what is kept from before it has negative ones: the same numbers, and so the same rounding,
wherever in a text the piece stands.
"""

from collections.abc import Mapping
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from charlm_jax.config.schema import ModelConfig
from charlm_jax.core.errors import lookup


class Embed(Protocol):
    """Embeddings x_BTD of characters at places_BT (from 0), and the learned table -> x_BTD."""

    def __call__(
        self, x_BTD: jax.Array, places_BT: jax.Array, table_LD: jax.Array | None
    ) -> jax.Array: ...


class Rotate(Protocol):
    """Queries or keys x_BTHK at places_T, which may be negative -> x_BTHK."""

    def __call__(self, x_BTHK: jax.Array, places_T: np.ndarray) -> jax.Array: ...


class Bias(Protocol):
    """Distances (above 0 for what lies before) -> what is added to the scores, or None."""

    def __call__(self, distance_TS: np.ndarray, heads: int) -> np.ndarray | None: ...


def _add_nothing(x_BTD: jax.Array, places_BT: jax.Array, table_LD: jax.Array | None) -> jax.Array:
    return x_BTD


def _do_not_rotate(x_BTHK: jax.Array, places_T: np.ndarray) -> jax.Array:
    return x_BTHK


def _no_bias(distance_TS: np.ndarray, heads: int) -> np.ndarray | None:
    return None


class Position(NamedTuple):
    """A policy.

    Attributes:
      embed: what is done to the embedding.
      rotate: what is done to queries and keys.
      bias: what is added to the scores, (H, T, S).
      counts: whether places are counted; `embed` is called only then.
      learns: whether it has a table of max_length vectors; a model that has can read no more.
    """

    embed: Embed = _add_nothing
    rotate: Rotate = _do_not_rotate
    bias: Bias = _no_bias
    counts: bool = False
    learns: bool = False


def add_learned(x_BTD: jax.Array, places_BT: jax.Array, table_LD: jax.Array | None) -> jax.Array:
    """A learned vector for every place (Gehring et al. 2017, section 3.1).

    There is none beyond the table; nothing is added there.
    """
    assert table_LD is not None
    return x_BTD + jnp.take(table_LD, places_BT, axis=0, mode="fill", fill_value=0.0)


def add_sinusoids(x_BTD: jax.Array, places_BT: jax.Array, table_LD: jax.Array | None) -> jax.Array:
    """Sines and cosines of the place (Vaswani et al. 2017, sections 3.4 and 3.5).

        x = sqrt(D) * embedding + (sin(p w_0), ..., cos(p w_0), ...)    w_j = 10000^(-2j/D)

    The paper has sines and cosines take turns; here they stand in halves, which is the same up to
    the order of the stream's entries.
    """
    del table_LD
    width = x_BTD.shape[-1]
    angles = places_BT[:, :, None].astype(jnp.float32) * _frequencies(width)[None, None, :]
    waves_BTD = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)[..., :width]
    return x_BTD * np.float32(np.sqrt(width)) + waves_BTD


def rotate_pairs(x_BTHK: jax.Array, places_T: np.ndarray) -> jax.Array:
    """Turn pairs of entries by an angle that grows with the place (Su et al. 2021, section 3.2).

        (a, b) -> (a cos pw - b sin pw, b cos pw + a sin pw)

    for the pairs (x_j, x_(j + K/2)) with w_j = 10000^(-2j/K). Products of queries and keys then
    depend on the distance alone. The paper pairs neighbours, which is the same up to the order.
    """
    angles_TK = places_T[:, None] * _frequencies(x_BTHK.shape[-1])[None, :]
    cos_1T1K = np.cos(angles_TK).astype(np.float32)[None, :, None, :]
    sin_1T1K = np.sin(angles_TK).astype(np.float32)[None, :, None, :]
    a, b = jnp.split(x_BTHK, 2, axis=-1)
    turned = (a * cos_1T1K - b * sin_1T1K, b * cos_1T1K + a * sin_1T1K)
    return jnp.concatenate(turned, axis=-1)


def linear_bias(distance_TS: np.ndarray, heads: int) -> np.ndarray:
    """Lower a score in proportion to the distance (Press et al. 2022, section 3).

    The bias is -m_h x distance with slopes m_h = 2^(-8h/H) for h = 1 .. H. (Where H is no power of
    two, the authors' code mixes the slopes of two powers; the paper's formula stands here.)
    """
    slopes_H = 2.0 ** (-8.0 * np.arange(1, heads + 1) / heads)
    return (-slopes_H[:, None, None] * distance_TS[None]).astype(np.float32)


def _frequencies(width: int) -> np.ndarray:
    """Radians per place, one for every pair of entries."""
    return (10_000.0 ** (-np.arange(0, width, 2) / width)).astype(np.float32)


POSITIONS: Mapping[str, Position] = {
    "none": Position(),
    "learned": Position(embed=add_learned, counts=True, learns=True),
    "sinusoidal": Position(embed=add_sinusoids, counts=True),
    "rotary": Position(rotate=rotate_pairs),
    "alibi": Position(bias=linear_bias),
}


def build_position(model: ModelConfig) -> Position:
    """The policy that a config names."""
    return lookup(POSITIONS, model.position, "config.model.position")
