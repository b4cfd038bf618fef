"""A run's files are what its checkpoints vouch for, or it is said: never another figure or text."""

import errno
import fcntl
import hashlib
import io
import json
import os
import re
import shutil
import socket
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from charlm_jax.core.errors import CharlmError
from charlm_jax.inference.run import load_run
from charlm_jax.storage import lock
from charlm_jax.storage.checkpoint import Checkpoints
from charlm_jax.storage.metrics_log import MetricsLog
from charlm_jax.storage.run_index import list_runs, read_status
from charlm_jax.storage.seal import read_rows
from charlm_jax.storage.workdir import Workdir
from charlm_jax.training.loop import train_and_evaluate
from charlm_jax.training.progress_bar import NullProgress
from charlm_jax.training.reproduce import verify_run
from tests.conftest import Notes, make_tiny_config

LAST = 38


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run."""
    return shutil.copytree(finished, tmp_path / "run")


def _edit(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    values = json.loads(file.read_text())
    change(values)
    file.write_text(json.dumps(values))


def _set(section: str, field: str, value: object) -> Callable[[dict[str, Any]], object]:
    return lambda values: values[section].update({field: value})


# Config and symbols.


@pytest.mark.core
@pytest.mark.parametrize(
    ("section", "field", "value"),
    [
        ("model", "window", 2),
        ("evaluation", "context", 3),
        ("data", "sequence_length", 4),
        ("data", "length_schedule", "4:5"),
    ],
)
def test_a_config_with_a_bearing_on_figures_must_be_the_sealed_one(
    run: Path, section: str, field: str, value: object
) -> None:
    _edit(run / "config.json", _set(section, field, value))
    message = rf"config.json is not the config .* {LAST} .*config\.{section}\.{field} is .*{value}"
    for read in (load_run, verify_run):
        with pytest.raises(CharlmError, match=message):
            read(run)
    assert read_status(Workdir(run)).state == "unreadable"


@pytest.mark.parametrize(
    ("section", "field", "value"),
    [("train", "max_steps", 7), ("train", "log_every_steps", 2), ("evaluation", "batch_size", 5)],
)
def test_a_config_without_a_bearing_on_figures_may_differ(
    run: Path, section: str, field: str, value: int
) -> None:
    before, _ = load_run(run).evaluate()
    _edit(run / "config.json", _set(section, field, value))
    after, _ = load_run(run).evaluate()
    assert after.key == before.key
    assert after.loss_nats == pytest.approx(before.loss_nats, rel=1e-6)
    assert read_status(Workdir(run)).state == "done"


def test_the_symbols_must_be_the_sealed_ones(run: Path) -> None:
    symbols = load_run(run).vocabulary.symbols
    other = symbols[:-1] + chr(ord(symbols[-1]) + 1)
    _edit(run / "vocabulary.json", lambda values: values.update(symbols=other))
    last = len(symbols) - 1
    message = f"vocabulary.json does not have the symbols .*symbol {last} is {symbols[-1]!r} there"
    for read in (load_run, verify_run):
        with pytest.raises(CharlmError, match=message):
            read(run)
    _edit(run / "vocabulary.json", lambda values: values.update(symbols=symbols, fingerprint="x"))
    with pytest.raises(CharlmError, match="does not name the text that checkpoint 38"):
        load_run(run)


# Rows.

LOSSES: dict[str, Callable[[bytes], bytes]] = {
    "cut at a line's end": lambda data: data[: data.rfind(b"\n", 0, len(data) // 2) + 1],
    "cut within a line": lambda data: data[: len(data) // 2],
    "emptied": lambda data: b"",
    "a digit changed": lambda data: data.replace(b'"loss_nats": 1', b'"loss_nats": 0', 1),
    "a line torn": lambda data: data.replace(b"}", b"", 1),
}


@pytest.mark.core
@pytest.mark.parametrize("loss", LOSSES)
def test_rows_that_were_lost_are_read_from_the_checkpoint_and_restored(
    finished: Path, run: Path, loss: str
) -> None:
    file = run / "metrics.jsonl"
    sound = file.read_bytes()
    file.write_bytes(LOSSES[loss](sound))
    assert file.read_bytes() != sound
    with pytest.warns(UserWarning, match=r"metrics.jsonl .* rows that checkpoint 38 recorded"):
        rows = read_rows(Workdir(run))
    assert rows == MetricsLog(finished / "metrics.jsonl").rows()
    notes = Notes()
    train_and_evaluate(make_tiny_config(**{"train.epochs": 3}), run, view=notes)
    assert "they are restored from the checkpoint" in notes.lines[0]
    assert file.read_bytes().startswith(sound)


def test_rows_that_are_gone_are_noticed_when_a_run_is_done(run: Path) -> None:
    file, notes = run / "metrics.jsonl", Notes()
    sound = file.read_bytes()
    file.unlink()
    assert train_and_evaluate(make_tiny_config(), run, view=notes).was_done
    assert re.search("has 0 of the [0-9]+ rows that checkpoint 38 recorded", notes.lines[0])
    assert file.read_bytes() == sound


def test_the_seal_has_the_rows_that_were_written_whatever_became_of_the_file(
    finished: Path, tmp_path: Path
) -> None:
    class Emptied(NullProgress):
        def row(self, row: Any, mark: str = "") -> None:
            if row["step"] == 30:
                (tmp_path / "run" / "metrics.jsonl").write_bytes(b"")

    train_and_evaluate(make_tiny_config(), tmp_path / "run", view=Emptied())
    with pytest.warns(UserWarning, match="rows that checkpoint 38 recorded"):
        rows = read_rows(Workdir(tmp_path / "run"))
    assert [row["state_hash"] for row in rows] == [
        row["state_hash"] for row in MetricsLog(finished / "metrics.jsonl").rows()
    ]


def test_facts_are_what_was_written(run: Path) -> None:
    file = run / "run.json"
    _edit(file, lambda values: values.update(parameters=values["parameters"] + 1))
    with pytest.raises(CharlmError, match=r"run.json is damaged: its content is not what was wri"):
        Workdir(run).read_facts()
    assert read_status(Workdir(run)).state == "unreadable"
    _edit(file, lambda values: values.pop("sha256"))  # as an earlier version wrote it
    assert Workdir(run).read_facts()["parameters"]


def test_facts_that_were_lost_are_noticed(run: Path) -> None:
    (run / "run.json").unlink()
    with pytest.warns(UserWarning, match=r"run\.json is missing"):
        assert read_status(Workdir(run)).parameters is None
    with pytest.warns(UserWarning, match=r"run\.json is missing"):
        train_and_evaluate(make_tiny_config(**{"train.epochs": 3}), run)


# Kept evaluations.


def test_losses_that_changed_are_computed_anew(run: Path) -> None:
    opened = load_run(run)
    evaluation, nll_N = opened.evaluate(cache=True)
    (file,) = (run / "evaluation").glob("*.npy")
    sound = file.read_bytes()
    rng = np.random.default_rng(0)
    for bit in rng.integers(0, 8 * len(sound), 30):
        data = bytearray(sound)
        data[bit // 8] ^= 1 << (bit % 8)
        file.write_bytes(data)
        found, losses_N = opened.evaluate(cache=True)
        assert found == evaluation
        np.testing.assert_array_equal(losses_N, nll_N)
        assert file.read_bytes() == sound
    for data in (b"", sound[:-1], b"PK\x03\x04"):
        file.write_bytes(data)
        assert opened.evaluate(cache=True)[0] == evaluation


def test_a_figure_in_the_note_is_not_believed(run: Path) -> None:
    opened = load_run(run)
    evaluation, _ = opened.evaluate(cache=True)
    (note,) = (run / "evaluation").glob("*.json")
    _edit(note, lambda values: values.update(loss_nats=0.5))
    assert opened.evaluate(cache=True)[0] == evaluation
    _edit(note, lambda values: values.update(sha256=None))  # as an earlier version wrote it
    assert opened.evaluate(cache=True)[0] == evaluation
    assert json.loads(note.read_text())["loss_nats"] == evaluation.loss_nats


# Checkpoints that were sealed with something else than a run writes.


def _reseal(run: Path, name: str, data: bytes) -> None:
    """Replace a file of the last checkpoint, with a matching hash, as only a person can."""
    folder = run / "checkpoints" / str(LAST)
    (folder / name).write_bytes(data)
    digest = [len(data), hashlib.sha256(data).hexdigest()]
    _edit(folder / "contents.json", lambda values: values.update({name: digest}))


def _arrays(change: Callable[[dict[str, np.ndarray]], object], **options: Any) -> Callable:
    def replace(run: Path) -> None:
        with np.load(run / "checkpoints" / str(LAST) / "params.npz") as file:
            arrays = dict(file)
        change(arrays)
        content = io.BytesIO()
        options.get("save", np.savez)(content, **arrays)
        _reseal(run, "params.npz", content.getvalue())

    return replace


def _meta(**changes: Any) -> Callable[[Path], None]:
    def replace(run: Path) -> None:
        file = run / "checkpoints" / str(LAST) / "meta.json"
        values = json.loads(file.read_text())
        _reseal(run, "meta.json", json.dumps(values | changes).encode())

    return replace


def _bomb(run: Path) -> None:
    """An array whose header promises a terabyte."""
    file = run / "checkpoints" / str(LAST) / "params.npz"
    content = io.BytesIO()
    with zipfile.ZipFile(file) as there, zipfile.ZipFile(content, "w") as out:
        for name in there.namelist():
            header = io.BytesIO()
            np.lib.format.write_array_header_1_0(
                header, {"descr": "<f4", "fortran_order": False, "shape": (2**38,)}
            )
            out.writestr(name, header.getvalue())
    _reseal(run, "params.npz", content.getvalue())


def _first(arrays: dict[str, np.ndarray]) -> str:
    return next(iter(arrays))


FALSE: dict[str, tuple[Callable[[Path], None], str]] = {
    "missing": (_arrays(lambda a: a.pop(_first(a))), "params.npz: .* is missing"),
    "shape": (
        _arrays(lambda a: a.update({_first(a): np.zeros((2, 2), np.float32)})),
        "is damaged: it is float32 of shape",
    ),
    "objects": (
        _arrays(lambda a: a.update({_first(a): np.array([{}], object)})),
        "is damaged: it is object",
    ),
    "compressed": (_arrays(lambda a: None, save=np.savez_compressed), "it is compressed"),
    "no archive": (lambda run: _reseal(run, "params.npz", b"text"), "it is not an .npz file"),
    "bomb": (_bomb, "is damaged: it is float32 of shape"),
    "not finite": (
        _arrays(lambda a: a[_first(a)].fill(np.nan)),
        "has weights that are not finite, first in ",
    ),
    "step": (_meta(step=-5), "has no valid meta.json"),
    "loss": (_meta(loss_nats="low"), "has no valid meta.json"),
    "best": (_meta(best_step=-1), "has no valid meta.json"),
    "arrays": (_meta(arrays={"params": {"a": [[-1], "float32"]}, "training": {}}), "meta.json"),
    "config": (_meta(config=[]), "does not identify a run"),
    "symbols": (_meta(symbols=7), "does not identify a run"),
}


@pytest.mark.parametrize("name", FALSE)
def test_a_sealed_but_false_checkpoint_is_refused_in_one_line(run: Path, name: str) -> None:
    make, message = FALSE[name]
    make(run)
    with pytest.raises(CharlmError, match=message) as caught:
        load_run(run, checkpoint=str(LAST))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "tally", [{"step": "x"}, {"epoch": ["a", 1, 2]}, {"best_loss_nats": "low"}, {"other": 1}]
)
def test_false_progress_is_refused(run: Path, tally: dict[str, Any]) -> None:
    file = run / "checkpoints" / str(LAST) / "meta.json"
    values = json.loads(file.read_text())
    _meta(tally=values["tally"] | tally)(run)
    with pytest.raises(CharlmError, match="does not record the run's progress"):
        train_and_evaluate(make_tiny_config(), run)


# What is sound is used, whatever happened to the rest.


def test_damage_of_what_is_not_needed_costs_nothing(run: Path) -> None:
    text = load_run(run, checkpoint="latest").generate("a", characters=20)
    (run / "checkpoints" / str(LAST) / "training.npz").write_bytes(b"")
    assert load_run(run, checkpoint="latest").generate("a", characters=20) == text
    best = load_run(run, checkpoint="best").checkpoint
    (other,) = {19, LAST} - {best}
    if other == LAST:
        pytest.skip("the latest is the one that names the best")
    (run / "checkpoints" / str(other) / "meta.json").write_bytes(b"")
    assert load_run(run, checkpoint="best").checkpoint == best


def test_a_best_checkpoint_that_is_not_there_is_a_warning(run: Path) -> None:
    _meta(best_step=19)(run)
    assert load_run(run, checkpoint="best").checkpoint == 19
    shutil.rmtree(run / "checkpoints" / "19")
    with pytest.warns(UserWarning, match="checkpoint 19, the best of .*, is not there: using 38"):
        assert load_run(run, checkpoint="best").checkpoint == LAST


@pytest.mark.parametrize("which", ["best", "latest"])
def test_a_checkpoint_that_vanishes_while_it_is_read_is_no_damage(
    run: Path, which: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run in training renames a checkpoint that it no longer needs, at any moment."""
    checkpoints, real = run / "checkpoints", os.open
    for moment in range(1, 9):
        calls = 0
        folder = checkpoints / str(1000 + moment)  # as if it were being pruned
        shutil.copytree(checkpoints / str(LAST), folder)
        meta = json.loads((folder / "meta.json").read_text())
        data = json.dumps(meta | {"step": 1000 + moment, "best_step": 1000 + moment}).encode()
        (folder / "meta.json").write_bytes(data)
        digest = [len(data), hashlib.sha256(data).hexdigest()]
        _edit(folder / "contents.json", lambda values, d=digest: values.update({"meta.json": d}))

        def vanish(path: Any, *args: Any, folder: Path = folder, at: int = moment) -> int:
            nonlocal calls
            if str(path).startswith(str(folder)):
                calls += 1
                if calls == at and folder.exists():
                    folder.rename(run / "pruned")
            return real(path, *args)

        with monkeypatch.context() as patch:
            patch.setattr(os, "open", vanish)
            opened = load_run(run, checkpoint=which)
        assert opened.checkpoint in (19, LAST, 1000 + moment)
        assert not folder.exists() or opened.checkpoint == 1000 + moment
        if calls < moment:  # it was open by then
            break
        assert not folder.exists()
        shutil.rmtree(run / "pruned")
    assert 3 < moment < 8


