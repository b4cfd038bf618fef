"""Runs the points of a sweep on this machine, some at a time; `slurm.py` has a cluster do it.

Every point is a process of its own, `charlm train` in a folder of its own. That goes on where it
was stopped, and a finished one is not started again: so the same call goes on with a sweep.
"""

import contextlib
import dataclasses
import functools
import os
import signal
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from charlm_jax.config.schema import Config
from charlm_jax.core.errors import CharlmError, write_error
from charlm_jax.core.signals import Interrupted, deferred_signals
from charlm_jax.data.dataset import load_dataset
from charlm_jax.data.download import Progress
from charlm_jax.storage.compatibility import check_same_run
from charlm_jax.storage.metrics_log import MetricsLog
from charlm_jax.storage.run_index import read_status
from charlm_jax.storage.workdir import Workdir
from charlm_jax.sweeps.points import NOT_NAMES, Point
from charlm_jax.sweeps.progress_bars import PointRow, SilentSweep, SweepView, UnfailingSweep
from charlm_jax.training.trainer import Trainer, build_trainer

_LOOK_SECONDS = 0.2  # between two looks at the processes


class Outcome(NamedTuple):
    """How it ended with a point.

    Attributes:
      point: which.
      state: `done`, `failed`, or `elsewhere` where another process trains it.
      best_loss_nats: the lowest held-out loss of a run that is done; None where nothing is held
        out.
      says: the last line of the log of a run that failed.
    """

    point: Point
    state: str
    best_loss_nats: float | None = None
    says: str = ""


def check_points(
    points: Sequence[Point], workdir: Path | str, *, progress: Progress | None = None
) -> None:
    """See that every point could be trained, before the first one is.

    Raises:
      CharlmError: a name that nothing has, a text too short, a point's folder with another run in
        it; the message names the point.
    """

    @functools.lru_cache(maxsize=1)  # the points of a sweep often differ in their seeds alone
    def build(config: Config) -> Trainer:
        return build_trainer(config, load_dataset(config, progress=progress))

    for point in points:
        try:
            config = point.load()
            trainer = build(dataclasses.replace(config, seed=0))
            point_dir = point.workdir(Path(workdir))
            point_dir.refuse_links()
            check_same_run(point_dir, config, trainer.dataset)
        except CharlmError as error:
            raise CharlmError(f"point {point.name}: {error}") from error


def run_points(
    points: Sequence[Point],
    workdir: Path | str,
    *,
    jobs: int = 1,
    view: SweepView | None = None,
) -> list[Outcome]:
    """Train points, so many at a time; a failure of one does not stop the others.

    Every job gets an equal share of this process's cores where the system can hold it to them: XLA
    makes as many threads as it finds cores, and so the last bit of a result depends on `jobs`.

    Args:
      points: what to train; those that are finished are passed over.
      workdir: where a folder for every point is made, and one for what they print.
      jobs: most points that train at once.
      view: what is told how it goes.

    Returns:
      An outcome for every point, in their order.

    Raises:
      CharlmError: names that cannot be those of folders beside one another, no job.
      Interrupted: SIGINT, SIGTERM or SIGHUP came; every run that was at work was saved first.
    """
    if jobs < 1:
        raise CharlmError(f"jobs={jobs} is not allowed: it must be at least 1")
    _refuse_names(points)
    jobs = max(1, min(jobs, len(points)))
    folder = Workdir(workdir).path  # as those of runs are read
    pool = _Pool(points, folder, jobs, UnfailingSweep(view or SilentSweep()))
    with deferred_signals() as signal_received:
        pool.run(signal_received)
    return [pool.outcomes[point.name] for point in points]


def _refuse_names(points: Sequence[Point]) -> None:
    for name, count in Counter(point.name for point in points).items():
        if count > 1:
            raise CharlmError(f"{count} points have the name {name!r}: it must be one's own")
        if name in NOT_NAMES or name.startswith(".") or "/" in name or not name:
            raise CharlmError(f"{name!r} cannot be the name of a point: its folder has that name")


