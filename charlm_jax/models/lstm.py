"""Long short-term memory (Hochreiter and Schmidhuber 1997; forget gate of Gers et al. 2000)."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from charlm_jax.models.initializers import InitScheme, forget_gate_bias
from charlm_jax.models.lstm_fused import LSTMState, lstm_recurrence
from charlm_jax.models.ops import Dtype, Seen, capture, dense, embed, matmul, scan_time

# Limits within which the fused recurrence is faster. With fewer rows its products are narrow; in
# long sequences its gradient gains more than that costs. With more symbols its one-hot columns are
# tall.
_FAST_ROWS, _FEW_ROWS = 8, 2
_LONG = 64
_FAST_SYMBOLS = 256


def lstm_cell(gates_BG: jax.Array, cell_BH: jax.Array) -> tuple[jax.Array, jax.Array, Seen]:
    """Compute the new cell of an LSTM from its gates.

        i, f, g, o = split(gates)
        c' = sigmoid(f) * c + sigmoid(i) * tanh(g)

    Args:
      gates_BG: gates before their nonlinearities, G = 4H.
      cell_BH: c.

    Returns:
      c', sigmoid(o), and the gates with c'.
    """
    i_BH, f_BH, g_BH, o_BH = jnp.split(gates_BG, 4, axis=-1)
    i_BH, f_BH, o_BH = jax.nn.sigmoid(i_BH), jax.nn.sigmoid(f_BH), jax.nn.sigmoid(o_BH)
    g_BH = jnp.tanh(g_BH)
    cell_BH = f_BH * cell_BH + i_BH * g_BH
    seen = Seen(
        input_gate=i_BH,
        forget_gate=f_BH,
        candidate=g_BH,
        output_gate=o_BH,
        cell=cell_BH,
    )
    return cell_BH, o_BH, seen


def lstm_scan(
    z_BTG: jax.Array,
    state: LSTMState,
    recurrent_kernel_HG: jax.Array,
    *,
    operand_dtype: Dtype = jnp.float32,
) -> tuple[jax.Array, LSTMState, Seen]:
    """Run the recurrence on inputs that are already projected: the plain, readable form.

        i, f, g, o = split(z + h U)
        c' = sigmoid(f) * c + sigmoid(i) * tanh(g)
        h' = sigmoid(o) * tanh(c')

    Args:
      z_BTG: x W + b, with G = 4H stacked in the order i, f, g, o.
      state: cell and hidden before the first position.
      recurrent_kernel_HG: U.
      operand_dtype: dtype to which operands of the product with U are rounded.

    Returns:
      hidden_BTH, the state after the last position, and gates and cell at every position
      (compiled away if unused).
    """

    def step(state: LSTMState, z_BG: jax.Array) -> tuple[LSTMState, tuple[jax.Array, Seen]]:
        gates_BG = z_BG + matmul(state.hidden_BH, recurrent_kernel_HG, operand_dtype=operand_dtype)
        cell_BH, o_BH, seen = lstm_cell(gates_BG, state.cell_BH)
        hidden_BH = o_BH * jnp.tanh(cell_BH)
        return LSTMState(cell_BH, hidden_BH), (hidden_BH, seen)

    state, (hidden_BTH, seen) = scan_time(step, state, z_BTG)
    return hidden_BTH, state, seen


class LSTM(nn.Module):
    """One LSTM layer.

    The gates are stacked in one kernel in the order i, f, g, o, as in Keras and PyTorch; Flax's
    cells keep a kernel per gate. There is one bias, as in Keras; PyTorch has two, which add up.

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
            4 * size,
            init=scheme.gate_kernel(4),
            bias=True,
            bias_init=forget_gate_bias(scheme.forget_bias),
            operand_dtype=self.operand_dtype,
        )
        self.recurrent_kernel = self.param(
            "recurrent_kernel", scheme.recurrent_kernel(4), (size, 4 * size)
        )

    def project(self, x: jax.Array) -> jax.Array:
        """Return the input projection x W + b, for inputs of any rank."""
        return self.input(x)

    def mix(self, z_BTG: jax.Array, state: LSTMState) -> tuple[jax.Array, LSTMState]:
        """Run the recurrence over projected inputs."""
        hidden_BTH, state, seen = lstm_scan(
            z_BTG, state, self.recurrent_kernel, operand_dtype=self.operand_dtype
        )
        capture(self, seen)
        return hidden_BTH, state

    def mix_ids(
        self, table_VG: jax.Array, ids_BT: jax.Array, state: LSTMState
    ) -> tuple[jax.Array, LSTMState]:
        """Run the recurrence over symbols whose projected inputs are the rows of a table."""
        symbols = table_VG.shape[0]
        if symbols > _FAST_SYMBOLS or not self._is_fast(ids_BT):
            return self.mix(embed(table_VG, ids_BT), state)
        is_symbol_TVB = ids_BT.T[:, None, :] == jnp.arange(symbols)[None, :, None]
        kernel_XG = jnp.concatenate([self.recurrent_kernel, table_VG])
        inputs_TVB = is_symbol_TVB.astype(jnp.float32)
        return lstm_recurrence(inputs_TVB, state, kernel_XG, self.operand_dtype)

    def __call__(self, x_BTD: jax.Array, state: LSTMState) -> tuple[jax.Array, LSTMState]:
        if self.is_initializing() or not self._is_fast(x_BTD):
            return self.mix(self.project(x_BTD), state)
        input = self.input.variables["params"]
        kernels = [self.recurrent_kernel, input["kernel"], input["bias"][None, :]]
        x_TDB = jnp.transpose(x_BTD, (1, 2, 0))
        inputs_TRB = jnp.concatenate([x_TDB, jnp.ones_like(x_TDB[:, :1])], axis=1)
        return lstm_recurrence(inputs_TRB, state, jnp.concatenate(kernels), self.operand_dtype)

    def _is_fast(self, rows: jax.Array) -> bool:
        """Return whether there are enough rows and positions, and gates are not captured."""
        batch, length = rows.shape[:2]
        enough = _FEW_ROWS if length >= _LONG else _FAST_ROWS
        return batch >= enough and length > 1 and not self.is_mutable_collection("captured")

    def initial_state(self, batch_size: int, context: int) -> LSTMState:
        """Return a state of zeros; a recurrent state ignores the context."""
        del context
        zeros_BH = jnp.zeros((batch_size, self.hidden_size))
        return LSTMState(zeros_BH, zeros_BH)
