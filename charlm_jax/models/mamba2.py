"""Mamba 2 (Dao and Gu 2024, arXiv 2405.21060): a selective state space with one decay per head."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from charlm_jax.models.convolution import ShortConvolution, empty_past
from charlm_jax.models.decay import Decay
from charlm_jax.models.initializers import Initializer, InitScheme
from charlm_jax.models.matrix_memory import decayed_memory
from charlm_jax.models.ops import Dtype, Seen, capture, dense, spread

_EXPANSION = 2  # width of the inner channels, relative to that of the output


class Mamba2State(NamedTuple):
    """State of a Mamba 2 layer, and the last inputs of its convolution.

    Attributes:
      past_BSX: inputs of the convolution before the piece, the latest last; X = I + 2 K,
        with I = H P inner channels.
      memory_BHKP: state of each head; K is the paper's N.
    """

    past_BSX: jax.Array
    memory_BHKP: jax.Array


class Mamba2(nn.Module):
    """One Mamba 2 layer.

        z, u, B, C, d = split(x W)
        u, B, C = silu(convolution(u, B, C))        step = softplus(d + d_0)
        M'  = exp(-A step) M + B (step u)^T                      (2a)
        o   = M'^T C + D u                                       (2b)
        y   = norm(o * silu(z)) W_o

    The selective state space (2) is the paper's, with Mamba's steps and skip D u, which (2) leaves
    out, one A, step and D for each head, and B and C common to all heads (one group). The layer is
    that of its section 7.1 and figure 6: twice as many inner channels as outputs, and an RMSNorm
    over all of them before W_o. There are no biases but those of the convolution and of the steps.

    Attributes:
      size: width of the output; the heads' values are 2 size / heads wide.
      heads: number of heads.
      state_size: K, width of B and C.
      conv_width: width of the convolution, 4 in the paper; 0 for none.
      chunk_size: positions computed at once; 1 for one at a time.
      scheme: weight initialization scheme.
      output_init: initializer of W_o.
      operand_dtype: dtype to which operands of matrix products are rounded.
    """

    size: int
    heads: int
    state_size: int
    conv_width: int
    chunk_size: int
    scheme: InitScheme
    output_init: Initializer
    operand_dtype: Dtype

    def setup(self) -> None:
        inner = _EXPANSION * self.size
        width = 2 * inner + 2 * self.state_size + self.heads
        self.input = dense(width, init=self.scheme.kernel, operand_dtype=self.operand_dtype)
        self.convolution = ShortConvolution(inner + 2 * self.state_size, self.conv_width)
        self.decay = Decay(self.heads)
        self.skip_scale = self.param("skip_scale", nn.initializers.ones, (self.heads,))
        self.norm = nn.RMSNorm(epsilon=1e-6)
        self.output = dense(self.size, init=self.output_init, operand_dtype=self.operand_dtype)

    def project(self, x: jax.Array) -> jax.Array:
        """Return the input projection x W, for inputs of any rank."""
        return self.input(x)

    def mix(self, z_BTG: jax.Array, state: Mamba2State) -> tuple[jax.Array, Mamba2State]:
        """Run the rest of the layer over projected inputs: z, u, B, C, d."""
        batch, length, _ = z_BTG.shape
        inner, size = _EXPANSION * self.size, self.state_size
        z_BTI, inputs_BTX, step_BTH = jnp.split(z_BTG, [inner, 2 * inner + 2 * size], axis=-1)
        inputs_BTX, past_BSX = self.convolution(inputs_BTX, state.past_BSX)
        u_BTI, key_BTK, query_BTK = jnp.split(jax.nn.silu(inputs_BTX), [inner, inner + size], -1)
        u_BTHP = u_BTI.reshape(batch, length, self.heads, -1)
        step_BTH, log_keep_BTH = self.decay(step_BTH)
        output_BTHP, memory_BHKP = decayed_memory(
            query_BTK[:, :, None],
            key_BTK[:, :, None],
            step_BTH[..., None] * u_BTHP,
            log_keep_BTH,
            state.memory_BHKP,
            chunk_size=self.chunk_size,
            operand_dtype=self.operand_dtype,
        )
        output_BTHP = output_BTHP + self.skip_scale[None, None, :, None] * u_BTHP
        hidden_BTI = output_BTHP.reshape(batch, length, inner)
        forget_BTI = spread(jnp.exp(log_keep_BTH), inner)
        capture(self, Seen(forget_gate=forget_BTI, hidden=hidden_BTI))
        y_BTD = self.output(self.norm(hidden_BTI * jax.nn.silu(z_BTI)))
        return y_BTD, Mamba2State(past_BSX, memory_BHKP)

    def __call__(self, x_BTD: jax.Array, state: Mamba2State) -> tuple[jax.Array, Mamba2State]:
        return self.mix(self.project(x_BTD), state)

    def initial_state(self, batch_size: int, context: int) -> Mamba2State:
        """Return a state of zeros; a recurrent state ignores the context."""
        del context
        inner = _EXPANSION * self.size
        channels = inner + 2 * self.state_size
        past_BSX = empty_past(batch_size, channels=channels, width=self.conv_width)
        shape = (batch_size, self.heads, self.state_size, inner // self.heads)
        return Mamba2State(past_BSX, jnp.zeros(shape))
