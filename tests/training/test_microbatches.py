"""Batches that are computed in pieces."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from charlm_jax.data.dataset import load_dataset
from charlm_jax.training.loop import train_and_evaluate
from charlm_jax.training.train_step import TrainState
from charlm_jax.training.trainer import Trainer, build_trainer
from tests.conftest import make_tiny_config

# A run of 40 steps: 16 rows of 8, but 32 of 4 and 8 of 16 at first; under chunks, update 18 of each
# epoch has 12 rows. Attention keeps a cache, the others one state.
CHANGES: Mapping[str, object] = {
    "data.length_schedule": "4:5,16:4",
    "model.dropout": 0.2,
    "model.layers": ("lstm", "attention"),
    "optimizer.average_decay": 0.9,
    "train.epochs": 3,
    "train.max_steps": 40,
}
LOADERS: Mapping[str, Mapping[str, object]] = {
    "chunks": {},
    "crops": {},
    "streams": {"data.reset_probability": 0.1},
}


def make_trainer(loader: str, **changes: object) -> Trainer:
    """A trainer of the run above."""
    config = make_tiny_config(**{**CHANGES, "data.loader": loader, **LOADERS[loader], **changes})
    return build_trainer(config, load_dataset(config))


def train(trainer: Trainer) -> tuple[TrainState, np.ndarray, np.ndarray]:
    """The last state of a run, and losses and characters of its steps."""
    state, ids_N, step = trainer.init_state(), jnp.asarray(trainer.dataset.ids_N), 0
    losses, characters = [], []
    while step < trainer.total_steps:
        count = trainer.steps_to_next_stop(step)
        state, dispatch = trainer.dispatch(state, ids_N, step, count)
        losses.append(np.asarray(dispatch.steps.loss_nats)[:count])
        characters.append(np.asarray(dispatch.steps.characters)[:count])
        step += count
    return state, np.concatenate(losses), np.concatenate(characters)


def assert_same_training(found: Any, wanted: Any) -> None:
    """Losses agree to 1e-6 of their size, arrays of the state to 1e-5 of their norm."""
    (state, losses, characters), (wanted_state, wanted_losses, wanted_characters) = found, wanted
    np.testing.assert_array_equal(characters, wanted_characters)
    np.testing.assert_allclose(losses, wanted_losses, rtol=1e-6)
    assert int(state.step) == int(wanted_state.step) == len(losses)
    for name in ("params", "average", "carried"):
        leaves = jax.tree.leaves(getattr(state, name))
        wanted_leaves = jax.tree.leaves(getattr(wanted_state, name))
        for x, y in zip(leaves, wanted_leaves, strict=True):
            x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
            assert np.linalg.norm(x - y) <= 1e-5 * np.linalg.norm(y), name


@pytest.mark.core
@pytest.mark.parametrize("loader", LOADERS)
def test_microbatches_are_one_batch(loader: str) -> None:
    found = train(make_trainer(loader, **{"train.microbatches": 4}))
    wanted = train(make_trainer(loader))
    short = wanted[2] < 128  # the characters of a step
    assert short.any() == (loader == "chunks")
    assert_same_training(found, wanted)


@pytest.mark.parametrize(
    "changes",
    [
        {"model.block": "pre_norm", "model.layers": ("gru", "attention"), "model.mlp": "swiglu"},
        {"model.layers": ("mingru", "rnn"), "train.segment_length": 4},
    ],
    ids=["blocks", "segments"],
)
def test_dropout_of_a_row_does_not_depend_on_the_pieces(changes: Mapping[str, object]) -> None:
    """Nor with a single row in a piece: without learning, losses are those of one batch."""
    still = {"model.embedding_size": 6, "model.dropout": 0.5, "optimizer.learning_rate": 1e-30}
    fields = {**still, **changes, "data.length_schedule": "", "train.max_steps": 4}
    _, wanted, _ = train(make_trainer("crops", **fields))
    _, found, _ = train(make_trainer("crops", **fields, **{"train.microbatches": 16}))
    _, other, _ = train(make_trainer("crops", **{**fields, "model.dropout": 0.4}))
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
    assert np.abs(other - wanted).min() > 1e-5


def test_memory_falls_with_the_pieces() -> None:
    sizes: dict[str, object] = {"data.batch_size": 64, "data.sequence_length": 32}
    sizes |= {"data.length_schedule": "", "model.hidden_size": 16}
    bytes_ = {}
    for count in (1, 8):
        trainer = make_trainer("crops", **sizes, **{"train.microbatches": count})
        plan, ids_N = trainer.by_length[32].plan(0), jnp.asarray(trainer.dataset.ids_N)
        steps: Any = trainer.by_length[32].train_steps
        program = steps.lower(trainer.init_state(), ids_N, plan, 0, 0, 1).compile()
        bytes_[count] = program.memory_analysis().temp_size_in_bytes
    assert bytes_[8] < bytes_[1] / 3


def test_a_run_may_go_on_with_other_microbatches(tmp_path: Path) -> None:
    """It is noted, since updates differ by rounding."""

    class Notes:
        def __init__(self) -> None:
            self.lines: list[str] = []

        def note(self, text: str) -> None:
            self.lines.append(text)

        def __getattr__(self, name: str) -> Any:
            return lambda *args, **kwargs: None

    changes = {"train.max_steps": 8, "train.evaluate_every_steps": 4}
    train_and_evaluate(make_tiny_config(**changes), tmp_path / "run")
    notes: Any = Notes()
    again = make_tiny_config(**{**changes, "train.max_steps": 12, "train.microbatches": 2})
    result = train_and_evaluate(again, tmp_path / "run", view=notes)
    assert result.step == 12
    line = "may not be bit-for-bit equal to an uninterrupted run: config.train.microbatches was 1"
    assert any(note.startswith(line) for note in notes.lines)
