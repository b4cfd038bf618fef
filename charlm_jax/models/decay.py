"""Decay of a head's memory by a step that depends on the input (Mamba 2; Gated DeltaNet)."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

_RATES = (1.0, 16.0)  # range of A at the start
_STEPS = (1e-3, 1e-1)  # range of softplus(b) at the start


class Decay(nn.Module):
    """Step size and logarithm of the kept share, for each head.

        step     = softplus(z + b)
        log keep = -A * step        A = exp(a)

    A is uniform in [1, 16] at first, and the steps for z = 0 log-uniform in [0.001, 0.1], as in
    Mamba 2's code; that of Gated DeltaNet draws A from [0, 16].

    Attributes:
      heads: number of heads.
    """

    heads: int

    @nn.compact
    def __call__(self, z_BTH: jax.Array) -> tuple[jax.Array, jax.Array]:
        step_bias_H = self.param("step_bias", _step_bias, (self.heads,))
        rate_bias_H = self.param("rate_bias", _rate_bias, (self.heads,))
        step_BTH = jax.nn.softplus(z_BTH + step_bias_H[None, None, :])
        return step_BTH, -jnp.exp(rate_bias_H)[None, None, :] * step_BTH


def _rate_bias(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
    return jnp.log(jax.random.uniform(key, shape, dtype, *_RATES))


def _step_bias(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
    low, high = jnp.log(jnp.array(_STEPS, dtype))
    step = jnp.exp(jax.random.uniform(key, shape, dtype, low, high))
    return step + jnp.log(-jnp.expm1(-step))  # the inverse of softplus
