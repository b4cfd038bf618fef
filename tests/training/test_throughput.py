"""Speeds are measured of whole updates, and of every config."""

from typing import Any

import pytest

from charlm_jax.training.throughput import measure_speeds
from charlm_jax.training.trainer import Trainer
from tests.conftest import make_tiny_config


@pytest.mark.exhaustive
def test_every_config_gets_a_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(1000))
    monkeypatch.setattr("charlm_jax.training.throughput.time.monotonic", lambda: float(next(now)))
    configs = {size: make_tiny_config(**{"data.batch_size": size}) for size in (2, 4)}
    length = configs[2].data.sequence_length
    speeds = measure_speeds(configs, rounds=2, steps=3)  # a turn lasts a second of this clock
    assert speeds == {2: 3 * 2 * length, 4: 3 * 4 * length}


def test_a_turn_has_the_dispatches_of_training(monkeypatch: pytest.MonkeyPatch) -> None:
    made, dispatch = [], Trainer.dispatch

    def counted(trainer: Trainer, state: Any, ids_N: Any, step: int, count: int) -> Any:
        made.append((step, count))
        return dispatch(trainer, state, ids_N, step, count)

    monkeypatch.setattr(Trainer, "dispatch", counted)
    config = make_tiny_config(**{"train.steps_per_dispatch": 8, "train.log_every_steps": 100})
    measure_speeds({"tiny": config}, rounds=1, steps=10**6)
    run = [(0, 8), (8, 8), (16, 3), (19, 5), (24, 8), (32, 6)]  # two epochs of 19 updates
    assert made == run * 2
