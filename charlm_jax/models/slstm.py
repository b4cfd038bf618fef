"""Scalar LSTM of xLSTM: exponential gates, a normalizer, and heads (Beck et al. 2024).

Source: arXiv 2405.04517, section 2.2.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from charlm_jax.models.initializers import InitScheme, forget_gate_bias, stacked_blocks
from charlm_jax.models.ops import Dtype, Seen, dense
from charlm_jax.models.recurrence import Multiply, run_layer


class SLSTMState(NamedTuple):
    """Recurrent state of an sLSTM.

    Attributes:
      cell_BH: exp(-m) c.
      normalizer_BH: exp(-m) n; 0 if nothing was read, at least 1 afterwards.
      hidden_BH: h.
      stabilizer_BH: m.
    """

    cell_BH: jax.Array
    normalizer_BH: jax.Array
    hidden_BH: jax.Array
    stabilizer_BH: jax.Array


class SLSTM(nn.Module):
    """One sLSTM layer.

        i, f, z, o = split(x W + h R + b)
        c' = sigmoid(f) c + exp(i) tanh(z)                  (8)
        n' = sigmoid(f) n + exp(i)                          (9)
        h' = sigmoid(o) c' / n'                             (10)

    The numbers are the paper's. Its forget gate may also be exponential; here it is a sigmoid. R is
    block-diagonal: the units of a head see those of that head. c and n are stored times exp(-m),
    with the paper's stabilizer

        m' = max(log sigmoid(f) + m, i)                     (15)

    and m' = i at the first position. As h does not depend on m, no gradient flows through m. The
    paper's block has a convolution before the input and forget gates and a norm after the cell;
    this layer has neither. W is dense, where the paper's has the blocks of R. The scheme sets
    the start; the authors' code starts R at 0 and spreads the forget biases over [-7, 5].

    Attributes:
      hidden_size: H.
      heads: number of heads, the blocks of R.
      scheme: weight initialization scheme.
      operand_dtype: dtype to which operands of matrix products are rounded.
    """

    hidden_size: int
    heads: int
    scheme: InitScheme
    operand_dtype: Dtype = jnp.float32

    def setup(self) -> None:
        scheme, size, width = self.scheme, self.hidden_size, self.hidden_size // self.heads
        self.input = dense(
            4 * size,
            init=scheme.gate_kernel(4),
            bias=True,
            bias_init=forget_gate_bias(scheme.forget_bias),
            operand_dtype=self.operand_dtype,
        )
        self.recurrent_kernel = self.param(
            "recurrent_kernel",
            stacked_blocks(scheme.recurrent_kernel(4)),
            (self.heads, width, 4 * width),
        )

    def project(self, x: jax.Array) -> jax.Array:
        """Return the input projection x W + b, for inputs of any rank."""
        return self.input(x)

    def mix(self, z_BTG: jax.Array, state: SLSTMState) -> tuple[jax.Array, SLSTMState]:
        """Run the recurrence over projected inputs, G = 4H in the order i, f, z, o."""
        step = partial(slstm_step, heads=self.heads)
        kernels = {"recurrent": self.recurrent_kernel}
        return run_layer(self, step, state, z_BTG, kernels, operand_dtype=self.operand_dtype)

    def __call__(self, x_BTD: jax.Array, state: SLSTMState) -> tuple[jax.Array, SLSTMState]:
        return self.mix(self.project(x_BTD), state)

    def initial_state(self, batch_size: int, context: int) -> SLSTMState:
        """Return a state of zeros; a recurrent state ignores the context."""
        del context
        return SLSTMState(*[jnp.zeros((batch_size, self.hidden_size))] * 4)


def slstm_step(
    state: SLSTMState, z_BG: jax.Array, multiply: Multiply, *, heads: int
) -> tuple[SLSTMState, Seen]:
    """Compute one position.

    Args:
      state: state before it.
      z_BG: x W + b, with G = 4H in the order i, f, z, o.
      multiply: product with the kernel `recurrent`.
      heads: number of heads.

    Returns:
      The state after it, and its gates. `forget_gate` is exp(log sigmoid(f) + m - m') and
      `input_gate` exp(i - m'), the factors of the stored c and n; `cell` is c' / n'.
    """
    batch, size = state.hidden_BH.shape
    recurrent_BMG = multiply("recurrent", state.hidden_BH.reshape(batch, heads, -1))
    i_BH, f_BH, candidate_BH, o_BH = (
        z_BH + recurrent_BMK.reshape(batch, size)
        for z_BH, recurrent_BMK in zip(
            jnp.split(z_BG, 4, axis=-1), jnp.split(recurrent_BMG, 4, axis=-1), strict=True
        )
    )
    log_forget_BH = jax.nn.log_sigmoid(f_BH)
    # A state that has read nothing has c = n = 0 for any m; the least one makes n' = 1.
    before_BH = jnp.where(state.normalizer_BH > 0.0, state.stabilizer_BH, -jnp.inf)
    before_BH = jax.lax.stop_gradient(before_BH)
    after_BH = jax.lax.stop_gradient(jnp.maximum(log_forget_BH + before_BH, i_BH))
    forget_BH = jnp.exp(log_forget_BH + before_BH - after_BH)
    input_BH = jnp.exp(i_BH - after_BH)
    candidate_BH, output_BH = jnp.tanh(candidate_BH), jax.nn.sigmoid(o_BH)
    cell_BH = forget_BH * state.cell_BH + input_BH * candidate_BH
    normalizer_BH = forget_BH * state.normalizer_BH + input_BH
    mean_BH = cell_BH / normalizer_BH
    seen = Seen(
        input_gate=input_BH,
        forget_gate=forget_BH,
        candidate=candidate_BH,
        output_gate=output_BH,
        cell=mean_BH,
    )
    return SLSTMState(cell_BH, normalizer_BH, output_BH * mean_BH, after_BH), seen
