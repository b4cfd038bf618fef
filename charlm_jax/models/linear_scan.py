"""The linear recurrence h_t = keep_t * h_(t-1) + add_t, elementwise, with 0 <= keep <= 1.

All forms compute the same up to rounding. Factors in [0, 1] have finite products, so no logarithms
are needed.
"""

from collections.abc import Callable, Mapping

import jax

from charlm_jax.core.errors import lookup
from charlm_jax.models.ops import scan_time

LinearScan = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
"""(keep_BTH, add_BTH, start_BH) -> hidden_BTH."""


def sequential_scan(keep_BTH: jax.Array, add_BTH: jax.Array, start_BH: jax.Array) -> jax.Array:
    """Compute h_t = keep_t * h_(t-1) + add_t one position at a time: the least work."""

    def step(hidden_BH: jax.Array, inputs: jax.Array) -> tuple[jax.Array, jax.Array]:
        keep_BH, add_BH = inputs
        hidden_BH = keep_BH * hidden_BH + add_BH
        return hidden_BH, hidden_BH

    _, hidden_BTH = scan_time(step, start_BH, (keep_BTH, add_BTH))
    return hidden_BTH


def associative_scan(keep_BTH: jax.Array, add_BTH: jax.Array, start_BH: jax.Array) -> jax.Array:
    """Compute the same in parallel: about 2 log2(T) rounds, and twice the work (Blelloch 1990)."""

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
