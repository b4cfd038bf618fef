"""The plain recurrent network (Elman 1990)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from charlm_jax.models.initializers import InitScheme
from charlm_jax.models.ops import Dtype, dense, matmul, scan_time


class RNNState(NamedTuple):
    """Recurrent state of a plain RNN."""

    hidden_BH: jax.Array


class RNN(nn.Module):
    """One recurrent layer: h' = tanh(x W + b + h U).

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
            size, init=scheme.gate_kernel(1), bias=True, operand_dtype=self.operand_dtype
        )
        self.recurrent_kernel = self.param(
            "recurrent_kernel", scheme.recurrent_kernel(1), (size, size)
        )

    def project(self, x: jax.Array) -> jax.Array:
        """Return the input projection x W + b, for inputs of any rank."""
        return self.input(x)

    def mix(self, z_BTH: jax.Array, state: RNNState) -> tuple[jax.Array, RNNState]:
        """Run the recurrence over projected inputs."""
        kernel_HH, dtype = self.recurrent_kernel, self.operand_dtype

        def step(state: RNNState, z_BH: jax.Array) -> tuple[RNNState, jax.Array]:
            hidden_BH = jnp.tanh(z_BH + matmul(state.hidden_BH, kernel_HH, operand_dtype=dtype))
            return RNNState(hidden_BH), hidden_BH

        state, hidden_BTH = scan_time(step, state, z_BTH)
        self.sow("captured", "hidden", hidden_BTH)
        return hidden_BTH, state

    def __call__(self, x_BTD: jax.Array, state: RNNState) -> tuple[jax.Array, RNNState]:
        return self.mix(self.project(x_BTD), state)

    def initial_state(self, batch_size: int, context: int) -> RNNState:
        """Return a state of zeros; a recurrent state ignores the context."""
        del context
        return RNNState(jnp.zeros((batch_size, self.hidden_size)))
