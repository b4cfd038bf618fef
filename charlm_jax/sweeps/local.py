"""Training of the points of a sweep on this machine, several at a time; `slurm.py` uses a cluster.

Every point is a separate `charlm train` process with its own folder. It resumes where it was
stopped, and finished points are skipped, so the same call resumes a sweep.
"""

import contextlib
import dataclasses
import functools
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple

from charlm_jax.config.schema import Config
from charlm_jax.core.errors import CharlmError, write_error
from charlm_jax.core.import_path import imports_current_folder
from charlm_jax.core.signals import Interrupted, deferred_signals
from charlm_jax.data.dataset import Dataset, load_dataset, refuse_joined_parts
from charlm_jax.data.download import Progress
from charlm_jax.storage.compatibility import check_same_run, check_same_text
from charlm_jax.storage.metrics_log import MetricsLog
from charlm_jax.storage.run_index import read_status
from charlm_jax.storage.workdir import Workdir
from charlm_jax.sweeps.points import NOT_NAMES, Point
from charlm_jax.sweeps.progress_bars import PointRow, SweepView
from charlm_jax.training.progress_bar import ignore_broken_pipe
from charlm_jax.training.run_limits import refuse_uneven_rows
from charlm_jax.training.trainer import Trainer, build_trainer

_LOOK_SECONDS = 0.2  # interval between polls of the processes


class Outcome(NamedTuple):
    """Final status of one sweep point.

    Attributes:
      point: the point.
      state: `done`, `failed`, or `elsewhere` if another process trains it.
      best_loss_nats: lowest held-out loss of a finished run; None without held-out text.
      says: last line of the log of a failed run, or the process that trains it elsewhere.
    """

    point: Point
    state: str
    best_loss_nats: float | None = None
    says: str = ""


def check_points(
    points: Sequence[Point], workdir: Path | str, *, progress: Progress | None = None
) -> list[str]:
    """Check that every point can be trained, before training the first.

    Returns:
      A line for every text of which something is left out (`Corpus.left_out`), or whose parts a
      new run joins.

    Raises:
      CharlmError: a point has an unknown name, a text that is too short, or another run in its
        folder; the message names the point.
    """

    @functools.lru_cache(maxsize=1)  # points of a sweep often differ only in their seeds
    def build(config: Config) -> Trainer:
        return build_undivided(config, load_dataset(config, progress=progress))

    remarks: dict[str, None] = {}
    for point in points:
        try:
            config = point.load()
            point_dir = point.workdir(Path(workdir))
            if not point_dir.has_started() and (remark := refuse_joined_parts(config)):
                remarks[remark] = None
            trainer = build(dataclasses.replace(config, seed=0))
            point_dir.refuse_links()
            check_same_run(point_dir, config, trainer.dataset)
        except CharlmError as error:
            raise CharlmError(f"point {point.name}: {error}") from error
        if line := trainer.dataset.corpus.left_out:
            remarks[f"{config.data.corpus}: {line}"] = None
    return [*remarks]


def build_undivided(config: Config, dataset: Dataset) -> Trainer:
    """Build the parts of a point's run on one device, in a process that only checks it.

    The number of devices that JAX finds is checked by the point's own process, which may see more.

    Raises:
      CharlmError: the point could not be trained with any devices.
    """
    train = dataclasses.replace(config.train, devices=1, shard_params=False)
    trainer = build_trainer(dataclasses.replace(config, train=train), dataset)
    refuse_uneven_rows(config, max(1, config.train.devices))
    return trainer


def check_texts(points: Sequence[Point], workdir: Path | str) -> None:
    """Check that points that have started were trained on the text that their config names now.

    Raises:
      CharlmError: the text of one has changed or is not there; the message names the point.
    """
    dataset, loaded = None, None
    for point in points:
        point_dir = point.workdir(Path(workdir))
        if not point_dir.config_file.exists() or not point_dir.has_started():
            continue
        try:
            config = point.load()
            if dataset is None or loaded != (config.data, config.split):
                dataset, loaded = load_dataset(config), (config.data, config.split)
            check_same_text(point_dir, point_dir.read_config(), dataset)
        except CharlmError as error:
            raise CharlmError(f"point {point.name}: {error}") from error


