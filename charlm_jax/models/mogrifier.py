"""LSTM whose input and state modulate each other before every step (Melis et al. 2020).

Source: arXiv 1909.01792, equations (1) and (2).
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn

from charlm_jax.models.initializers import InitScheme, forget_gate_bias
from charlm_jax.models.lstm import lstm_cell
from charlm_jax.models.lstm_fused import LSTMState
from charlm_jax.models.ops import Dtype, Seen
from charlm_jax.models.recurrence import Multiply, run_layer


class MogrifierLSTM(nn.Module):
    """One LSTM layer with r >= 1 rounds of modulation.

        x = 2 sigmoid(h Q_i) * x      for odd i from 1 to r      (1)
        h = 2 sigmoid(x R_i) * h      for even i                 (2)
        i, f, g, o = split(x W + h U + b)
        c' = sigmoid(f) * c + sigmoid(i) * tanh(g)
        h' = sigmoid(o) * tanh(c')

    The numbers are the paper's. Q_i and R_i are full matrices without a bias; the paper also
    factorizes them. Without rounds it would be the LSTM of `lstm.py`. No product can be computed
    for all positions at once, since even the input depends on the state. b is a row of the kernel
    of the gates: with bfloat16 it is rounded too.

    Attributes:
      hidden_size: H.
      rounds: r.
      scheme: weight initialization scheme.
      operand_dtype: dtype to which operands of matrix products are rounded.
    """

    hidden_size: int
    rounds: int
    scheme: InitScheme
    operand_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x_BTD: jax.Array, state: LSTMState) -> tuple[jax.Array, LSTMState]:
        scheme, size, width = self.scheme, self.hidden_size, x_BTD.shape[-1]
        input_kernel_DG = self.param("input_kernel", scheme.gate_kernel(4), (width, 4 * size))
        recurrent_kernel_HG = self.param(
            "recurrent_kernel", scheme.recurrent_kernel(4), (size, 4 * size)
        )
        bias_G = self.param("bias", forget_gate_bias(scheme.forget_bias), (4 * size,))
        kernels = {
            "gates": jnp.concatenate([input_kernel_DG, recurrent_kernel_HG, bias_G[None, :]])
        }
        for index in range(1, self.rounds + 1):
            shape = (size, width) if index % 2 else (width, size)
            kernels[f"round_{index}"] = self.param(f"round_{index}_kernel", scheme.kernel, shape)
        step = partial(mogrifier_step, rounds=self.rounds)
        return run_layer(self, step, state, x_BTD, kernels, operand_dtype=self.operand_dtype)

    def initial_state(self, batch_size: int, context: int) -> LSTMState:
        """Return a state of zeros; a recurrent state ignores the context."""
        del context
        zeros_BH = jnp.zeros((batch_size, self.hidden_size))
        return LSTMState(zeros_BH, zeros_BH)


def mogrifier_step(
    state: LSTMState, x_BD: jax.Array, multiply: Multiply, *, rounds: int
) -> tuple[LSTMState, Seen]:
    """Compute one position.

    Args:
      state: cell and hidden before it.
      x_BD: its input.
      multiply: product with the kernels `round_1` to `round_r`, or with `gates`: W, U and b, one
        above the other.
      rounds: r.

    Returns:
      The state after it, and its gates.
    """
    h_BH = state.hidden_BH
    for index in range(1, rounds + 1):
        if index % 2:
            x_BD = 2.0 * jax.nn.sigmoid(multiply(f"round_{index}", h_BH)) * x_BD
        else:
            h_BH = 2.0 * jax.nn.sigmoid(multiply(f"round_{index}", x_BD)) * h_BH
    stacked_BX = jnp.concatenate([x_BD, h_BH, jnp.ones_like(x_BD[:, :1])], axis=1)
    cell_BH, o_BH, seen = lstm_cell(multiply("gates", stacked_BX), state.cell_BH)
    return LSTMState(cell_BH, o_BH * jnp.tanh(cell_BH)), seen
