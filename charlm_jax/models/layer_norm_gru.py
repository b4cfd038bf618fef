"""GRU with layer normalization of its gates and its candidate (Ba et al. 2016).

Source: arXiv 1607.06450, the equations of its GRU, in the supplementary material.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from charlm_jax.models.gru import GRUState, gru_cell
from charlm_jax.models.initializers import InitScheme
from charlm_jax.models.ops import Dtype, Seen, dense, layer_norm
from charlm_jax.models.recurrence import Multiply, run_layer


class Norms(NamedTuple):
    """Parameters of the norms inside the recurrence.

    Attributes:
      recurrent_scale_G: a_1, then a_4.
      candidate_bias_H: b_4.
    """

    recurrent_scale_G: jax.Array
    candidate_bias_H: jax.Array


class LayerNormGRU(nn.Module):
    """One layer-normalized GRU layer.

        r, u = sigmoid(split(LN(h U; a_1) + LN(x W; a_2) + b))
        n = tanh(LN(x W_n; a_3, b_3) + r * LN(h U_n; a_4, b_4))
        h' = (1 - u) * n + u * h

    LN(z; a, b) = a * (z - mean) / sqrt(variance + 1e-5) + b, over the two gates together and over
    the candidate by itself. The paper has a bias in each norm of the gates in place of b, 1 - u
    where u is here, and no 1e-5. No gradient flows through a norm of zeros, such as those of a
    state that is still 0.

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
        ones, zeros = nn.initializers.ones, nn.initializers.zeros
        self.input = dense(3 * size, init=scheme.gate_kernel(3), operand_dtype=self.operand_dtype)
        self.recurrent_kernel = self.param(
            "recurrent_kernel", scheme.recurrent_kernel(3), (size, 3 * size)
        )
        self.bias = self.param("bias", zeros, (3 * size,))
        self.input_scale = self.param("input_scale", ones, (3 * size,))
        self.norms = Norms(
            self.param("recurrent_scale", ones, (3 * size,)),
            self.param("candidate_bias", zeros, (size,)),
        )

    def project(self, x: jax.Array) -> jax.Array:
        """Return the normalized input projections, for inputs of any rank."""
        return _norm_parts(self.input(x), self.input_scale, self.bias)

    def mix(self, z_BTG: jax.Array, state: GRUState) -> tuple[jax.Array, GRUState]:
        """Run the recurrence over projected inputs: reset, update, candidate (G = 3H)."""
        kernels = {"recurrent": self.recurrent_kernel}
        return run_layer(
            self,
            layer_norm_gru_step,
            state,
            z_BTG,
            kernels,
            self.norms,
            operand_dtype=self.operand_dtype,
        )

    def __call__(self, x_BTD: jax.Array, state: GRUState) -> tuple[jax.Array, GRUState]:
        return self.mix(self.project(x_BTD), state)

    def initial_state(self, batch_size: int, context: int) -> GRUState:
        """Return a state of zeros; a recurrent state ignores the context."""
        del context
        return GRUState(jnp.zeros((batch_size, self.hidden_size)))


def layer_norm_gru_step(
    state: GRUState, z_BG: jax.Array, multiply: Multiply, norms: Norms
) -> tuple[GRUState, Seen]:
    """Compute one position.

    Args:
      state: state before it.
      z_BG: normalized input projections.
      multiply: product with the kernel `recurrent`.
      norms: parameters of the other norms.

    Returns:
      The state after it, and its gates.
    """
    zeros_G = jnp.zeros(2 * state.hidden_BH.shape[1])
    bias_G = jnp.concatenate([zeros_G, norms.candidate_bias_H])
    recurrent_BG = _norm_parts(
        multiply("recurrent", state.hidden_BH), norms.recurrent_scale_G, bias_G
    )
    hr_BH, hu_BH, hn_BH = jnp.split(recurrent_BG, 3, axis=-1)
    return gru_cell(z_BG, hr_BH, hu_BH, hn_BH, state.hidden_BH)


def _norm_parts(z: jax.Array, scale_G: jax.Array, bias_G: jax.Array) -> jax.Array:
    """Normalize the arguments of both gates together, and those of the candidate."""
    gates = 2 * z.shape[-1] // 3
    parts = zip(
        jnp.split(z, [gates], axis=-1),
        jnp.split(scale_G, [gates]),
        jnp.split(bias_G, [gates]),
        strict=True,
    )
    return jnp.concatenate([layer_norm(*part) for part in parts], axis=-1)
