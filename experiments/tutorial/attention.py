"""Self-attention as equations: every position attends to every other, later ones included.

The scores do not depend on position, so reordering the inputs reorders the outputs.
"""

import jax
import jax.numpy as jnp


def attend(
    query_TK: jax.Array, key_SK: jax.Array, value_SD: jax.Array, *, scale: float
) -> tuple[jax.Array, jax.Array]:
    """Compute averages of values, weighted by the match of their keys with each query.

        W_ts = softmax over s of scale * (q_t . k_s)
        o_t  = sum over s of W_ts v_s

    Args:
      query_TK: one query per position.
      key_SK: one key per attended position.
      value_SD: one value per attended position, of any width.
      scale: factor applied to the scores before the softmax.

    Returns:
      o_TD and weights_TS, whose rows are probabilities.

    Source: Vaswani et al. 2017, section 3.2.1, equation 1.
    """
    scores_TS = scale * jnp.einsum("tk,sk->ts", query_TK, key_SK)
    weights_TS = jax.nn.softmax(scores_TS, axis=-1)
    return jnp.einsum("ts,sd->td", weights_TS, value_SD), weights_TS


def basic_self_attention(x_TD: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Compute self-attention without parameters.

        W_ij = softmax over j of x_i . x_j
        o_i  = sum over j of W_ij x_j

    Args:
      x_TD: one vector per position.

    Returns:
      o_TD and weights_TS, with S = T.

    Source: Raschka and Mirjalili 2019, chapter 16.
    """
    return attend(x_TD, x_TD, x_TD, scale=1.0)


def self_attention(
    x_TD: jax.Array,
    query_DK: jax.Array,
    key_DK: jax.Array,
    value_DK: jax.Array,
    *,
    scale: float | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Compute self-attention with learned queries, keys and values.

        q_i = U_q x_i    k_i = U_k x_i    v_i = U_v x_i
        W_ij = softmax over j of scale * (q_i . k_j)
        o_i  = sum over j of W_ij v_j

    If the components of q and k are independent with variance 1, their dot product has variance K.
    The factor 1 / sqrt(K) brings it back to 1, where the softmax still has a gradient.

    Args:
      x_TD: one vector per position.
      query_DK: U_q, transposed because positions are rows here.
      key_DK: U_k, transposed.
      value_DK: U_v, transposed; only its width may differ from K.
      scale: factor of the scores; 1 / sqrt(K) if None, as in both sources.

    Returns:
      o_TK and weights_TS, with S = T.

    Source: Vaswani et al. 2017, section 3.2.1; Raschka and Mirjalili 2019, chapter 16, where K
    is called m.
    """
    if scale is None:
        scale = key_DK.shape[-1] ** -0.5
    return attend(x_TD @ query_DK, x_TD @ key_DK, x_TD @ value_DK, scale=scale)
