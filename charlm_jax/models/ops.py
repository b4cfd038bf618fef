"""Small pure operations that the layers share."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Seen = OrderedDict[str, jax.Array]
"""What a mixer shows to `inspect`: arrays (B, T, ...) by name, in the order of computation. (jax
sorts the keys of a plain dict.)"""

# Above this many symbols a one-hot matrix costs more than the scatter that it replaces.
_ONE_HOT_SYMBOLS = 1024


def embed(table_VD: jax.Array, ids_BT: jax.Array) -> jax.Array:
    """Rows of a table: x_BTD = table_VD[ids_BT].

    The gradient of a gather is a scatter-add, which a CPU does row by row. For the alphabets of
    character models it is the product with a one-hot matrix instead: the same sum, many times
    faster.
    """
    if table_VD.shape[0] > _ONE_HOT_SYMBOLS:
        return table_VD[ids_BT]
    return _embed(table_VD, ids_BT)


@jax.custom_vjp
def _embed(table_VD: jax.Array, ids_BT: jax.Array) -> jax.Array:
    return table_VD[ids_BT]


def _embed_forward(
    table_VD: jax.Array, ids_BT: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    symbols_V = jnp.arange(table_VD.shape[0])
    return table_VD[ids_BT], (ids_BT, symbols_V)


def _embed_backward(
    residuals: tuple[jax.Array, jax.Array], gradient_BTD: jax.Array
) -> tuple[jax.Array, None]:
    ids_BT, symbols_V = residuals
    one_hot_BTV = (ids_BT[..., None] == symbols_V[None, None, :]).astype(gradient_BTD.dtype)
    return jnp.einsum("btv,btd->vd", one_hot_BTV, gradient_BTD), None


_embed.defvjp(_embed_forward, _embed_backward)


def scan_time(
    step: Callable[[Any, jax.Array], tuple[Any, Any]], state: Any, z_BTG: jax.Array
) -> tuple[Any, Any]:
    """`lax.scan` over the second axis: inputs and stacked outputs keep the batch first.

    Args:
      step: (state, z_BG) -> (state, outputs with the batch first).
      state: what the first step is handed.
      z_BTG: one input for every row and position.

    Returns:
      The last state, and the outputs with a time axis inserted after the batch.
    """
    state, outputs_TB = jax.lax.scan(step, state, jnp.swapaxes(z_BTG, 0, 1))
    return state, jax.tree.map(lambda y_TB: jnp.swapaxes(y_TB, 0, 1), outputs_TB)


def dropout(x: jax.Array, *, rate: float, key: jax.Array | None) -> jax.Array:
    """Zero a share `rate` of the values and scale the rest up; the identity without a key.

    Source: Srivastava et al. 2014.
    """
    if key is None or rate == 0.0:
        return x
    keep = jax.random.bernoulli(key, 1.0 - rate, x.shape)
    return jnp.where(keep, x / (1.0 - rate), jnp.zeros_like(x))
