"""Recurrent block of Griffin and Hawk (De et al. 2024, arXiv 2402.19427) with its RG-LRU."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from charlm_jax.models.convolution import ShortConvolution, empty_past
from charlm_jax.models.initializers import Initializer, InitScheme, stacked_blocks
from charlm_jax.models.linear_scan import LinearScan
from charlm_jax.models.ops import Dtype, Seen, batch_matmul, capture, dense

_POWER = 8.0  # c in the paper
_KEPT = (0.9, 0.999)  # range of a^c at the start
_LEAST = 1e-30  # of 1 - a^2, so that its root has a derivative


class RGLRUState(NamedTuple):
    """Recurrent state of an RG-LRU, and the last inputs of its convolution.

    Attributes:
      past_BSH: inputs of the convolution before the piece, the latest last.
      hidden_BH: state before the piece.
    """

    past_BSH: jax.Array
    hidden_BH: jax.Array


class RGLRU(nn.Module):
    """One recurrent block: a gated branch, a short convolution and an RG-LRU.

        u, g = split(x W + b)
        u    = convolution(u)
        r    = sigmoid(u W_a + b_a)                          (1)
        i    = sigmoid(u W_x + b_x)                          (2)
        a    = sigmoid(L)^(8 r)                              (3)
        h'   = a * h + sqrt(1 - a^2) * (i * u)               (4)
        y    = (gelu(g) * h') W_o

    Equations (1) to (4) are the paper's, section 2.4, with its c = 8 and L its Lambda; the block
    around them is that of section 2.3, with as many recurrent units as outputs (the paper's models
    have 4/3 as many). W_a and W_x consist of `heads` diagonal blocks (the authors' models have 16;
    the paper's equations one) and start as the scheme's gates do (LeCun-normal in the paper). L is
    drawn such that sigmoid(L)^8 is uniform in [0.9, 0.999], as in the paper; in the authors' code,
    RecurrentGemma, sigmoid(L) itself is in that range. The state starts from 0.

    The convolution has a bias, as in that code; the paper's has filters alone. W_o has none, the
    GELU is exact, and the first input of a text is scaled as in (4). That code has a bias, the GELU
    of tanh, and a factor of 1 at the first position.

    Attributes:
      size: H, number of recurrent units, and width of the output.
      heads: number of diagonal blocks of W_a and W_x.
      conv_width: width of the convolution, 4 in the paper; 0 for none.
      scan: implementation of the recurrence.
      scheme: weight initialization scheme.
      output_init: initializer of W_o.
      operand_dtype: dtype to which operands of matrix products are rounded.
    """

    size: int
    heads: int
    conv_width: int
    scan: LinearScan
    scheme: InitScheme
    output_init: Initializer
    operand_dtype: Dtype

    def setup(self) -> None:
        scheme, size, width = self.scheme, self.size, self.size // self.heads
        self.input = dense(
            2 * size, init=scheme.gate_kernel(2), bias=True, operand_dtype=self.operand_dtype
        )
        self.convolution = ShortConvolution(size, self.conv_width)
        shape = (self.heads, width, 2 * width)
        self.gate_kernel = self.param("gate_kernel", stacked_blocks(scheme.gate_kernel(2)), shape)
        self.gate_bias = self.param("gate_bias", nn.initializers.zeros, (2, size))
        self.decay_bias = self.param("decay_bias", _decay_bias, (size,))
        self.output = dense(size, init=self.output_init, operand_dtype=self.operand_dtype)

    def project(self, x: jax.Array) -> jax.Array:
        """Return the input projection x W + b, for inputs of any rank."""
        return self.input(x)

    def mix(self, z_BTG: jax.Array, state: RGLRUState) -> tuple[jax.Array, RGLRUState]:
        """Run the rest of the block over projected inputs: recurrent branch, gate (G = 2H)."""
        branch_BTH, gate_BTH = jnp.split(z_BTG, 2, axis=-1)
        branch_BTH, past_BSH = self.convolution(branch_BTH, state.past_BSH)
        recurrence_BTH, input_BTH = self._gates(branch_BTH)
        # log sigmoid(L) = -softplus(-L); 1 - a^2 = -expm1(2 log a) is exact where a is nearly 1.
        log_keep_BTH = -_POWER * jax.nn.softplus(-self.decay_bias)[None, None, :] * recurrence_BTH
        scale_BTH = jnp.sqrt(jnp.maximum(-jnp.expm1(2.0 * log_keep_BTH), _LEAST))
        add_BTH = scale_BTH * input_BTH * branch_BTH
        hidden_BTH = self.scan(jnp.exp(log_keep_BTH), add_BTH, state.hidden_BH)
        seen = Seen(recurrence_gate=recurrence_BTH, input_gate=input_BTH, hidden=hidden_BTH)
        capture(self, seen)
        y_BTH = self.output(jax.nn.gelu(gate_BTH, approximate=False) * hidden_BTH)
        return y_BTH, RGLRUState(past_BSH, hidden_BTH[:, -1])

    def _gates(self, x_BTH: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return recurrence and input gate; features of a head depend on those of that head."""
        batch, length, size = x_BTH.shape
        x_MNK = jnp.moveaxis(x_BTH.reshape(batch * length, self.heads, -1), 1, 0)
        gates_MNG = batch_matmul(x_MNK, self.gate_kernel, operand_dtype=self.operand_dtype)

        def joined(gate_MNK: jax.Array, bias_H: jax.Array) -> jax.Array:
            gate_BTH = jnp.moveaxis(gate_MNK, 0, 1).reshape(batch, length, size)
            return jax.nn.sigmoid(gate_BTH + bias_H[None, None, :])

        recurrence_MNK, input_MNK = jnp.split(gates_MNG, 2, axis=-1)
        return joined(recurrence_MNK, self.gate_bias[0]), joined(input_MNK, self.gate_bias[1])

    def __call__(self, x_BTD: jax.Array, state: RGLRUState) -> tuple[jax.Array, RGLRUState]:
        return self.mix(self.project(x_BTD), state)

    def initial_state(self, batch_size: int, context: int) -> RGLRUState:
        """Return a state of zeros; a recurrent state ignores the context."""
        del context
        past_BSH = empty_past(batch_size, channels=self.size, width=self.conv_width)
        return RGLRUState(past_BSH, jnp.zeros((batch_size, self.size)))


def _decay_bias(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
    """Draw L such that sigmoid(L)^c is uniform in a range."""
    log_a = jnp.log(jax.random.uniform(key, shape, dtype, *_KEPT)) / _POWER
    return log_a - jnp.log(-jnp.expm1(log_a))
