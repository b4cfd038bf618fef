"""Minimal long short-term memory (Feng et al. 2024, arXiv 2410.01201).

As in a minGRU, gates and candidate do not see the state. There are two gates, and they are divided
by their sum: the state is a weighted mean of candidates, whose scale does not grow with time.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from charlm_jax.models.initializers import InitScheme, forget_gate_bias
from charlm_jax.models.linear_scan import LinearScan
from charlm_jax.models.mingru import positive_candidate
from charlm_jax.models.ops import Dtype, Seen, capture, dense


class MinLSTMState(NamedTuple):
    """Recurrent state of a minLSTM."""

    hidden_BH: jax.Array


class MinLSTM(nn.Module):
    """One minLSTM layer (section 3.2 of the paper).

        f = sigmoid(x W_f + b_f)    i = sigmoid(x W_i + b_i)    n = g(x W_n + b_n)
        h' = f / (f + i) * h + i / (f + i) * n

    with the positive g of `mingru.positive_candidate`, as in the paper's appendix B. The normalized
    input gate is computed as i / (f + i) = sigmoid(log i - log f), finite for any arguments; the
    paper computes the recurrence in logarithms too, which factors in [0, 1] do not need. The state
    starts from 0, where the appendix's code has g(0) = 1/2, and b_f from the scheme's forget-gate
    bias.

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
        self.input = dense(
            3 * self.hidden_size,
            init=self.scheme.gate_kernel(3),
            bias=True,
            bias_init=forget_gate_bias(self.scheme.forget_bias, gates=3, index=0),
            operand_dtype=self.operand_dtype,
        )

    def project(self, x: jax.Array) -> jax.Array:
        """Return the input projection x W + b, for inputs of any rank."""
        return self.input(x)

    def mix(self, z_BTG: jax.Array, state: MinLSTMState) -> tuple[jax.Array, MinLSTMState]:
        """Run the recurrence over projected inputs: forget gate, input gate, candidate (G = 3H)."""
        forget_BTH, input_BTH, candidate_BTH = jnp.split(z_BTG, 3, axis=-1)
        # log i - log f, where log sigmoid(x) = -softplus(-x).
        logit_BTH = jax.nn.softplus(-forget_BTH) - jax.nn.softplus(-input_BTH)
        forget_BTH, input_BTH = jax.nn.sigmoid(-logit_BTH), jax.nn.sigmoid(logit_BTH)
        candidate_BTH = positive_candidate(candidate_BTH)
        hidden_BTH = self.scan(forget_BTH, input_BTH * candidate_BTH, state.hidden_BH)
        seen = Seen(
            forget_gate=forget_BTH,
            input_gate=input_BTH,
            candidate=candidate_BTH,
            hidden=hidden_BTH,
        )
        capture(self, seen)
        return hidden_BTH, MinLSTMState(hidden_BTH[:, -1])

    def __call__(self, x_BTD: jax.Array, state: MinLSTMState) -> tuple[jax.Array, MinLSTMState]:
        return self.mix(self.project(x_BTD), state)

    def initial_state(self, batch_size: int, context: int) -> MinLSTMState:
        """Return a state of zeros; a recurrent state ignores the context."""
        del context
        return MinLSTMState(jnp.zeros((batch_size, self.hidden_size)))
