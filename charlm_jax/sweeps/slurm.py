"""Training on a SLURM cluster, of a sweep or of a run, with submitit (the extra `slurm`)."""

import contextlib
import json
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NamedTuple

from charlm_jax.config.loading import load_config
from charlm_jax.core.errors import CharlmError, read_error, write_error
from charlm_jax.core.json_files import write_json
from charlm_jax.core.processes import ALONE, Processes, find_address, joined
from charlm_jax.core.signals import Interrupted
from charlm_jax.core.visible_text import visible_line
from charlm_jax.models.external import allow_module
from charlm_jax.storage.workdir import Workdir
from charlm_jax.sweeps.points import MANIFEST, SLURM, OtherSweep, Point, find_source
from charlm_jax.sweeps.sbatch_options import Option, for_submitit
from charlm_jax.training.loop import train_and_evaluate
from charlm_jax.training.progress_bar import LogProgress

if TYPE_CHECKING:
    from submitit import Executor

JOBS = "jobs.json"

_MOST_JOBS = 1_000  # in an array: SLURM's default MaxArraySize is 1,001

# Reasons of a failure that the job itself could not record.
_NOT_BEGUN = "ended before training began"
_KILLED = "killed before it could save, or out of memory"

_NO_SUBMITIT = "--launcher=slurm needs submitit: pip install -e '.[slurm]' in the clone"


class JobStatus(NamedTuple):
    """State of a point on the cluster.

    Attributes:
      point: the point.
      state: `done`, `running` (a process is writing to its folder), `queued` (its job has not
        ended), or `submitted` (by this call).
      job_id: id of its latest job; empty if it has none.
      failed: reason why the latest job failed, if the point was submitted again; empty if the job
        saved its run and stopped.
    """

    point: Point
    state: str
    job_id: str
    failed: str = ""


def train_point(
    config: str,
    workdir: str,
    *overrides: str,
    modules: Sequence[str] = (),
    processes: Processes = ALONE,
) -> None:
    """Train or resume a point: the body of one job.

    submitit makes SLURM send SIGUSR2 shortly before a job's time limit. It is handled like SIGTERM:
    the run is saved and stopped. A signal that comes before the first update is lost. A failure is
    recorded for `submit_points`.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        signal.raise_signal(signal.SIGTERM)

    before = signal.signal(signal.SIGUSR2, stop)
    try:
        recorded = _recorded_failure(_failure_file(Path(workdir)))
        with recorded if processes.leads else contextlib.nullcontext():
            for module in modules:
                allow_module(module)
            train_and_evaluate(
                load_config(config, overrides),
                workdir,
                view=LogProgress(),
                source=find_source(workdir, config, overrides),
                processes=processes,
            )
    finally:
        signal.signal(signal.SIGUSR2, before)


def _failure_file(workdir: Path) -> Path:
    """Path of the file that records why a run's job failed; absent on success."""
    return workdir.parent / SLURM / f"{workdir.name}.failed"