def run_points(
    points: Sequence[Point],
    workdir: Path | str,
    *,
    jobs: int = 1,
    view: SweepView | None = None,
) -> list[Outcome]:
    """Train points, several at a time; the failure of one does not stop the others.

    Every job is pinned to an equal share of this process's cores where the system allows it. XLA
    starts one thread per visible core, so the last bit of a result depends on `jobs`.

    Args:
      points: points to train; finished ones are skipped.
      workdir: folder of the sweep, with a folder for every point and one for their logs.
      jobs: maximum number of points trained at once.
      view: callbacks.

    Returns:
      The outcomes, in the order of the points.

    Raises:
      CharlmError: two points share a name, a name is not a valid folder name, jobs < 1, or a
        finished point was trained on another text than its config names now, when the first is
        started or when the last has ended.
      Interrupted: SIGINT, SIGTERM or SIGHUP was received; every run was saved first.
    """
    if jobs < 1:
        raise CharlmError(f"jobs={jobs} is not allowed: it must be at least 1")
    _refuse_names(points)
    jobs = max(1, min(jobs, len(points)))
    folder = Workdir(workdir).path  # resolved like the folders of runs
    check_texts([point for point in points if point.is_finished(folder)], folder)
    sweep = _Processes(folder, ignore_broken_pipe(view), job_environment(jobs))
    shares = core_shares(jobs)
    with (
        deferred_signals(second=signal.default_int_handler) as signal_received,
        ThreadPoolExecutor(jobs, initializer=lambda: _run_on(shares.pop())) as pool,
    ):
        futures = [pool.submit(sweep.train, point) for point in points]
        waiting = {*futures}
        try:
            while waiting:
                ended, waiting = wait(waiting, _LOOK_SECONDS, return_when=FIRST_EXCEPTION)
                if number := signal_received():
                    sweep.stop(number, times=1)
                sweep.show(points)
                for future in sorted(ended, key=futures.index):  # the first error is raised
                    future.result()
        finally:  # after an exception, such as a second Ctrl-C, no process may keep running
            # Processes ignore SIGINT if this one does.
            ignored = signal.getsignal(signal.SIGINT) == signal.SIG_IGN
            sweep.stop(signal.SIGTERM if ignored else signal.SIGINT, times=2)
    if len(sweep.outcomes) < len(points):
        done = sum(outcome.state == "done" for outcome in sweep.outcomes.values())
        raise Interrupted(
            f"stopped with {done} of {len(points)} points done; run the same command again to "
            f"resume",
            signal_received(),
        )
    outcomes = [sweep.outcomes[point.name] for point in points]
    check_texts([outcome.point for outcome in outcomes if outcome.state == "done"], folder)
    return outcomes


def _refuse_names(points: Sequence[Point]) -> None:
    for name, count in Counter(point.name for point in points).items():
        if count > 1:
            raise CharlmError(f"{count} points have the name {name!r}: names must be unique")
        if name in NOT_NAMES or name.startswith(".") or "/" in name or not name:
            raise CharlmError(
                f"{name!r} cannot be the name of a point: use a folder name that is not reserved"
            )


