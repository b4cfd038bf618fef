"""Training for studies whose memory is a folder of records.

A trial of a search or a run that is on record is not trained again. A record is written as soon as
its group of runs has ended, and the folder of the run is removed; an interrupted study resumes with
the same command, and its results can be computed from the records alone.
"""

import contextlib
import itertools
import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from charlm_jax.core.errors import CharlmError
from charlm_jax.core.files import atomic_write
from charlm_jax.core.json_files import to_jsonable
from charlm_jax.inference.run import Run, load_run
from charlm_jax.sweeps.local import run_points
from charlm_jax.sweeps.points import Point
from charlm_jax.sweeps.progress_bars import sweep_view
from charlm_jax.sweeps.tuning import Search, Trial, Tuned, train_trials, tune

RECORD_SUFFIX = ".json"
_TRIALS, _RUNS = "trials", "runs"
_RUNS_AT_ONCE = 2  # per job: all are put on record once the last has ended

Record = Mapping[str, Any]
"""JSON values of a record."""


class NotOnRecord(CharlmError):
    """A record that is asked for and not there."""


class WholeRuns(NamedTuple):
    """Runs of a study that a search may do with as its last trials.

    Attributes:
      characters: characters read by each.
      losses: trains those that trials describe, if need be, and returns their losses.
    """

    characters: int
    losses: Callable[[Sequence[Trial]], list[float]]


