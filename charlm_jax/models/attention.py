"""Causal self-attention as layers: with queries, keys and values, and without parameters.

A layer carries the keys and values of the last `context` positions, oldest first. Every position
then sees as many before its own, in this piece or kept from earlier ones; so it comes out the same
however a text is cut into pieces. With a context of 0, as in training on separate windows, nothing
is kept, and a position sees all of the piece that lies before it.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from charlm_jax.models.initializers import Initializer, InitScheme
from charlm_jax.models.ops import Dtype, Seen, capture, dense
from charlm_jax.models.positions import Position


class AttentionState(NamedTuple):
    """What attention keeps of the positions before a piece, M heads of keys and values.

    Keys are kept as they are before they are rotated.

    Attributes:
      key_BSMK: the latest stands last.
      value_BSMK: likewise.
      filled_B: how many of the last places are filled.
    """

    key_BSMK: jax.Array
    value_BSMK: jax.Array
    filled_B: jax.Array


def empty_state(batch_size: int, context: int, *, heads: int, width: int) -> AttentionState:
    """Nothing read yet, and room for `context` positions."""
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
    """Attention of every position to itself and to those before it.

        W_ts = softmax over s of scale * (q_t . k_s) + bias_ts
        o_t  = sum over s of W_ts v_s

    Args:
      query_BTHK: of the piece, H heads.
      key_BTMK: likewise, M heads, each for H / M heads of queries.
      value_BTMK: likewise.
      state: what was kept from before.
      position: where order comes in.
      window: most positions that one sees, its own included; 0 is all.
      scale: factor of the products.
      operand_dtype: what both products round their operands to.

    Returns:
      output_BTHK, what is kept now, and weights (B, T, H, S) with the kept positions first.

    `jax.nn.dot_product_attention` computes the same, but it shows no weights, and where operands
    are bfloat16 it rounds its sums too and has no gradient under strict promotion.
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
    query_BTHK = position.rotate(query_BTHK, places_T).astype(operand_dtype)
    key_BSMK = position.rotate(key_BSMK, places_S).astype(operand_dtype)
    value_BSMK = value_BSMK.astype(operand_dtype)
    groups = query_BTHK.shape[2] // key_BSMK.shape[2]
    key_BSHK, value_BSHK = (jnp.repeat(x, groups, axis=2) for x in (key_BSMK, value_BSMK))
    scores_BHTS = scale * jnp.einsum(
        "bthk,bshk->bhts", query_BTHK, key_BSHK, preferred_element_type=jnp.float32
    )
    scores_BHTS = scores_BHTS if bias_HTS is None else scores_BHTS + bias_HTS[None]
    weights_BHTS = jax.nn.softmax(jnp.where(is_seen_B1TS, scores_BHTS, -jnp.inf), axis=-1)
    output_BTHK = jnp.einsum(
        "bhts,bshk->bthk",
        weights_BHTS.astype(operand_dtype),
        value_BSHK,
        preferred_element_type=jnp.float32,
    )
    return output_BTHK, new, Seen(weights=jnp.swapaxes(weights_BHTS, 1, 2))


def _visible(
    places_T: np.ndarray, places_S: np.ndarray, filled_B: jax.Array, *, window: int
) -> jax.Array | np.ndarray:
    """Which places each position sees, (B or 1, 1, T, S); those before the piece are below 0."""
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

    The textbook's first form, made causal.

    Attributes:
      output_size: D, which is also the input's.
      position: where order comes in.
      window: most positions that one sees; 0 is all.
      operand_dtype: what products round their operands to.
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
        """Nothing read yet."""
        return empty_state(batch_size, context, heads=1, width=self.output_size)


class Attention(nn.Module):
    """Attention with learned queries, keys and values (Vaswani et al. 2017, section 3.2).

        q, k, v = x W_q, x W_k, x W_v
        y       = concatenation of o over the heads, times W_o

    Attributes:
      size: width of all heads together, and of the output.
      heads: of queries.
      kv_heads: of keys and values; fewer of them are shared (Ainslie et al. 2023).
      qk_norm: whether queries and keys are normalised (Henry et al. 2020; here by RMSNorm, whose
        learned scale stands for the paper's).
      position: where order comes in.
      window: most positions that one sees; 0 is all (Beltagy et al. 2020, section 3.1).
      scheme: how weights are drawn.
      output_init: those of the output projection.
      operand_dtype: what products round their operands to.
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
        """Nothing read yet."""
        width = self.size // self.heads
        return empty_state(batch_size, context, heads=self.kv_heads, width=width)
