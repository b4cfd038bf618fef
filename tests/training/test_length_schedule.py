"""Training that begins with sequences of other lengths."""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from charlm_jax.config.length_schedule import phase_at
from charlm_jax.core.errors import CharlmError
from charlm_jax.core.prng import KeyStream, stream_key
from charlm_jax.core.signals import Interrupted
from charlm_jax.data.dataset import load_dataset
from charlm_jax.inference.run import load_run
from charlm_jax.storage.checkpoint import Checkpoints
from charlm_jax.storage.workdir import Workdir
from charlm_jax.training.batch_gradient import make_gradient_of_batch
from charlm_jax.training.loop import train_and_evaluate
from charlm_jax.training.nan_replay import replay_fault, write_fault
from charlm_jax.training.reproduce import verify_run
from charlm_jax.training.throughput import measure_speeds
from charlm_jax.training.train_step import TrainState, make_train_step
from charlm_jax.training.trainer import Trainer, build_trainer
from tests.conftest import make_tiny_config
from tests.training.test_branch import same
from tests.training.test_loop import StopAt

LOADERS = ("chunks", "crops", "streams")

# Steps 0-4 have 32 rows of 4, 5-8 have 8 of 16, 9-11 have 32 of 4 again, and 12-15 16 of 8.
SCHEDULE = "4:5,16:4,4:3"
LENGTHS = [4] * 5 + [16] * 4 + [4] * 3 + [8] * 4

CHANGES: Mapping[str, object] = {
    "data.length_schedule": SCHEDULE,
    "model.dropout": 0.2,
    "model.layers": ("rnn", "attention"),
    "optimizer.average_decay": 0.5,
    "train.max_steps": 16,
    "train.evaluate_every_steps": 5,
    "train.log_every_steps": 1,
}


@functools.cache
def _trainer(**changes: object) -> Trainer:
    config = make_tiny_config(**(CHANGES | changes))
    return build_trainer(config, load_dataset(config))


def _plain(loader: str, length: int, **changes: object) -> Trainer:
    """The parts of a run with sequences of one length, and as many characters in a step."""
    fields = {"data.sequence_length": length, "data.batch_size": 128 // length}
    return _trainer(
        **{"data.loader": loader, "data.length_schedule": "", "evaluation.context": 8},
        **fields,
        **changes,
    )


@pytest.mark.core
@pytest.mark.parametrize(
    "loader", [pytest.param("chunks", marks=pytest.mark.optimised), *LOADERS[1:]]
)
def test_a_constant_schedule_changes_no_bit(tmp_path: Path, loader: str) -> None:
    for name, schedule in {"none": "", "constant": "8:7,8:3"}.items():
        changes = CHANGES | {"data.loader": loader, "data.length_schedule": schedule}
        train_and_evaluate(make_tiny_config(**changes), tmp_path / name)
    same(tmp_path / "none", tmp_path / "constant")


@pytest.mark.parametrize("loader", LOADERS)
def test_batches_are_those_of_runs_of_each_length(loader: str) -> None:
    """In the order in which such a run reads them, which goes on where a length returns."""
    trainer = _trainer(**{"data.loader": loader})
    assert trainer.by_length.keys() == {*LENGTHS}  # one compiled program for each length
    plain = {length: _plain(loader, length) for length in set(LENGTHS)}
    ids_N = jnp.asarray(trainer.dataset.ids_N)
    for step, length in enumerate(LENGTHS):
        found = trainer.batch(ids_N, step)
        assert found.inputs_BT.shape == found.targets_BT.shape == (128 // length, length)
        wanted = plain[length].batch(ids_N, LENGTHS[:step].count(length))
        for name in ("inputs_BT", "targets_BT", "mask_B", "fresh_B"):
            np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name), name)
        np.testing.assert_array_equal(found.inputs_BT[:, 1:], found.targets_BT[:, :-1])


def test_a_length_that_returns_repeats_no_piece() -> None:
    """Seventeen steps of length 4 in three phases are an epoch of its 540 pieces, each once.

    The next step is the first of its next epoch.
    """
    schedule = "4:5,16:2,4:6,8:1,4:7"
    trainer = _trainer(**{"data.length_schedule": schedule, "train.max_steps": 30})
    starts: list[int] = []
    for step in range(20):
        if phase_at(trainer.phases, step).sequence_length == 4:
            plan, index = trainer._plan(step)
            assert trainer.by_length[4].loader.steps_per_epoch == 17
            starts += np.asarray(plan.starts_EB[index])[np.asarray(plan.mask_EB[index])].tolist()
    assert sorted(starts) == list(range(0, 2700, 5))
    ids_N = jnp.asarray(trainer.dataset.ids_N)
    found, wanted = trainer.batch(ids_N, 20), _plain("chunks", 4).batch(ids_N, 17)
    np.testing.assert_array_equal(found.inputs_BT, wanted.inputs_BT)


