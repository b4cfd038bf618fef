"""A run is locked, checked and read once, and every byte of a checkpoint is hashed once."""

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from charlm_jax.config.formats import upgrade
from charlm_jax.core.errors import CharlmError
from charlm_jax.data.dataset import load_dataset
from charlm_jax.inference.run import load_run
from charlm_jax.storage.checkpoint import Checkpoints
from charlm_jax.storage.open_run import open_run
from charlm_jax.storage.workdir import Workdir
from charlm_jax.training.loop import train_and_evaluate
from tests.conftest import make_tiny_config


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[bytes]]:
    """Count how often every content is hashed by SHA-256, whichever function does it."""
    counts: Counter[bytes] = Counter()
    sha256, file_digest = hashlib.sha256, hashlib.file_digest

    def count(data: bytes = b"", **options: Any) -> Any:
        counts[bytes(data)] += 1
        return sha256(data, **options)

    def count_file(file: Any, *rest: Any, **options: Any) -> Any:
        counts[Path(file.name).read_bytes()] += 1
        return file_digest(file, *rest, **options)

    monkeypatch.setattr(hashlib, "sha256", count)
    monkeypatch.setattr(hashlib, "file_digest", count_file)
    yield counts


def _contents(run: Path, step: int) -> dict[str, bytes]:
    folder = run / "checkpoints" / str(step)
    return {path.name: path.read_bytes() for path in folder.glob("*.npz")}


@pytest.mark.parametrize("checkpoint", ["best", "latest", "19"])
def test_a_checkpoint_is_hashed_once_when_a_run_is_loaded(
    finished: Path, hashed: Counter[bytes], checkpoint: str
) -> None:
    step = load_run(finished, checkpoint=checkpoint).checkpoint
    contents = _contents(finished, step)
    assert hashed[contents["params.npz"]] == 1 and hashed[contents["training.npz"]] == 0
    for other in {19, 38} - {step}:
        assert not any(hashed[data] for data in _contents(finished, other).values())


def test_a_checkpoint_is_hashed_once_when_a_run_is_resumed(
    finished: Path, tmp_path: Path, hashed: Counter[bytes]
) -> None:
    shutil.copytree(finished, tmp_path / "run")
    before = {step: _contents(finished, step) for step in (19, 38)}
    train_and_evaluate(make_tiny_config(**{"train.epochs": 3}), tmp_path / "run")
    assert [hashed[data] for data in before[38].values()] == [1, 1]
    assert [hashed[data] for data in before[19].values()] == [0, 0]


def test_the_source_of_init_from_is_hashed_once(
    finished: Path, tmp_path: Path, hashed: Counter[bytes]
) -> None:
    config = make_tiny_config(**{"train.init_from": str(finished), "train.max_steps": 2})
    source = load_run(finished).checkpoint
    hashed.clear()
    train_and_evaluate(config, tmp_path / "run")
    contents = _contents(finished, source)
    assert hashed[contents["params.npz"]] == 1 and hashed[contents["training.npz"]] == 0


def test_the_bytes_that_were_verified_are_those_that_are_used(
    finished: Path, tmp_path: Path
) -> None:
    """Whatever happens to the files after a checkpoint was opened: it may be pruned."""
    shutil.copytree(finished, tmp_path / "run")
    opened = Checkpoints(tmp_path / "run" / "checkpoints").open(38)
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    params = load_run(finished, checkpoint="38").params
    for found, expected in zip(
        jax.tree.leaves(opened.params(params)), jax.tree.leaves(params), strict=True
    ):
        np.testing.assert_array_equal(found, expected)


def _count_reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count how often a run's small files are read."""
    reads: Counter[str] = Counter()
    real = os.open

    def count(path: Any, *args: Any, **options: Any) -> int:
        reads[Path(path).name] += 1
        return real(path, *args, **options)

    monkeypatch.setattr(os, "open", count)
    return reads


@pytest.mark.parametrize("epochs", [2, 3])
def test_the_files_of_a_run_are_read_once(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epochs: int
) -> None:
    shutil.copytree(finished, tmp_path / "run")
    reads = _count_reads(monkeypatch)
    train_and_evaluate(make_tiny_config(**{"train.epochs": epochs}), tmp_path / "run")
    names = ("config.json", "vocabulary.json", "run.json")
    assert [reads[name] for name in names] == [1, 1, 1]
    assert reads["metrics.jsonl"] == 2  # compared with the checkpoint, and found to need no change


def test_an_open_run_says_what_its_folder_says(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "run")
    workdir, config = Workdir(tmp_path / "run"), make_tiny_config()
    dataset = load_dataset(config)
    facts = json.loads(workdir.facts_file.read_text())
    with open_run(workdir, config, dataset) as run:
        recorded = upgrade("run", facts)
        assert recorded.pop("sha256") and run.recorded_config == config and run.facts == recorded
        assert run.metrics.rows() and run.checkpoints.steps() == [19, 38]
        with (
            pytest.raises(CharlmError, match="is in use by process"),
            open_run(Workdir(workdir.path), config, dataset),
        ):
            pass
        run.write_facts(finished=None)
        run.write_facts(corpus="another")
    changed = json.loads(workdir.facts_file.read_text())
    assert changed.pop("sha256") != facts.pop("sha256")
    assert changed == facts | {"finished": None, "corpus": "another"}
    assert list(changed) == list(facts)
    with (
        pytest.raises(CharlmError, match=r"config\.seed is 1 there and 7 here"),
        open_run(workdir, make_tiny_config(seed=7), dataset),
    ):
        pass
    with open_run(Workdir(tmp_path / "new"), config, dataset) as run:
        assert (run.recorded_config, run.facts, run.metrics.rows()) == (None, {}, [])
