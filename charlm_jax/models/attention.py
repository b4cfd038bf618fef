"""Causal self-attention layers: with learned queries, keys and values, and without parameters.

A layer caches the keys and values of the last `context` positions, oldest first. Every position
attends to that many positions before it, in the current piece or cached from earlier ones, so the
output does not depend on how a text is cut into pieces. With a context of 0, as in training on
separate windows, there is no cache, and a position attends to all earlier positions of its piece.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from charlm_jax.models.initializers import Initializer, InitScheme
from charlm_jax.models.ops import Dtype, Seen, batch_matmul, capture, dense
from charlm_jax.models.positions import Position


class AttentionState(NamedTuple):
    """Key-value cache of the positions before a piece, with M heads.

    Keys are cached before rotation.

    Attributes:
      key_BSMK: cached keys, the latest last.
      value_BSMK: cached values, in the same order.
      filled_B: number of valid entries in each row, at the end of the S axis.
    """

    key_BSMK: jax.Array
    value_BSMK: jax.Array
    filled_B: jax.Array


def empty_state(batch_size: int, context: int, *, heads: int, width: int) -> AttentionState:
    """Return an empty cache with room for `context` positions."""
    kept_BSMK = jnp.zeros((batch_size, context, heads, width))
    return AttentionState(kept_BSMK, kept_BSMK, jnp.zeros(batch_size, jnp.int32))


def attend_causally(
    query_BTHK: jax.Array,
    key_BTMK: jax.Array,
    value_BTMK: jax.Array,
    state: AttentionState,
    *,
    position: Position,
    window: int,
    scale: float,
    operand_dtype: Dtype,
) -> tuple[jax.Array, AttentionState, Seen]:
    """Attend from every position to itself and to the positions before it.

        W_ts = softmax over s of scale * (q_t . k_s) + bias_ts
        o_t  = sum over s of W_ts v_s

    Args:
      query_BTHK: queries of the piece, H heads.
      key_BTMK: keys of the piece, M heads, each shared by H / M query heads.
      value_BTMK: values of the piece, M heads.
      state: key-value cache of the positions before the piece.
      position: position encoding.
      window: maximum number of positions attended to, the query's own included; 0 for no limit.
      scale: factor of the query-key products.
      operand_dtype: dtype to which operands of both products are rounded, forward and backward.

    Returns:
      output_BTHK, the new cache, and weights (B, T, H, S) with the cached positions first.

    `jax.nn.dot_product_attention` computes the same but does not return the weights; with bfloat16
    operands it also rounds its sums and has no gradient under strict promotion.
    """
    length, kept = query_BTHK.shape[1], state.key_BSMK.shape[1]
    key_BSMK = jnp.concatenate([state.key_BSMK, key_BTMK], axis=1)
    value_BSMK = jnp.concatenate([state.value_BSMK, value_BTMK], axis=1)
    filled_B = jnp.minimum(state.filled_B + length, kept)
    first = key_BSMK.shape[1] - kept
    new = AttentionState(key_BSMK[:, first:], value_BSMK[:, first:], filled_B)

    places_T, places_S = np.arange(length), np.arange(-kept, length)
    is_seen_B1TS = _visible(places_T, places_S, state.filled_B, window=window)
    bias_HTS = position.bias(places_T[:, None] - places_S[None, :], query_BTHK.shape[2])
    key_BSMK = position.rotate(key_BSMK, places_S)
    groups = query_BTHK.shape[2] // key_BSMK.shape[2]
    key_BSHK, value_BSHK = (jnp.repeat(x, groups, axis=2) for x in (key_BSMK, value_BSMK))
    query_BTHK = position.rotate(query_BTHK, places_T)
    scores_BHTS = scale * _query_key_products(query_BTHK, key_BSHK, operand_dtype)
    scores_BHTS = scores_BHTS if bias_HTS is None else scores_BHTS + bias_HTS[None]
    weights_BHTS = jax.nn.softmax(jnp.where(is_seen_B1TS, scores_BHTS, -jnp.inf), axis=-1)
    output_BTHK = _weighted_sums(weights_BHTS, value_BSHK, operand_dtype)
    return output_BTHK, new, Seen(weights=jnp.swapaxes(weights_BHTS, 1, 2))


# In float32, einsums as JAX differentiates them: runs of earlier versions resume bit for bit. In
# bfloat16, products of stacks of matrices: XLA on a CPU lacks some of the einsums' gradients.


def _query_key_products(
    query_BTHK: jax.Array, key_BSHK: jax.Array, operand_dtype: Dtype
) -> jax.Array:
    if operand_dtype == jnp.float32:
        return jnp.einsum("bthk,bshk->bhts", query_BTHK, key_BSHK)
    query_BHTK, key_BHKS = jnp.swapaxes(query_BTHK, 1, 2), jnp.transpose(key_BSHK, (0, 2, 3, 1))
    return batch_matmul(query_BHTK, key_BHKS, operand_dtype=operand_dtype)


def _weighted_sums(
    weights_BHTS: jax.Array, value_BSHK: jax.Array, operand_dtype: Dtype
) -> jax.Array:
    if operand_dtype == jnp.float32:
        return jnp.einsum("bhts,bshk->bthk", weights_BHTS, value_BSHK)
    value_BHSK = jnp.swapaxes(value_BSHK, 1, 2)
    output_BHTK = batch_matmul(weights_BHTS, value_BHSK, operand_dtype=operand_dtype)
    return jnp.swapaxes(output_BHTK, 1, 2)


def _visible(
    places_T: np.ndarray, places_S: np.ndarray, filled_B: jax.Array, *, window: int
) -> jax.Array | np.ndarray:
    """Return the attention mask, (B or 1, 1, T, S); positions before the piece are negative."""
    kept = len(places_S) - len(places_T)
    distance_TS = places_T[:, None] - places_S[None, :]
    is_seen_TS = (distance_TS >= 0) & (distance_TS < (window or distance_TS.size + 1))
    if not kept:
        return is_seen_TS[None, None]
    is_seen_TS &= distance_TS <= kept
    is_filled_BS = places_S[None, :] >= -filled_B[:, None]
    return is_seen_TS[None, None] & is_filled_BS[:, None, None, :]


class SelfAttention(nn.Module):
    """Self-attention without parameters: o_i = sum over j of W_ij x_j, W = softmax of x_i . x_j.

    The textbook's first form of self-attention, made causal.

    Attributes:
      output_size: D, also the width of the input.
      position: position encoding.
      window: maximum number of positions attended to; 0 for no limit.
      operand_dtype: dtype to which operands of matrix products are rounded.
    """

    output_size: int
    position: Position
    window: int
    operand_dtype: Dtype

    def __call__(self, x_BTD: jax.Array, state: AttentionState) -> tuple[jax.Array, AttentionState]:
        x_BT1D = x_BTD[:, :, None, :]
        output_BT1D, state, seen = attend_causally(
            x_BT1D,
            x_BT1D,
            x_BT1D,
            state,
            position=self.position,
            window=self.window,
            scale=1.0,
            operand_dtype=self.operand_dtype,
        )
        capture(self, seen)
        return output_BT1D[:, :, 0], state

    def initial_state(self, batch_size: int, context: int) -> AttentionState:
        """Return an empty cache."""
        return empty_state(batch_size, context, heads=1, width=self.output_size)


class Attention(nn.Module):
    """Attention with learned queries, keys and values (Vaswani et al. 2017, section 3.2).

        q, k, v = x W_q, x W_k, x W_v
        y       = concatenation of o over the heads, times W_o

    Attributes:
      size: total width of the heads, and width of the output.
      heads: number of query heads.
      kv_heads: number of key and value heads; if fewer, they are shared (Ainslie et al. 2023).
      qk_norm: whether queries and keys are normalized (Henry et al. 2020; here by RMSNorm, whose
        learned scale replaces the paper's).
      position: position encoding.
      window: maximum number of positions attended to; 0 for no limit (Beltagy et al. 2020,
        section 3.1).
      scheme: weight initialization scheme.
      output_init: initializer of the output projection.
      operand_dtype: dtype to which operands of matrix products are rounded.
    """

    size: int
    heads: int
    kv_heads: int
    qk_norm: bool
    position: Position
    window: int
    scheme: InitScheme
    output_init: Initializer
    operand_dtype: Dtype

    def setup(self) -> None:
        width, init = self.size // self.heads, self.scheme.kernel
        kv_size = self.kv_heads * width
        self.query = dense(self.size, init=init, operand_dtype=self.operand_dtype)
        self.key = dense(kv_size, init=init, operand_dtype=self.operand_dtype)
        self.value = dense(kv_size, init=init, operand_dtype=self.operand_dtype)
        self.output = dense(self.size, init=self.output_init, operand_dtype=self.operand_dtype)
        if self.qk_norm:
            self.query_norm, self.key_norm = nn.RMSNorm(), nn.RMSNorm()

    def __call__(self, x_BTD: jax.Array, state: AttentionState) -> tuple[jax.Array, AttentionState]:
        batch, length, _ = x_BTD.shape
        query_BTHK = self.query(x_BTD).reshape(batch, length, self.heads, -1)
        key_BTMK = self.key(x_BTD).reshape(batch, length, self.kv_heads, -1)
        value_BTMK = self.value(x_BTD).reshape(batch, length, self.kv_heads, -1)
        if self.qk_norm:
            query_BTHK, key_BTMK = self.query_norm(query_BTHK), self.key_norm(key_BTMK)
        output_BTHK, state, seen = attend_causally(
            query_BTHK,
            key_BTMK,
            value_BTMK,
            state,
            position=self.position,
            window=self.window,
            scale=float(query_BTHK.shape[-1]) ** -0.5,
            operand_dtype=self.operand_dtype,
        )
        capture(self, seen)
        return self.output(output_BTHK.reshape(batch, length, self.size)), state

    def initial_state(self, batch_size: int, context: int) -> AttentionState:
        """Return an empty cache."""
        width = self.size // self.heads
        return empty_state(batch_size, context, heads=self.kv_heads, width=width)
