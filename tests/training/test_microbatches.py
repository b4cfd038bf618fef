"""Batches that are computed in pieces; `two_devices.py` has more, with the same helpers."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from charlm_jax.data.dataset import load_dataset
from charlm_jax.training.train_step import TrainState
from charlm_jax.training.trainer import Trainer, build_trainer
from tests.conftest import make_tiny_config

CHANGES: Mapping[str, object] = {
    "model.dropout": 0.2,
    "model.layers": ("rnn",),
    "optimizer.average_decay": 0.9,
    "train.epochs": 12,
    "train.max_steps": 40,
}


class Training(NamedTuple):
    """States before and after a run, on the host, and losses and characters of its steps."""

    first: TrainState
    last: TrainState
    losses: np.ndarray
    characters: np.ndarray


def make_trainer(**changes: object) -> Trainer:
    """A trainer of a tiny run, of which every 18th update has 12 rows of 16 under `chunks`."""
    config = make_tiny_config(**{**CHANGES, **changes})
    return build_trainer(config, load_dataset(config))


def train(trainer: Trainer) -> Training:
    """Train a run to its end."""
    state, ids_N = trainer.init_state(), trainer.devices.put_text(trainer.dataset.ids_N)
    first, losses, characters, step = jax.device_get(state), [], [], 0
    while step < trainer.total_steps:
        count = trainer.steps_to_next_stop(step)
        state, dispatch = trainer.dispatch(state, ids_N, step, count)
        losses.append(np.asarray(dispatch.steps.loss_nats)[:count])
        characters.append(np.asarray(dispatch.steps.characters)[:count])
        step += count
    return Training(first, jax.device_get(state), *map(np.concatenate, (losses, characters)))


def assert_same_training(found: Training, wanted: Training) -> None:
    """Losses agree to 1e-6 of their size, arrays of the state to 1e-5 of their norm."""
    jax.tree.map(np.testing.assert_array_equal, found.first, wanted.first)
    np.testing.assert_array_equal(found.characters, wanted.characters)
    np.testing.assert_allclose(found.losses, wanted.losses, rtol=1e-6)
    assert int(found.last.step) == int(wanted.last.step) == len(found.losses)
    for name in ("params", "average", "carried"):
        leaves = jax.tree.leaves(getattr(found.last, name))
        wanted_leaves = jax.tree.leaves(getattr(wanted.last, name))
        for x, y in zip(leaves, wanted_leaves, strict=True):
            x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
            assert np.linalg.norm(x - y) <= 1e-5 * np.linalg.norm(y), name


@pytest.mark.core
def test_microbatches_are_one_batch() -> None:
    """With dropout, an average of the weights, and masked rows at the end of each epoch."""
    wanted = train(make_trainer())
    assert (wanted.characters < 128).any()
    assert_same_training(train(make_trainer(**{"train.microbatches": 4})), wanted)


@pytest.mark.exhaustive
def test_memory_falls_with_the_pieces() -> None:
    sizes = {"data.batch_size": 64, "data.sequence_length": 32, "model.hidden_size": 16}
    bytes_ = {}
    for count in (1, 8):
        trainer = make_trainer(**sizes, **{"train.microbatches": count})
        parts, ids_N = trainer.parts_at(0), jnp.asarray(trainer.dataset.ids_N)
        steps: Any = parts.train_steps
        like = jax.eval_shape(trainer.init_state)
        lowered = steps.lower(like, ids_N, parts.plan(0), 0, 0, 1)
        program = lowered.compile({"xla_backend_optimization_level": 0})
        bytes_[count] = program.memory_analysis().temp_size_in_bytes
    assert bytes_[8] < bytes_[1] / 3
