"""A text that stays on the host trains to the bits of one that is on the device."""

from pathlib import Path

import jax
import numpy as np
import pytest

from charlm_jax.core.signals import Interrupted
from charlm_jax.data import corpora, loaders
from charlm_jax.data.dataset import load_dataset
from charlm_jax.training import devices
from charlm_jax.training.host_text import DispatchText, Prefetcher, gather_steps
from charlm_jax.training.loop import train_and_evaluate
from charlm_jax.training.trainer import Ids, Trainer, build_trainer
from tests.conftest import make_tiny_config
from tests.training.test_loop import StopAt, _params, _rows

CHANGES = {"model.dropout": 0.2, "data.reset_probability": 0.3, "train.max_steps": 43}


def _plan_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every epoch is long: 19 steps of 16 rows are planned 3 at a time."""
    monkeypatch.setattr(loaders, "MOST_PLANNED", 100)
    monkeypatch.setattr(loaders, "_ROWS_OF_BLOCK", 50)


def _hashes(trainer: Trainer, ids_N: Ids) -> list[str]:
    """The hash of the state after every dispatch."""
    state, step, hashes = trainer.init_state(), 0, []
    while step < trainer.total_steps:
        count = trainer.steps_to_next_stop(step)
        state, dispatch = trainer.dispatch(state, ids_N, step, count)
        step += count
        hashes.append(f"{step} {np.asarray(dispatch.state_hash)}")
    return hashes


@pytest.mark.parametrize("is_long", [False, True])
@pytest.mark.parametrize("loader", ["chunks", "crops", "streams"])
def test_a_text_on_the_host_trains_to_the_same_bits(
    monkeypatch: pytest.MonkeyPatch, loader: str, is_long: bool
) -> None:
    """Over a short last batch, the end of an epoch, and those of blocks."""
    if is_long:
        _plan_in_blocks(monkeypatch)
    changes = CHANGES if loader == "streams" else {**CHANGES, "data.reset_probability": 0.0}
    config = make_tiny_config(**{**changes, "data.loader": loader})
    trainer = build_trainer(config, load_dataset(config))
    assert (trainer.parts_at(0).loader.steps_per_block == 3) == is_long
    on_host, on_device = trainer.dataset.ids_N, jax.numpy.asarray(trainer.dataset.ids_N)
    assert _hashes(trainer, on_host) == _hashes(trainer, on_device)
    for step in (0, 18, 20):
        found, wanted = trainer.batch(on_host, step), trainer.batch(on_device, step)
        for name in ("inputs_BT", "targets_BT", "mask_B", "fresh_B"):
            np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name), name)


@pytest.mark.parametrize("is_long", [False, True])
def test_a_run_on_a_large_text_resumes_and_is_that_of_a_small_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_long: bool
) -> None:
    if is_long:
        _plan_in_blocks(monkeypatch)
    seed = {"seed": 30 + is_long}  # a trainer of its own, since tests share them
    config = make_tiny_config(**seed)
    train_and_evaluate(config, tmp_path / "small")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(corpora, "MOST_HELD", -1)
    monkeypatch.setattr(devices, "MOST_TEXT_BYTES", 0)
    text = tmp_path / "text.txt"
    text.write_text(load_dataset(config).corpus.text[:])
    config = make_tiny_config(**{"data.corpus": str(text), **seed})
    for step in (3, 22):  # within an epoch, and a block
        with pytest.raises(Interrupted):
            train_and_evaluate(config, tmp_path / "large", view=StopAt(step))
    train_and_evaluate(config, tmp_path / "large")
    assert isinstance(load_dataset(config).ids_N, np.memmap)
    assert _rows(tmp_path / "large") == _rows(tmp_path / "small")
    for small, large in zip(_params(tmp_path / "small"), _params(tmp_path / "large"), strict=True):
        np.testing.assert_array_equal(small, large)


def test_the_rows_of_a_dispatch_take_no_more_than_their_own_memory() -> None:
    """Whatever the length of the text, in the text's own type."""
    plan = loaders.build_loader(
        "crops", part=(range(100_000),), sequence_length=8, batch_size=4
    ).plan(jax.random.key(0), 0)
    rows = gather_steps(np.zeros(100_000, np.uint16), plan, 5, 2, sequence_length=8, most_steps=3)
    assert rows.ids_N.nbytes == 3 * 4 * 9 * 2
    assert [x.shape for x in rows.plan] == [(3, 4)] * 3


def test_a_text_within_the_budget_is_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    ids_N = np.zeros(1000, np.uint16)
    monkeypatch.setattr(devices, "MOST_TEXT_BYTES", 2000)
    assert isinstance(devices.ONE_DEVICE.put_text(ids_N), jax.Array)
    monkeypatch.setattr(devices, "MOST_TEXT_BYTES", 1999)
    assert devices.ONE_DEVICE.put_text(ids_N) is ids_N


def test_a_prefetcher_gathers_the_next_rows_and_any_others() -> None:
    asked: list[tuple[int, int]] = []

    def gather(step: int, count: int) -> DispatchText:
        asked.append((step, count))
        if step == 9:
            raise OSError("the disk is gone")
        return DispatchText(np.array([step, count]), None)  # type: ignore[arg-type]

    prefetcher = Prefetcher()

    def take(here: tuple[int, int], ahead: tuple[int, int] | None) -> list[int]:
        return prefetcher.take(gather, here, ahead).ids_N.tolist()

    assert take((0, 5), (5, 2)) == [0, 5]
    assert take((5, 2), (7, 5)) == [5, 2]
    assert asked == [(0, 5), (5, 2)] or asked == [(0, 5), (5, 2), (7, 5)]  # each once
    assert take((7, 1), (9, 1)) == [7, 1]  # not the one that was expected
    with pytest.raises(OSError, match="the disk is gone"):
        take((9, 1), None)
