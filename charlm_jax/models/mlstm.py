"""Matrix LSTM of xLSTM: exponential gates and a matrix memory (Beck et al. 2024).

Source: arXiv 2405.04517, section 2.3.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from charlm_jax.models.convolution import ShortConvolution, empty_past
from charlm_jax.models.initializers import Initializer, InitScheme
from charlm_jax.models.matrix_memory import decayed_memory
from charlm_jax.models.ops import Dtype, Seen, capture, dense, scan_time, spread

_FORGET_BIAS = (3.0, 6.0)  # range at the start
_LEAST = 1e-12  # of the divisor, so that no quotient overflows


class MLSTMState(NamedTuple):
    """State of an mLSTM, and the last inputs of its convolution.

    Attributes:
      past_BSX: inputs of the convolution before the piece, the latest last; X = 2 H K.
      memory_BHKP: exp(-m) C of each head, transposed, and exp(-m) n as the last column.
      stabilizer_BH: m.
    """

    past_BSX: jax.Array
    memory_BHKP: jax.Array
    stabilizer_BH: jax.Array


class MLSTM(nn.Module):
    """One mLSTM layer.

        q, k, v, o, i, f = split(x W + b)
        q, k = silu(convolution(q, k))
        C' = sigmoid(f) C + exp(i) v (k / sqrt(K))^T        (19)
        n' = sigmoid(f) n + exp(i) k / sqrt(K)              (20)
        h  = C' q / max(|n' . q|, 1)                        (21)
        y  = (sigmoid(o) * norm(h)) W_o

    The numbers are the paper's. Its forget gate may also be exponential; here it is a sigmoid. C
    and n are stored times exp(-m), with the stabilizer

        m' = max(log sigmoid(f) + m, i, 0)                  (15)

    which is the paper's but for the 0: it bounds exp(-m), which takes the place of 1 in (21). As h
    does not depend on m, no gradient flows through m. The divisor is at least 1e-12.

    The layer around the cell is simpler than the paper's block (figure 11). Convolution and SiLU
    act on q and k themselves, not on the input of their projections, which are dense; the norm is a
    LayerNorm over each head, without a bias and with one scale for all heads; there is one gate,
    after the norm, no learnable skip and no wider inner channels. Without a convolution, q and k
    are linear as in (22) and (23), but for the bias of k, which is divided by sqrt(K) too. i and f
    read x, as in (25) and (26), with kernels from the scheme; in the authors' code they read q, k
    and v, with kernels of zeros at first. The forget gates' biases are drawn from [3, 6], over
    which that code spreads them evenly.

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
        self.input = dense(
            4 * self.size + 2 * self.heads,
            init=self.scheme.kernel,
            bias=True,
            bias_init=self._bias,
            operand_dtype=self.operand_dtype,
        )
        self.convolution = ShortConvolution(2 * self.size, self.conv_width)
        self.norm = nn.LayerNorm(epsilon=1e-5, use_bias=False, use_fast_variance=False)
        self.output = dense(self.size, init=self.output_init, operand_dtype=self.operand_dtype)

    def _bias(self, key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
        """Draw the biases of the forget gates, which are last; the others are zeros."""
        forget_H = jax.random.uniform(key, (self.heads,), dtype, *_FORGET_BIAS)
        return jnp.zeros(shape, dtype).at[-self.heads :].set(forget_H)

    def project(self, x: jax.Array) -> jax.Array:
        """Return the input projection x W + b, for inputs of any rank."""
        return self.input(x)

    def mix(self, z_BTG: jax.Array, state: MLSTMState) -> tuple[jax.Array, MLSTMState]:
        """Run the rest of the layer over projected inputs: q, k, v, o, i, f."""
        batch, length, _ = z_BTG.shape
        size, heads = self.size, self.heads
        qk_BTX, value_BTD, o_BTD, i_BTH, f_BTH = jnp.split(
            z_BTG, [2 * size, 3 * size, 4 * size, 4 * size + heads], axis=-1
        )
        qk_BTX, past_BSX = self.convolution(qk_BTX, state.past_BSX)
        qk_BTX = jax.nn.silu(qk_BTX) if self.conv_width else qk_BTX
        query_BTHK, key_BTHK, value_BTHP = (
            x.reshape(batch, length, heads, -1) for x in (*jnp.split(qk_BTX, 2, axis=-1), value_BTD)
        )
        log_forget_BTH = jax.nn.log_sigmoid(f_BTH)
        before_BTH, after_BTH, stabilizer_BH = stabilize(log_forget_BTH, i_BTH, state.stabilizer_BH)
        # The normalizer n is the memory of a value that is always 1.
        ones_BTH1 = jnp.ones_like(value_BTHP[..., :1])
        input_BTH = jnp.exp(i_BTH - after_BTH)
        output_BTHP, memory_BHKP = decayed_memory(
            query_BTHK,
            key_BTHK * float(key_BTHK.shape[-1]) ** -0.5,
            jnp.concatenate([value_BTHP, ones_BTH1], axis=-1) * input_BTH[..., None],
            log_forget_BTH + before_BTH - after_BTH,
            state.memory_BHKP,
            chunk_size=self.chunk_size,
            operand_dtype=self.operand_dtype,
        )
        least_BTH = jnp.maximum(jnp.exp(-after_BTH), _LEAST)
        divisor_BTH = jnp.maximum(jnp.abs(output_BTHP[..., -1]), least_BTH)
        hidden_BTHP = output_BTHP[..., :-1] / divisor_BTH[..., None]
        output_gate_BTD = jax.nn.sigmoid(o_BTD)
        seen = Seen(
            forget_gate=spread(jax.nn.sigmoid(f_BTH), size),
            output_gate=output_gate_BTD,
            hidden=hidden_BTHP.reshape(batch, length, size),
        )
        capture(self, seen)
        normed_BTD = self.norm(hidden_BTHP).reshape(batch, length, size)
        y_BTD = self.output(output_gate_BTD * normed_BTD)
        return y_BTD, MLSTMState(past_BSX, memory_BHKP, stabilizer_BH)

    def __call__(self, x_BTD: jax.Array, state: MLSTMState) -> tuple[jax.Array, MLSTMState]:
        return self.mix(self.project(x_BTD), state)

    def initial_state(self, batch_size: int, context: int) -> MLSTMState:
        """Return a state of zeros; a recurrent state ignores the context."""
        del context
        width = self.size // self.heads
        return MLSTMState(
            empty_past(batch_size, channels=2 * self.size, width=self.conv_width),
            jnp.zeros((batch_size, self.heads, width, width + 1)),
            jnp.zeros((batch_size, self.heads)),
        )


def stabilize(
    log_forget_BTH: jax.Array, input_BTH: jax.Array, stabilizer_BH: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return the stabilizer before and after each position, and after the last; no gradients."""

    def step(before_BH: jax.Array, inputs: tuple[jax.Array, ...]) -> tuple[jax.Array, Any]:
        log_forget_BH, input_BH = inputs
        after_BH = jnp.maximum(jnp.maximum(log_forget_BH + before_BH, input_BH), 0.0)
        return after_BH, (before_BH, after_BH)

    inputs = jax.lax.stop_gradient((stabilizer_BH, (log_forget_BTH, input_BTH)))
    stabilizer_BH, (before_BTH, after_BTH) = scan_time(step, *inputs)
    return before_BTH, after_BTH, stabilizer_BH