# A folder that goes, pipes, and disks without locks.


@pytest.mark.parametrize("gone", ["the folder", "its config", "its lock"])
def test_a_run_that_is_removed_during_training_is_an_error(tmp_path: Path, gone: str) -> None:
    workdir = tmp_path / "run"

    class Remove(NullProgress):
        def advance(self, step: int, *_: float) -> None:
            if step >= 16:
                names = {"its config": "config.json", "its lock": "lock"}
                if gone in names:
                    (workdir / names[gone]).unlink(missing_ok=True)
                else:
                    shutil.rmtree(workdir, ignore_errors=True)

    with pytest.raises(CharlmError, match=r"moved or removed during training|cannot write to"):
        train_and_evaluate(make_tiny_config(), workdir, view=Remove())
    assert not (workdir / "checkpoints" / "19").exists()


def test_nothing_is_written_into_a_run_that_took_the_place_of_one_in_training(
    run: Path, tmp_path: Path
) -> None:
    workdir = tmp_path / "place"

    class Replace(NullProgress):
        def advance(self, step: int, *_: float) -> None:
            if step >= 16 and not (tmp_path / "moved").exists():
                workdir.rename(tmp_path / "moved")
                shutil.copytree(run, workdir)

    with pytest.raises(CharlmError, match="moved or removed during training"):
        train_and_evaluate(make_tiny_config(), workdir, view=Replace())
    files = [file for file in run.rglob("*") if file.is_file()]
    assert all(
        (workdir / file.relative_to(run)).read_bytes() == file.read_bytes() for file in files
    )


