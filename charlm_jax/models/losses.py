"""Softmax cross-entropy on integer labels, in nats per character."""

import jax
import jax.numpy as jnp
import optax


def negative_log_likelihood(logits_BTV: jax.Array, targets_BT: jax.Array) -> jax.Array:
    """Return -log softmax(logits)[target] for every position.

    Args:
      logits_BTV: unnormalized log-probabilities, float32.
      targets_BT: ids in [0, V), any integer type.

    Returns:
      nll_BT in nats, float32.
    """
    return optax.softmax_cross_entropy_with_integer_labels(
        logits_BTV.astype(jnp.float32), targets_BT.astype(jnp.int32)
    )


def masked_sum(values_BT: jax.Array, mask_BT: jax.Array) -> jax.Array:
    """Return the sum of the values where the boolean mask is True."""
    return jnp.sum(values_BT * mask_BT.astype(values_BT.dtype))
