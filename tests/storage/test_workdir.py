"""A run's folder: one process at a time, and nothing in it reaches outside."""

import os
from pathlib import Path

import pytest

from charlm_jax.core.errors import CharlmError
from charlm_jax.data.dataset import load_dataset
from charlm_jax.inference.run import load_run
from charlm_jax.storage.workdir import Workdir
from charlm_jax.training.loop import train_and_evaluate
from tests.conftest import make_tiny_config


@pytest.mark.core
def test_a_held_folder_is_refused_and_free_again_afterwards(tmp_path: Path) -> None:
    place, again = Workdir(tmp_path / "run"), Workdir(tmp_path / "run")
    assert not place.is_held()
    with place.held():
        assert again.is_held()
        with pytest.raises(CharlmError, match=rf"in use by process {os.getpid()}: "), again.held():
            pass
        place.claim(make_tiny_config(), load_dataset(make_tiny_config()))
        with pytest.raises(CharlmError, match="in use"):
            again.move_aside()
    assert not place.is_held()
    with again.held():
        pass


def test_a_claim_that_was_cut_short_is_taken_up(tmp_path: Path) -> None:
    config = make_tiny_config(**{"train.max_steps": 1})
    workdir = Workdir(tmp_path / "run")
    with workdir.held():
        workdir.claim(config, load_dataset(config))
    workdir.config_file.rename(workdir.path / "config.json.partial")
    train_and_evaluate(config, workdir.path)
    assert load_run(workdir.path).checkpoint == 1


def test_a_run_that_has_nothing_yet_may_become_another(tmp_path: Path) -> None:
    """It was claimed and then failed, say of too little memory: the mended command goes on."""
    place, config = Workdir(tmp_path / "run"), make_tiny_config(**{"train.max_steps": 1})
    with place.held():
        place.claim(make_tiny_config(seed=5), load_dataset(config))
        place.write_facts(started_from={"run": "elsewhere"})
    train_and_evaluate(config, place.path)
    assert load_run(place.path).config.seed == 1
    assert place.read_facts()["started_from"] is None
    with pytest.raises(CharlmError, match=r"config\.seed is 1 there and 5 here"):
        train_and_evaluate(make_tiny_config(seed=5), place.path)


@pytest.mark.parametrize(
    "name", ["checkpoints", "evaluation", "evaluation/x.npy", "metrics.jsonl", "lock", "fault"]
)
def test_a_link_in_a_run_is_refused(tmp_path: Path, name: str) -> None:
    outside, place = tmp_path / "outside", Workdir(tmp_path / "run")
    outside.mkdir()
    (outside / "precious").write_text("data")
    config = make_tiny_config(**{"train.max_steps": 1})
    with place.held():
        place.claim(config, load_dataset(config))
    target = place.path / name
    target.parent.mkdir(exist_ok=True)
    if target.is_dir():
        target.rmdir()
    target.unlink(missing_ok=True)
    target.symlink_to(outside)
    for attempt in (lambda: train_and_evaluate(config, place.path), lambda: load_run(place.path)):
        with pytest.raises(CharlmError, match="is a link: a run keeps its files in its own folder"):
            attempt()
    assert [path.name for path in outside.iterdir()] == ["precious"]


def test_a_folder_that_is_only_called_a_run_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text("a key")
    (tmp_path / "door").write_text("a house")
    with pytest.raises(CharlmError, match="exists and is not a run"):
        train_and_evaluate(make_tiny_config(), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["door", "lock"]
    assert (tmp_path / "lock").read_text() == "a key"
    file = tmp_path / "door"
    with pytest.raises(CharlmError, match="is not a folder"):
        train_and_evaluate(make_tiny_config(), file)
