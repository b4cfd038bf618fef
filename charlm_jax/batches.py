"""Splits of a text, and batches as a pure function of (seed, step).

The encoded text lives on the device. What moves is an epoch's plan: where each row of each of
its batches starts. A batch is then a gather inside the jitted step.
"""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from charlm_jax.types import CharlmError, look_up


class EpochPlan(NamedTuple):
    """Where the rows of an epoch's batches start.

    Attributes:
      starts_EB: index of each row's first character in the training text, int32.
      mask_EB: True where the row counts; the rows that pad a short last batch do not.
    """

    starts_EB: jax.Array
    mask_EB: jax.Array


class Loader(NamedTuple):
    """How an epoch reads the training text.

    Attributes:
      steps_per_epoch: batches in one epoch.
      characters_per_epoch: targets in one epoch.
      plan: key -> EpochPlan, jitted; the same key gives the same plan.
    """

    steps_per_epoch: int
    characters_per_epoch: int
    plan: Callable[[jax.Array], EpochPlan]


def _tail(characters: int, valid_fraction: float) -> dict[str, range]:
    cut = int(characters * (1 - valid_fraction))
    return {"train": range(0, cut), "valid": range(cut, characters)}


_SPLITS: Mapping[str, Callable[[int, float], dict[str, range]]] = {
    "tail": _tail,
    "none": lambda characters, valid_fraction: {"train": range(0, characters)},
}


def split_text(
    characters: int, *, kind: str, valid_fraction: float, sequence_length: int
) -> dict[str, range]:
    """Cut a text into named, contiguous parts.

    Args:
      characters: length of the text.
      kind: `tail` (train, then valid at the end) or `none` (all of it train).
      valid_fraction: share held out by `tail`.
      sequence_length: T; training needs at least T + 1 characters.

    Returns:
      Part name -> range of character positions. The first held-out character is predicted from
      the one before it, so a held-out part of N characters has N targets.

    Raises:
      CharlmError: the text is too short; the message gives the smallest length that would do.
    """
    cut = look_up(_SPLITS, kind, "split.kind")

    def fits(length: int) -> bool:
        parts = cut(length, valid_fraction)
        return len(parts["train"]) > sequence_length and all(map(len, parts.values()))

    if fits(characters):
        return cut(characters, valid_fraction)
    parts = ", ".join(
        f"{len(part)} {name}" for name, part in cut(characters, valid_fraction).items()
    )
    smallest = _smallest(fits, sequence_length + 1)
    would_do = "no text would do" if smallest is None else f"a text of {smallest} would do"
    raise CharlmError(
        f"the text is too short: {characters} characters, split into {parts}, but "
        f"config.data.sequence_length={sequence_length} needs {sequence_length + 1} to train on: "
        f"{would_do}, or a shorter length"
    )


def _smallest(fits: Callable[[int], bool], length: int) -> int | None:
    high = length
    while not fits(high):
        high *= 2
        if high > 2**40:
            return None
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high


def _chunks(characters: int, sequence_length: int, batch_size: int) -> Loader:
    size = sequence_length + 1
    chunks = characters // size
    steps = math.ceil(chunks / batch_size)
    padding = steps * batch_size - chunks

    @jax.jit
    def plan(key: jax.Array) -> EpochPlan:
        starts = jax.random.permutation(key, chunks).astype(jnp.int32) * size
        mask = jnp.arange(steps * batch_size) < chunks
        starts = jnp.pad(starts, (0, padding))
        return EpochPlan(starts.reshape(steps, batch_size), mask.reshape(steps, batch_size))

    return Loader(steps, chunks * sequence_length, plan)


def _crops(characters: int, sequence_length: int, batch_size: int) -> Loader:
    steps = math.ceil(characters / (batch_size * sequence_length))

    @jax.jit
    def plan(key: jax.Array) -> EpochPlan:
        shape = (steps, batch_size)
        starts = jax.random.randint(key, shape, 0, characters - sequence_length, dtype=jnp.int32)
        return EpochPlan(starts, jnp.ones(shape, dtype=bool))

    return Loader(steps, steps * batch_size * sequence_length, plan)


_LOADERS: Mapping[str, Callable[[int, int, int], Loader]] = {"chunks": _chunks, "crops": _crops}


def build_loader(name: str, *, characters: int, sequence_length: int, batch_size: int) -> Loader:
    """The loader of a training text of so many characters.

    Args:
      name: `chunks`: an epoch is every non-overlapping piece of T + 1 characters once, in random
        order, the remainder dropped; the last batch may be short and is then padded and masked
        (as in the tutorial, which shuffles through a buffer of 10,000 pieces where we permute
        them all). `crops`: pieces that start anywhere, ceil(characters / (B x T)) batches.
      characters: length of the training text, at least T + 1.
      sequence_length: T.
      batch_size: B.
    """
    return look_up(_LOADERS, name, "data.loader")(characters, sequence_length, batch_size)


def gather_batch(
    ids_N: jax.Array, starts_B: jax.Array, *, sequence_length: int
) -> tuple[jax.Array, jax.Array]:
    """Rows of T + 1 characters, as inputs and the same shifted by one.

    Args:
      ids_N: the encoded text, any unsigned type.
      starts_B: first character of each row; start + T must lie inside the text.
      sequence_length: T.

    Returns:
      inputs_BT and targets_BT, int32.
    """
    offsets_T = jnp.arange(sequence_length + 1)
    rows_BT = ids_N[starts_B[:, None] + offsets_T[None, :]].astype(jnp.int32)
    return rows_BT[:, :-1], rows_BT[:, 1:]
