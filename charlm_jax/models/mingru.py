"""Minimal gated recurrent unit (Feng et al. 2024, arXiv 2410.01201).

Neither its gate nor its candidate sees the state, so the state is a weighted sum of
candidates, and a whole sequence can be computed in parallel.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from charlm_jax.core.errors import lookup
from charlm_jax.models.initializers import InitScheme
from charlm_jax.models.ops import Dtype, Seen, capture, dense, scan_time

LinearScan = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


class MinGRUState(NamedTuple):
    """Recurrent state of a minGRU."""

    hidden_BH: jax.Array


def sequential_scan(keep_BTH: jax.Array, add_BTH: jax.Array, start_BH: jax.Array) -> jax.Array:
    """Compute h_t = keep_t * h_(t-1) + add_t one position at a time: the least work."""

    def step(hidden_BH: jax.Array, inputs: jax.Array) -> tuple[jax.Array, jax.Array]:
        keep_BH, add_BH = inputs
        hidden_BH = keep_BH * hidden_BH + add_BH
        return hidden_BH, hidden_BH

    _, hidden_BTH = scan_time(step, start_BH, (keep_BTH, add_BTH))
    return hidden_BTH


def associative_scan(keep_BTH: jax.Array, add_BTH: jax.Array, start_BH: jax.Array) -> jax.Array:
    """Compute the same in parallel: about 2 log2(T) rounds, and twice the work (Blelloch 1990).

    Factors lie in [0, 1], so their products stay finite and no logarithms are needed.
    """

    def join(
        earlier: tuple[jax.Array, jax.Array], later: tuple[jax.Array, jax.Array]
    ) -> tuple[jax.Array, jax.Array]:
        keep, add = later
        return earlier[0] * keep, earlier[1] * keep + add

    add_BTH = add_BTH.at[:, 0].add(keep_BTH[:, 0] * start_BH)
    return jax.lax.associative_scan(join, (keep_BTH, add_BTH), axis=1)[1]


def automatic_scan(keep_BTH: jax.Array, add_BTH: jax.Array, start_BH: jax.Array) -> jax.Array:
    """Use `sequential_scan` on a CPU, `associative_scan` on accelerators."""
    return jax.lax.platform_dependent(
        keep_BTH, add_BTH, start_BH, cpu=sequential_scan, default=associative_scan
    )


_SCANS: Mapping[str, LinearScan] = {
    "auto": automatic_scan,
    "sequential": sequential_scan,
    "associative": associative_scan,
}


def linear_scan(name: str) -> LinearScan:
    """Return the named implementation of the recurrence h_t = keep_t * h_(t-1) + add_t."""
    return lookup(_SCANS, name, "config.model.scan")


class MinGRU(nn.Module):
    """One minGRU layer.

        z = sigmoid(x W_z + b_z)    n = g(x W_n + b_n)
        h' = (1 - z) * h + z * n

    with g(a) = a + 1/2 for a >= 0, else sigmoid(a), as in the paper's appendix B, which keeps the
    state positive. The state starts from 0.

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
        candidate_BTH = jnp.where(
            candidate_BTH >= 0.0, candidate_BTH + 0.5, jax.nn.sigmoid(candidate_BTH)
        )
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
