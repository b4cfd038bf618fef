"""Training on two devices is training on one. `test_devices.py` runs this in a process with two."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from charlm_jax.core.errors import CharlmError
from charlm_jax.core.tree_hash import format_hash, state_hash
from charlm_jax.inference.run import load_run
from charlm_jax.storage.checkpoint import Checkpoints
from charlm_jax.training.devices import ROWS
from charlm_jax.training.loop import train_and_evaluate
from charlm_jax.training.reproduce import verify_run
from tests.conftest import make_tiny_config
from tests.training.test_microbatches import LOADERS, assert_same_training, make_trainer, train

TWO = {"train.devices": 2}


def test_there_are_two_devices() -> None:
    assert jax.device_count() == 2


@pytest.mark.parametrize("loader", LOADERS)
def test_two_devices_train_as_one(loader: str) -> None:
    """Weights whole or sharded, batches in one piece or two."""
    wanted = train(make_trainer(loader))
    for shards, microbatches in ((False, 1), (False, 2), (True, 1), (True, 2)):
        fields = {"train.shard_params": shards, "train.microbatches": microbatches}
        found = train(make_trainer(loader, **TWO, **fields))
        assert_same_training(found, wanted)
        state = found[0]
        for name in ("params", "opt_state", "average"):
            leaves = jax.tree.leaves(getattr(state, name))
            divided = [x.size for x in leaves if not x.is_fully_replicated]
            if shards:
                assert sum(divided) > 0.8 * sum(x.size for x in leaves), name
                parts = [x.addressable_shards[0].data.size for x in leaves]
                assert 2 * sum(parts) < 1.2 * sum(x.size for x in leaves), name
            else:
                assert not divided, name
        for x in jax.tree.leaves(state.carried):
            assert x.sharding.spec[0] == ROWS and len(x.sharding.device_set) == 2


@pytest.mark.parametrize("block", ["bare", "pre_norm"])
def test_dropout_of_a_row_does_not_depend_on_the_devices(block: str) -> None:
    sizes = {"model.embedding_size": 6, "model.layers": ("gru",), "model.block": block}
    still = {"model.dropout": 0.5, "optimizer.learning_rate": 1e-30, "train.max_steps": 4}
    fields = {**sizes, **still, "data.length_schedule": ""}
    _, wanted, _ = train(make_trainer("crops", **fields))
    _, found, _ = train(make_trainer("crops", **fields, **TWO))
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_the_first_weights_are_those_of_one_device() -> None:
    one, two = (make_trainer("streams", **{"train.devices": n}).init_state() for n in (1, 2))
    for name in one._fields:
        jax.tree.map(np.testing.assert_array_equal, getattr(one, name), getattr(two, name))
    assert format_hash(state_hash(one)) == format_hash(state_hash(two))


def test_a_run_goes_on_with_another_number_of_devices(tmp_path: Path) -> None:
    """One, two and one again, as if uninterrupted up to rounding; checkpoints are alike."""
    changes = {"data.loader": "streams", "train.evaluate_every_steps": 4}
    lengths = [(1, 4), (2, 8), (1, 12)]
    for devices, steps in lengths:
        fields = {**changes, "train.devices": devices, "train.max_steps": steps}
        train_and_evaluate(make_tiny_config(**fields), tmp_path / "cut")
    whole = make_tiny_config(**changes, **{"train.max_steps": 12})
    train_and_evaluate(whole, tmp_path / "whole")
    cut, whole = (
        Checkpoints(tmp_path / name / "checkpoints").open(12) for name in ("cut", "whole")
    )
    assert cut.meta["arrays"] == whole.meta["arrays"]
    losses = [load_run(tmp_path / name).evaluate()[0].loss_nats for name in ("cut", "whole")]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-6)


def test_a_run_on_two_devices_repeats_itself(tmp_path: Path) -> None:
    config = make_tiny_config(**TWO, **{"train.max_steps": 8, "train.steps_per_dispatch": 1})
    train_and_evaluate(config, tmp_path / "run")
    found: Any = verify_run(tmp_path / "run", steps=8)
    assert found.compared and found.first_difference is None


def test_rows_that_two_devices_do_not_divide_are_refused() -> None:
    fields = {"data.length_schedule": "", "train.microbatches": 16}
    with pytest.raises(CharlmError) as caught:
        make_trainer("crops", **TWO, **fields)
    assert str(caught.value) == (
        "config.train.devices=2 times config.train.microbatches=16 must divide the 16 sequences "
        "of 8 characters of a step"
    )
    assert make_trainer("crops", **{**fields, "train.microbatches": 8, "train.devices": 0})
    with pytest.raises(CharlmError, match=r"config.train.devices=3 is not allowed: JAX finds 2"):
        make_trainer("crops", **{"train.devices": 3})