def core_shares(jobs: int) -> list[frozenset[int]]:
    """Return equal shares of the cores; empty sets where the system has no CPU affinity.

    With more jobs than cores, several jobs share a core.
    """
    if sys.platform != "linux":
        return [frozenset()] * jobs
    cores = sorted(os.sched_getaffinity(0))
    size = max(1, len(cores) // jobs)
    return [
        frozenset(cores[(job * size + offset) % len(cores)] for offset in range(size))
        for job in range(jobs)
    ]


def job_environment(jobs: int) -> dict[str, str]:
    """Return the environment of jobs: several on one GPU may not reserve its memory in advance."""
    # JAX takes three quarters of it by default; a value that is set is kept.
    several = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"} if jobs > 1 else {}
    return {**several, **os.environ}


def _run_on(cores: frozenset[int]) -> None:
    """Pin this thread, and the processes it starts, to the given cores if that is allowed."""
    if sys.platform == "linux" and cores:
        with contextlib.suppress(OSError):  # forbidden by a container, or a core has gone
            os.sched_setaffinity(0, cores)


class _Processes:
    """Processes that train points, each started by a thread that waits for it.

    Attributes:
      outcomes: outcomes of the points that have ended, keyed by name.
    """

    def __init__(self, folder: Path, view: SweepView, environment: Mapping[str, str]) -> None:
        self.outcomes: dict[str, Outcome] = {}
        self._folder, self._view, self._environment = folder, view, environment
        self._lock = threading.Lock()  # guards everything but `_events`
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._signals: Counter[str] = Counter()  # number sent to each point
        self._stopped_by = 0
        self._events: SimpleQueue[tuple[str, str]] = SimpleQueue()  # view method and its argument

    def train(self, point: Point) -> None:
        """Train a point to the end, unless it is finished, held by another process or stopped."""
        if point.is_finished(self._folder):
            self._end(point, self._done(point))
            return
        if point.workdir(self._folder).is_held():
            self._end_elsewhere(point)
            return
        file = point.log_file(self._folder)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("ab") as log, self._lock:
                if self._stopped_by:
                    return
                log_start = log.tell()
                process = self._running[point.name] = subprocess.Popen(
                    [*_python(), "-m", "charlm_jax", *point.arguments(self._folder)],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=self._environment,
                    start_new_session=True,  # shields it from the terminal's signals
                )
        except OSError as error:
            raise write_error(file, error) from error
        self._events.put(("start", point.name))
        status, number = process.wait(), self._stopped_by
        if status == 0:
            outcome = self._done(point)
            best = outcome.best_loss_nats
            score = "" if best is None else f", best held-out loss {best:.4f} nats"
            self._end(point, outcome, f"done{score}")
        elif number and status in (-number, 128 + number):
            self._end(point, None, "stopped")
        elif point.workdir(self._folder).is_held():  # another process was faster
            self._end_elsewhere(point)
        else:
            says = _last_line(file, log_start) or "no output"
            if status < 0:
                says = f"killed by {signal.Signals(-status).name} ({says})"
            self._end(point, Outcome(point, "failed", says=says), f"failed: {says}")

    def stop(self, number: int, *, times: int) -> None:
        """Start no more processes, and signal those that received fewer than `times` signals."""
        with self._lock:
            self._stopped_by = self._stopped_by or number
            for name, process in self._running.items():
                if self._signals[name] < times:
                    process.send_signal(number)
                    self._signals[name] += 1

    def show(self, points: Sequence[Point]) -> None:
        """Pass the view the events since the last call and the progress of all points."""
        while not self._events.empty():
            method, text = self._events.get()
            getattr(self._view, method)(text)
        with self._lock:
            running, outcomes = set(self._running), dict(self.outcomes)
        self._view.show([self._row(point, running, outcomes) for point in points])

    def _done(self, point: Point) -> Outcome:
        return Outcome(point, "done", read_status(point.workdir(self._folder)).best_loss_nats)

    def _end_elsewhere(self, point: Point) -> None:
        says = f"process {point.workdir(self._folder).holder()} is training it"
        self._end(point, Outcome(point, "elsewhere", says=says), says)

    def _end(self, point: Point, outcome: Outcome | None, note: str = "") -> None:
        with self._lock:
            self._running.pop(point.name, None)
            if outcome:
                self.outcomes[point.name] = outcome
        if note:
            self._events.put(("note", f"{point.name}: {note}"))

    def _row(self, point: Point, running: set[str], outcomes: dict[str, Outcome]) -> PointRow:
        if point.name in outcomes:
            return PointRow(point.name, outcomes[point.name].state)
        if point.name not in running:
            return PointRow(point.name, "waiting")
        workdir = point.workdir(self._folder)
        with contextlib.suppress(CharlmError, OSError, KeyError):  # its process reports the error
            rows = [
                row for row in MetricsLog(workdir.metrics_file).latest() if row["split"] == "train"
            ]
            if rows:
                total, speed = workdir.read_facts().get("total_steps"), rows[-1]["chars_per_second"]
                return PointRow(point.name, "running", rows[-1]["step"], total, speed)
        return PointRow(point.name, "running")


def _python() -> list[str]:
    """Return the command of a Python that imports from the current folder only if this one does.

    `python -m` alone would, and the current folder may be that of somebody's texts.
    """
    return [sys.executable] if imports_current_folder() else [sys.executable, "-P"]


def _last_line(log: Path, start: int) -> str:
    """Return the last non-empty line of a log after an offset; empty if there is none."""
    try:
        content = log.read_bytes()
    except FileNotFoundError:  # removed meanwhile
        return ""
    lines = content[start:].decode("utf-8", "replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
