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


def test_a_turn_stays_within_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    counts, dispatch = [], Trainer.dispatch

    def counted(trainer: Trainer, state: Any, ids_N: Any, step: int, count: int) -> Any:
        counts.append(count)
        return dispatch(trainer, state, ids_N, step, min(count, 19))

    monkeypatch.setattr(Trainer, "dispatch", counted)
    measure_speeds({"tiny": make_tiny_config()}, rounds=1, steps=10**6)
    assert counts == [19, 19]  # an epoch, twice
