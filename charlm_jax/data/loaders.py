"""Batch loaders: a batch is a pure function of (seed, step).

An epoch has a plan: the position at which each row of each batch starts. A batch is then a gather
inside the jitted step. An epoch of more than `MOST_PLANNED` rows is planned in blocks of steps, so
that no array grows with the text; its order is another one than that of an epoch planned at once.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from charlm_jax.core.errors import CharlmError, lookup
from charlm_jax.data.permutation import permute
from charlm_jax.data.splits import Part, size

MOST_PLANNED = 1 << 22
"""Rows of an epoch that are planned at once."""

_ROWS_OF_BLOCK = 1 << 18


class EpochPlan(NamedTuple):
    """Start positions of the rows of an epoch's batches, or of those of a block of a long epoch.

    Attributes:
      starts_EB: position of each row's first character, int32.
      mask_EB: True for real rows, False for rows that pad a short last batch.
      fresh_EB: True if the row starts from the model's initial state; otherwise it continues from
        the final state of the same row in the previous batch.
    """

    starts_EB: jax.Array
    mask_EB: jax.Array
    fresh_EB: jax.Array


class Plan(Protocol):
    """(key, epoch, block) -> EpochPlan; the same arguments give the same plan."""

    def __call__(self, key: jax.Array, epoch: int, block: int = 0) -> EpochPlan: ...


class Loader(NamedTuple):
    """Reading order of the training text.

    Attributes:
      steps_per_epoch: batches in one epoch.
      steps_per_block: batches that are planned at once: those of an epoch, unless it is long. The
        last block of an epoch may have batches of no rows at its end.
      characters_per_epoch: targets in one epoch.
      carries_state: True if a row may continue from the previous batch.
      plan: function that plans a block of an epoch.
    """

    steps_per_epoch: int
    steps_per_block: int
    characters_per_epoch: int
    carries_state: bool
    plan: Plan


class _Shape(NamedTuple):
    """Loader settings other than the text."""

    sequence_length: int
    batch_size: int
    reset_probability: float

    def steps_per_block(self, steps: int) -> int:
        """Number of steps of an epoch that are planned at once."""
        is_long = steps * self.batch_size > MOST_PLANNED
        return max(1, _ROWS_OF_BLOCK // self.batch_size) if is_long else steps


class _Pieces:
    """Pieces of `length` characters, `step` apart, in every stretch of a part.

    Attributes:
      number: number of pieces.
    """

    def __init__(self, part: Part, *, length: int, step: int) -> None:
        wide = [stretch for stretch in part if len(stretch) >= length]
        counts = [(len(stretch) - length) // step + 1 for stretch in wide]
        self.before = np.cumsum([0, *counts])
        self.first = np.array([stretch.start for stretch in wide], np.int64)
        self.step = step
        self.number = int(self.before[-1])

    def starts(self, numbers: np.ndarray) -> np.ndarray:
        """Return the starts of pieces, int32, by their numbers in the order of the text."""
        stretch = np.searchsorted(self.before[1:], numbers, "right")
        starts = self.first[stretch] + (numbers - self.before[stretch]) * self.step
        return starts.astype(np.int32)


def _chunks(part: Part, shape: _Shape) -> Loader:
    length, rows = shape.sequence_length, shape.batch_size
    pieces = _Pieces(part, length=length + 1, step=length + 1)
    steps = math.ceil(pieces.number / rows)
    planned = shape.steps_per_block(steps)

    @jax.jit
    def plan_epoch(key: jax.Array, epoch: int, starts_N: jax.Array) -> EpochPlan:
        padding = steps * rows - len(starts_N)
        key = jax.random.fold_in(key, epoch)
        order = jax.random.permutation(key, len(starts_N))
        starts = jnp.pad(starts_N[order], (0, padding))
        mask = jnp.arange(steps * rows) < len(starts_N)
        starts_EB = starts.reshape(steps, rows)
        return EpochPlan(starts_EB, mask.reshape(starts_EB.shape), jnp.ones_like(starts_EB, bool))

    def plan(key: jax.Array, epoch: int, block: int = 0) -> EpochPlan:
        if planned == steps:
            return plan_epoch(key, epoch, pieces.starts(np.arange(pieces.number)))
        numbers = np.arange(planned * rows) + block * planned * rows
        mask = numbers < pieces.number
        order = permute(jax.random.fold_in(key, epoch), numbers[mask], size=pieces.number)
        starts = np.zeros(len(numbers), np.int32)
        starts[mask] = pieces.starts(order)
        starts_EB, mask_EB = starts.reshape(planned, rows), mask.reshape(planned, rows)
        return _on_device(starts_EB, mask_EB, np.ones_like(mask_EB))

    return Loader(steps, planned, pieces.number * length, False, plan)


def _crops(part: Part, shape: _Shape) -> Loader:
    steps = math.ceil(size(part) / (shape.batch_size * shape.sequence_length))
    planned = shape.steps_per_block(steps)
    # Stretches that can hold a crop, and the number of crop positions before each.
    wide = [stretch for stretch in part if len(stretch) > shape.sequence_length]
    before = np.cumsum([0] + [len(stretch) - shape.sequence_length for stretch in wide])
    shifts = np.array([s.start for s in wide], np.int32) - before[:-1].astype(np.int32)

    @jax.jit
    def plan_block(key: jax.Array) -> EpochPlan:
        numbers_EB = jax.random.randint(
            key, (planned, shape.batch_size), 0, int(before[-1]), dtype=jnp.int32
        )
        stretch_EB = jnp.searchsorted(jnp.asarray(before[1:-1], jnp.int32), numbers_EB, "right")
        starts_EB = numbers_EB + jnp.asarray(shifts)[stretch_EB]
        always_EB = jnp.ones_like(starts_EB, dtype=bool)
        return EpochPlan(starts_EB, always_EB, always_EB)

    def plan(key: jax.Array, epoch: int, block: int = 0) -> EpochPlan:
        return plan_block(_block_key(key, epoch, block, is_long=planned < steps))

    characters = steps * shape.batch_size * shape.sequence_length
    return Loader(steps, planned, characters, False, plan)


def _streams(part: Part, shape: _Shape) -> Loader:
    """Row b reads the pieces b P / B, b P / B + 1, ... of all P, cyclically."""
    length, rows = shape.sequence_length, shape.batch_size
    pieces = _Pieces(part, length=length + 1, step=length)
    if pieces.number < rows:
        raise CharlmError(
            f"the training text is too short for {rows} streams: it has {pieces.number} pieces of "
            f"{length} characters, and each stream needs at least one: use a smaller "
            f"config.data.batch_size or config.data.sequence_length"
        )
    begins = np.array([stretch.start for stretch in part])
    steps = math.ceil(size(part) / (rows * length))
    planned = shape.steps_per_block(steps)
    first_B = np.arange(rows) * pieces.number // rows

    @jax.jit
    def resets_EB(key: jax.Array) -> jax.Array:
        return jax.random.bernoulli(key, shape.reset_probability, (planned, rows))

    def plan(key: jax.Array, epoch: int, block: int = 0) -> EpochPlan:
        numbers_E = epoch * steps + block * planned + np.arange(planned)
        starts_EB = pieces.starts((numbers_E[:, None] + first_B) % pieces.number)
        begins_EB = np.isin(starts_EB, begins) | (numbers_E == 0)[:, None]
        key = _block_key(key, epoch, block, is_long=planned < steps)
        fresh_EB = jnp.asarray(begins_EB) | resets_EB(key)
        return EpochPlan(jnp.asarray(starts_EB), jnp.ones_like(fresh_EB), fresh_EB)

    return Loader(steps, planned, steps * rows * length, True, plan)


def _block_key(key: jax.Array, epoch: int, block: int, *, is_long: bool) -> jax.Array:
    key = jax.random.fold_in(key, epoch)
    return jax.random.fold_in(key, block) if is_long else key


def _on_device(starts_EB: np.ndarray, mask_EB: np.ndarray, fresh_EB: np.ndarray) -> EpochPlan:
    return EpochPlan(jnp.asarray(starts_EB), jnp.asarray(mask_EB), jnp.asarray(fresh_EB))


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
    with a buffer of 10,000 pieces where we permute all of them; see `permute` for the order of a
    long epoch). `crops`: pieces with random start
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
