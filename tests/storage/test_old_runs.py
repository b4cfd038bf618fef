"""Runs of earlier versions are sampled from, evaluated, resumed and exported as they were then.

`tests/goldens/make_runs_of_format_1.py` says how the folders came about.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from charlm_jax.config.formats import NewerFormat, newest_format
from charlm_jax.config.schema import Config
from charlm_jax.core.tree_hash import format_hash, hash_tree
from charlm_jax.data.dataset import load_dataset
from charlm_jax.evaluation.protocol import build_protocol
from charlm_jax.evaluation.results import read_evaluation
from charlm_jax.inference.export import write_export
from charlm_jax.inference.run import load_run
from charlm_jax.storage.checkpoint import Checkpoints
from charlm_jax.storage.metrics_log import MetricsLog
from charlm_jax.storage.open_run import open_run
from charlm_jax.storage.run_index import list_runs
from charlm_jax.storage.workdir import Workdir
from charlm_jax.training.environment import environment
from charlm_jax.training.loop import train_and_evaluate
from charlm_jax.training.restore import restore_or_init
from charlm_jax.training.trainer import build_trainer

FOLDER = Path(__file__).parent.parent / "goldens" / "runs_of_format_1"
RECORDED = json.loads((FOLDER / "recorded.json").read_text(encoding="utf-8"))
RUNS = ("lstm", "hybrid", "streams")
STEPS, RESUMED_STEPS = 12, RECORDED["about"]["resumed_steps"]
EXPORT = Path("export", f"step_{STEPS}")

# What decides the last bit; our own version and Python's do not.
SAME_BITS = all(
    RECORDED["environment"][name] == value
    for name, value in environment().items()
    if name not in ("charlm_jax", "python")
)


def copy_run(name: str, folder: Path) -> Path:
    return shutil.copytree(FOLDER / name, folder / name)


pytestmark = [
    pytest.mark.optimised,
    pytest.mark.filterwarnings("ignore:.*did not seal symbols and metrics"),
]


@pytest.mark.parametrize("name", RUNS)
def test_an_old_run_is_read_with_a_notice(name: str) -> None:
    with pytest.warns(UserWarning, match=f"checkpoint {STEPS} .*was saved by an earlier version"):
        load_run(FOLDER / name, checkpoint="latest")


@pytest.mark.parametrize("name", RUNS)
def test_an_old_run_gives_the_same_text(name: str) -> None:
    run = load_run(FOLDER / name, checkpoint="latest")
    assert run.generate(**RECORDED["sample"]) == RECORDED[name]["text"]


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("lstm", "window"),
        ("lstm", "sliding"),
        ("lstm", "stream"),
        ("hybrid", "window"),
        ("streams", "stream"),
    ],
)
def test_an_old_run_has_the_same_loss(name: str, mode: str) -> None:
    (recorded,) = [found for found in RECORDED[name]["evaluations"] if found["mode"] == mode]
    protocol = build_protocol(mode, context=recorded["context"], targets=recorded["targets"])
    found, nll_N = load_run(FOLDER / name, checkpoint="latest").evaluate(protocol)
    assert found.loss_nats == pytest.approx(recorded["loss_nats"], abs=0 if SAME_BITS else 1e-5)
    assert found.characters == len(nll_N) == recorded["characters"]
    assert found.key.weights == recorded["weights"]


def test_an_old_evaluation_is_read() -> None:
    """Not computed again: the array is the one that was kept."""
    run = load_run(FOLDER / "lstm", checkpoint="latest")
    wanted, _ = run.evaluate()
    with pytest.warns(UserWarning, match="but not its weights"):
        found = read_evaluation(Workdir(run.workdir), wanted.key)
    assert found is not None and found[0].key == wanted.key
    (file,) = (FOLDER / "lstm" / "evaluation").glob("*.npy")
    np.testing.assert_array_equal(found[1], np.load(file))


@pytest.mark.parametrize("name", RUNS)
def test_an_old_run_is_resumed_bit_for_bit(name: str, tmp_path: Path) -> None:
    folder = copy_run(name, tmp_path)
    config = longer_config(folder)
    rows = {row["step"]: row for row in MetricsLog(folder / "metrics.jsonl").rows()}
    trainer = build_trainer(config, load_dataset(config))
    with open_run(Workdir(folder), config, trainer.dataset) as run:
        notes: list[str] = []
        restored, *_ = restore_or_init(trainer, run, None, notes.append)
    assert len(notes) == 1 and "did not seal symbols and metrics" in notes[0]
    assert format_hash(hash_tree(restored)) == rows[STEPS]["state_hash"]
    before = json.loads((folder / "run.json").read_text(encoding="utf-8"))["sittings"]

    result = train_and_evaluate(config, folder)
    assert result.step == RESUMED_STEPS
    compare_rows(MetricsLog(folder / "metrics.jsonl").rows(), RECORDED[name]["resumed_rows"])
    facts = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    assert facts["sessions"][:-1] == before and facts["sessions"][-1]["from_step"] == STEPS
    assert "sittings" not in facts
    saved = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    meta = Checkpoints(folder / "checkpoints").open(RESUMED_STEPS).meta
    assert facts["format"] == saved["format"] == meta["config"]["format"] == newest_format()
    assert Config.from_dict(saved) == Config.from_dict(meta["config"]) == config


def longer_config(folder: Path) -> Config:
    values = Workdir(folder).read_config().to_dict()
    values["train"]["max_steps"] = RESUMED_STEPS
    return Config.from_dict(values)


def compare_rows(found: list[Any], recorded: list[dict[str, Any]]) -> None:
    """State hashes are equal where the bits can be; elsewhere the losses are close."""
    assert len(found) == len(recorded)
    identity = ("step", "epoch", "split", "scope", "weights")
    for row, old in zip(found, recorded, strict=True):
        assert {key: row[key] for key in identity} == {key: old[key] for key in identity}
        if SAME_BITS:
            assert row["state_hash"] == old["state_hash"]
            assert row["loss_nats"] == old["loss_nats"]
        else:
            assert row["loss_nats"] == pytest.approx(old["loss_nats"], abs=1e-4)


def test_an_old_export_is_the_run_that_it_was_made_from(tmp_path: Path) -> None:
    exported = load_run(FOLDER / "lstm" / EXPORT)
    assert exported.checkpoint == STEPS
    assert exported.generate(**RECORDED["sample"]) == RECORDED["lstm"]["text"]
    files = write_export(load_run(FOLDER / "lstm", checkpoint="latest"), tmp_path / "again")
    assert [file.name for file in files] == [
        "config.json",
        "vocabulary.json",
        "model.safetensors",
    ]
    again = load_run(tmp_path / "again")
    assert format_hash(hash_tree(again.params)) == format_hash(hash_tree(exported.params))


def test_old_runs_are_listed() -> None:
    assert [run.state for run in list_runs(FOLDER)] == ["done"] * len(RUNS)


META, NOTE = f"checkpoints/{STEPS}/meta.json", f"evaluation/valid_window_8_step_{STEPS}.json"
READERS: Mapping[str, Callable[[Path], object]] = {
    "config.json": load_run,
    "run.json": lambda folder: Workdir(folder).read_facts(),
    META: lambda folder: load_run(folder, checkpoint="latest"),
    NOTE: lambda folder: load_run(folder, checkpoint="latest").evaluate(cache=True),
}


@pytest.mark.parametrize("name", READERS)
def test_a_file_of_a_later_version_is_refused(name: str, tmp_path: Path) -> None:
    """In one line, and neither the file nor the checkpoint is thrown away or moved aside."""
    folder = copy_run("lstm", tmp_path)
    file, later = folder / name, newest_format() + 1
    values = json.loads(file.read_text(encoding="utf-8")) | {"format": later}
    file.write_text(json.dumps(values), encoding="utf-8")
    if name == META:
        contents = json.loads(file.with_name("contents.json").read_text(encoding="utf-8"))
        contents["meta.json"] = [
            file.stat().st_size,
            hashlib.sha256(file.read_bytes()).hexdigest(),
        ]
        file.with_name("contents.json").write_text(json.dumps(contents), encoding="utf-8")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(NewerFormat, match=f"{file}.*format {later} is newer than charlm_jax"):
        READERS[name](folder)
    if name != NOTE:
        with pytest.raises(NewerFormat):
            train_and_evaluate(longer_config(FOLDER / "lstm"), folder)
    after = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert after.keys() == before.keys()
    assert all(after[path] == before[path] for path in before if path.name != "lock")


def test_no_folder_names_a_path_of_the_machine_that_made_it() -> None:
    for file in FOLDER.rglob("*.json*"):
        text = file.read_text(encoding="utf-8")
        assert '"/' not in text and "=/" not in text and "home" not in text, file
