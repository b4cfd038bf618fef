"""Events are the rows of the metrics, no more and no less, whatever became of the run before."""

import json
import sys
from pathlib import Path

import pytest

from charlm_jax.cli import main
from charlm_jax.core.errors import CharlmError
from charlm_jax.storage.metrics_log import MetricsLog
from charlm_jax.training.progress_bar import NullProgress
from charlm_jax.training.tensorboard import EventFiles, scalars
from tests.conftest import ROOT, TINY, Notes

BASE = str(ROOT / "configs" / "base.py")
OVERRIDES = [f"--config.{field}={value}" for field, value in TINY.items()]


def train(workdir: Path, *more: str) -> int:
    return main(["train", f"--config={BASE}", f"--workdir={workdir}", *OVERRIDES, *more])


def read_events(workdir: Path) -> dict[str, list[tuple[int, float]]]:
    """(step, value) by tag, as TensorBoard's own reader has them."""
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator",
        reason="the extra tensorboard is not installed",
    )
    folder = str(workdir / "tensorboard")
    events = accumulator.EventAccumulator(folder, size_guidance={"scalars": 0})
    events.Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def expected_events(workdir: Path) -> dict[str, list[tuple[int, float]]]:
    found: dict[str, list[tuple[int, float]]] = {}
    for row in MetricsLog(workdir / "metrics.jsonl").rows():
        for tag, value in scalars(row).items():
            found.setdefault(tag, []).append((row["step"], pytest.approx(value, rel=1e-6)))
    return found


AVERAGED = ("--tensorboard", "--config.optimizer.average_decay=0.5")


def test_events_are_the_rows(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    assert train(tmp_path / "run", *AVERAGED) == 0
    found = read_events(tmp_path / "run")
    assert found == expected_events(tmp_path / "run")
    names = {"train", "train_epoch", "valid", "valid_average"}
    tags = {f"{unit}/{name}" for name in names for unit in ("loss_nats", "loss_bits")}
    others = {"optimizer/gradient_norm", "optimizer/learning_rate", "speed/chars_per_second"}
    assert set(found) == tags | others and max(tags) < min(others)  # losses first
    for points in found.values():
        steps = [step for step, _ in points]
        assert steps == sorted(set(steps))


def test_a_run_that_goes_on_shows_no_point_twice(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    run = tmp_path / "run"
    assert train(run, "--tensorboard", "--config.train.max_steps=19") == 0
    (first,) = (run / "tensorboard").iterdir()
    # As a run leaves it that was killed after it had written rows that will be written again.
    events = EventFiles(run, NullProgress())
    events.write_anew()
    row = {**MetricsLog(run / "metrics.jsonl").rows()[0], "step": 25, "loss_nats": 9.0}
    events.row(row, "")
    (file,) = (run / "tensorboard").iterdir()
    assert file.name > first.name and (25, 9.0) in read_events(run)["loss_nats/train"]
    file.write_bytes(file.read_bytes() + b"torn")
    assert train(run, "--tensorboard", "--config.train.max_steps=0") == 0
    assert read_events(run) == expected_events(run)
    # Without the flag rows go on alone; with it, a run that is done writes them all.
    assert train(run, "--config.train.epochs=3") == 0
    assert read_events(run) != expected_events(run)
    assert train(run, "--config.train.epochs=3", "--tensorboard") == 0
    assert read_events(run) == expected_events(run)


def test_files_that_are_not_ours_are_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "tensorboard"
    pytest.importorskip("tensorboard")
    assert train(tmp_path / "run", "--config.train.max_steps=5") == 0
    folder.mkdir()
    (folder / "events.out.tfevents.abc.charlm_jax").write_text("mine")
    for _ in range(2):
        EventFiles(tmp_path / "run", NullProgress()).write_anew()
    assert sorted(path.name for path in folder.iterdir()) == [
        "events.out.tfevents.0000000001.charlm_jax",
        "events.out.tfevents.abc.charlm_jax",
    ]


def test_a_missing_package_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "tensorboard"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    assert train(tmp_path / "run", "--tensorboard") == 2
    message = capsys.readouterr().err
    assert "pip install -e '.[tensorboard]'" in message and message.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_full_disk_ends_the_events_and_not_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard")
    view = Notes()
    (tmp_path / "metrics.jsonl").write_text("")
    events = EventFiles(tmp_path, view)
    (tmp_path / "tensorboard").write_text("a file, where a folder is to be")
    events.begin(0, 1)
    row = {"step": 1, "split": "valid", "scope": "step", "weights": "raw", "seconds": 1.0}
    events.row(row | {"loss_nats": 1.0, "bits_per_char": 1.4}, "best")
    (note,) = view.lines
    assert note.startswith("TensorBoard logging stopped: cannot write to")


def test_a_link_in_the_folder_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    (tmp_path / "metrics.jsonl").write_text("")
    (tmp_path / "tensorboard").mkdir()
    (tmp_path / "tensorboard" / "partial").symlink_to(tmp_path / "metrics.jsonl")
    with pytest.raises(CharlmError, match="is a link"):
        EventFiles(tmp_path, NullProgress()).begin(0, 1)


def test_every_row_has_its_tag() -> None:
    row = {"step": 1, "split": "train", "scope": "epoch", "weights": "raw"}
    row |= {"loss_nats": 1.0, "bits_per_char": 1.5, "learning_rate": 0.1, "chars_per_second": 9.0}
    assert scalars(row) == {"loss_nats/train_epoch": 1.0, "loss_bits/train_epoch": 1.5}
    of_steps = {
        "loss_nats/train": 1.0,
        "loss_bits/train": 1.5,
        "optimizer/learning_rate": 0.1,
        "speed/chars_per_second": 9.0,
    }
    assert scalars(json.loads(json.dumps(row | {"scope": "step"}))) == of_steps
    norm = {"scope": "step", "gradient_norm": 3.5}
    assert scalars(row | norm) == of_steps | {"optimizer/gradient_norm": 3.5}
