"""The list of runs: what state each is in, from what it wrote down."""

import json
import os
import shutil
import time
from pathlib import Path

import pytest

from charlm_jax.cli import main
from charlm_jax.core.errors import CharlmError
from charlm_jax.core.signals import Interrupted
from charlm_jax.inference.export import write_export
from charlm_jax.inference.run import load_run
from charlm_jax.storage.run_index import has_failed, list_runs, read_end, run_folders
from charlm_jax.storage.workdir import Workdir
from charlm_jax.training.loop import train_and_evaluate
from charlm_jax.training.progress_bar import NullProgress
from tests.conftest import make_tiny_config
from tests.training.test_loop import StopAt


class LookAt(NullProgress):
    """Lists the runs while one of them is training."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.states: list[str] = []

    def advance(self, step: int, loss_nats: float, chars_per_second: float) -> None:
        self.states += [row.state for row in list_runs(self.folder)]


class _Killed(BaseException):
    """What leaves a run no time to save."""


class _Kill(NullProgress):
    """Ends a run before its first row."""

    def advance(self, step: int, loss_nats: float, chars_per_second: float) -> None:
        raise _Killed


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs in every state."""
    folder = tmp_path_factory.mktemp("shelf")
    train_and_evaluate(make_tiny_config(), folder / "done")
    early = make_tiny_config(
        **{"train.patience": 1, "optimizer.learning_rate": 3.0, "train.epochs": 50}
    )
    train_and_evaluate(early, folder / "sweep" / "early")
    with pytest.raises(Interrupted):
        train_and_evaluate(make_tiny_config(), folder / "interrupted", view=StopAt(22))
    with pytest.raises(CharlmError):
        train_and_evaluate(make_tiny_config(**{"optimizer.learning_rate": 1e38}), folder / "failed")
    with pytest.raises(_Killed):
        train_and_evaluate(make_tiny_config(), folder / "begun", view=_Kill())
    (folder / "unreadable").mkdir()
    (folder / "unreadable" / "config.json").write_text("{")
    (folder / "notes").mkdir()
    (folder / "notes" / "thesis.tex").write_text("not a run")
    now = time.time()
    os.utime(folder / "done" / "metrics.jsonl", (now - 7300, now - 7300))
    return folder


def test_runs_are_listed_with_their_states(shelf: Path) -> None:
    rows = {str(Path(row.path).relative_to(shelf)): row for row in list_runs(shelf)}
    assert {name: row.state for name, row in rows.items()} == {
        "done": "done",
        "sweep/early": "stopped early",
        "interrupted": "interrupted",
        "failed": "failed",
        "begun": "begun",
        "unreadable": "unreadable",
    }
    done = rows["done"]
    assert (done.step, done.total_steps, done.parameters) == (38, 38, 336)
    losses = [
        json.loads(line)["loss_nats"]
        for line in (shelf / "done" / "metrics.jsonl").read_text().splitlines()
        if '"valid"' in line
    ]
    assert done.best_loss_nats == min(losses) and 7300 <= done.seconds_ago < 7400
    assert rows["interrupted"].step == 25 and rows["interrupted"].total_steps == 38
    assert rows["begun"].step == 0 and rows["begun"].best_loss_nats is None
    assert list_runs(shelf)[-1].path == done.path  # the oldest is the last
    with pytest.raises(CharlmError, match="no folder"):
        list_runs(shelf / "nowhere")


def test_a_damaged_row_does_not_hide_how_a_run_has_ended(shelf: Path, tmp_path: Path) -> None:
    workdir = Workdir(tmp_path / "run")
    shutil.copytree(shelf / "done", workdir.path)
    *others, last = workdir.metrics_file.read_text().splitlines(keepends=True)
    workdir.metrics_file.write_text("".join([*others[:-1], "{}\n", last]))
    with pytest.warns(UserWarning, match="they are read from the checkpoint"):
        assert [row.state for row in list_runs(tmp_path)] == ["done"]
    with pytest.warns(UserWarning, match="they are read from the checkpoint"):
        assert read_end(workdir) == "done"


@pytest.mark.parametrize(("step", "state"), [(25, "interrupted"), (26, "failed")])
def test_a_run_that_has_passed_the_step_of_its_fault_has_not_failed(
    shelf: Path, tmp_path: Path, step: int, state: str
) -> None:
    """It was resumed elsewhere, say, and interrupted with checkpoint 25."""
    workdir = Workdir(tmp_path / "run")
    shutil.copytree(shelf / "interrupted", workdir.path)
    (workdir.fault / f"{step}").mkdir(parents=True)
    assert [row.state for row in list_runs(tmp_path)] == [state]
    assert has_failed(workdir) is (state == "failed")


