"""The points of a sweep as jobs of a cluster."""

import contextlib
import functools
import json
import os
import signal
import stat
import sys
from pathlib import Path

import pytest
import submitit
from submitit.core.utils import DelayedSubmission

from charlm_jax.cli import main
from charlm_jax.core.errors import CharlmError
from charlm_jax.core.signals import Interrupted
from charlm_jax.data.corpora import load_corpus
from charlm_jax.storage.workdir import Workdir
from charlm_jax.sweeps import slurm
from charlm_jax.sweeps.slurm import submit_points, undone_on_refusal
from charlm_jax.training.progress_bar import LogProgress
from tests.models.own_mixer import write_mixer
from tests.sweeps.test_local import ENDLESS, SEEDS, points_of, rows_of
from tests.sweeps.test_points import write_sweep

pytestmark = pytest.mark.usefixtures("child_environment")


@pytest.mark.exhaustive
def test_points_become_jobs_of_a_cluster(tmp_path: Path) -> None:
    points, folder = points_of(tmp_path), tmp_path / "runs"
    executor = submitit.LocalExecutor(folder / ".slurm")
    executor.update_parameters(timeout_min=5)
    placed = submit_points(points, folder, executor)
    assert [(p.point, p.state) for p in placed] == [(point, "submitted") for point in points]
    ids = json.loads((folder / ".slurm" / "jobs.json").read_text())
    assert ids == {p.point.name: p.job_id for p in placed}
    queued = submit_points(points, folder, executor, is_active=lambda job_id: True)
    assert {p.state for p in queued} <= {"queued", "running", "done"}
    assert [p.job_id for p in queued] == [p.job_id for p in placed]
    for p in placed:
        with contextlib.suppress(ChildProcessError):  # it may have been waited for
            os.waitpid(int(p.job_id), 0)
        assert submitit.LocalJob(folder / ".slurm", p.job_id).result() is None
    again = submit_points(points, folder, executor)
    assert [p.state for p in again] == ["done", "done"]
    assert rows_of(folder / "seed=1")[-1] == (38, "valid", "epoch")


class Queue(submitit.LocalExecutor):
    """Takes jobs, and starts none."""

    def _submit_command(self, command: str) -> submitit.LocalJob:
        number = len(list(self.folder.glob("*_submitted.pkl")))
        return submitit.LocalJob(self.folder, f"job-{number}")


def test_a_job_that_ended_too_early_is_submitted_again(tmp_path: Path) -> None:
    points, executor = points_of(tmp_path), Queue(tmp_path / ".slurm")
    first = submit_points(points, tmp_path, executor)
    assert not any(p.failed for p in first)
    assert [(p.state, p.job_id) for p in first] == [("submitted", "job-0"), ("submitted", "job-1")]
    second = submit_points(points, tmp_path, executor, is_active=lambda job_id: job_id == "job-0")
    assert [(p.state, p.job_id) for p in second] == [("queued", "job-0"), ("submitted", "job-2")]
    log = tmp_path / ".slurm" / "job-1_0_log.err"
    assert [p.failed for p in second] == ["", f"ended before training began: see {log}"]
    with Workdir(tmp_path / "seed=2").held():
        third = submit_points(points, tmp_path, executor, is_active=lambda job_id: True)
    assert [p.state for p in third] == ["queued", "running"]


class Full(Queue):
    """Takes a number of jobs, and refuses the next."""

    takes = 2

    def _submit_command(self, command: str) -> submitit.LocalJob:
        if len(list(self.folder.glob("*_submitted.pkl"))) >= self.takes:
            raise RuntimeError("sbatch: error: job limit")
        return super()._submit_command(command)