@pytest.mark.core
@pytest.mark.parametrize("loader", ["chunks", "streams"])
def test_updates_are_those_of_a_step_by_step_reference(loader: str) -> None:
    """With each length's own parts, dropout by the step, and a fresh state at every border."""
    trainer = _trainer(**{"data.loader": loader})
    plain = {length: _plain(loader, length) for length in set(LENGTHS)}
    ids_N = jnp.asarray(trainer.dataset.ids_N)
    steps = {
        length: jax.jit(
            make_train_step(
                make_gradient_of_batch(one.model, context=length if loader == "streams" else 0),
                one.optimizer,
                average_decay=0.5,
            )
        )
        for length, one in plain.items()
    }
    found, reference = trainer.init_state(), trainer.init_state()
    dropout_key = stream_key(trainer.config.seed, KeyStream.DROPOUT)
    for step, length in enumerate(LENGTHS):
        if length != LENGTHS[max(step - 1, 0)]:
            reference = reference._replace(carried=plain[length].init_state().carried)
        batch = plain[length].batch(ids_N, LENGTHS[:step].count(length))
        batch = batch._replace(key=jax.random.fold_in(dropout_key, step))
        reference, metrics = steps[length](reference, batch)
        found, dispatch = trainer.dispatch(found, ids_N, step, 1)
        assert int(found.step) == step + 1
        assert int(dispatch.steps.characters[0]) == int(np.sum(batch.mask_B)) * length
        np.testing.assert_allclose(dispatch.steps.loss_nats[0], metrics.loss_nats, rtol=1e-5)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(reference), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("loader", LOADERS)
def test_a_dispatch_crosses_no_border(loader: str) -> None:
    """Neither of a phase, nor of an epoch of its length, nor of an epoch of the run."""
    changes = {"data.length_schedule": "4:19,16:30,4:3", "train.max_steps": 0}
    others = {"train.steps_per_dispatch": 1000, "train.log_every_steps": 1000}
    trainer = _trainer(
        **{"data.loader": loader, "train.evaluate_every_steps": 0, "train.epochs": 4},
        **changes,
        **others,
    )
    step, ends = 0, []
    while step < trainer.total_steps:
        count = trainer.steps_to_next_stop(step)
        phase = phase_at(trainer.phases, step)
        per_epoch = trainer.by_length[phase.sequence_length].loader.steps_per_epoch
        assert count >= 1 and step + count <= phase.end_step
        first, last = phase.position(step), phase.position(step + count - 1)
        assert first // per_epoch == last // per_epoch
        step += count
        ends.append(step)
    assert {19, 49, 52} < {*ends} and {step for step in ends if trainer.ends_epoch(step)} == {
        trainer.steps_per_epoch * epoch for epoch in (1, 2, 3, 4)
    }


@pytest.mark.parametrize(
    ("loader", "stops", "times"),
    [
        ("chunks", [4], 1),
        ("streams", range(1, 15), 1),
        ("streams", [6], 2),
        ("crops", [5], 1),
    ],
)
def test_a_stopped_run_is_resumed_bit_for_bit(
    tmp_path: Path, loader: str, stops: list[int], times: int
) -> None:
    """Saved in a phase or at a border; a second signal saves nothing. Dispatches have one step."""
    fields = {"data.loader": loader}
    train_and_evaluate(make_tiny_config(**(CHANGES | fields)), tmp_path / "whole")
    config = make_tiny_config(**(CHANGES | fields | {"train.steps_per_dispatch": 1}))
    for stop in stops:
        run = tmp_path / f"run_{stop}"
        with pytest.raises(Interrupted if times == 1 else KeyboardInterrupt):
            train_and_evaluate(config, run, view=StopAt(stop, times=times))
        if times == 1:
            saved = stop if stop % 5 == 0 else stop + 1  # at an evaluation, or a dispatch later
            assert Checkpoints(run / "checkpoints").steps()[-1] == saved
        train_and_evaluate(config, run)
        same(run, tmp_path / "whole")


def test_a_run_is_verified_over_its_borders(tmp_path: Path) -> None:
    train_and_evaluate(make_tiny_config(**CHANGES, **{"data.loader": "streams"}), tmp_path / "run")
    result = verify_run(tmp_path / "run", steps=16)
    assert result.compared[-1] == 16 and result.first_difference is None


