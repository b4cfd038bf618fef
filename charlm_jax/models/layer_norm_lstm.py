"""LSTM with layer normalization of its gates and its cell (Ba et al. 2016).

Source: arXiv 1607.06450, equations (20) to (22), in the supplementary material.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from charlm_jax.models.initializers import InitScheme, forget_gate_bias
from charlm_jax.models.lstm import lstm_cell
from charlm_jax.models.lstm_fused import LSTMState
from charlm_jax.models.ops import Dtype, Seen, dense, layer_norm
from charlm_jax.models.recurrence import Multiply, run_layer


class Norms(NamedTuple):
    """Parameters of the norms inside the recurrence.

    Attributes:
      recurrent_scale_G: a_1.
      cell_scale_H: a_3.
      cell_bias_H: b_3.
    """

    recurrent_scale_G: jax.Array
    cell_scale_H: jax.Array
    cell_bias_H: jax.Array


class LayerNormLSTM(nn.Module):
    """One layer-normalized LSTM layer.

        i, f, g, o = split(LN(h U; a_1) + LN(x W; a_2) + b)      (20)
        c' = sigmoid(f) * c + sigmoid(i) * tanh(g)               (21)
        h' = sigmoid(o) * tanh(LN(c'; a_3, b_3))                 (22)

    LN(z; a, b) = a * (z - mean) / sqrt(variance + 1e-5) + b, over the four gates together in (20).
    The equations' numbers are the paper's, which also has biases in the two norms of (20), where
    they would only add to b, and no 1e-5. No gradient flows through a norm of zeros, such as those
    of a state that is still 0. The cell is carried as it is: its norm acts where it is read.

    Attributes:
      hidden_size: H.
      scheme: weight initialization scheme.
      operand_dtype: dtype to which operands of matrix products are rounded.
    """

    hidden_size: int
    scheme: InitScheme
    operand_dtype: Dtype = jnp.float32

    def setup(self) -> None:
        scheme, size, ones = self.scheme, self.hidden_size, nn.initializers.ones
        self.input = dense(4 * size, init=scheme.gate_kernel(4), operand_dtype=self.operand_dtype)
        self.recurrent_kernel = self.param(
            "recurrent_kernel", scheme.recurrent_kernel(4), (size, 4 * size)
        )
        self.bias = self.param("bias", forget_gate_bias(scheme.forget_bias), (4 * size,))
        self.input_scale = self.param("input_scale", ones, (4 * size,))
        self.norms = Norms(
            self.param("recurrent_scale", ones, (4 * size,)),
            self.param("cell_scale", ones, (size,)),
            self.param("cell_bias", nn.initializers.zeros, (size,)),
        )

    def project(self, x: jax.Array) -> jax.Array:
        """Return the normalized input projection LN(x W; a_2) + b, for inputs of any rank."""
        return layer_norm(self.input(x), self.input_scale, self.bias)

    def mix(self, z_BTG: jax.Array, state: LSTMState) -> tuple[jax.Array, LSTMState]:
        """Run the recurrence over projected inputs, G = 4H in the order i, f, g, o."""
        kernels = {"recurrent": self.recurrent_kernel}
        return run_layer(
            self,
            layer_norm_lstm_step,
            state,
            z_BTG,
            kernels,
            self.norms,
            operand_dtype=self.operand_dtype,
        )

    def __call__(self, x_BTD: jax.Array, state: LSTMState) -> tuple[jax.Array, LSTMState]:
        return self.mix(self.project(x_BTD), state)

    def initial_state(self, batch_size: int, context: int) -> LSTMState:
        """Return a state of zeros; a recurrent state ignores the context."""
        del context
        zeros_BH = jnp.zeros((batch_size, self.hidden_size))
        return LSTMState(zeros_BH, zeros_BH)


def layer_norm_lstm_step(
    state: LSTMState, z_BG: jax.Array, multiply: Multiply, norms: Norms
) -> tuple[LSTMState, Seen]:
    """Compute one position.

    Args:
      state: cell and hidden before it.
      z_BG: LN(x W; a_2) + b.
      multiply: product with the kernel `recurrent`.
      norms: parameters of the other norms.

    Returns:
      The state after it, and its gates.
    """
    zeros_G = jnp.zeros_like(norms.recurrent_scale_G)
    recurrent_BG = multiply("recurrent", state.hidden_BH)
    gates_BG = z_BG + layer_norm(recurrent_BG, norms.recurrent_scale_G, zeros_G)
    cell_BH, o_BH, seen = lstm_cell(gates_BG, state.cell_BH)
    read_BH = layer_norm(cell_BH, norms.cell_scale_H, norms.cell_bias_H)
    return LSTMState(cell_BH, o_BH * jnp.tanh(read_BH)), seen