def test_a_refused_submission_keeps_why_the_last_jobs_failed(tmp_path: Path) -> None:
    points, folder = points_of(tmp_path), tmp_path / "runs"
    executor = Full(folder / ".slurm")
    submit_points(points[:1], folder, executor)
    file = folder / ".slurm" / "seed=1.failed"
    file.write_text("step 3: the loss is nan")
    with pytest.raises(CharlmError, match="job limit"):
        submit_points(points, folder, executor)
    assert file.read_text() == "step 3: the loss is nan"
    assert not file.with_name("seed=2.failed").exists()


def test_more_points_than_an_array_holds_are_several_arrays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm, "_MOST_JOBS", 1)
    first, second = points_of(tmp_path)
    points = [first, second, second._replace(name="seed=3")]
    executor = Full(tmp_path / "runs" / ".slurm")
    refusal = r"not submitted \(2 were before; .* submits the others\): sbatch: error: job limit"
    with pytest.raises(CharlmError, match=refusal), undone_on_refusal(tmp_path / "runs"):
        submit_points(points, tmp_path / "runs", executor)
    monkeypatch.setattr(Full, "takes", 3)
    again = submit_points(points, tmp_path / "runs", executor, is_active=lambda job_id: True)
    assert [p.state for p in again] == ["queued", "queued", "submitted"]


def test_a_refused_submission_leaves_what_was_there(tmp_path: Path) -> None:
    folder = tmp_path / "all" / "runs"
    (folder / "seed=1").mkdir(parents=True)
    (folder / ".slurm").mkdir()
    (folder / ".slurm" / "old.txt").write_text("mine")
    before = sorted(folder.rglob("*"))
    with pytest.raises(CharlmError, match="job limit"), undone_on_refusal(folder):
        (folder / "manifest.json").write_text("{}")
        (folder / ".slurm" / "new.pkl").write_text("")
        raise CharlmError("job limit")
    assert sorted(folder.rglob("*")) == before


def test_the_end_of_a_jobs_time_saves_the_run(tmp_path: Path) -> None:
    (point, _) = points_of(tmp_path, **ENDLESS)

    class Announce(LogProgress):
        def advance(self, step: int, loss_nats: float, chars_per_second: float) -> None:
            os.kill(os.getpid(), signal.SIGUSR2)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slurm, "LogProgress", Announce)
        before = signal.getsignal(signal.SIGUSR2)
        with pytest.raises(Interrupted, match="and saved"):
            slurm.train_point(point.config, str(tmp_path / "run"), *point.overrides)
    assert signal.getsignal(signal.SIGUSR2) == before
    assert not list((tmp_path / ".slurm").iterdir())  # it did not fail


def test_a_job_imports_the_modules_that_the_sweep_allows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_mixer(tmp_path / "own_mixer.py")
    allowed = str(tmp_path / "own_mixer.py")
    trained = []
    monkeypatch.setattr(
        slurm, "train_and_evaluate", lambda config, *_, **__: trained.append(config)
    )
    point = points_of(tmp_path)[0]._replace(modules=(allowed,))
    submit_points([point], tmp_path, Queue(tmp_path / ".slurm"))
    (file,) = (tmp_path / ".slurm").glob("*_submitted.pkl")
    job = DelayedSubmission.load(file)
    try:
        assert job.kwargs == {"modules": (allowed,)}
        job.function(*job.args, **job.kwargs)
        assert len(trained) == 1 and "own_mixer" in sys.modules
    finally:
        sys.modules.pop("own_mixer", None)


