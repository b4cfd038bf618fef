"""A step without a finite loss or gradient: never saved, kept whole, and explained."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from charlm_jax.cli import main
from charlm_jax.core.errors import CharlmError
from charlm_jax.data.dataset import load_dataset
from charlm_jax.data.loaders import EpochPlan
from charlm_jax.models import build_reader
from charlm_jax.storage.checkpoint import Checkpoints
from charlm_jax.storage.run_index import has_failed
from charlm_jax.storage.workdir import Workdir
from charlm_jax.training import nan_replay
from charlm_jax.training.batch_gradient import Penalties, make_gradient_of_batch
from charlm_jax.training.loop import train_and_evaluate
from charlm_jax.training.nan_replay import Replay, replay_fault, write_fault
from charlm_jax.training.train_step import (
    TrainState,
    all_finite,
    make_train_step,
    make_train_steps,
)
from charlm_jax.training.trainer import Trainer, build_trainer
from tests.conftest import compiled_model, make_model_config, make_tiny_config

T = 5
IDS = jnp.asarray(np.random.default_rng(0).integers(0, 6, 80).astype(np.uint8))
STARTS = jnp.arange(0, 72, 6, dtype=jnp.int32).reshape(4, 3)
PLAN = EpochPlan(STARTS, jnp.ones((4, 3), bool), jnp.ones((4, 3), bool))


def _poisoned(bad_step: int, value: float) -> optax.GradientTransformation:
    """SGD that makes the parameters useless in one step, so that the next one has no loss."""

    def update(
        gradient: optax.Updates, step: jax.Array, params: optax.Params | None = None
    ) -> tuple[optax.Updates, jax.Array]:
        scale = jnp.where(step == bad_step, value, -0.1)
        return jax.tree.map(lambda g: scale * jnp.ones_like(g), gradient), step + 1

    return optax.GradientTransformation(lambda params: jnp.int32(0), update)


@pytest.mark.parametrize("value", [np.inf, np.nan])
@pytest.mark.parametrize("cuts", [[4], [1, 1, 1, 1], [2, 2]])
def test_a_step_that_is_not_finite_changes_nothing_nor_do_those_behind_it(
    cuts: list[int], value: float
) -> None:
    """Update 1 (from 0) ruins the weights, so update 2 is not made, and update 3 neither."""
    model, optimizer = (
        compiled_model(make_model_config("lstm"), 6),
        _poisoned(1, value),
    )
    steps = make_train_steps(
        make_train_step(make_gradient_of_batch(model), optimizer),
        sequence_length=T,
        most_steps=4,
        dropout_key=jax.random.key(0),
    )
    state = TrainState.create(model.init(jax.random.key(0)), optimizer)
    place, losses, states = 0, [], []
    for count in cuts:
        state, dispatch = steps(state, IDS, PLAN, place, place, count)
        states.append(jax.tree.map(np.array, state))
        losses += np.asarray(dispatch.steps.loss_nats)[:count].tolist()
        place += count
    assert np.isfinite(losses[:2]).all() and not np.isfinite(losses[2]) and losses[3] == 0.0
    assert int(state.step) == 2 and int(state.opt_state) == 2
    assert not all_finite(state)
    if len(cuts) == 4:  # after two, three and four updates
        jax.tree.map(np.testing.assert_array_equal, states[1], states[2])
        jax.tree.map(np.testing.assert_array_equal, states[1], states[3])


@pytest.fixture
def trainer() -> Trainer:
    # Few rows, so that an update computes in the order in which a replay looks at it: what is
    # infinite on the way depends on that order.
    changes = {"data.loader": "streams", "model.layers": ("rnn", "lstm"), "data.batch_size": 4}
    config = make_tiny_config(**changes)
    return build_trainer(config, load_dataset(config))


def _spoil(params: dict) -> dict:
    """Weights with which the second layer subtracts infinity from itself at its second position.

    The first layer's hidden state is 1 everywhere. Times 3e38 and summed it is infinite, and the
    LSTM's gates are 1; its hidden state then, times -3e38, is minus infinity.
    """
    first, second = params["layer_0"]["mixer"], params["layer_1"]["mixer"]
    first = first | {"input": first["input"] | {"bias": jnp.full(6, 50.0)}}
    second = second | {
        "input": second["input"] | {"kernel": jnp.full((6, 24), 3e38)},
        "recurrent_kernel": jnp.full((6, 24), -3e38),
    }
    return params | {"layer_0": {"mixer": first}, "layer_1": {"mixer": second}}


@pytest.fixture
def printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[Replay], list[list[str]]]:
    """A function that returns the lines that `charlm replay` prints, as three paragraphs."""

    def printed(replay: Replay) -> list[list[str]]:
        monkeypatch.setattr(nan_replay, "replay_fault", {"a run": replay}.__getitem__)
        assert main(["replay", "--workdir=a run"]) == 0
        paragraphs = capsys.readouterr().out.split("\n\n")
        return [[*map(str.rstrip, text.splitlines())] for text in paragraphs]

    return printed


def test_a_replay_names_the_array_that_went_bad_first(
    tmp_path: Path, trainer: Trainer, printed: Callable[[Replay], list[list[str]]]
) -> None:
    place, state = Workdir(tmp_path / "run"), trainer.init_state()
    ids_N = jnp.asarray(trainer.dataset.ids_N)
    with place.held():
        place.claim(trainer.config, trainer.dataset)
        with pytest.raises(CharlmError, match="has not failed"):
            replay_fault(place.path)
        batch = trainer.batch(ids_N, 0)
        write_fault(place, trainer, state, batch)
        sound = replay_fault(place.path)
        assert sound.step == 1 and sound.first_bad is None and np.isfinite(sound.loss_nats)
        assert printed(sound)[2] == ["all arrays are finite; the failure did not reproduce"]
        params = _spoil(dict(state.params))
        write_fault(place, trainer, state._replace(step=jnp.int32(1), params=params), batch)
    replay = replay_fault(place.path)
    first = replay.first_bad
    assert replay.step == 2 and not np.isfinite(replay.loss_nats + replay.gradient_norm)
    assert first is not None and first.name == "forward layer_1/input_gate"
    assert first.first == (0, 1, 0)
    text = trainer.dataset.vocabulary.decode(np.asarray(batch.inputs_BT[0]))
    assert replay.text_before(first) == text[:2]
    before = [seen.name for seen in replay.arrays[: replay.arrays.index(first)]]
    assert before[0] == "before params/embedding" and "forward layer_0/hidden" in before
    assert not any(name.startswith("forward layer_1") for name in before)
    heading, rows, says = printed(replay)
    assert heading == [f"step 2: loss {replay.loss_nats:g}, gradient norm {replay.gradient_norm:g}"]
    assert rows[-1].split()[:2] == first.name.split()  # the table ends there
    assert rows[-1].endswith(f" {first.bad:,} of {first.size:,}") and rows[-2].endswith(" -")
    assert says == [
        f"first non-finite array: {first.name}, at index (0, 1, 0)",
        f"text read by that row: {text[:2]!r}",
    ]


def test_the_last_failure_is_replayed_and_not_that_of_the_highest_step(
    tmp_path: Path, trainer: Trainer
) -> None:
    place, state = Workdir(tmp_path / "run"), trainer.init_state()
    with place.held():
        place.claim(trainer.config, trainer.dataset)
        batch = trainer.batch(jnp.asarray(trainer.dataset.ids_N), 0)
        for step in (1, 0):
            write_fault(place, trainer, state._replace(step=jnp.int32(step)), batch)
    os.utime(place.fault / "2", (0, 0))  # long before
    assert replay_fault(place.path).step == 1
    os.truncate(place.fault / "1" / "params.npz", 100)
    with pytest.raises(CharlmError, match=re.escape(f"{place.fault}/1 cannot be read: ")):
        replay_fault(place.path)


def test_a_replay_drops_out_what_training_did_in_its_segments(tmp_path: Path) -> None:
    changes = {"train.segment_length": 4, "model.dropout": 0.5, "model.layers": ("rnn", "gru")}
    config = make_tiny_config(**changes)
    trainer = build_trainer(config, load_dataset(config))
    workdir, state = Workdir(tmp_path / "run"), trainer.init_state()
    ids_N = jnp.asarray(trainer.dataset.ids_N)
    with workdir.held():
        workdir.claim(config, trainer.dataset)
        write_fault(workdir, trainer, state, trainer.batch(ids_N, 0))
    replay = replay_fault(workdir.path)
    _, dispatch = trainer.dispatch(state, ids_N, 0, 1)
    assert replay.loss_nats == pytest.approx(float(dispatch.steps.loss_nats[0]), rel=1e-5)
    names = [seen.name for seen in replay.arrays if seen.name.startswith("forward layer")]
    assert names == sorted(names, key=lambda name: name.split("/")[0]) and names
    (stage,) = (seen for seen in replay.arrays if seen.name == "loss")
    assert stage.largest == pytest.approx(replay.loss_nats, rel=1e-5)


def test_weights_that_are_not_finite_are_named_as_such(tmp_path: Path, trainer: Trainer) -> None:
    place, state = Workdir(tmp_path / "run"), trainer.init_state()
    kernel = jnp.asarray(state.params["output"]["kernel"]).at[1, 2].set(jnp.nan)
    params = dict(state.params) | {"output": dict(state.params["output"]) | {"kernel": kernel}}
    with place.held():
        place.claim(trainer.config, trainer.dataset)
        batch = trainer.batch(jnp.asarray(trainer.dataset.ids_N), 0)
        write_fault(place, trainer, state._replace(params=params), batch)
    first = replay_fault(place.path).first_bad
    assert first is not None
    assert (first.name, first.bad, first.first) == ("before params/output/kernel", 1, (1, 2))


@pytest.mark.parametrize(
    "loader", [pytest.param("chunks", marks=pytest.mark.exhaustive), "streams"]
)
def test_a_run_that_fails_keeps_the_state_before_and_says_how_to_look(
    tmp_path: Path, loader: str
) -> None:
    changes = {"optimizer.learning_rate": 1e38, "data.loader": loader, "split.kind": "none"}
    workdir = tmp_path / "run"
    with pytest.raises(
        CharlmError, match=r"step 2: .*charlm replay --workdir=.*no checkpoint was saved"
    ):
        train_and_evaluate(make_tiny_config(**changes), workdir)
    assert Checkpoints(workdir / "checkpoints").steps() == []
    assert Checkpoints(workdir / "fault").steps() == [2]
    replay = replay_fault(workdir)
    assert replay.step == 2 and replay.first_bad is not None
    assert replay.first_bad.name.startswith(("forward", "loss", "after norm", "after state"))
    file = workdir / "config.json"
    values = json.loads(file.read_text())
    values["optimizer"]["beta1"] = 0.5
    file.write_text(json.dumps(values))
    with pytest.raises(CharlmError, match=r"config\.optimizer\.beta1 is 0.9 there and 0.5 here"):
        replay_fault(workdir)


def test_weights_that_are_ruined_at_an_evaluation_are_a_fault_as_well(tmp_path: Path) -> None:
    changes = {"optimizer.learning_rate": 1e38, "train.max_steps": 1}
    with pytest.raises(CharlmError, match=r"step 1: the parameters or their norm .*charlm replay"):
        train_and_evaluate(make_tiny_config(**changes), tmp_path / "run")
    first = replay_fault(tmp_path / "run").first_bad
    assert first is not None


def test_a_held_out_loss_that_is_not_finite_is_a_fault_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sweep or a study then knows that the run has diverged."""
    config, workdir = make_tiny_config(**{"train.max_steps": 1}), Workdir(tmp_path / "run")

    def build(*arguments: Any) -> Trainer:
        return build_trainer(*arguments)._replace(score=lambda *args, **kwargs: np.full(9, np.inf))

    monkeypatch.setattr("charlm_jax.training.loop.build_trainer", build)
    with pytest.raises(CharlmError, match=r"step 1: the held-out loss is inf; the state is in "):
        train_and_evaluate(config, workdir.path)
    assert Checkpoints(workdir.fault).steps() == [2] and has_failed(workdir)


def test_the_stages_are_those_of_the_update(trainer: Trainer) -> None:
    """What a replay looks at last is what the jitted update makes; with penalties."""
    state = trainer.init_state()
    batch = trainer.batch(jnp.asarray(trainer.dataset.ids_N), 0)
    context = trainer.phases[0].carried_context
    read = build_reader(trainer.config.model, len(trainer.dataset.vocabulary))
    more: Any = {"context": context, "penalties": Penalties(read, activation=2.0, temporal=1.0)}
    stages = nan_replay._stages(trainer.model, trainer.optimizer, state, batch, **more)
    gradient = make_gradient_of_batch(trainer.model, **more)
    step = make_train_step(gradient, trainer.optimizer)
    made, metrics = jax.jit(step)(state, batch)
    found = TrainState(state.step + 1, stages["after params"], stages["after optimizer"], ())
    made_again = made._replace(carried=())
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(made_again), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(stages["loss"], metrics.loss_nats, rtol=1e-5)
    assert stages["penalty"] > 0.0
    for a, b in zip(
        jax.tree.leaves(stages["after state"]), jax.tree.leaves(made.carried), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
