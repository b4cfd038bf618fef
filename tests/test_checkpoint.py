"""What is saved comes back exactly, and only where it fits."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from charlm_jax.checkpoint import Checkpoints
from charlm_jax.types import CharlmError

PARAMS = {"embedding": jnp.arange(6.0).reshape(2, 3), "output": {"bias": jnp.ones(3)}}
TRAINING = (jnp.int32(7), {"mu": jnp.linspace(0, 1, 5)})


def _save(checkpoints: Checkpoints, step: int, loss_nats: float | None = None) -> None:
    meta = {"tally": {"nats": 0.1 + 0.2}}
    checkpoints.save(step, params=PARAMS, training=TRAINING, meta=meta, loss_nats=loss_nats)


def test_arrays_and_json_come_back_exactly(tmp_path: Path) -> None:
    with Checkpoints(tmp_path) as checkpoints:
        _save(checkpoints, 3)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.read_meta(3)["tally"] == {"nats": 0.1 + 0.2}
        for item, tree in (("params", PARAMS), ("training", TRAINING)):
            found = checkpoints.restore(3, item, tree)
            assert jax.tree.structure(found) == jax.tree.structure(tree)
            jax.tree.map(np.testing.assert_array_equal, found, tree)


@pytest.mark.core
def test_the_two_latest_and_the_best_are_kept(tmp_path: Path) -> None:
    with Checkpoints(tmp_path) as checkpoints:
        for step, loss in [(1, 3.0), (2, 1.0), (3, 2.0), (4, None), (5, 2.5)]:
            _save(checkpoints, step, loss)
        assert checkpoints.steps() == [2, 4, 5]
        assert checkpoints.choose("best") == 2
        assert checkpoints.choose("latest") == checkpoints.choose("5") == 5


def test_without_losses_the_best_is_the_latest(tmp_path: Path) -> None:
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(CharlmError, match="no checkpoint yet"):
            checkpoints.choose("latest")
        for step in (1, 2, 3):
            _save(checkpoints, step)
        assert checkpoints.steps() == [2, 3] and checkpoints.choose("best") == 3
        with pytest.raises(CharlmError, match="best, latest or one of 2, 3"):
            checkpoints.choose("newest")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"embedding": jnp.zeros((3, 3))}, r"float32 of shape \(2, 3\) there and .*\(3, 3\) here"),
        ({"embedding": jnp.zeros((2, 3), jnp.bfloat16)}, "bfloat16"),
        ({"query": jnp.zeros(1)}, "query is missing there"),
    ],
)
def test_other_arrays_are_refused(tmp_path: Path, change: dict, message: str) -> None:
    with Checkpoints(tmp_path) as checkpoints:
        _save(checkpoints, 3)
        with pytest.raises(CharlmError, match=message):
            checkpoints.restore(3, "params", PARAMS | change)
