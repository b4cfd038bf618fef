"""Batch loaders: a batch is a pure function of (seed, step).

The encoded text stays on the device. An epoch has a plan: the position at which each row of each
batch starts. A batch is then a gather inside the jitted step.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from charlm_jax.core.errors import CharlmError, lookup
from charlm_jax.data.splits import Part, size


class EpochPlan(NamedTuple):
    """Start positions of the rows of an epoch's batches.

    Attributes:
      starts_EB: position of each row's first character, int32.
      mask_EB: True for real rows, False for rows that pad a short last batch.
      fresh_EB: True if the row starts from the model's initial state; otherwise it continues from
        the final state of the same row in the previous batch.
    """

    starts_EB: jax.Array
    mask_EB: jax.Array
    fresh_EB: jax.Array


class Loader(NamedTuple):
    """Reading order of the training text.

    Attributes:
      steps_per_epoch: batches in one epoch.
      characters_per_epoch: targets in one epoch.
      carries_state: True if a row may continue from the previous batch.
      plan: (key, epoch) -> EpochPlan; the same arguments give the same plan.
    """

    steps_per_epoch: int
    characters_per_epoch: int
    carries_state: bool
    plan: Callable[[jax.Array, int], EpochPlan]


class _Shape(NamedTuple):
    """Loader settings other than the text."""

    sequence_length: int
    batch_size: int
    reset_probability: float


def _chunks(part: Part, shape: _Shape) -> Loader:
    starts_N = _pieces(part, length=shape.sequence_length + 1, step=shape.sequence_length + 1)
    steps = math.ceil(len(starts_N) / shape.batch_size)
    padding = steps * shape.batch_size - len(starts_N)

    @jax.jit
    def plan(key: jax.Array, epoch: int) -> EpochPlan:
        key = jax.random.fold_in(key, epoch)
        order = jax.random.permutation(key, len(starts_N))
        starts = jnp.pad(jnp.asarray(starts_N)[order], (0, padding))
        mask = jnp.arange(steps * shape.batch_size) < len(starts_N)
        starts_EB = starts.reshape(steps, shape.batch_size)
        return EpochPlan(starts_EB, mask.reshape(starts_EB.shape), jnp.ones_like(starts_EB, bool))

    return Loader(steps, len(starts_N) * shape.sequence_length, False, plan)


def _crops(part: Part, shape: _Shape) -> Loader:
    steps = math.ceil(size(part) / (shape.batch_size * shape.sequence_length))
    # Stretches that can hold a crop, and the number of crop positions before each.
    wide = [stretch for stretch in part if len(stretch) > shape.sequence_length]
    before = np.cumsum([0] + [len(stretch) - shape.sequence_length for stretch in wide])
    shifts = np.array([s.start for s in wide], np.int32) - before[:-1].astype(np.int32)

    @jax.jit
    def plan(key: jax.Array, epoch: int) -> EpochPlan:
        key = jax.random.fold_in(key, epoch)
        numbers_EB = jax.random.randint(
            key, (steps, shape.batch_size), 0, int(before[-1]), dtype=jnp.int32
        )
        stretch_EB = jnp.searchsorted(jnp.asarray(before[1:-1], jnp.int32), numbers_EB, "right")
        starts_EB = numbers_EB + jnp.asarray(shifts)[stretch_EB]
        always_EB = jnp.ones_like(starts_EB, dtype=bool)
        return EpochPlan(starts_EB, always_EB, always_EB)

    characters = steps * shape.batch_size * shape.sequence_length
    return Loader(steps, characters, False, plan)


def _streams(part: Part, shape: _Shape) -> Loader:
    """Row b reads the pieces b P / B, b P / B + 1, ... of all P, cyclically."""
    length, rows = shape.sequence_length, shape.batch_size
    starts_N = _pieces(part, length=length + 1, step=length)
    if len(starts_N) < rows:
        raise CharlmError(
            f"the training text is too short for {rows} streams: it has {len(starts_N)} pieces of "
            f"{length} characters, and each stream needs at least one: use a smaller "
            f"config.data.batch_size or config.data.sequence_length"
        )
    begins_N = np.isin(starts_N, [stretch.start for stretch in part])
    steps = math.ceil(size(part) / (rows * length))
    first_B = np.arange(rows) * len(starts_N) // rows

    @jax.jit
    def resets_EB(key: jax.Array, epoch: int) -> jax.Array:
        key = jax.random.fold_in(key, epoch)
        return jax.random.bernoulli(key, shape.reset_probability, (steps, rows))

    def plan(key: jax.Array, epoch: int) -> EpochPlan:
        numbers_E = epoch * steps + np.arange(steps)
        numbers_EB = (numbers_E[:, None] + first_B) % len(starts_N)
        begins_EB = begins_N[numbers_EB] | (numbers_E == 0)[:, None]
        fresh_EB = jnp.asarray(begins_EB) | resets_EB(key, epoch)
        return EpochPlan(jnp.asarray(starts_N[numbers_EB]), jnp.ones_like(fresh_EB), fresh_EB)

    return Loader(steps, steps * rows * length, True, plan)


def _pieces(part: Part, *, length: int, step: int) -> np.ndarray:
    """Return the starts of pieces of `length` characters, `step` apart, in every stretch."""
    starts = [np.arange(r.start, r.stop - length + 1, step, dtype=np.int32) for r in part]
    return np.concatenate(starts)


_LOADERS: Mapping[str, Callable[[Part, _Shape], Loader]] = {
    "chunks": _chunks,
    "crops": _crops,
    "streams": _streams,
}


def build_loader(
    name: str,
    *,
    part: Sequence[range],
    sequence_length: int,
    batch_size: int,
    reset_probability: float = 0.0,
) -> Loader:
    """Build the loader of a training text.

    `chunks`: an epoch is every non-overlapping piece of T + 1 characters once, in random order,
    remainders dropped; a short last batch is padded and masked (as in the tutorial, which shuffles
    with a buffer of 10,000 pieces where we permute all of them). `crops`: pieces with random start
    positions, ceil(characters / (B x T)) batches. `streams`: truncated backpropagation through
    time. B readers start evenly spaced and read piece by piece, cyclically, carrying their state,
    which is reset at the beginning of a stretch; ceil(characters / (B x T)) batches.

    Args:
      name: `chunks`, `crops` or `streams`.
      part: stretches of the training text; each piece lies within one of them.
      sequence_length: T.
      batch_size: B.
      reset_probability: probability that a row's state is reset before a batch, under `streams`.

    Raises:
      CharlmError: the name is unknown, or there are fewer pieces than streams.
    """
    shape = _Shape(sequence_length, batch_size, reset_probability)
    return lookup(_LOADERS, name, "config.data.loader")(tuple(part), shape)


def gather_batch(
    ids_N: jax.Array, starts_B: jax.Array, *, sequence_length: int
) -> tuple[jax.Array, jax.Array]:
    """Gather rows of T + 1 characters as inputs, and as targets shifted by one.

    Args:
      ids_N: encoded text, any unsigned type.
      starts_B: position of each row's first character; start + T must lie inside the text.
      sequence_length: T.

    Returns:
      inputs_BT and targets_BT, int32.
    """
    offsets_T = jnp.arange(sequence_length + 1)
    rows_BT = ids_N[starts_B[:, None] + offsets_T[None, :]].astype(jnp.int32)
    return rows_BT[:, :-1], rows_BT[:, 1:]
