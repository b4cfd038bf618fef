"""A run's folder: one process at a time, and nothing in it reaches outside."""

import errno
import fcntl
import os
import re
import shutil
from pathlib import Path

import pytest

from charlm_jax.core.errors import CharlmError
from charlm_jax.core.signals import Interrupted
from charlm_jax.data.dataset import load_dataset
from charlm_jax.inference.run import load_run
from charlm_jax.storage.checkpoint import Checkpoints
from charlm_jax.storage.run_index import list_runs
from charlm_jax.storage.workdir import Workdir
from charlm_jax.training.loop import train_and_evaluate
from tests.conftest import Notes, make_tiny_config
from tests.training.test_loop import StopAt, _rows


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


def test_a_look_at_a_folder_keeps_no_other_from_one(tmp_path: Path) -> None:
    place = Workdir(tmp_path / "run")
    with place.held():
        pass
    with place.lock_file.open() as looking:
        fcntl.flock(looking, fcntl.LOCK_SH | fcntl.LOCK_NB)  # as another `is_held` does
        assert place.is_held() is False


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
        place.write_facts({"started_from": {"run": "elsewhere"}})
    train_and_evaluate(config, place.path)
    assert load_run(place.path).config.seed == 1
    assert place.read_facts()["started_from"] is None
    with pytest.raises(CharlmError, match=r"config\.seed is 1 there and 5 here"):
        train_and_evaluate(make_tiny_config(seed=5), place.path)


