"""Gated recurrent unit (Cho et al. 2014), in the form that cuDNN, Keras 3 and PyTorch compute."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from charlm_jax.models.initializers import InitScheme
from charlm_jax.models.ops import Dtype, Seen, capture, dense, matmul, scan_time


class GRUState(NamedTuple):
    """Recurrent state of a GRU."""

    hidden_BH: jax.Array


def gru_cell(
    z_BG: jax.Array, hr_BH: jax.Array, hu_BH: jax.Array, hn_BH: jax.Array, hidden_BH: jax.Array
) -> tuple[GRUState, Seen]:
    """Compute the new state of a GRU.

        r, u = sigmoid(z_r + h_r), sigmoid(z_u + h_u)
        n = tanh(z_n + r * h_n)
        h' = (1 - u) * n + u * h

    Args:
      z_BG: the input's share of reset gate, update gate and candidate, G = 3H.
      hr_BH: the state's share of the reset gate.
      hu_BH: the state's share of the update gate.
      hn_BH: the state's share of the candidate.
      hidden_BH: h.

    Returns:
      h', and the gates with it.
    """
    zr_BH, zu_BH, zn_BH = jnp.split(z_BG, 3, axis=-1)
    reset_BH = jax.nn.sigmoid(zr_BH + hr_BH)
    update_BH = jax.nn.sigmoid(zu_BH + hu_BH)
    candidate_BH = jnp.tanh(zn_BH + reset_BH * hn_BH)
    hidden_BH = (1.0 - update_BH) * candidate_BH + update_BH * hidden_BH
    seen = Seen(
        reset_gate=reset_BH,
        update_gate=update_BH,
        candidate=candidate_BH,
        hidden=hidden_BH,
    )
    return GRUState(hidden_BH), seen


def gru_scan(
    z_BTG: jax.Array,
    state: GRUState,
    recurrent_kernel_HG: jax.Array,
    candidate_bias_H: jax.Array,
    *,
    operand_dtype: Dtype = jnp.float32,
) -> tuple[jax.Array, GRUState, Seen]:
    """Run the recurrence on inputs that are already projected.

        r, u = sigmoid(z_r + h U_r), sigmoid(z_u + h U_u)
        n = tanh(z_n + r * (h U_n + b_n))
        h' = (1 - u) * n + u * h

    The reset gate acts after the recurrent product; in the paper it acts before.

    Args:
      z_BTG: x W + b, with G = 3H stacked in the order reset, update, candidate.
      state: state before the first position.
      recurrent_kernel_HG: U.
      candidate_bias_H: b_n, inside the reset gate's product.
      operand_dtype: dtype to which operands of the product with U are rounded.

    Returns:
      hidden_BTH, the state after the last position, and gates and state at every position.
    """

    def step(state: GRUState, z_BG: jax.Array) -> tuple[GRUState, tuple[jax.Array, Seen]]:
        recurrent_BG = matmul(state.hidden_BH, recurrent_kernel_HG, operand_dtype=operand_dtype)
        hr_BH, hu_BH, hn_BH = jnp.split(recurrent_BG, 3, axis=-1)
        hn_BH = hn_BH + candidate_bias_H[None, :]
        state, seen = gru_cell(z_BG, hr_BH, hu_BH, hn_BH, state.hidden_BH)
        return state, (state.hidden_BH, seen)

    state, (hidden_BTH, seen) = scan_time(step, state, z_BTG)
    return hidden_BTH, state, seen


class GRU(nn.Module):
    """One GRU layer.

    Attributes:
      hidden_size: H.
      scheme: weight initialization scheme.
      operand_dtype: dtype to which operands of matrix products are rounded.
    """

    hidden_size: int
    scheme: InitScheme
    operand_dtype: Dtype = jnp.float32

    def setup(self) -> None:
        scheme, size = self.scheme, self.hidden_size
        self.input = dense(
            3 * size, init=scheme.gate_kernel(3), bias=True, operand_dtype=self.operand_dtype
        )
        self.recurrent_kernel = self.param(
            "recurrent_kernel", scheme.recurrent_kernel(3), (size, 3 * size)
        )
        self.candidate_bias = self.param("candidate_bias", nn.initializers.zeros, (size,))

    def project(self, x: jax.Array) -> jax.Array:
        """Return the input projection x W + b, for inputs of any rank."""
        return self.input(x)

    def mix(self, z_BTG: jax.Array, state: GRUState) -> tuple[jax.Array, GRUState]:
        """Run the recurrence over projected inputs."""
        hidden_BTH, state, seen = gru_scan(
            z_BTG,
            state,
            self.recurrent_kernel,
            self.candidate_bias,
            operand_dtype=self.operand_dtype,
        )
        capture(self, seen)
        return hidden_BTH, state

    def __call__(self, x_BTD: jax.Array, state: GRUState) -> tuple[jax.Array, GRUState]:
        return self.mix(self.project(x_BTD), state)

    def initial_state(self, batch_size: int, context: int) -> GRUState:
        """Return a state of zeros; a recurrent state ignores the context."""
        del context
        return GRUState(jnp.zeros((batch_size, self.hidden_size)))