def test_a_step_of_any_phase_is_replayed(tmp_path: Path) -> None:
    """Saved as after a failure: before the first step of a phase, its state is carried no more."""
    trainer = _trainer(**{"data.loader": "streams"})
    ids_N, state = jnp.asarray(trainer.dataset.ids_N), trainer.init_state()
    for step, length in enumerate(LENGTHS[:6]):
        batch, workdir = trainer.batch(ids_N, step), Workdir(tmp_path / str(step))
        with workdir.held():
            workdir.claim(trainer.config, trainer.dataset)
            write_fault(workdir, trainer, trainer.enter_phase(state, step), batch)
        state, dispatch = trainer.dispatch(state, ids_N, step, 1)
        if step in (4, 5):
            replay = replay_fault(workdir.path)
            assert replay.step == step + 1 and replay.ids_BT.shape == (128 // length, length)
            np.testing.assert_array_equal(replay.ids_BT, batch.inputs_BT)
            np.testing.assert_allclose(replay.loss_nats, dispatch.steps.loss_nats[0], rtol=1e-5)


@pytest.mark.parametrize(
    ("schedule", "step", "shape"),
    [
        ("4:1", 1, (16, 8)),  # the first update spoils the weights, which is seen at the border
        ("4:2", 2, (32, 4)),  # the second has no loss: no update of the next phase is begun
    ],
)
def test_a_failure_at_a_border_keeps_the_state_before_it(
    tmp_path: Path, schedule: str, step: int, shape: tuple[int, int]
) -> None:
    fields = {"data.loader": "streams", "optimizer.learning_rate": 1e38}
    others = {"data.length_schedule": schedule, "optimizer.average_decay": 0.0}
    config = make_tiny_config(**(CHANGES | fields | others | {"train.steps_per_dispatch": 1}))
    with pytest.raises(CharlmError, match=rf"step {step}: .*charlm replay"):
        train_and_evaluate(config, tmp_path / "run")
    replay = replay_fault(tmp_path / "run")
    assert replay.step == 2 and replay.ids_BT.shape == shape and replay.first_bad is not None


def test_a_run_branches_off_one_whose_schedule_agrees_so_far(tmp_path: Path) -> None:
    fields = {"data.loader": "streams", "train.keep": "log"}
    others, one = {"train.max_steps": 30}, tmp_path / "one"
    train_and_evaluate(make_tiny_config(**(CHANGES | fields | others)), one)
    for name, schedule, checkpoint in (("later", "4:5,16:9", 8), ("sooner", "4:5,16:2", 4)):
        config = make_tiny_config(**(CHANGES | fields | {"data.length_schedule": schedule}))
        train_and_evaluate(config, tmp_path / name)
        branched = tmp_path / f"branched_{name}"
        train_and_evaluate(config, branched, branch_from=one)
        same(branched, tmp_path / name)
        assert Workdir(branched).read_facts()["branched_from"]["checkpoint"] == checkpoint
        assert load_run(branched, checkpoint=str(checkpoint)).checkpoint == checkpoint
    other = make_tiny_config(**(CHANGES | fields | {"data.length_schedule": "16:2"}))
    message = "no checkpoint to start from: .* sequence lengths are those .* up to step 0, "
    with pytest.raises(CharlmError, match=message):
        train_and_evaluate(other, tmp_path / "other", branch_from=one)


def test_a_run_keeps_its_schedule_however_it_is_written(tmp_path: Path) -> None:
    run, without = tmp_path / "run", {"data.length_schedule": "", "data.loader": "chunks"}
    train_and_evaluate(make_tiny_config(**(CHANGES | without | {"train.max_steps": 5})), run)
    message = "length_schedule is '' there and '4:5,16:4,4:3' here"
    with pytest.raises(CharlmError, match=message):
        train_and_evaluate(make_tiny_config(**CHANGES), run)
    train_and_evaluate(make_tiny_config(**(CHANGES | {"data.length_schedule": "8:5"})), run)
    train_and_evaluate(make_tiny_config(**(CHANGES | without)), tmp_path / "whole")
    same(run, tmp_path / "whole")


def test_a_schedule_leaves_steps_to_the_length_of_the_run() -> None:
    message = r"='4:5,16:4,4:3' has 12 steps, but the run has 12: .*sequence_length=8$"
    with pytest.raises(CharlmError, match=message):
        _trainer(**{"train.max_steps": 12})
    assert _trainer(**{"train.max_steps": 13}).total_steps == 13
    assert _trainer(**{"train.max_steps": 3, "data.length_schedule": "8:5"}).total_steps == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train.segment_length": 8}, "must divide the 4 of config.data.length_schedule"),
        (
            {"model.position": "learned", "model.max_length": 8, "model.layers": ("attention",)},
            "max_length=8 positions, fewer than the 16 of config.data.length_schedule",
        ),
        (
            {"data.sequence_length": 8, "data.batch_size": 512, "data.length_schedule": "4096:1"},
            "longest stretch has 2700 characters, but the length 4096 .* needs 4097",
        ),
    ],
)
def test_every_length_must_fit(changes: dict, message: str) -> None:
    with pytest.raises(CharlmError, match=message):
        _trainer(**({"model.layers": ("lstm",)} | changes))


def test_speed_is_measured_in_the_last_phase(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(1000))
    monkeypatch.setattr("charlm_jax.training.throughput.time.monotonic", lambda: float(next(now)))
    firsts, dispatch = [], Trainer.dispatch

    def record(trainer: Trainer, state: TrainState, ids_N: jax.Array, step: int, count: int) -> Any:
        firsts.append(step)
        return dispatch(trainer, state, ids_N, step, count)

    monkeypatch.setattr(Trainer, "dispatch", record)
    config = make_tiny_config(**CHANGES, **{"data.loader": "streams"})
    (speed,) = measure_speeds({"tiny": config}, rounds=1, steps=3).values()
    assert firsts == [12, 13, 14] * 2  # log_every_steps=1 ends a dispatch
    assert speed == 3 * 128  # a turn lasts a second of this clock