@pytest.mark.parametrize(
    "name",
    ["checkpoints/1", "evaluation", "evaluation/x.npy", "metrics.jsonl", "lock", "fault"],
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


# `checkpoints` may lie on another disk.

LONG = {"train.evaluate_every_steps": 10}


def _link_checkpoints(run: Path, outside: Path) -> None:
    """Move a run's checkpoints to a folder elsewhere, which may be empty, and link them there."""
    run.mkdir(exist_ok=True)
    if (run / "checkpoints").exists():
        (run / "checkpoints").rename(outside)
    outside.mkdir(exist_ok=True)
    (run / "checkpoints").symlink_to(outside)


@pytest.mark.parametrize("when", ["before the start", "before a resume"])
def test_checkpoints_may_be_a_link(tmp_path: Path, when: str) -> None:
    """Training, resuming, pruning, sampling and --fresh work as without it."""
    run, outside = tmp_path / "run", tmp_path / "scratch"
    train_and_evaluate(make_tiny_config(**LONG), tmp_path / "plain")
    if when == "before the start":
        _link_checkpoints(run, outside)
    with pytest.raises(Interrupted):
        train_and_evaluate(make_tiny_config(**LONG), run, view=StopAt(14))
    if when == "before a resume":
        _link_checkpoints(run, outside)
    assert train_and_evaluate(make_tiny_config(**LONG), run).step == 38
    assert _rows(run) == _rows(tmp_path / "plain")
    assert [*map(Checkpoints.steps, map(Checkpoints, _checkpoint_folders(run)))] == [[30, 38]] * 2
    assert (run / "checkpoints").is_symlink()
    texts = [load_run(folder).generate("a", characters=20) for folder in (run, tmp_path / "plain")]
    assert texts[0] == texts[1] and len(texts[0]) == 20
    assert list_runs(tmp_path)[0].state == "done"
    notes = Notes()
    train_and_evaluate(make_tiny_config(**{"train.max_steps": 1}), run, fresh=True, view=notes)
    assert f"its checkpoints stay in {outside}" in notes.lines[1]
    assert not (run / "checkpoints").is_symlink() and load_run(run).checkpoint == 1
    assert load_run(tmp_path / "run.1").checkpoint == 38


def test_a_run_whose_folder_is_a_link_begins_again_in_the_same_place(tmp_path: Path) -> None:
    config, notes = make_tiny_config(**{"train.max_steps": 1}), Notes()
    run, disk = tmp_path / "runs" / "run", tmp_path / "disk"
    run.parent.mkdir()
    disk.mkdir()
    run.symlink_to(disk)
    train_and_evaluate(config, run)
    train_and_evaluate(make_tiny_config(**{"train.max_steps": 2}), run, fresh=True, view=notes)
    assert notes.lines[0] == f"moved the run at {run} to {tmp_path / 'disk.1'}"
    assert load_run(tmp_path / "disk.1").checkpoint == 1 and load_run(disk).checkpoint == 2
    assert run.is_symlink() and load_run(run).checkpoint == 2


def test_a_folder_of_checkpoints_that_a_run_only_claimed_is_of_none(tmp_path: Path) -> None:
    """It was claimed and then failed; the mended command may have another config."""
    run = tmp_path / "run"
    _link_checkpoints(run, tmp_path / "scratch")
    config = make_tiny_config(**{"train.max_steps": 1})
    with Workdir(run).held():
        Workdir(run).claim(make_tiny_config(seed=5), load_dataset(config))
    assert [*(run / "checkpoints").iterdir()] and not Workdir(run).has_started()
    train_and_evaluate(config, run)
    assert load_run(run).config.seed == 1


def test_two_runs_do_not_share_a_folder_of_checkpoints(tmp_path: Path) -> None:
    one, other, outside = tmp_path / "one", tmp_path / "other", tmp_path / "scratch"
    config = make_tiny_config(**{"train.max_steps": 1})
    for run in (one, other):
        _link_checkpoints(run, outside)
    train_and_evaluate(config, one)
    message = f"{other}/checkpoints is a link to the checkpoints of {one}"
    with pytest.raises(CharlmError, match=re.escape(message)):
        train_and_evaluate(config, other)
    assert load_run(one).checkpoint == 1
    one.rename(tmp_path / "moved")  # the run is still the folder's only one
    longer = make_tiny_config(**{"train.max_steps": 2})
    assert train_and_evaluate(longer, tmp_path / "moved").step == 2
    shutil.copytree(tmp_path / "moved", one, symlinks=True)
    with pytest.raises(
        CharlmError, match=re.escape(f"a link to the checkpoints of {tmp_path}/moved")
    ):
        train_and_evaluate(make_tiny_config(**{"train.max_steps": 3}), one)


def _checkpoint_folders(run: Path) -> list[Path]:
    return [run / "checkpoints", run.with_name("scratch")]


def test_a_damaged_checkpoint_on_another_disk_is_moved_into_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, outside = tmp_path / "run", tmp_path / "scratch"
    _link_checkpoints(run, outside)
    train_and_evaluate(make_tiny_config(), run)
    before = {path.name: path.read_bytes() for path in (outside / "38").iterdir()}
    os.truncate(outside / "38" / "params.npz", 100)
    before["params.npz"] = before["params.npz"][:100]
    rename = os.rename

    def refuse_other_disk(source: Path, target: Path, **options: int) -> None:
        if "scratch" in os.path.realpath(source) and "scratch" not in os.path.realpath(target):
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        rename(source, target, **options)

    monkeypatch.setattr(os, "rename", refuse_other_disk)
    train_and_evaluate(make_tiny_config(), run)
    moved = run / "damaged" / "38-1"
    assert {path.name: path.read_bytes() for path in moved.iterdir()} == before
    assert Checkpoints(outside).steps() == [19, 38]


def test_a_link_to_what_is_no_folder_of_checkpoints_is_refused(tmp_path: Path) -> None:
    run, outside, config = tmp_path / "run", tmp_path / "scratch", make_tiny_config()
    _link_checkpoints(run, outside)
    (outside / "7").mkdir()
    with pytest.raises(CharlmError, match="has checkpoints but no config"):
        train_and_evaluate(config, run)
    (outside / "7").rmdir()
    train_and_evaluate(config, run)
    (outside / "partial-notes").mkdir()
    with pytest.raises(CharlmError, match=r"is a link to a folder that holds partial-notes: link"):
        train_and_evaluate(config, run)
    (outside / "partial-notes").rmdir()
    outside.rename(tmp_path / "gone")
    for attempt in (lambda: train_and_evaluate(config, run), lambda: load_run(run)):
        with pytest.raises(CharlmError, match=r"is a link to .*scratch, which does not exist"):
            attempt()
    (tmp_path / "gone" / "19").rename(tmp_path / "19")
    (tmp_path / "gone" / "19").symlink_to(tmp_path / "19")
    (tmp_path / "gone").rename(outside)
    for attempt in (lambda: train_and_evaluate(config, run), lambda: load_run(run)):
        with pytest.raises(CharlmError, match=r"checkpoints/19 is a link: a run keeps its files"):
            attempt()


def test_what_a_killed_process_left_is_removed_under_the_lock(tmp_path: Path) -> None:
    config, run = make_tiny_config(**{"train.max_steps": 1}), tmp_path / "run"
    run.mkdir()
    for name in ("lock", "config.json.01234567.partial", "vocabulary.json.partial"):
        (run / name).write_text("{")
    train_and_evaluate(config, run)
    mine = {"thesis.tex.01234567.partial", "film.partial"}
    theirs = {f"{name}.89abcdef.partial" for name in ("run.json", "config.json", "metrics.jsonl")}
    names = {path.name for path in run.iterdir()}
    assert names == {
        "lock",
        "checkpoints",
        "config.json",
        "vocabulary.json",
        "run.json",
        "metrics.jsonl",
    }
    for name in (*mine, *theirs):
        (run / name).write_text("{")
    train_and_evaluate(config, run)
    assert {path.name for path in run.iterdir()} == names | mine


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


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("content", ['{"name": "x"}', "// settings of another program"])
def test_a_config_of_another_program_makes_no_run(
    tmp_path: Path, content: str, fresh: bool
) -> None:
    folder = tmp_path / "project"
    (folder / "checkpoints").mkdir(parents=True)
    for name in ("config.json", "vocabulary.json"):
        (folder / name).write_text(content)
    with pytest.raises(CharlmError, match="exists and is not a run"):
        train_and_evaluate(make_tiny_config(), folder, fresh=fresh)
    assert [*tmp_path.iterdir()] == [folder]
    assert {path.name for path in folder.iterdir()} == {
        "checkpoints",
        "config.json",
        "vocabulary.json",
    }
    assert (folder / "config.json").read_text() == content


def test_a_run_whose_config_is_damaged_stays_a_run(tmp_path: Path) -> None:
    run = tmp_path / "run"
    train_and_evaluate(make_tiny_config(**{"train.max_steps": 1}), run)
    (run / "config.json").write_text("{")
    with pytest.raises(CharlmError, match=r"config\.json is damaged: it is not JSON"):
        train_and_evaluate(make_tiny_config(), run)
    train_and_evaluate(make_tiny_config(**{"train.max_steps": 2}), run, fresh=True)
    assert (tmp_path / "run.1" / "config.json").read_text() == "{"
    assert load_run(run).checkpoint == 2
