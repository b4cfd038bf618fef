"""Softmax cross-entropy on integer labels, in nats per character, and penalties of training."""

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


def sum_activation_penalty(x_BTD: jax.Array, mask_BT: jax.Array) -> jax.Array:
    """Return the sum over positions of the mean square of a layer's outputs.

        sum_t mean_d x_td^2

    This is activation regularization (AR). The paper has the norm of a vector; its authors' code
    has the mean square, as here.

    Args:
      x_BTD: outputs of a layer.
      mask_BT: True for positions that count.

    Source: Merity et al. 2017 (Revisiting activation regularization for language RNNs,
    arXiv 1708.01009).
    """
    return masked_sum(jnp.mean(jnp.square(x_BTD), axis=-1), mask_BT)


def sum_temporal_penalty(x_BTD: jax.Array, mask_BT: jax.Array) -> jax.Array:
    """Return the sum over positions, without the first, of the mean square of an output's change.

        sum_t mean_d (x_td - x_(t-1)d)^2

    This is temporal activation regularization (TAR); see `sum_activation_penalty`.

    Args:
      x_BTD: outputs of a layer.
      mask_BT: True for positions that count.

    Source: the same.
    """
    return sum_activation_penalty(jnp.diff(x_BTD, axis=1), mask_BT[:, 1:])
