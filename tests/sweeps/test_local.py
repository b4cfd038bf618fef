"""The points of a sweep as processes: side by side, one failing, interrupted."""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from rich.console import Console

from charlm_jax.cli import main
from charlm_jax.core.errors import CharlmError
from charlm_jax.core.signals import Interrupted
from charlm_jax.storage.checkpoint import Checkpoints
from charlm_jax.storage.metrics_log import MetricsLog
from charlm_jax.storage.workdir import Workdir
from charlm_jax.sweeps import local
from charlm_jax.sweeps.local import Outcome, check_points, core_shares, job_environment, run_points
from charlm_jax.sweeps.points import Point, claim, load_sweep
from charlm_jax.sweeps.progress_bars import Bars, PlainSweep, PointRow
from charlm_jax.training.loop import train_and_evaluate
from charlm_jax.training.progress_bar import NullProgress, ignore_broken_pipe
from tests.conftest import ROOT
from tests.crash_recovery.runs import contents, differences
from tests.sweeps.test_points import SPECS, write_sweep

SEEDS = "return [{'seed': seed} for seed in (1, 2)]"
# Long enough that a signal comes in the middle, and so long that it does not end by itself.
MIDDLING, ENDLESS = {"train.epochs": 10}, {"train.epochs": 2_000}


pytestmark = pytest.mark.usefixtures("child_environment")


@pytest.fixture(scope="module", autouse=True)
def _impatient() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local, "_LOOK_SECONDS", 0.002)
        yield


class Log:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.started: list[str] = []
        self.states: set[tuple[str, ...]] = set()

    def note(self, line: str) -> None:
        self.notes.append(line)

    def start(self, name: str) -> None:
        self.started.append(name)

    def show(self, rows: Sequence[PointRow]) -> None:
        self.states.add(tuple(row.state for row in rows))


class SignalAt(Log):
    """Sends a signal when a point has a row in its metrics: to this process, or to the point's."""

    def __init__(self, folder: Path, *numbers: int, to_point: bool = False) -> None:
        super().__init__()
        self.folder, self.numbers, self.to_point = folder, list(numbers), to_point

    def show(self, rows: Sequence[PointRow]) -> None:
        super().show(rows)
        at_work = [row.name for row in rows if row.step or row.state == "done"]
        if at_work and self.numbers:
            pid = pid_of(self.folder / at_work[0]) if self.to_point else os.getpid()
            os.kill(pid, self.numbers.pop(0))


def pid_of(workdir: Path) -> int:
    return int(Workdir(workdir).lock_file.read_text().split()[0])


def points_of(tmp_path: Path, body: str = SEEDS, **changes: object) -> tuple[Point, ...]:
    return load_sweep(write_sweep(tmp_path / "mine.py", body, **changes)).points


def rows_of(workdir: Path) -> list[tuple[int, str, str]]:
    rows = MetricsLog(Workdir(workdir).metrics_file).rows()
    return [(row["step"], row["split"], row["scope"]) for row in rows]


def losses_of(workdir: Path) -> list[float]:
    return [row["loss_nats"] for row in MetricsLog(Workdir(workdir).metrics_file).rows()]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Log, list[Outcome]]:
    """Two points, one after the other, without a stop."""
    folder, log = tmp_path_factory.mktemp("finished"), Log()
    outcomes = run_points(points_of(folder, **MIDDLING), folder / "runs", view=log)
    return folder / "runs", log, outcomes


def test_points_are_trained_and_what_they_say_is_kept(
    finished: tuple[Path, Log, list[Outcome]],
) -> None:
    folder, log, outcomes = finished
    assert [(o.point.name, o.state, o.says) for o in outcomes] == [
        ("seed=1", "done", ""),
        ("seed=2", "done", ""),
    ]
    assert log.started == ["seed=1", "seed=2"]
    assert log.states >= {("running", "waiting"), ("done", "running"), ("done", "done")}
    assert ("running", "running") not in log.states
    for outcome, note in zip(outcomes, log.notes, strict=True):
        name = outcome.point.name
        valid = [
            row["loss_nats"]
            for row in MetricsLog(folder / name / "metrics.jsonl").rows()
            if row["split"] == "valid"
        ]
        assert outcome.best_loss_nats == min(valid) and len(valid) == 10
        assert note == f"{name}: done, best held-out loss {min(valid):.4f} nats"
        text = (folder / "logs" / f"{name}.log").read_text()
        assert "trained 190 steps" in text and "epoch 10" in text


