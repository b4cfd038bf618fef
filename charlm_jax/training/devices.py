"""Devices of a run, and the placement of its arrays.

Each device has the text and the weights, and the rows of every batch are divided among them.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from charlm_jax.core.errors import CharlmError
from charlm_jax.training.batch_gradient import ROWS
from charlm_jax.training.train_step import TrainState


class Devices(NamedTuple):
    """Devices of a run.

    Attributes:
      mesh: devices along the axis `ROWS`; None for JAX's default device alone.
    """

    mesh: Mesh | None

    @property
    def number(self) -> int:
        """Number of devices."""
        return 1 if self.mesh is None else self.mesh.size

    def put_text(self, ids_N: np.ndarray) -> jax.Array:
        """Return the encoded text, on every device."""
        if self.mesh is None:
            return jnp.asarray(ids_N)
        return jax.device_put(ids_N, self._sharding())

    def put_state(self, state: TrainState) -> TrainState:
        """Return a training state with its arrays on the devices, in new buffers."""
        state = jax.tree.map(jnp.array, state)
        return state if self.mesh is None else jax.device_put(state, self._shardings(state))

    def constrain_state(self, state: TrainState) -> TrainState:
        """Require, in a jitted function, that a state's arrays lie as `put_state` places them."""
        if self.mesh is None:
            return state
        placed: Any = self._shardings(state)
        return jax.lax.with_sharding_constraint(state, placed)  # type: ignore[no-untyped-call]

    def constrain_rows(self, tree: Any) -> Any:
        """Require, in a jitted function, that arrays with rows first are divided by rows."""
        if self.mesh is None:
            return tree
        return jax.lax.with_sharding_constraint(tree, self._sharding(ROWS))  # type: ignore[no-untyped-call]

    def on_one(self, tree: Any) -> Any:
        """Return arrays on the first of the devices."""
        if self.mesh is None:
            return tree
        return jax.device_put(tree, self.mesh.devices.flat[0])

    def _sharding(self, *axes: str | None) -> NamedSharding:
        assert self.mesh is not None
        return NamedSharding(self.mesh, PartitionSpec(*axes))  # type: ignore[no-untyped-call]

    def _shardings(self, state: TrainState) -> TrainState:
        """Return the sharding of each array: rows are divided, the rest is on every device."""
        everywhere = jax.tree.map(lambda _: self._sharding(), state)
        return everywhere._replace(
            carried=jax.tree.map(lambda _: self._sharding(ROWS), state.carried)
        )


def find_devices(count: int) -> Devices:
    """Return the first devices of this process.

    Args:
      count: number of devices; 0 for all.

    Raises:
      CharlmError: there are fewer.
    """
    found = jax.local_devices()
    if count > len(found):
        platform = found[0].platform
        hint = (
            f", or set XLA_FLAGS=--xla_force_host_platform_device_count={count} to divide the CPU"
            if platform == "cpu"
            else ""
        )
        raise CharlmError(
            f"config.train.devices={count} is not allowed: JAX finds {len(found)} ({platform}): "
            f"use fewer{hint}"
        )
    chosen = found[: count or len(found)]
    if len(chosen) == 1:
        return Devices(None)
    return Devices(jax.make_mesh((len(chosen),), (ROWS,), (AxisType.Auto,), devices=chosen))
