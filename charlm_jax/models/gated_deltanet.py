"""Gated DeltaNet (Yang et al. 2025, arXiv 2412.06464): a matrix memory that corrects itself."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from charlm_jax.models.convolution import ShortConvolution, empty_past
from charlm_jax.models.decay import Decay
from charlm_jax.models.initializers import Initializer, InitScheme
from charlm_jax.models.matrix_memory import delta_memory
from charlm_jax.models.ops import Dtype, Seen, capture, dense, spread

_LEAST = 1e-6  # added to squared lengths of queries and keys


class GatedDeltaNetState(NamedTuple):
    """Memory of a Gated DeltaNet, and the last inputs of its convolution.

    Attributes:
      past_BSX: inputs of the convolution before the piece, the latest last; X = 3 H K.
      memory_BHKP: memory of each head; keys are rows, values columns.
    """

    past_BSX: jax.Array
    memory_BHKP: jax.Array


class GatedDeltaNet(nn.Module):
    """One layer of Gated DeltaNet.

        q, k, v, z, a, b = split(x W)
        q, k, v = silu(convolution(q, k, v))        q, k = q / |q|, k / |k|
        keep    = exp(-A softplus(a + a_0))         rate = sigmoid(b)
        M'      = keep * (I - rate k k^T) M + rate * k v^T           (10)
        y       = (norm(M'^T q) * silu(z)) W_o

    Equation (10) is the paper's, with M the transpose of its S; the layer around it is that of
    section 3.4 and figure 1. A head's keys and values are both as wide as its share of the output
    (in the authors' code values are twice as wide as keys, and the convolution has no bias). 1e-6
    is added to |q|^2 and |k|^2, so that zeros stay zeros. The norm is RMSNorm over each head.

    Attributes:
      size: total width of the heads' values, and width of the output.
      heads: number of heads.
      conv_width: width of the convolution, 4 in the paper; 0 for none.
      chunk_size: positions computed at once; 1 for one at a time.
      scheme: weight initialization scheme.
      output_init: initializer of W_o.
      operand_dtype: dtype to which operands of matrix products are rounded.
    """

    size: int
    heads: int
    conv_width: int
    chunk_size: int
    scheme: InitScheme
    output_init: Initializer
    operand_dtype: Dtype

    def setup(self) -> None:
        width = 4 * self.size + 2 * self.heads
        self.input = dense(width, init=self.scheme.kernel, operand_dtype=self.operand_dtype)
        self.convolution = ShortConvolution(3 * self.size, self.conv_width)
        self.decay = Decay(self.heads)
        self.norm = nn.RMSNorm(epsilon=1e-6)
        self.output = dense(self.size, init=self.output_init, operand_dtype=self.operand_dtype)

    def project(self, x: jax.Array) -> jax.Array:
        """Return the input projection x W, for inputs of any rank."""
        return self.input(x)

    def mix(
        self, z_BTG: jax.Array, state: GatedDeltaNetState
    ) -> tuple[jax.Array, GatedDeltaNetState]:
        """Run the rest of the layer over projected inputs: q, k, v, z, a, b."""
        batch, length, _ = z_BTG.shape
        size, heads = self.size, self.heads
        qkv_BTX, z_BTD, a_BTH, b_BTH = jnp.split(z_BTG, [3 * size, 4 * size, 4 * size + heads], -1)
        qkv_BTX, past_BSX = self.convolution(qkv_BTX, state.past_BSX)
        query_BTHK, key_BTHK, value_BTHP = (
            x.reshape(batch, length, heads, -1) for x in jnp.split(jax.nn.silu(qkv_BTX), 3, axis=-1)
        )
        _, log_keep_BTH = self.decay(a_BTH)
        rate_BTH = jax.nn.sigmoid(b_BTH)
        output_BTHP, memory_BHKP = delta_memory(
            _unit(query_BTHK),
            _unit(key_BTHK),
            value_BTHP,
            log_keep_BTH,
            rate_BTH,
            state.memory_BHKP,
            chunk_size=self.chunk_size,
            operand_dtype=self.operand_dtype,
        )
        hidden_BTD = self.norm(output_BTHP).reshape(batch, length, size)
        seen = Seen(
            forget_gate=spread(jnp.exp(log_keep_BTH), size),
            rate_gate=spread(rate_BTH, size),
            hidden=hidden_BTD,
        )
        capture(self, seen)
        y_BTD = self.output(hidden_BTD * jax.nn.silu(z_BTD))
        return y_BTD, GatedDeltaNetState(past_BSX, memory_BHKP)

    def __call__(
        self, x_BTD: jax.Array, state: GatedDeltaNetState
    ) -> tuple[jax.Array, GatedDeltaNetState]:
        return self.mix(self.project(x_BTD), state)

    def initial_state(self, batch_size: int, context: int) -> GatedDeltaNetState:
        """Return a state of zeros; a recurrent state ignores the context."""
        del context
        width = self.size // self.heads
        past_BSX = empty_past(batch_size, channels=3 * self.size, width=self.conv_width)
        return GatedDeltaNetState(past_BSX, jnp.zeros((batch_size, self.heads, width, width)))


def _unit(x: jax.Array) -> jax.Array:
    """Return vectors of length 1, along the last axis; shorter ones if their own was near 0."""
    return x * jax.lax.rsqrt(jnp.sum(x * x, axis=-1, keepdims=True) + _LEAST)