@pytest.mark.exhaustive
def test_a_point_that_fails_does_not_stop_the_others_and_is_repeated_alone(
    finished: tuple[Path, Log, list[Outcome]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_sweep(tmp_path / "mine.py", SEEDS.replace("(1, 2)", "(3, 1, 2)"), **MIDDLING)
    command = ["sweep", "--config=mine.py", "--workdir=my runs", "--jobs=2"]
    claim(load_sweep("mine.py"), Path("my runs"))
    Path("my runs", "seed=3").write_text("in the way")
    assert main(command) == 1
    *events, summary, failed, command_line = capsys.readouterr().out.splitlines()
    assert summary == "my runs: 2 of 3 points are done"
    says = "charlm train: my runs/seed=3 is not a folder: choose another --workdir"
    assert failed == f"seed=3 failed: {says}"
    to_repeat = "  charlm train --config=mine.py '--workdir=my runs/seed=3' --config.seed=3"
    assert command_line == to_repeat
    assert sum(event.endswith(": started") for event in events) == 3
    shares = core_shares(2)
    for name in ("seed=1", "seed=2"):
        mine, theirs = tmp_path / "my runs" / name, finished[0] / name
        assert rows_of(mine) == rows_of(theirs)
        assert losses_of(mine) == pytest.approx(losses_of(theirs), rel=1e-5)
        facts = json.loads((mine / "run.json").read_text())
        assert facts["sessions"][0]["environment"]["threads"] in {len(share) for share in shares}
        assert facts["config_spec"] == str(tmp_path / "mine.py")
        assert (facts["point"], facts["overrides"]) == ([name], None)
    Path("my runs", "seed=3").unlink()
    kept = {path: path.read_bytes() for path in Path("my runs").glob("seed=*/*.json*")}
    assert len(kept) == 2 * 4
    assert main(command) == 0
    *events, summary = capsys.readouterr().out.splitlines()
    assert [e for e in events if e.endswith("started")] == ["seed=3: started"]
    assert summary == "my runs: 3 of 3 points are done"
    assert all(path.read_bytes() == data for path, data in kept.items())
    assert main(command) == 0
    assert capsys.readouterr().out == "my runs: 3 of 3 points are done\n"


@pytest.mark.exhaustive
def test_an_interrupted_sweep_ends_as_if_nothing_had_happened(
    finished: tuple[Path, Log, list[Outcome]], tmp_path: Path
) -> None:
    points, folder = points_of(tmp_path, **MIDDLING), tmp_path / "runs"
    handler = signal.getsignal(signal.SIGINT)
    first = SignalAt(folder, signal.SIGINT)
    with pytest.raises(
        Interrupted, match=r"of 2 points done; run the same command again"
    ) as caught:
        run_points(points, folder, view=first)
    assert caught.value.signal_number == signal.SIGINT
    assert signal.getsignal(signal.SIGINT) is handler
    assert first.started == ["seed=1"] and not (folder / "seed=2").exists()
    outcomes = run_points(points, folder)
    assert [outcome.state for outcome in outcomes] == ["done", "done"]
    for point, outcome, there in zip(points, outcomes, finished[2], strict=True):
        assert outcome.best_loss_nats == there.best_loss_nats
        mine, theirs = contents(folder / point.name), contents(finished[0] / point.name)
        for run, own in ((mine, point), (theirs, there.point)):  # their files lie elsewhere
            assert run["run.json"][0].pop("config_spec") == own.config
        assert differences(mine, theirs) == []


# Signals


@pytest.mark.exhaustive
@pytest.mark.skipif(sys.platform == "win32", reason="no process groups")
def test_what_is_typed_at_a_terminal_reaches_every_point_once(tmp_path: Path) -> None:
    """The terminal sends SIGINT to the whole group; the points are not of it."""
    spec = write_sweep(tmp_path / "mine.py", SEEDS, **ENDLESS)
    folder = tmp_path / "runs"
    script = f"""
import os, signal, sys
from pathlib import Path
from charlm_jax.cli import main
from charlm_jax.sweeps import local
from charlm_jax.sweeps import progress_bars
from tests.sweeps.test_local import pid_of
local._LOOK_SECONDS = 0.002
told = []
def show(self, rows):
    if all(row.step for row in rows) and not told:
        told.append(True)
        groups = [os.getpgid(pid_of(Path({str(folder)!r}, row.name))) for row in rows]
        print(len({{os.getpgid(0), *groups}}), flush=True)
        os.killpg(0, signal.SIGINT)
progress_bars.PlainSweep.show = show
sys.exit(main(['sweep', '--config={spec}', '--workdir={folder}', '--jobs=2']))
"""
    result = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        cwd=ROOT,
        start_new_session=True,
    )
    assert result.returncode == 130, result.stderr
    message = "stopped with 0 of 2 points done; run the same command again to resume"
    assert result.stderr == f"charlm sweep: {message}\n"
    assert "3" in result.stdout.splitlines()
    assert_saved(folder, ["seed=1", "seed=2"])


def assert_saved(folder: Path, names: Sequence[str]) -> None:
    """The points got one signal: they have saved, and their processes are gone."""
    for name in names:
        last = (folder / "logs" / f"{name}.log").read_text().splitlines()[-1]
        assert last.endswith("and saved; run the same command again to resume"), last
        assert not Workdir(folder / name).is_held()


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGHUP, marks=pytest.mark.exhaustive)]
)
def test_other_signals_are_passed_on(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
) -> None:
    spec, folder = write_sweep(tmp_path / "mine.py", SEEDS, **ENDLESS), tmp_path / "runs"
    monkeypatch.setattr(PlainSweep, "show", SignalAt(folder, number).show)
    before = signal.signal(number, signal.SIG_DFL)  # under nohup, SIGHUP is ignored
    try:
        status = main(["sweep", f"--config={spec}", f"--workdir={folder}"])
    finally:
        signal.signal(number, before)
    out, err = capsys.readouterr()
    assert status == 128 + number
    assert out.splitlines() == ["seed=1: started", "seed=1: stopped"]
    message = "stopped with 0 of 2 points done; run the same command again to resume"
    assert err == f"charlm sweep: {message}\n"
    assert_saved(folder, ["seed=1"])


