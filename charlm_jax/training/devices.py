"""Devices of a run, and the placement of its arrays.

The rows of every batch are divided among the devices. Each has the text and, unless weights are
sharded, all of the training state.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from charlm_jax.core.errors import CharlmError

ROWS = "rows"
"""Axis of a mesh of devices, along which batches and sharded weights are divided."""


def _spec(*axes: str | None) -> PartitionSpec:
    return PartitionSpec(*axes)  # type: ignore[no-untyped-call]


EVERYWHERE = _spec()
"""Division of an array that every device has whole."""

BY_ROWS = _spec(ROWS)
"""Division of an array whose first axis is rows."""


class Devices(NamedTuple):
    """Devices of a run.

    Attributes:
      mesh: devices along the axis `ROWS`; None for JAX's default device alone.
      shards: whether weights, and arrays of their shapes, are divided too.
    """

    mesh: Mesh | None
    shards: bool

    @property
    def number(self) -> int:
        """Number of devices."""
        return 1 if self.mesh is None else self.mesh.size

    def divide(self, tree: Any) -> Any:
        """Return the division of each weight: if sharded, along the first axis that divides evenly.

        It follows from the shape alone, so that moments and averages are divided as their weights.
        A weight without an axis that the number of devices divides is on every device.

        Args:
          tree: tree of arrays or of their shapes.
        """

        def spec(x: jax.Array) -> PartitionSpec:
            even = [axis for axis, size in enumerate(x.shape) if size % self.number == 0]
            return _spec(*[None] * even[0], ROWS) if self.shards and even else EVERYWHERE

        return jax.tree.map(spec, tree)

    def put_text(self, ids_N: np.ndarray) -> jax.Array:
        """Return the encoded text, on every device."""
        if self.mesh is None:
            return jnp.asarray(ids_N)
        return jax.device_put(ids_N, self._sharding(EVERYWHERE))

    def put(self, tree: Any, specs: Any) -> Any:
        """Return host arrays on the devices, in new buffers.

        Args:
          tree: tree of arrays.
          specs: division of each.
        """
        if self.mesh is None:
            return jax.tree.map(jnp.array, tree)

        def put_parts(x: Any, spec: PartitionSpec) -> jax.Array:
            x = np.asarray(x)
            return jax.make_array_from_callback(
                x.shape, self._sharding(spec), lambda part: np.array(x[part])
            )

        return jax.tree.map(put_parts, tree, specs)

    def constrain(self, tree: Any, specs: Any) -> Any:
        """Require, in a jitted function, that arrays are divided in a given way.

        Args:
          tree: tree of arrays.
          specs: division of each, or one for all.
        """
        if self.mesh is None:
            return tree
        shardings: Any = jax.tree.map(self._sharding, specs)
        return jax.lax.with_sharding_constraint(tree, shardings)  # type: ignore[no-untyped-call]

    def _sharding(self, spec: PartitionSpec) -> NamedSharding:
        assert self.mesh is not None
        return NamedSharding(self.mesh, spec)


ONE_DEVICE = Devices(None, shards=False)


def find_devices(count: int, *, shards: bool = False) -> Devices:
    """Return the first devices of this process.

    Args:
      count: number of devices; 0 for all.
      shards: whether weights are divided among them.

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
        return ONE_DEVICE
    mesh = jax.make_mesh((len(chosen),), (ROWS,), axis_types=(AxisType.Auto,), devices=chosen)
    return Devices(mesh, shards)