def core_shares(jobs: int) -> list[frozenset[int]]:
    """The cores of each of so many jobs, equally many; empty where a process has no say in it.

    Jobs that are more than the cores share them in turns.
    """
    if sys.platform != "linux":
        return [frozenset()] * jobs
    cores = sorted(os.sched_getaffinity(0))
    size = max(1, len(cores) // jobs)
    return [
        frozenset(cores[(job * size + place) % len(cores)] for place in range(size))
        for job in range(jobs)
    ]


@contextlib.contextmanager
def _on_cores(cores: frozenset[int]) -> Iterator[None]:
    """What this thread starts meanwhile runs on these cores only."""
    if sys.platform != "linux" or not cores:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@dataclasses.dataclass
class _Job:
    """A process that trains a point.

    Attributes:
      point: which.
      process: its process, in a session of its own: what is typed at a terminal does not reach it.
      log_start: where in the log its own lines begin.
      signals: how many were passed on to it.
    """

    point: Point
    process: "subprocess.Popen[bytes]"
    log_start: int
    signals: int = 0


class _Pool:
    """Processes that train points, and those points that wait for one."""

    def __init__(self, points: Sequence[Point], folder: Path, jobs: int, view: SweepView) -> None:
        self.points, self.folder, self.view = points, folder, view
        self.waiting, self.shares = deque(points), core_shares(jobs)
        self.running: dict[int, _Job] = {}  # by their place among the shares
        self.outcomes: dict[str, Outcome] = {}

    def run(self, signal_received: Callable[[], int]) -> None:
        """Train to the end, or raise `Interrupted` after all that ran have saved and stopped."""
        try:
            while self.waiting or self.running:
                number = signal_received()
                if number:
                    self.pass_on(number, times=1)
                else:
                    self.fill()
                self.reap(number)
                self.view.show([self.row(point) for point in self.points])
                if number and not self.running:
                    break
                if self.running:
                    time.sleep(_LOOK_SECONDS)
        finally:  # left by an exception, of which a second Ctrl-C is one: they must not stay behind
            self.pass_on(signal.SIGINT, times=2)
            for job in self.running.values():
                job.process.wait()
        if len(self.outcomes) < len(self.points):
            done = sum(outcome.state == "done" for outcome in self.outcomes.values())
            raise Interrupted(
                f"stopped with {done} of {len(self.points)} points done: the same command goes on "
                f"from there",
                number,
            )

    def pass_on(self, number: int, *, times: int) -> None:
        """Send a signal to all jobs that have had fewer than so many."""
        for job in self.running.values():
            if job.signals < times:
                job.process.send_signal(number)
                job.signals += 1

    def fill(self) -> None:
        """Start points that wait, as far as there are shares of the cores for them."""
        for share in range(len(self.shares)):
            while share not in self.running and self.waiting:
                point = self.waiting.popleft()
                workdir = point.workdir(self.folder)
                if point.is_finished(self.folder):
                    self.outcomes[point.name] = self.done(point)
                elif workdir.is_held():
                    self.outcomes[point.name] = self.elsewhere(point)
                else:
                    self.running[share] = self.start(point, self.shares[share])
                    self.view.start(point.name)

    def start(self, point: Point, cores: frozenset[int]) -> _Job:
        """Start a process for a point."""
        file = point.log_file(self.folder)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("ab") as log, _on_cores(cores):
                log_start = log.tell()
                process = subprocess.Popen(
                    [sys.executable, "-m", "charlm_jax", *point.arguments(self.folder)],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
                return _Job(point, process, log_start)
        except OSError as error:
            raise write_error(file, error) from error

    def reap(self, number: int) -> None:
        """Take note of the jobs that have ended."""
        for share, job in list(self.running.items()):
            status = job.process.poll()
            if status is None:
                continue
            del self.running[share]
            point = job.point
            if status == 0:
                self.outcomes[point.name] = self.done(point)
                best = self.outcomes[point.name].best_loss_nats
                score = "" if best is None else f", best held-out loss {best:.4f} nats"
                self.view.note(f"{point.name}: done{score}")
            elif number and status in (-number, 128 + number):
                self.view.note(f"{point.name}: stopped")
            elif point.workdir(self.folder).is_held():  # it was faster
                self.outcomes[point.name] = self.elsewhere(point)
            else:
                says = self.last_line(job) or "it said nothing"
                if status < 0:
                    says = f"killed by {signal.Signals(-status).name} ({says})"
                self.outcomes[point.name] = Outcome(point, "failed", says=says)
                self.view.note(f"{point.name}: failed: {says}")

    def done(self, point: Point) -> Outcome:
        """The outcome of a run that is finished."""
        return Outcome(point, "done", read_status(point.workdir(self.folder)).best_loss_nats)

    def elsewhere(self, point: Point) -> Outcome:
        """The outcome of a run that is not ours."""
        self.view.note(f"{point.name}: another process trains it")
        return Outcome(point, "elsewhere")

    def last_line(self, job: _Job) -> str:
        """The last thing that a job said."""
        text = job.point.log_file(self.folder).read_bytes()[job.log_start :]
        lines = text.decode("utf-8", "replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    def row(self, point: Point) -> PointRow:
        """How a point stands."""
        if point.name in self.outcomes:
            return PointRow(point.name, self.outcomes[point.name].state)
        if all(job.point is not point for job in self.running.values()):
            return PointRow(point.name, "waiting")
        workdir = point.workdir(self.folder)
        with contextlib.suppress(CharlmError, OSError, KeyError):  # its process says what is wrong
            rows = [
                row for row in MetricsLog(workdir.metrics_file).latest() if row["split"] == "train"
            ]
            if rows:
                total, speed = workdir.read_facts().get("total_steps"), rows[-1]["chars_per_second"]
                return PointRow(point.name, "running", rows[-1]["step"], total, speed)
        return PointRow(point.name, "running")
