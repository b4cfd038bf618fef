"""Fused LSTM recurrence: `lstm.lstm_scan` and its gradients, reordered for speed.

Results are equal up to rounding; overflow may occur at other points.

Optimisations for a CPU, measured on the textbook's model:

  features first  States and gates are (features, batch). The products then have the shape that
                  CPU matrix kernels handle best, and the four gates are contiguous slices.
  one product     A position's input is stacked below the hidden state, and its kernel below the
                  recurrent one. Symbols come in as one-hot columns, whose kernel is the projected
                  embedding: neither gathers nor a projected copy of the whole input are needed.
  one gradient    The backward scan only emits the gates' gradients. The kernel's gradient is one
                  product after the scan, instead of a sum of T products.
  tanh only       sigmoid(x) = (1 + tanh(x / 2)) / 2, with the inner half folded into the kernel
                  (exact in floating point). This takes one loop over all gates; the residuals are
                  its result, the cell and the product's operand.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from charlm_jax.models.ops import Dtype, as_written, product


class LSTMState(NamedTuple):
    """Recurrent state of an LSTM."""

    cell_BH: jax.Array
    hidden_BH: jax.Array


class _Residuals(NamedTuple):
    """Residuals of the backward pass; hidden states in x_TXB and cells are those before t."""

    x_TXB: jax.Array
    cell_THB: jax.Array
    last_cell_HB: jax.Array
    tanh_TGB: jax.Array
    kernel_XG: jax.Array


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def lstm_recurrence(
    inputs_TRB: jax.Array, state: LSTMState, kernel_XG: jax.Array, operand_dtype: Dtype
) -> tuple[jax.Array, LSTMState]:
    """Run the recurrence over inputs that are not yet projected.

        i, f, g, o = split([h; x] K)
        c' = sigmoid(f) * c + sigmoid(i) * tanh(g)
        h' = sigmoid(o) * tanh(c')

    Args:
      inputs_TRB: R inputs for every position. A bias is the kernel row of a constant input 1.
      state: cell and hidden before the first position.
      kernel_XG: K, with X = H + R rows (h first, then x) and G = 4H in the order i, f, g, o.
      operand_dtype: dtype to which operands of products are rounded, forward and backward; sums
        are float32.

    Returns:
      hidden_BTH and the state after the last position.
    """
    return _forward(inputs_TRB, state, kernel_XG, operand_dtype)[0]


def _forward(
    inputs_TRB: jax.Array, state: LSTMState, kernel_XG: jax.Array, operand_dtype: Dtype
) -> tuple[tuple[jax.Array, LSTMState], _Residuals]:
    size = state.hidden_BH.shape[1]
    kernel_GX = (kernel_XG * _inner_half(size)[None, :]).T.astype(operand_dtype)
    Carry = tuple[jax.Array, jax.Array]

    def step(carry: Carry, inputs_RB: jax.Array) -> tuple[Carry, tuple[jax.Array, ...]]:
        before_HB, hidden_HB = carry
        x_XB = jnp.concatenate([hidden_HB, inputs_RB])
        tanh_GB = jnp.tanh(product(kernel_GX, x_XB, operand_dtype))
        i_HB, f_HB, g_HB, o_HB = _gates(tanh_GB)
        cell_HB = f_HB * before_HB + i_HB * g_HB
        return (cell_HB, o_HB * jnp.tanh(cell_HB)), (x_XB, before_HB, tanh_GB)

    (last_cell_HB, last_HB), (x_TXB, cell_THB, tanh_TGB) = jax.lax.scan(
        step, (state.cell_BH.T, state.hidden_BH.T), inputs_TRB
    )
    hidden_THB = jnp.concatenate([x_TXB[1:, :size], last_HB[None]])
    outputs = jnp.transpose(hidden_THB, (2, 0, 1)), LSTMState(last_cell_HB.T, last_HB.T)
    return outputs, _Residuals(x_TXB, cell_THB, last_cell_HB, tanh_TGB, kernel_XG)


def _backward(
    operand_dtype: Dtype, residuals: _Residuals, gradients: tuple[jax.Array, LSTMState]
) -> tuple[jax.Array, LSTMState, jax.Array]:
    x_TXB, cell_THB, last_cell_HB, tanh_TGB, kernel_XG = residuals
    dhidden_BTH, dstate = gradients
    size = cell_THB.shape[1]
    recurrent_HG = kernel_XG[:size].astype(operand_dtype)
    Carry = tuple[jax.Array, jax.Array, jax.Array]

    def step(carry: Carry, position: tuple[jax.Array, ...]) -> tuple[Carry, jax.Array]:
        dcell_HB, dhidden_HB, cell_HB = carry
        doutput_BH, before_HB, tanh_GB = position
        i_HB, f_HB, g_HB, o_HB = _gates(tanh_GB)
        tanh_cell_HB = jnp.tanh(cell_HB)
        dhidden_HB = dhidden_HB + doutput_BH.T
        dcell_HB = dcell_HB + dhidden_HB * o_HB * (1.0 - tanh_cell_HB**2)
        di_HB, df_HB, dg_HB, do_HB = (1.0 - x**2 for x in jnp.split(tanh_GB, 4))
        dgates_GB = jnp.concatenate(
            [
                0.25 * dcell_HB * g_HB * di_HB,
                0.25 * dcell_HB * before_HB * df_HB,
                dcell_HB * i_HB * dg_HB,
                0.25 * dhidden_HB * tanh_cell_HB * do_HB,
            ]
        )
        dhidden_HB = product(recurrent_HG, dgates_GB, operand_dtype)
        return (dcell_HB * f_HB, dhidden_HB, before_HB), dgates_GB

    start = (dstate.cell_BH.T, dstate.hidden_BH.T, last_cell_HB)
    positions = (jnp.swapaxes(dhidden_BTH, 0, 1), cell_THB, tanh_TGB)
    (dcell_HB, dhidden_HB, _), dgates_TGB = jax.lax.scan(step, start, positions, reverse=True)
    dinputs_TRB = jax.vmap(lambda x: product(kernel_XG[size:], x, operand_dtype))(dgates_TGB)
    x_XN = as_written(jnp.swapaxes(x_TXB, 0, 1)).reshape(x_TXB.shape[1], -1)
    dgates_NG = as_written(jnp.swapaxes(dgates_TGB, 1, 2)).reshape(-1, 4 * size)
    dkernel_XG = product(x_XN, dgates_NG, operand_dtype)
    return dinputs_TRB, LSTMState(dcell_HB.T, dhidden_HB.T), dkernel_XG


lstm_recurrence.defvjp(_forward, _backward)


def _inner_half(size: int) -> jax.Array:
    """Return the factor of each gate's argument inside its tanh: 1/2 for the three sigmoids."""
    return jnp.repeat(jnp.array([0.5, 0.5, 1.0, 0.5]), size)


def _gates(tanh_GB: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    i_HB, f_HB, g_HB, o_HB = jnp.split(tanh_GB, 4)
    return 0.5 + 0.5 * i_HB, 0.5 + 0.5 * f_HB, g_HB, 0.5 + 0.5 * o_HB