@pytest.mark.parametrize("name", ["config.json", "vocabulary.json", "run.json", "metrics.jsonl"])
def test_a_pipe_is_not_waited_for(run: Path, name: str) -> None:
    (run / name).unlink()
    os.mkfifo(run / name)
    with pytest.raises(CharlmError, match=f"{name}: not a regular file|not a regular file"):
        {"run.json": lambda: Workdir(run).read_facts(), "metrics.jsonl": lambda: read_rows(
            Workdir(run))}.get(name, lambda: load_run(run))()  # fmt: skip
    assert [status.state for status in list_runs(run.parent)] == ["unreadable"]


def test_numbers_beyond_all_bounds_are_no_row(run: Path) -> None:
    row = json.loads((run / "metrics.jsonl").read_text().splitlines()[0])
    shutil.rmtree(run / "checkpoints")
    for name, value in (("step", 10**4000), ("step", 0), ("loss_nats", float("nan"))):
        (run / "metrics.jsonl").write_text(json.dumps(row | {name: value}) + "\n")
        with pytest.raises(CharlmError, match="line 1, is not a valid metrics row"):
            read_rows(Workdir(run))


@pytest.fixture
def without_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)


@pytest.mark.usefixtures("without_locks")
def test_a_disk_without_locks_is_used_with_a_warning(tmp_path: Path) -> None:
    workdir = Workdir(tmp_path / "run")
    with pytest.warns(UserWarning, match=f"the disk of {workdir.path} has no file locks"):
        train_and_evaluate(make_tiny_config(**{"train.max_steps": 2}), workdir.path)
    assert workdir.lock_file.read_text() == "" and workdir.is_held() is False
    for owner, state, message in (
        (f"{os.getpid()} {socket.gethostname()}", "training", "is in use by process"),
        ("17 elsewhere", "unknown", "may be in use by process 17 on elsewhere.*remove"),
    ):
        workdir.lock_file.write_text(owner + "\n")
        with pytest.raises(CharlmError, match=message), workdir.held():
            pass
        assert workdir.is_held() is (True if state == "training" else None)
    workdir.write_facts({**workdir.read_facts(), "finished": None})
    assert read_status(workdir).state == "unknown"
    workdir.lock_file.write_text(f"{2**30} {socket.gethostname()}\n")  # it has died
    assert workdir.is_held() is False