class Killed(BaseException):
    """What leaves a job no time for a word."""


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (CharlmError("step 3: the loss is nan"), "step 3: the loss is nan"),
        (MemoryError("40\nGB"), r"MemoryError: 40\nGB"),
        (Killed(), "killed before it could save, or out of memory: "),
        (Interrupted("saved", signal.SIGTERM), ""),
        (None, ""),
    ],
    ids=["mistake", "bug", "killed", "interrupted", "over"],
)
def test_why_the_last_job_of_a_point_failed(
    error: BaseException | None, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(*_: object, **__: object) -> None:
        if error is not None:
            raise error

    monkeypatch.setattr(slurm, "train_and_evaluate", train)
    (point, other) = points_of(tmp_path)
    executor = Queue(tmp_path / ".slurm")
    (first,) = submit_points([point], tmp_path, executor)
    train_it = functools.partial(
        slurm.train_point, point.config, str(tmp_path / point.name), *point.overrides
    )
    with pytest.raises(type(error)) if error else contextlib.nullcontext():
        train_it()
    (queued,) = submit_points([point], tmp_path, executor, is_active=lambda job_id: True)
    assert (queued.state, queued.failed) == ("queued", "")
    again, new = submit_points([point, other], tmp_path, executor)
    third, _ = submit_points([point, other], tmp_path, executor)
    assert third.failed.startswith("ended before training began: ")  # not why the first failed
    assert [again.state, new.state, new.failed] == ["submitted", "submitted", ""]
    assert again.failed.startswith(says) and bool(again.failed) == bool(says)
    if isinstance(error, Killed):
        assert again.failed.endswith(f"see {tmp_path / '.slurm' / first.job_id}_0_log.err")
    error = None
    train_it()
    assert not submit_points([point], tmp_path, executor)[0].failed


def _program(folder: Path, name: str, script: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(stat.S_IRWXU)


def test_the_command_hands_the_points_to_slurm(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With programs of SLURM's names and no others; sbatch keeps what it is given."""
    spec, folder = write_sweep(tmp_path / "mine.py", SEEDS), tmp_path / "runs"
    command = ["sweep", f"--config={spec}", f"--workdir={folder}", "--launcher=slurm"]
    timed = [*command, "--slurm=time=60,partition=small", "--jobs=1"]
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    for arguments, says in [
        (command, "--slurm has no time limit"),
        (timed, "srun was not found"),
        ([*command, "--slurm=time"], "--slurm=time=True: it must be a number of minutes"),
        ([*command, "--jobs=0"], "jobs=0 is not allowed"),
    ]:
        try:
            assert main(arguments) == 2
        except SystemExit as stop:
            assert stop.code == 2
        err = capsys.readouterr().err
        assert says in err and len(err.splitlines()) == 1
    assert not folder.exists()
    _program(tmp_path / "bin", "srun", "exit 1")
    _program(tmp_path / "bin", "sacct", "echo 'JobID|State|NodeList'; echo '17_[0-1]|PENDING|'")
    _program(tmp_path / "bin", "sbatch", "echo 'sbatch: error: no such partition' >&2; exit 1")
    assert main([*timed[:-2], "--slurm=time=60,partion=small"]) == 2
    err = capsys.readouterr().err
    assert "did you mean partition?" in err and len(err.splitlines()) == 1
    assert main(timed) == 2
    err = capsys.readouterr().err
    last = "charlm sweep: the jobs were not submitted: sbatch: error: no such partition"
    assert err.splitlines()[-1] == last  # under what sbatch says itself
    assert not folder.exists()  # nothing is left of what was refused
    keep = f"/bin/cp $1 {tmp_path}/script; echo Submitted batch job 17"
    _program(tmp_path / "bin", "sbatch", keep)
    more = ["--slurm=reservation=mine,exclude=n1,n2", "--slurm=exclusive"]
    assert main([*timed, *more]) == 0
    told = capsys.readouterr()
    assert told.out.splitlines() == [
        "seed=1: submitted, job 17_0",
        "seed=2: submitted, job 17_1",
    ]
    script = (tmp_path / "script").read_text()
    for line in ("--array=0-1%1", "--partition=small", "--time=60", "--job-name=charlm"):
        assert f"#SBATCH {line}\n" in script
    for line in ("--reservation=mine", "--exclude=n1,n2", "--exclusive"):
        assert f"#SBATCH {line}\n" in script
    assert main(timed) == 0
    assert [line.split(", ")[0] for line in capsys.readouterr().out.splitlines()] == [
        "seed=1: queued",
        "seed=2: queued",
    ]
    (folder / "seed=1").write_text("in the way")
    with pytest.raises(CharlmError, match="is not a folder"):  # as its job does
        slurm.train_point(str(spec), str(folder / "seed=1"), "seed=1")
    _program(tmp_path / "bin", "sacct", "echo 'JobID|State|NodeList'; echo '17_[0-1]|FAILED|'")
    _program(tmp_path / "bin", "sbatch", "echo Submitted batch job 18")
    begun = f"{folder}/seed=1 is not a folder: choose another --workdir"
    for array in (17, 18):  # nothing has trained in between
        not_begun = [
            f"ended before training began: see {folder}/.slurm/{array}_{job}_0_log.err"
            for job in (0, 1)
        ]
        assert main(timed) == 1
        assert capsys.readouterr().out.splitlines() == [
            f"seed=1: failed: {begun if array == 17 else not_begun[0]}",
            f"  charlm train --config={spec} --workdir={folder}/seed=1 --config.seed=1",
            "seed=1: submitted, job 18_0",
            f"seed=2: failed: {not_begun[1]}",
            f"  charlm train --config={spec} --workdir={folder}/seed=2 --config.seed=2",
            "seed=2: submitted, job 18_1",
        ]
        _program(tmp_path / "bin", "sacct", "echo 'JobID|State|NodeList'; echo '18_[0-1]|FAILED|'")


def test_a_run_of_several_tasks_is_one_job(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    workdir = tmp_path / "runs" / "many"
    workdir.parent.mkdir()
    (workdir.parent / "text.txt").write_text("a text")
    command = ["train", "--config=quickstart", f"--workdir={workdir}", "--config.train.devices=0"]
    options = "--slurm=time=60,nodes=2,ntasks_per_node=8,gpus_per_node=8"
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    _program(tmp_path / "bin", "srun", "exit 1")
    keep = f"/bin/cp $1 {tmp_path}/script; echo Submitted batch job 17"
    _program(tmp_path / "bin", "sbatch", keep)
    for more, says in [
        ([options], "--slurm requires --launcher=slurm"),
        (["--launcher=slurm", options, "--fresh"], "--fresh cannot be used with --launcher=slurm"),
        (["--launcher=slurm"], "--slurm has no time limit"),
    ]:
        assert main([*command, *more]) == 2
        assert says in capsys.readouterr().err
    assert not (tmp_path / "script").exists()
    assert main([*command, "--launcher=slurm", options]) == 0
    assert capsys.readouterr().out == f"{workdir}: submitted, job 17\n"
    script = (tmp_path / "script").read_text()
    for line in ("--nodes=2", "--ntasks-per-node=8", "--gpus-per-node=8", "--time=60"):
        assert f"#SBATCH {line}\n" in script
    assert "\nsrun " in script
    (file,) = (workdir.parent / ".slurm").glob("*.pkl")
    job, trained = DelayedSubmission.load(file), []
    monkeypatch.setattr(
        slurm, "train_and_evaluate", lambda config, path, **_: trained.append((config, path))
    )
    job.function(*job.args, **job.kwargs)
    ((config, path),) = trained
    assert config.train.devices == 0 and path == str(workdir)
    assert load_corpus(str(workdir.parent)).text == "a text"  # without the job's files


def test_without_submitit_one_line_says_how_to_get_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = write_sweep(tmp_path / "mine.py", SEEDS)
    monkeypatch.setitem(sys.modules, "submitit", None)
    command = ["sweep", f"--config={spec}", f"--workdir={tmp_path / 'runs'}"]
    assert main([*command, "--launcher=slurm", "--slurm=time=60"]) == 2
    err = capsys.readouterr().err
    assert "pip install -e '.[slurm]'" in err and len(err.splitlines()) == 1
    assert main([*command, "--slurm=time=60"]) == 2
    assert "--slurm requires --launcher=slurm" in capsys.readouterr().err