class RecordFolder:
    """Records by name, each a JSON file with one line per field.

    Records hold neither times nor paths of a machine, so the same training gives the same bytes.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self, name: str) -> dict[str, Any] | None:
        """Return a record; None if there is none.

        Raises:
          CharlmError: the file is damaged.
        """
        file = self.file(name)
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError) as error:
            raise self.damaged(name) from error
        if not isinstance(values, dict):
            raise self.damaged(name)
        return values

    def write(self, name: str, values: Record) -> None:
        """Write or replace a record atomically."""
        lines = (f"  {json.dumps(key)}: {json.dumps(to_jsonable(x))}" for key, x in values.items())
        file = self.file(name)
        file.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(file, ("{\n" + ",\n".join(lines) + "\n}\n").encode())

    def file(self, name: str) -> Path:
        """Return the path of a record."""
        return self.folder / f"{name}{RECORD_SUFFIX}"

    def damaged(self, name: str) -> CharlmError:
        """Return the error for a record that cannot be used."""
        file = self.file(name)
        return CharlmError(f"{file} is damaged: remove it, and the same command makes it again")


class RecordedTraining:
    """Training and searches, with records.

    Args:
      records: folder of the records.
      folder: folder of the runs; the folder of a run is removed once the run is on record.
      jobs: number of runs to train at once.
      keep: keep the folders of the runs.
    """

    def __init__(
        self, records: RecordFolder, folder: Path, *, jobs: int = 1, keep: bool = False
    ) -> None:
        self.records = records
        self.folder = folder
        self.jobs = jobs
        self.keep = keep

    def tune(
        self, points: Sequence[Point], search: Search, whole: WholeRuns, *, train: bool = True
    ) -> dict[str, Tuned]:
        """Search the best value of a field for every point.

        Args:
          points: points to tune; they name their own first value.
          search: settings of the search.
          whole: runs of the study; trials that read as much are such runs.
          train: whether to train the trials that are not on record.

        Returns:
          The result for every point, by name, of which all trials are on record or trained.
        """

        def losses(trials: Sequence[Trial]) -> list[float]:
            is_whole = trials[0].characters == whole.characters
            return whole.losses(trials) if is_whole else self._losses(trials, train=train)

        if train:
            return tune(points, search, losses)
        found: dict[str, Tuned] = {}
        for point in points:
            with contextlib.suppress(NotOnRecord):
                found |= tune([point], search, losses)
        return found

    def train(
        self, points: Sequence[Point], measure: Callable[[Point, Run], Record]
    ) -> dict[str, dict[str, Any]]:
        """Train the points that are not on record, and put them on record.

        Args:
          points: points to train.
          measure: returns the record of a finished run, at its best checkpoint.

        Returns:
          The record of every point, by name.

        Raises:
          CharlmError: a run failed; the others of its group were finished first.
        """
        missing = [point for point in points if self.recorded(point) is None]
        for group in self._groups(missing):
            with sweep_view() as view:
                outcomes = run_points(group, self.folder, jobs=self.jobs, view=view)
            for point, state, loss_nats, says in outcomes:
                if loss_nats is None:
                    raise CharlmError(f"{point.name}: {says or state}; the same command resumes")
                run = load_run(self.folder / point.name, checkpoint="best")
                record = {**settings(point), **measure(point, run)}
                self.records.write(f"{_RUNS}/{point.name}", record)
                self._discard(point.name)
        found = {point.name: self.recorded(point) for point in points}
        return {name: record for name, record in found.items() if record is not None}

    def recorded(self, point: Point) -> dict[str, Any] | None:
        """Return the record of a run; None if it has not been trained.

        Raises:
          CharlmError: the record is damaged, or is of a run with other settings.
        """
        return self._read(f"{_RUNS}/{point.name}", point)

    def require(self, points: Sequence[Point]) -> list[dict[str, Any]]:
        """Return the records of runs.

        Raises:
          NotOnRecord: a run has not been trained.
        """
        found = [self.recorded(point) for point in points]
        records = [record for record in found if record is not None]
        if len(records) < len(points):
            raise NotOnRecord(f"{self.records.folder} has not all of the runs")
        return records

    def _losses(self, trials: Sequence[Trial], *, train: bool) -> list[float]:
        """Return the held-out loss of every trial; infinite if it diverged.

        Raises:
          NotOnRecord: a trial is not on record, and `train` is False.
        """
        missing = [trial for trial in trials if self._trial(trial) is None]
        if missing and not train:
            raise NotOnRecord(f"{self.records.folder} has no record of {missing[0].name}")
        for group in self._groups(missing):
            try:
                with sweep_view() as view:
                    train_trials(group, self.folder, jobs=self.jobs, view=view)
            finally:  # after a signal, those that were finished
                self._record_trials([trial for trial in group if self._has_ended(trial.point())])
        losses = []
        for trial in trials:
            record = self._trial(trial)
            if record is None or "loss" not in record:
                raise self.records.damaged(f"{_TRIALS}/{trial.name}")
            losses.append(math.inf if record["loss"] is None else float(record["loss"]))
        return losses

    def _trial(self, trial: Trial) -> dict[str, Any] | None:
        return self._read(f"{_TRIALS}/{trial.name}", trial.point())

    def _read(self, name: str, point: Point) -> dict[str, Any] | None:
        record, wanted = self.records.read(name), settings(point)
        if record is None:
            return None
        if not {*wanted} <= {*record}:
            raise self.records.damaged(name)
        if record["config"] != wanted["config"]:
            raise self._other(name, record["config"], wanted["config"])
        for there, here in itertools.zip_longest(record["overrides"], wanted["overrides"]):
            if there != here:
                raise self._other(name, there, here)
        return record

    def _other(self, name: str, there: str | None, here: str | None) -> CharlmError:
        return CharlmError(
            f"{self.records.file(name)} is of a run with {there or 'fewer fields'} and not "
            f"{here or 'fewer fields'}: remove it, or name another folder with --records"
        )

    def _record_trials(self, trials: Sequence[Trial]) -> None:
        for trial, loss in zip(trials, train_trials(trials, self.folder), strict=True):
            point = trial.point()
            kept = round(loss, 6) if math.isfinite(loss) else None
            self.records.write(f"{_TRIALS}/{trial.name}", {**settings(point), "loss": kept})
            self._discard(trial.name)

    def _has_ended(self, point: Point) -> bool:
        return point.is_finished(self.folder) or point.workdir(self.folder).fault.exists()

    def _discard(self, name: str) -> None:
        if not self.keep:
            shutil.rmtree(self.folder / name, ignore_errors=True)

    def _groups(self, points: Sequence[Any]) -> list[Sequence[Any]]:
        """Return groups of a few runs per job, so that little is lost if the study is killed."""
        most = _RUNS_AT_ONCE * self.jobs if self.jobs > 1 else 1
        return [points[start : start + most] for start in range(0, len(points), most)]


def settings(point: Point) -> dict[str, Any]:
    """Return the config name and the overrides of a point, without the folder of its text."""

    def portable(override: str) -> str:
        field, _, value = override.partition("=")
        is_path = field == "data.corpus" and "/" in value
        return f"{field}={Path(value).name}" if is_path else override

    return {"config": point.config, "overrides": [portable(x) for x in point.overrides]}
