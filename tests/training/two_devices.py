"""Training on two devices is training on one. `test_devices.py` runs this in a process with two."""

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from charlm_jax.core.errors import CharlmError
from charlm_jax.storage.checkpoint import Checkpoints
from charlm_jax.training.devices import ROWS
from charlm_jax.training.loop import train_and_evaluate
from charlm_jax.training.reproduce import verify_run
from charlm_jax.training.train_step import state_specs
from tests.conftest import Notes, make_tiny_config
from tests.training.test_microbatches import assert_same_training, make_trainer, train
from tests.training.test_penalties import REGULARIZED
from tests.training.test_update_rules import RULES, assert_resumes

TWO: Mapping[str, object] = {"train.devices": 2}
PIECES: Mapping[str, object] = {**TWO, "train.microbatches": 2}
SHARDS: Mapping[str, object] = {**TWO, "train.shard_params": True}
STREAMS: Mapping[str, object] = {"data.loader": "streams", "data.reset_probability": 0.1}
LENGTHS: Mapping[str, object] = {"data.length_schedule": "16:4"}
KERNELS_OF_BLOCKS: Mapping[str, object] = {
    "model.block": "pre_norm",
    "model.mlp": "gelu",
    "model.embedding_size": 6,
    "model.heads": 2,
}


def test_there_are_two_devices() -> None:
    assert jax.device_count() == 2


def test_two_devices_with_sharded_weights_train_as_one() -> None:
    """With dropout, state that is carried and reset, and an average of the weights."""
    odd = {"model.hidden_size": 7, "model.embedding_size": 6}  # some weights are not divided
    fields = {**STREAMS, **odd, "model.layers": ("gru",)}
    trainer = make_trainer(**fields, **SHARDS, **{"train.microbatches": 2})
    assert_same_training(train(trainer), train(make_trainer(**fields)))


def test_two_devices_draw_the_masks_of_one() -> None:
    """Of sequences, symbols and weights, and have its penalties; every row is a piece."""
    fields = {**REGULARIZED, **STREAMS, "model.layers": ("lstm",), "train.max_steps": 8}
    trainer = make_trainer(**fields, **SHARDS, **{"train.microbatches": 8})
    assert_same_training(train(trainer), train(make_trainer(**fields)))


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("rule", "layers", "model"),
    [
        ("adam", ("rnn",), {}),
        ("muon", ("rglru",), KERNELS_OF_BLOCKS),
        ("schedule_free", ("lstm",), {}),
    ],
    ids=["adam", "muon", "schedule_free"],
)
def test_every_update_rule_sees_whole_matrices(
    rule: str, layers: tuple[str, ...], model: Mapping[str, object]
) -> None:
    """And the whole gradient to clip; without an average, of which schedule-free has its own."""
    fields = {
        "model.layers": layers,
        **model,
        "optimizer.rule": rule,
        "optimizer.weight_decay": 0.1,
        "optimizer.clip_norm": 0.1,
        "optimizer.average_decay": 0.0,
    }
    trainer = make_trainer(**fields, **SHARDS, **{"train.microbatches": 2})
    assert_same_training(train(trainer), train(make_trainer(**fields)))


@pytest.mark.exhaustive
@pytest.mark.parametrize("rule", RULES)
def test_a_run_with_sharded_weights_resumes_bit_for_bit(rule: str, tmp_path: Path) -> None:
    assert_resumes(rule, tmp_path, **SHARDS)


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("fields", "division"),
    [
        ({"data.loader": "chunks", "model.layers": ("lstm", "attention")}, PIECES),
        ({"data.loader": "crops", "model.layers": ("gru", "mingru")}, {"train.microbatches": 4}),
        ({**STREAMS, "model.layers": ("rnn", "self_attention"), **LENGTHS}, SHARDS),
        ({**STREAMS, "model.layers": ("minlstm", "rglru", "slstm")}, SHARDS),
    ],
    ids=["chunks", "crops", "streams", "streams of new layers"],
)
def test_two_hundred_steps(fields: Mapping[str, object], division: Mapping[str, object]) -> None:
    steps = {"train.max_steps": 200}
    found, wanted = (train(make_trainer(**fields, **steps, **x)) for x in (division, {}))
    assert_same_training(found, wanted)


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    "changes",
    [
        {"model.block": "pre_norm", "model.layers": ("gru", "attention"), "model.mlp": "swiglu"},
        {"model.layers": ("mingru",), "train.segment_length": 4, "train.shard_params": True},
        {"model.layers": ("gated_deltanet", "mamba2", "mlstm"), "train.shard_params": True},
    ],
    ids=["blocks", "segments", "matrices"],
)
def test_dropout_of_a_row_does_not_depend_on_the_division(changes: Mapping[str, object]) -> None:
    """Nor with a single row in a piece: without learning, losses are those of one batch."""
    still = {"model.dropout": 0.5, "optimizer.learning_rate": 1e-30, "train.max_steps": 4}
    fields = {"model.embedding_size": 6, "data.loader": "crops", **still, **changes}
    wanted = train(make_trainer(**fields))
    found = train(make_trainer(**fields, **{**TWO, "train.microbatches": 8}))
    np.testing.assert_allclose(found.losses, wanted.losses, rtol=1e-6)


