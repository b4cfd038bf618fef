"""Minimal gated recurrent unit (Feng et al. 2024, arXiv 2410.01201).

Neither its gate nor its candidate sees the state, so the state is a weighted sum of
candidates, and a whole sequence can be computed in parallel.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from charlm_jax.models.initializers import InitScheme
from charlm_jax.models.linear_scan import LinearScan
from charlm_jax.models.ops import Dtype, Seen, capture, dense


class MinGRUState(NamedTuple):
    """Recurrent state of a minGRU."""

    hidden_BH: jax.Array


def positive_candidate(x: jax.Array) -> jax.Array:
    """Return g(x) = x + 1/2 for x >= 0, else sigmoid(x): positive and continuous."""
    return jnp.where(x >= 0.0, x + 0.5, jax.nn.sigmoid(x))


class MinGRU(nn.Module):
    """One minGRU layer.

        z = sigmoid(x W_z + b_z)    n = g(x W_n + b_n)
        h' = (1 - z) * h + z * n

    with g(a) = a + 1/2 for a >= 0, else sigmoid(a), as in the paper's appendix B, which keeps the
    state positive. The state starts from 0, where the appendix's code has g(0) = 1/2.

    Attributes:
      hidden_size: H.
      scan: implementation of the recurrence.
      scheme: weight initialization scheme.
      operand_dtype: dtype to which operands of matrix products are rounded.
    """

    hidden_size: int
    scan: LinearScan
    scheme: InitScheme
    operand_dtype: Dtype

    def setup(self) -> None:
        init = self.scheme.gate_kernel(2)
        self.input = dense(
            2 * self.hidden_size, init=init, bias=True, operand_dtype=self.operand_dtype
        )

    def project(self, x: jax.Array) -> jax.Array:
        """Return the input projection x W + b, for inputs of any rank."""
        return self.input(x)

    def mix(self, z_BTG: jax.Array, state: MinGRUState) -> tuple[jax.Array, MinGRUState]:
        """Run the recurrence over projected inputs, G = 2H in the order gate, candidate."""
        gate_BTH, candidate_BTH = jnp.split(z_BTG, 2, axis=-1)
        update_BTH = jax.nn.sigmoid(gate_BTH)
        candidate_BTH = positive_candidate(candidate_BTH)
        # 1 - sigmoid(x) = sigmoid(-x), which is exact where the gate is nearly 1.
        keep_BTH = jax.nn.sigmoid(-gate_BTH)
        hidden_BTH = self.scan(keep_BTH, update_BTH * candidate_BTH, state.hidden_BH)
        seen = Seen(update_gate=update_BTH, candidate=candidate_BTH, hidden=hidden_BTH)
        capture(self, seen)
        return hidden_BTH, MinGRUState(hidden_BTH[:, -1])

    def __call__(self, x_BTD: jax.Array, state: MinGRUState) -> tuple[jax.Array, MinGRUState]:
        return self.mix(self.project(x_BTD), state)

    def initial_state(self, batch_size: int, context: int) -> MinGRUState:
        """Return a state of zeros; a recurrent state ignores the context."""
        del context
        return MinGRUState(jnp.zeros((batch_size, self.hidden_size)))