@contextlib.contextmanager
def _recorded_as_not_begun(files: Sequence[Path]) -> Iterator[None]:
    """Record, while jobs are submitted, that they have not begun; undone if they are refused.

    The records must be there first: a job may begin, and change its own, at once.
    """
    before = {file: file.read_bytes() for file in files if file.exists()}
    try:
        for file in files:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(_NOT_BEGUN, encoding="utf-8")
        yield
    except BaseException:
        for file in files:
            if file in before:
                file.write_bytes(before[file])
            else:
                file.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def _recorded_failure(file: Path) -> Iterator[None]:
    """Record why a job failed; if the job is killed, the file stays empty."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("", encoding="utf-8")
    try:
        yield
    except Interrupted:
        file.unlink(missing_ok=True)
        raise
    except Exception as error:
        kind = "" if isinstance(error, CharlmError) else f"{type(error).__name__}: "
        file.write_text(visible_line(f"{kind}{error}"), encoding="utf-8")
        raise
    file.unlink(missing_ok=True)


def submit_points(
    points: Sequence[Point],
    workdir: Path | str,
    executor: "Executor",
    *,
    is_active: Callable[[str], bool] = lambda job_id: False,
) -> list[JobStatus]:
    """Submit one job for every point that is not finished, running or queued.

    Args:
      points: points to train.
      workdir: folder of the sweep, visible to all machines of the cluster.
      executor: submitit's executor.
      is_active: returns whether a job of an earlier call may still train its point.

    Returns:
      The job statuses, in the order of the points.

    Raises:
      CharlmError: the cluster refused the jobs.
    """
    folder = Workdir(workdir).path.absolute()
    file = folder / SLURM / JOBS
    ids = _read_ids(file)
    states = {point.name: _state(point, folder, ids, is_active) for point in points}
    waiting = [point for point in points if states[point.name] == "waiting"]
    failed = {point.name: _why_failed(point, folder, ids) for point in waiting}
    for start in range(0, len(waiting), _MOST_JOBS):
        ids |= _submit(waiting[start : start + _MOST_JOBS], folder, executor, before=start)
        try:
            write_json(file, ids)
        except OSError as error:
            raise write_error(file, error) from error
    if waiting:
        states |= {point.name: "submitted" for point in waiting}
    return [
        JobStatus(
            point=point,
            state=states[point.name],
            job_id=ids.get(point.name, ""),
            failed=failed.get(point.name, ""),
        )
        for point in points
    ]


def _state(
    point: Point, folder: Path, ids: Mapping[str, str], is_active: Callable[[str], bool]
) -> str:
    if point.is_finished(folder):
        return "done"
    if point.workdir(folder).is_held():
        return "running"
    return "queued" if point.name in ids and is_active(ids[point.name]) else "waiting"


def _why_failed(point: Point, folder: Path, ids: Mapping[str, str]) -> str:
    """Return why the ended job of a point failed; empty if it did not fail."""
    file = _failure_file(folder / point.name)
    if point.name not in ids or not file.exists():
        return ""
    log = file.with_name(f"{ids[point.name]}_0_log.err")
    try:
        reason = visible_line(file.read_text(encoding="utf-8", errors="replace"))
    except OSError as error:
        raise read_error(file, error) from error
    return f"{reason or _KILLED}: see {log}" if reason in ("", _NOT_BEGUN) else reason


def _submit(
    points: Sequence[Point], folder: Path, executor: "Executor", *, before: int
) -> dict[str, str]:
    """Submit an array of jobs, one per point; return the job ids by point name.

    Args:
      points: points of the array.
      folder: folder of the sweep.
      executor: submitit's executor.
      before: number of points in arrays submitted before.
    """
    files = [_failure_file(folder / point.name) for point in points]
    try:
        with _recorded_as_not_begun(files), executor.batch():
            jobs = [
                executor.submit(
                    train_point,
                    point.config,
                    str(folder / point.name),
                    *point.overrides,
                    modules=point.modules,
                )
                for point in points
            ]
    except (OSError, RuntimeError) as error:  # sbatch is missing or failed
        some = f" ({before} were before; the same command submits the others)" if before else ""
        raise CharlmError(f"the jobs were not submitted{some}: {_last_line(error)}") from error
    return {point.name: job.job_id for point, job in zip(points, jobs, strict=True)}


@contextlib.contextmanager
def undone_on_refusal(folder: Path) -> Iterator[None]:
    """Remove what a refused submission has written to a sweep's folder.

    What was there before stays, and everything once an array of jobs is submitted, or if another
    sweep has claimed the folder meanwhile.
    """
    parents = [path for path in (folder, *folder.parents) if not path.exists()]
    old = {*folder.rglob("*")}
    submitted = _read_ids(folder / SLURM / JOBS)
    try:
        yield
    except OtherSweep:
        raise
    except CharlmError:
        if _read_ids(folder / SLURM / JOBS) == submitted:
            new = sorted({folder / MANIFEST, *(folder / SLURM).rglob("*"), folder / SLURM} - old)
            with contextlib.suppress(OSError):  # others are using it
                for path in reversed(new):
                    path.rmdir() if path.is_dir() else path.unlink(missing_ok=True)
                for path in parents:
                    path.rmdir()
        raise


def _read_ids(file: Path) -> dict[str, str]:
    """Return the job ids of earlier calls, by point name."""
    if not file.exists():
        return {}
    try:
        ids = json.loads(file.read_text(encoding="utf-8"))
        return {str(name): str(job_id) for name, job_id in ids.items()}
    except (OSError, ValueError, AttributeError) as error:
        raise CharlmError(
            f"{file} is damaged: check that no job of this sweep is queued, then remove the file"
        ) from error


def slurm_executor(
    folder: Path, parameters: Mapping[str, Option]
) -> tuple["Executor", Callable[[str], bool]]:
    """Return a SLURM executor, and a function that returns whether a job may be running.

    Args:
      folder: folder of the sweep.
      parameters: sbatch's long options, with underscores: `time` (in minutes), `partition`, ...

    Raises:
      CharlmError: no time limit is given, submitit or SLURM is not installed, or an option has no
        such value.
    """
    if "time" not in parameters:
        raise CharlmError("--slurm has no time limit for a job: write --slurm=time=MINUTES")
    try:
        import submitit
    except ImportError as error:
        raise CharlmError(_NO_SUBMITIT) from error
    job_folder = folder.absolute() / SLURM
    try:
        executor = submitit.SlurmExecutor(job_folder)
    except RuntimeError as error:
        raise CharlmError("no SLURM on this machine: srun was not found") from error
    try:
        known = executor._valid_parameters()
        executor.update_parameters(**for_submitit({"job_name": "charlm", **parameters}, known))
    except ValueError as error:
        first = str(error).splitlines()[0]
        raise CharlmError(
            f"--slurm: {first}: use long options of sbatch, such as time=60,partition=NAME,mem=4GB"
        ) from error
    return executor, lambda job_id: not submitit.SlurmJob(job_folder, job_id).done(force_check=True)


def train_together(config: str, workdir: str, *overrides: str, modules: Sequence[str] = ()) -> None:
    """Train or resume a run in the tasks of a job: the body of each.

    Arguments and signals are those of `train_point`.
    """
    with joined(find_address(None, None, None), "charlm train") as processes:
        train_point(config, workdir, *overrides, modules=modules, processes=processes)


def submit_run(point: Point, workdir: Path, executor: "Executor") -> str:
    """Submit one job whose tasks train a run together; return its id.

    Args:
      point: config of the run and its overrides.
      workdir: folder of the run.
      executor: submitit's executor, with the number of nodes and tasks.

    Raises:
      CharlmError: the cluster refused the job.
    """
    arguments = (point.config, str(workdir.absolute()), *point.overrides)
    try:
        job = executor.submit(train_together, *arguments, modules=point.modules)
    except (OSError, RuntimeError) as error:
        raise CharlmError(f"the job was not submitted: {_last_line(error)}") from error
    return str(job.job_id)


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