@pytest.mark.exhaustive
def test_a_second_ctrl_c_leaves_no_process_behind(tmp_path: Path) -> None:
    points, folder = points_of(tmp_path, **ENDLESS), tmp_path / "runs"
    view = SignalAt(folder, signal.SIGINT, signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run_points(points, folder, view=view)
    assert not Workdir(folder / "seed=1").is_held()
    with pytest.raises(ProcessLookupError):
        os.kill(pid_of(folder / "seed=1"), 0)


def test_a_point_that_is_killed_says_by_what(tmp_path: Path) -> None:
    points, folder = points_of(tmp_path, **ENDLESS)[:1], tmp_path / "runs"
    view = SignalAt(folder, signal.SIGKILL, to_point=True)
    (outcome,) = run_points(points, folder, view=view)
    assert outcome.state == "failed" and outcome.says.startswith("killed by SIGKILL (")
    assert view.notes == [f"seed=1: failed: {outcome.says}"]


def test_the_last_line_of_a_log_is_one_of_this_time(tmp_path: Path) -> None:
    file = tmp_path / "a.log"
    file.write_text("of another time\n")
    start = file.stat().st_size
    assert local._last_line(file, start) == ""
    with file.open("ab") as log:
        log.write(b"first\n last \xff\n \n")
    assert local._last_line(file, start) == "last \ufffd"
    assert local._last_line(tmp_path / "removed.log", start) == ""


# What is started, and where


def test_a_point_that_another_process_trains_is_left_to_it(tmp_path: Path) -> None:
    points, folder, log = points_of(tmp_path)[:1], tmp_path / "runs", Log()
    with Workdir(folder / "seed=1").held():
        (outcome,) = run_points(points, folder, view=log)
    assert outcome.state == "elsewhere" and not log.started
    assert log.notes == [f"seed=1: process {os.getpid()} is training it"]


def test_a_log_that_cannot_be_written_is_one_line_and_stops_the_sweep(tmp_path: Path) -> None:
    log = Log()
    (tmp_path / "logs").write_text("in the way")
    with pytest.raises(CharlmError, match=r"^cannot write to .*seed=1\.log: File exists$"):
        run_points(points_of(tmp_path), tmp_path, view=log)
    assert not log.started and not (tmp_path / "seed=2").exists()


def test_only_the_very_run_that_is_over_counts_as_finished(tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    (point,) = points_of(tmp_path, "return [{'seed': 4}]")
    assert not point.is_finished(folder)
    with pytest.raises(Interrupted):
        train_and_evaluate(point.load(), folder / point.name, view=_Stop())
    assert not point.is_finished(folder)
    train_and_evaluate(point.load(), folder / point.name)
    assert point.is_finished(folder)
    for text in ("seed=5", "train.epochs=3", "model.layers=gru"):
        other = point._replace(overrides=(*point.overrides, text))
        assert not other.is_finished(folder)
    workdir = Workdir(folder / point.name)
    latest = Checkpoints(workdir.checkpoints).steps()[-1]
    (workdir.checkpoints / f"{latest}").rename(tmp_path / "latest")
    assert not point.is_finished(folder)  # `charlm train` trains its last steps again
    (tmp_path / "latest").rename(workdir.checkpoints / f"{latest}")
    assert point.is_finished(folder)
    (workdir.checkpoints / f"{latest}" / "params.npz").write_bytes(b"")
    assert not point.is_finished(folder)
    shutil.rmtree(workdir.checkpoints)
    assert not point.is_finished(folder)
    workdir.facts_file.write_text("{")
    assert not point.is_finished(folder)


@pytest.mark.parametrize("tuned", [False, True])
def test_a_finished_point_of_another_text_is_named_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], tuned: bool
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("abcd" * 400)
    spec = write_sweep(tmp_path / "mine.py", SEEDS, **{"data.corpus": str(text)})
    sweep, folder = load_sweep(spec, tuned=tuned * "optimizer.learning_rate"), tmp_path / "runs"
    first, second = sweep.points
    claim(sweep, folder)
    if tuned:  # a finished point has another value than its name says
        first = first._replace(overrides=(*first.overrides, "optimizer.learning_rate=0.002"))
    train_and_evaluate(first.load(), folder / first.name)
    text.write_text("dcba" * 400)
    says = "point seed=1: the text of .*text.txt is not the one that .*seed=1 was started on"
    log = Log()
    with pytest.raises(CharlmError, match=says):
        run_points([first, second], folder, view=log)
    words = ["sweep", f"--config={spec}", f"--workdir={folder}"]
    assert main(words + tuned * ["--tune=optimizer.learning_rate"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(says, line)
    assert not log.started and not (folder / second.name).exists()


class EditAtStart(Log):
    """Writes another text when a point starts, whose process has not read it yet."""

    def __init__(self, text: Path) -> None:
        super().__init__()
        self.text = text

    def start(self, name: str) -> None:
        super().start(name)
        self.text.write_text("dcba" * 400)


def test_a_text_that_changes_between_two_points_is_refused_at_the_end(tmp_path: Path) -> None:
    text, folder = tmp_path / "text.txt", tmp_path / "runs"
    text.write_text("abcd" * 400)
    first, second = points_of(tmp_path, **{"data.corpus": str(text)})
    train_and_evaluate(first.load(), folder / first.name)
    view = EditAtStart(text)
    with pytest.raises(CharlmError, match=r"^point seed=1: the text of .*text.txt is not the one"):
        run_points([first, second], folder, view=view)
    assert view.started == ["seed=2"] and second.is_finished(folder)


class _Stop(NullProgress):
    def advance(self, step: int, loss_nats: float, chars_per_second: float) -> None:
        os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize(
    ("names", "jobs", "message"),
    [
        (["a", "b", "a"], 1, "2 points have the name 'a'"),
        (["logs"], 1, "'logs' cannot be the name"),
        (["../a"], 1, "'../a' cannot be the name"),
        ([".."], 1, "'..' cannot be the name"),
        ([""], 1, "'' cannot be the name"),
        (["a"], 0, "jobs=0"),
    ],
)
def test_points_that_cannot_lie_beside_one_another(
    tmp_path: Path, names: list[str], jobs: int, message: str
) -> None:
    with pytest.raises(CharlmError, match=message):
        run_points([Point(name, "tutorial") for name in names], tmp_path / "runs", jobs=jobs)
    assert not (tmp_path / "runs").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="a process has no say in its cores")
@pytest.mark.parametrize("cores", [{0}, {0, 1}, {1, 3, 5, 7, 9}, set(range(64))])
@pytest.mark.parametrize("jobs", [1, 2, 3, 7])
def test_jobs_have_equal_shares_of_the_cores(
    monkeypatch: pytest.MonkeyPatch, cores: set[int], jobs: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: cores)
    shares = core_shares(jobs)
    assert len(shares) == jobs and {len(share) for share in shares} == {max(1, len(cores) // jobs)}
    assert set.union(*map(set, shares)) <= cores
    if jobs <= len(cores):
        assert sum(map(len, shares)) == len(set.union(*map(set, shares)))


@pytest.mark.skipif(sys.platform != "linux", reason="a process has no say in its cores")
def test_a_child_has_its_share_and_this_process_what_it_had() -> None:
    before = os.sched_getaffinity(0)
    script = "import os; print(*os.sched_getaffinity(0))"
    for share in core_shares(2):
        with ThreadPoolExecutor(1, initializer=local._run_on, initargs=(share,)) as pool:
            child = pool.submit(subprocess.check_output, [sys.executable, "-c", script], text=True)
        assert set(map(int, child.result().split())) == share
    assert os.sched_getaffinity(0) == before


# Before anything starts


@pytest.mark.parametrize("spec", SPECS)
def test_every_shipped_sweep_could_be_trained(spec: str, tmp_path: Path) -> None:
    sweep = load_sweep(spec, ["data.corpus=synthetic:symbols=60,characters=40000"])
    check_points(sweep.points, tmp_path)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "return [{'data.sequence_length': n} for n in (5, 2900)]",
            r"^point sequence_length=2900: the text is too short",
        ),
        (
            "return [{'model.layers': (name,)} for name in ('gru', 'lstn')]",
            r"^point layers=lstn: config.model.layers.*'lstn'.* lstm, gru",
        ),
        ("return [{'data.corpus': 'atlantis'}]", r"^point corpus=atlantis: .*'atlantis'"),
    ],
)
def test_a_point_that_could_not_be_trained_is_named_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], body: str, message: str
) -> None:
    spec, folder = write_sweep(tmp_path / "mine.py", body), tmp_path / "runs"
    with pytest.raises(CharlmError, match=message):
        check_points(load_sweep(spec).points, folder)
    assert main(["sweep", f"--config={spec}", f"--workdir={folder}"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert not folder.exists()


def test_devices_are_left_to_the_process_of_a_point(tmp_path: Path) -> None:
    """The process of the sweep sees one CPU wherever it runs."""
    changes: dict[str, object] = {"train.devices": 8, "train.shard_params": True}
    points = points_of(tmp_path, **changes)
    check_points(points, tmp_path / "runs")
    uneven = [point._replace(overrides=("train.devices=3",)) for point in points]
    with pytest.raises(CharlmError, match=r"^point seed=1: config.train.devices=3 must divide"):
        check_points(uneven, tmp_path / "runs")


def test_another_run_in_a_points_folder_is_named_before_anything_starts(tmp_path: Path) -> None:
    first, second = points_of(tmp_path)
    train_and_evaluate(first.load(), tmp_path / "runs" / second.name)
    with pytest.raises(CharlmError, match=r"^point seed=2: .*config.seed is 1 there and 2 here"):
        check_points([first, second], tmp_path / "runs")


# What a person sees


def test_bars_follow_the_points() -> None:
    bars = Bars()
    bars.display.live.console = Console(file=io.StringIO(), width=100, force_terminal=True)
    bars.show([PointRow("a", "waiting"), PointRow("b", "waiting")])
    bars.start("a")
    bars.show([PointRow("a", "running"), PointRow("b", "waiting")])
    bars.show([PointRow("a", "running", 5, 20, 1234.5), PointRow("b", "waiting")])
    everything, a = bars.display.tasks
    assert (everything.total, everything.completed) == (2, 0)
    assert (a.description, a.completed, a.total, a.fields["says"]) == ("a", 5, 20, "1,234 chars/s")
    bars.show([PointRow("a", "failed"), PointRow("b", "waiting")])
    (everything,) = bars.display.tasks
    assert everything.completed == 1 and everything.fields["says"] == "1 waiting, 1 failed"


class Closed(PlainSweep):
    """A terminal that was closed."""

    def start(self, name: str) -> None:
        raise OSError


def test_a_terminal_that_is_gone_does_not_end_a_sweep(capsys: pytest.CaptureFixture[str]) -> None:
    view = ignore_broken_pipe(Closed())
    view.start("a")
    view.note("b")
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("program", "imports"),
    [(["-m", "look"], True), (["-P", "-m", "look"], False), (["look.py"], False)],
)
def test_a_point_imports_from_the_current_folder_only_if_the_command_does(
    program: list[str], imports: bool, tmp_path: Path
) -> None:
    """The process of a point finds the stranger's module in the current folder, or it does not."""
    scripts, here = tmp_path / "scripts", tmp_path / "here"
    scripts.mkdir()
    here.mkdir()
    (here / "stranger.py").touch()
    (scripts / "look.py").write_text(
        "import subprocess\nfrom charlm_jax.sweeps.local import _python\n"
        "code = subprocess.call([*_python(), '-c', 'import stranger'], stderr=subprocess.DEVNULL)\n"
        "print(code == 0)\n"
    )
    if program == ["look.py"]:
        program = [str(scripts / "look.py")]
    path = os.pathsep.join([str(ROOT), str(scripts)])
    out = subprocess.run(
        [sys.executable, *program],
        cwd=here,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert out == f"{imports}\n"


def test_several_jobs_do_not_reserve_the_memory_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "XLA_PYTHON_CLIENT_PREALLOCATE"
    monkeypatch.delenv(name, raising=False)
    assert (job_environment(1).get(name), job_environment(2)[name]) == (None, "false")
    monkeypatch.setenv(name, "true")
    assert job_environment(2)[name] == "true"
