"""Devices of a run, in one process or several, and the placement of its arrays.

The rows of every batch are divided among the devices. Each has the text, unless it is large, and,
unless weights are sharded, all of the training state.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from charlm_jax.core.errors import CharlmError

MOST_TEXT_BYTES = 1 << 28
"""Largest text that the devices hold; rows of a larger one are gathered on the host."""

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

    @property
    def processes(self) -> int:
        """Number of processes that have them."""
        if self.mesh is None:
            return 1
        return len({device.process_index for device in self.mesh.devices.flat})

    def specs(self, tree: Any) -> Any:
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

    def put_text(self, ids_N: np.ndarray) -> jax.Array | np.ndarray:
        """Return the encoded text, on every device; the text itself if it is too large for them."""
        return ids_N if ids_N.nbytes > MOST_TEXT_BYTES else self.put_everywhere(ids_N)

    def put_everywhere(self, ids_N: np.ndarray) -> jax.Array:
        """Return an encoded text, or rows of it, on every device."""
        if self.mesh is None:
            return jnp.asarray(ids_N)
        if self.processes > 1:
            ids: jax.Array = self.put(ids_N, EVERYWHERE)
            return ids
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

    def fetch(self, tree: Any) -> Any:
        """Return arrays that this process can read, on the host if it has only some of the devices.

        All processes call it. Arrays that are divided are gathered one by one.

        Args:
          tree: tree of arrays.
        """
        if self.processes == 1:
            return tree
        gather = jax.jit(lambda x: x, out_shardings=self._sharding(EVERYWHERE))
        return jax.tree.map(lambda x: np.asarray(x if x.is_fully_replicated else gather(x)), tree)

    def connect(self) -> None:
        """Connect the processes that have the devices, when they have met.

        Before their first collective, some libraries wait only 30 seconds for each other.
        """
        if self.processes > 1:
            self.fetch(self.put(np.zeros(self.number, np.float32), BY_ROWS))

    def _sharding(self, spec: PartitionSpec) -> NamedSharding:
        assert self.mesh is not None
        return NamedSharding(self.mesh, spec)


ONE_DEVICE = Devices(None, shards=False)


def find_devices(count: int, *, shards: bool = False) -> Devices:
    """Return the first devices of each process, in the order of processes.

    Args:
      count: number of devices of all processes; 0 for all.
      shards: whether weights are divided among them.

    Raises:
      CharlmError: there are fewer, or the processes do not divide the number.
    """
    if jax.process_count() > 1:
        return _find_devices_of_processes(count, shards=shards)
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
    return Devices(_make_mesh(chosen), shards)


def _find_devices_of_processes(count: int, *, shards: bool) -> Devices:
    processes = jax.process_count()
    found = [jax.local_devices(process_index=index) for index in range(processes)]
    fewest = min(map(len, found))
    each, rest = divmod(count, processes) if count else (fewest, 0)
    if rest or each > fewest:
        raise CharlmError(
            f"config.train.devices={count} is not allowed: it must be a multiple of the "
            f"{processes} processes, at most {fewest * processes}: write "
            f"config.train.devices=0 for all of their devices"
        )
    if shards and found[0][0].platform == "cpu":
        raise CharlmError(
            "config.train.shard_params=True is not allowed for several processes on CPUs: leave "
            "it out, or use GPUs"
        )
    return Devices(_make_mesh([x for devices in found for x in devices[:each]]), shards)


def _make_mesh(devices: Sequence[jax.Device]) -> Mesh:
    types = (AxisType.Auto,)
    return jax.make_mesh((len(devices),), (ROWS,), axis_types=types, devices=devices)