def test_a_run_that_trains_is_listed_as_such(tmp_path: Path) -> None:
    view = LookAt(tmp_path)
    train_and_evaluate(make_tiny_config(), tmp_path / "run", view=view)
    assert view.states and set(view.states) == {"training"}


def test_runs_are_found_below_an_exported_model(shelf: Path, tmp_path: Path) -> None:
    """As after `charlm export --out=runs`."""
    shutil.copytree(shelf / "done", tmp_path / "runs" / "done")
    write_export(load_run(shelf / "done"), tmp_path / "runs")
    done = tmp_path / "runs" / "done"
    assert [row.path for row in list_runs(tmp_path / "runs")] == [str(done)]
    assert run_folders(tmp_path / "runs") == run_folders(tmp_path) == [done]
    shutil.rmtree(done)
    with pytest.raises(CharlmError, match="is an exported model, not a run"):
        run_folders(tmp_path / "runs")


def test_runs_are_found_through_links_and_once(shelf: Path, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    shutil.copytree(shelf / "done", tmp_path / "disk" / "c")
    folder = tmp_path / "runs"
    shutil.copytree(shelf / "done", folder / "b")
    (folder / "a").symlink_to("b")  # found by its own path
    (folder / "disk").symlink_to(tmp_path / "disk")
    (folder / "loop").symlink_to(tmp_path)
    found = [folder / "b", folder / "disk" / "c"]
    assert run_folders(folder) == found
    assert {Path(row.path) for row in list_runs(folder)} == {*found}
    link = tmp_path / "linked"
    link.symlink_to(folder / "b")
    assert run_folders(link) == [link]


def test_a_config_of_another_program_hides_no_run(shelf: Path, tmp_path: Path) -> None:
    shutil.copytree(shelf / "done", tmp_path / "runs" / "done")
    for text, states in {'{"model_type": "gpt2"}': ["done"], "{": ["done", "unreadable"]}.items():
        (tmp_path / "config.json").write_text(text)
        assert sorted(row.state for row in list_runs(tmp_path)) == states


def test_a_folder_of_runs_may_be_a_thousand_deep(deep_folder: Path) -> None:
    assert list_runs(deep_folder) == []


def test_the_command_prints_a_table_or_json(
    shelf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["runs", str(shelf)]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split()[:3] == ["run", "state", "parameters"] and len(lines) == 6 + 1
    *_, last, says = lines
    assert "2 h ago" in last and "38/38" in last
    assert says.startswith(f"{shelf / 'unreadable'}: ") and "config.json is damaged" in says
    assert main(["runs", str(shelf), "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["state"] for row in rows if row["path"].endswith("done")] == ["done"]
    assert main(["runs", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"no run in {tmp_path}\n"


def test_a_run_that_lost_its_config_is_listed(shelf: Path, tmp_path: Path) -> None:
    shutil.copytree(shelf / "done", tmp_path / "runs" / "lost")
    (tmp_path / "runs" / "lost" / "config.json").unlink()
    (row,) = list_runs(tmp_path / "runs")
    assert (Path(row.path).name, row.state) == ("lost", "unreadable")
    assert row.says == f"no run at {row.path}: it has no config.json"


def test_a_run_that_has_ended_without_its_last_checkpoint_is_not_done(
    shelf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(shelf / "done", tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "38")
    assert [row.state for row in list_runs(tmp_path)] == ["interrupted"]
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    (row,) = list_runs(tmp_path)
    assert row.state == "unreadable"
    (tmp_path / "run" / "metrics.jsonl").unlink()
    (tmp_path / "run" / "config.json").unlink()
    (tmp_path / "run" / "checkpoints").mkdir()
    assert main(["runs", str(tmp_path)]) == 0
    _, line, says = capsys.readouterr().out.splitlines()
    assert "0/? - ? " in " ".join(line.split()) + " " and "days ago" not in line
    assert says == f"{tmp_path / 'run'}: no run at {tmp_path / 'run'}: it has no config.json"
    assert main(["runs", str(tmp_path), "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert listed["seconds_ago"] is None and listed["says"].endswith("it has no config.json")
