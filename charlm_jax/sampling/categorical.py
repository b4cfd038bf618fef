"""Categorical sampling of one character from logits.

The scale factor a multiplies the logits before the softmax; it is the inverse of the temperature.
a > 1 sharpens the distribution, a < 1 flattens it, 0 is uniform and infinity is greedy.
"""

import math

import jax
import jax.numpy as jnp

from charlm_jax.core.prng import KeyStream, stream_key


def temperature(scale: float) -> float:
    """Return 1 / scale; the temperature of scale 0 is infinite."""
    return math.inf if scale == 0 else 1.0 / scale


def scaled_probabilities(logits_BV: jax.Array, scale_B: jax.Array) -> jax.Array:
    """Return softmax(scale * logits), the distribution that `scaled_categorical` samples.

    Args:
      logits_BV: scores; at least one in each row is finite, the others may be -inf.
      scale_B: scale factors in [0, inf].

    Returns:
      probs_BV, float32: 0 where the logit is -inf, at every scale. At scale inf the first of the
      largest has probability 1.
    """
    best_B = jnp.argmax(logits_BV, axis=-1)
    is_best_BV = jnp.arange(logits_BV.shape[-1])[None, :] == best_B[:, None]
    is_greedy_B = jnp.isinf(scale_B)
    may_be_BV = jnp.where(is_greedy_B[:, None], is_best_BV, logits_BV > -jnp.inf)
    gap_BV = logits_BV - jnp.max(logits_BV, axis=-1, keepdims=True)
    finite_B = jnp.where(is_greedy_B, 1.0, scale_B)
    return jax.nn.softmax(jnp.where(may_be_BV, gap_BV * finite_B[:, None], -jnp.inf), axis=-1)


def scaled_categorical(logits_BV: jax.Array, gumbel_BV: jax.Array, scale_B: jax.Array) -> jax.Array:
    """Sample one id per row from softmax(scale * logits), by the Gumbel-max trick.

        argmax(logits * min(a, 1) + gumbel * min(1 / a, 1))

    is argmax(a * logits + gumbel) with scores divided by max(a, 1), so it is valid from a = 0
    (uniform) to a = inf (greedy), where a * logits itself is not finite. Ties go to the first id:
    at a = inf, and where gumbel / a is lost in the rounding of the logits (a beyond about 1e6).

    Args:
      logits_BV: scores. An id with score -inf is never sampled, but a row of only -inf gives 0.
      gumbel_BV: standard Gumbel noise. Noise that does not depend on the scale makes samples at
        several scales comparable: they differ only by the scale.
      scale_B: scale factors in [0, inf].

    Returns:
      ids_B, int32.

    Source: Gumbel 1954; Maddison, Tarlow and Minka 2014 (A* sampling, section 2).
    """
    toward_logits_B = jnp.minimum(scale_B, 1.0)
    toward_noise_B = jnp.minimum(1.0 / scale_B, 1.0)
    scores_BV = logits_BV * toward_logits_B[:, None] + gumbel_BV * toward_noise_B[:, None]
    scores_BV = jnp.where(logits_BV == -jnp.inf, -jnp.inf, scores_BV)  # -inf * 0 is NaN
    return jnp.argmax(scores_BV, axis=-1).astype(jnp.int32)


def sample_keys(seed: int, samples: int, *, first: int = 0) -> jax.Array:
    """Return keys_M of samples first .. first + M - 1; key i depends only on (seed, i)."""
    root = stream_key(seed, KeyStream.SAMPLING)
    return jax.vmap(jax.random.fold_in, (None, 0))(root, first + jnp.arange(samples))


def gumbel_noise(keys_B: jax.Array, step: jax.Array, symbols: int) -> jax.Array:
    """Return gumbel_BV for one step; each row depends only on its key and the step.

    The noise is made from 23 random bits, so it is at most 15.9: a symbol whose probability is
    below about 1e-7 is not sampled. JAX's mode "high" would reach further, with other noise.
    """

    def draw(key: jax.Array) -> jax.Array:
        step_key = jax.random.fold_in(key, step)
        return jax.random.gumbel(step_key, (symbols,), jnp.float32, mode="low")

    return jax.vmap(draw)(keys_B)