def test_the_backward_pass_gathers_kernels_again() -> None:
    trainer = make_trainer(**SHARDS, **{"model.layers": ("gru",)})
    like, parts = jax.eval_shape(trainer.init_state), trainer.parts_at(0)
    steps: Any = parts.train_steps
    program = str(steps.trace(like, trainer.dataset.ids_N, parts.plan(0), 0, 0, 1).jaxpr)
    kernels = [x for x in jax.tree.leaves(like.params) if x.ndim == 2][1:]  # without the embedding
    assert len(kernels) == 3
    assert program.count("all_gather[") == len(jax.tree.leaves(like.params)) + len(kernels)
    assert program.count("reduce_scatter[") == len(jax.tree.leaves(like.params))


def test_arrays_are_divided_as_they_are_made_or_restored() -> None:
    """Carried state by rows, weights along an axis; a few weights have none that is even."""
    trainer = make_trainer(**STREAMS, **SHARDS)
    made = trainer.init_state()
    restored = trainer.devices.put(jax.device_get(made), state_specs(made, trainer.devices))
    assert jax.tree.map(lambda x: x.sharding, made) == jax.tree.map(lambda x: x.sharding, restored)
    for state in (made, restored):
        for name in ("params", "opt_state", "average"):
            leaves = jax.tree.leaves(getattr(state, name))
            part = sum(x.addressable_shards[0].data.size for x in leaves)
            assert part < 0.6 * sum(x.size for x in leaves), name
        assert all(x.sharding.spec[0] == ROWS for x in jax.tree.leaves(state.carried))


class _Told(Notes):
    """Messages and samples of a run."""

    def __init__(self) -> None:
        super().__init__()
        self.samples: list[str] = []

    def sample(self, step: int, scale: float, text: str) -> None:
        self.samples.append(text)


@pytest.mark.exhaustive
def test_a_run_goes_on_with_another_division(tmp_path: Path) -> None:
    """One device, two, and one again: the figures of an uninterrupted run, up to rounding."""
    often = {"train.evaluate_every_steps": 4, "train.sample_every_steps": 4}
    config = functools.partial(make_tiny_config, **{**STREAMS, **often, "model.layers": ("rnn",)})
    told = {"cut": _Told(), "whole": _Told()}
    for division, steps in (({}, 4), (SHARDS, 8), ({}, 12)):
        train_and_evaluate(
            config(**{**division, "train.max_steps": steps}), tmp_path / "cut", view=told["cut"]
        )
    train_and_evaluate(config(**{"train.max_steps": 12}), tmp_path / "whole", view=told["whole"])
    line = (
        "may not be bit-for-bit equal to an uninterrupted run: config.train.devices was 1 and is 2"
    )
    assert line in told["cut"].lines
    assert told["cut"].samples == told["whole"].samples and len(told["whole"].samples) == 3
    cut, whole = (Checkpoints(tmp_path / name / "checkpoints").open(12) for name in told)
    assert cut.meta["arrays"] == whole.meta["arrays"]
    rows = [
        [json.loads(row)["loss_nats"] for row in (tmp_path / name / "metrics.jsonl").open()]
        for name in told
    ]
    np.testing.assert_allclose(*rows, rtol=1e-6)


@pytest.mark.exhaustive
def test_a_run_on_two_devices_repeats_itself(tmp_path: Path) -> None:
    changes = {"model.layers": ("rnn",), "train.max_steps": 8, "train.steps_per_dispatch": 1}
    train_and_evaluate(make_tiny_config(**changes, **SHARDS), tmp_path / "run")
    found: Any = verify_run(tmp_path / "run", steps=8)
    assert found.compared and found.first_difference is None


def test_rows_that_two_devices_do_not_divide_are_refused() -> None:
    with pytest.raises(CharlmError) as caught:
        make_trainer(**TWO, **{"train.microbatches": 16})
    assert str(caught.value) == (
        "config.train.devices=2 times config.train.microbatches=16 must divide the 16 sequences "
        "of 8 characters of a step"
    )
    with pytest.raises(CharlmError, match=r"^all 2 devices \(config.train.devices=0\) times"):
        make_trainer(**{"train.microbatches": 16, "train.devices": 0})
    assert make_trainer(**{"train.microbatches": 8, "train.devices": 0}).devices.number == 2
    with pytest.raises(CharlmError, match=r"config.train.devices=3 is not allowed: JAX finds 2"):
        make_trainer(**{"train.devices": 3})