@pytest.mark.filterwarnings("ignore:the disk of")
@pytest.mark.usefixtures("without_locks")
def test_one_process_of_a_machine_claims_a_folder_of_a_disk_without_locks(tmp_path: Path) -> None:
    file, host = tmp_path / "run" / "lock", socket.gethostname()
    claim = file.with_name("lock.claim")
    with lock.held(file) as opened:  # before it has written its name into the file
        assert opened.read() == "" and lock.is_held(file) is True
        with pytest.raises(CharlmError, match=f"in use by process {os.getpid()}"), lock.held(file):
            pass
        file.parent.rename(tmp_path / "moved")
    assert [path.name for path in (tmp_path / "moved").iterdir()] == ["lock"]
    file.parent.mkdir()
    # The second one started at another time than the process that has its number now.
    for ended in (f"{2**30} {host} 5", f"{os.getpid()} {host} 5"):
        claim.write_text(ended)
        assert lock.is_held(file) is False
        with lock.held(file):
            pass
        assert [path.name for path in file.parent.iterdir()] == ["lock"]
    for unknown in ("17 elsewhere 5", ""):  # of another machine, or about to be written
        claim.write_text(unknown)
        with pytest.raises(CharlmError, match=rf"may be in use .* remove {claim}"), lock.held(file):
            pass
        assert lock.is_held(file) is None and claim.read_text() == unknown
    (claim.with_name("lock.takeover")).write_text("17")
    with pytest.raises(CharlmError, match=r"takes .* over: try again"), lock.held(file):
        pass


def test_a_figure_is_printed_where_it_cannot_be_saved(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from charlm_jax.cli import main

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("charlm_jax.evaluation.results.atomic_write", full)
    assert main(["evaluate", f"--workdir={run}"]) == 0
    printed = capsys.readouterr()
    assert "nats" in printed.out and "No space left on device: the losses are not" in printed.err


def test_arrays_of_every_kind_come_back(tmp_path: Path) -> None:
    params = {
        "a": np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
        "b": np.zeros((0, 2), np.int32),
        "c": np.float32(2.0),
        "d": np.array([[True], [False]]),
    }
    options: dict[str, Any] = {"meta": {}, "loss_nats": None}
    Checkpoints(tmp_path).save(1, params=params, training={}, **options)
    found = Checkpoints(tmp_path).open(1).params(params)
    for there, here in zip(jax.tree.leaves(found), jax.tree.leaves(params), strict=True):
        np.testing.assert_array_equal(there, here)
        assert there.dtype == here.dtype and there.flags.writeable
