"""Training for studies whose memory is a folder of records.

A run that is on record is not trained again. A record is written as soon as its group of runs has
ended, and the folder of the run is removed; an interrupted study resumes with the same command, and
its results can be computed from the records alone. Learning rates are searched in runs of the
study: shorter ones prefer too high rates.
"""

import contextlib
import functools
import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from charlm_jax.config.loading import as_text, load_config, shipped_configs
from charlm_jax.core.errors import CharlmError, NotFinite
from charlm_jax.core.files import atomic_write
from charlm_jax.core.json_files import to_jsonable
from charlm_jax.inference.run import Run, load_run
from charlm_jax.sweeps.local import run_points
from charlm_jax.sweeps.points import Point
from charlm_jax.sweeps.progress_bars import sweep_view
from charlm_jax.sweeps.tuning import AllDiverged, Rung, Search, Trial, Tuned, tune

RATE = "optimizer.learning_rate"
RECORD_SUFFIX = ".json"
SETTINGS = ("config", "fields")  # in every run's record: see `settings`
_RUNS = "runs"
_DIVERGED = "diverged"  # in the record of a run whose loss was not finite
_HAS_MORE = "has_more"  # in the record of the best run of a search
_RUNS_AT_ONCE = 2  # per job: all are put on record once the last has ended

Record = Mapping[str, Any]
"""JSON values of a record."""

Measure = Callable[[Run], Record]


class NotOnRecord(CharlmError):
    """A record that is asked for and not there."""


class Diverged(CharlmError):
    """A run whose loss was not finite, in training or on the text that it was measured on."""


class RecordFolder:
    """Records by name, each a JSON file with one line per field.

    The record of a run holds neither times nor paths of a machine: the same training with the same
    `--jobs` gives the same bytes, but for the commit, if the study records it. Speeds are those of
    the machine.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self, name: str) -> dict[str, Any] | None:
        """Return a record; None if there is none.

        Raises:
          CharlmError: the file is damaged; later, if a field is looked up that it lacks.
        """
        file = self.file(name)
        try:
            values = json.loads(
                file.read_text(encoding="utf-8"),
                object_hook=lambda values: _Values(values, self.damaged(name)),
            )
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


class _Values(dict[str, Any]):
    """Values of a record, of which a missing field is damage and not a `KeyError`."""

    def __init__(self, values: Record, damaged: CharlmError) -> None:
        super().__init__(values)
        self._damaged = damaged

    def __missing__(self, field: str) -> NoReturn:
        raise self._damaged


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
        self,
        arms: Sequence[Point],
        rates: int,
        characters: int,
        point_of: Callable[[Trial], Point],
        measure: Measure,
        loss: Callable[[Record], float],
        *,
        more: Measure = lambda run: {},
        train: bool = True,
    ) -> dict[str, Tuned]:
        """Search the best learning rate of every arm, in runs of the study.

        A few arms are tuned at a time. The folders of their runs are kept until the best is known.

        Args:
          arms: points to tune; they name their own first value.
          rates: number of learning rates that are tried for each.
          characters: characters read by one run.
          point_of: returns the run of the study that a trial is.
          measure: returns the record of a finished run.
          loss: returns the loss on a record by which rates are chosen.
          more: returns what is added to the record of the best run of every arm; a loss that is not
            finite leaves it to the next best.
          train: whether to train the runs that are not on record.

        Returns:
          The result for every arm, by name, of which all runs are on record and one did not
          diverge.

        Raises:
          CharlmError: a run failed, though it did not diverge, or a record cannot be used.
        """

        def losses(trials: Sequence[Trial]) -> list[float]:
            points = [point_of(trial) for trial in trials]
            if train:
                self._train(points, measure, keep=True)
            return [self._loss(point, loss) for point in points]

        search = Search(RATE, (Rung(rates, 1, characters),))
        found: dict[str, Tuned] = {}
        for group in self._groups(arms):
            if train:
                with contextlib.suppress(AllDiverged):  # all trials of the group are on record
                    tune(group, search, losses)
            for arm in group:
                with contextlib.suppress(NotOnRecord, AllDiverged):
                    while arm.name not in found:
                        tuned = tune([arm], search, losses)[arm.name]
                        if self._complete(tuned, point_of, more, train=train):
                            found[arm.name] = tuned
        return found

    def train(self, points: Sequence[Point], measure: Measure) -> None:
        """Train the points that are not on record, and put them on record.

        Args:
          points: points to train.
          measure: returns the record of a finished run, at its best checkpoint.

        Raises:
          Diverged: a run diverged; all others are on record.
          CharlmError: a run failed otherwise; the others of its group are on record.
        """
        self._train(points, measure)
        for point in points:
            if self.recorded(point) is None:
                raise self._diverged(point)

    def recorded(self, point: Point) -> dict[str, Any] | None:
        """Return the record of a run; None if it has not been trained, or diverged.

        Raises:
          CharlmError: the record is damaged, or is of a run with other settings.
        """
        record = self._read(point)
        return None if record is None or _DIVERGED in record else record

    def has_diverged(self, point: Point) -> bool:
        """Return whether a run is on record as one that diverged.

        Raises:
          CharlmError: the record is damaged, or is of a run with other settings.
        """
        return _DIVERGED in (self._read(point) or {})

    def file(self, point: Point) -> Path:
        """Return the path of the record of a run."""
        return self.records.file(f"{_RUNS}/{point.name}")

    def _train(self, points: Sequence[Point], measure: Measure, *, keep: bool = False) -> None:
        missing = [point for point in points if self._read(point) is None]
        for group in self._groups(missing):
            with sweep_view() as view:
                outcomes = run_points(group, self.folder, jobs=self.jobs, view=view)
            failed = []
            for point, state, loss_nats, says in outcomes:
                if loss_nats is not None:
                    values = self._measured(point, measure)
                elif point.has_diverged(self.folder):
                    values = {_DIVERGED: True}
                else:
                    failed.append(f"{point.name}: {says or state}; the same command resumes")
                    continue
                self._write(point, values)
                if not keep:
                    self._discard(point)
            if failed:
                raise CharlmError(failed[0])

    def _measured(self, point: Point, measure: Measure) -> Record:
        """Return the measurements of a finished run; it diverged if a loss is not finite."""
        run = load_run(self.folder / point.name, checkpoint="best")
        try:
            return measure(run)
        except NotFinite:
            return {_DIVERGED: True}

    def _complete(
        self, tuned: Tuned, point_of: Callable[[Trial], Point], more: Measure, *, train: bool
    ) -> bool:
        """Add to the record of the best run, and discard the folders of all.

        Returns:
          False if the best run has diverged on the text that is added.

        Raises:
          NotOnRecord: nothing was added yet, and `train` is False.
        """
        points = {trial.value: point_of(trial) for trial in tuned.losses}
        best = points[tuned.value]
        record = self.recorded(best)
        if record is None:
            raise self._diverged(best)
        if not record.get(_HAS_MORE):
            if not train:
                raise NotOnRecord(f"{self.records.folder} has not all of {best.name}")
            run_points([best], self.folder)  # if its folder is lost
            added = self._measured(best, more)
            if _DIVERGED in added:
                self._write(best, added)
                return False
            self._write(best, {**record, **added, _HAS_MORE: True})
        for point in points.values() if train else ():
            self._discard(point)
        return True

    def _diverged(self, point: Point) -> Diverged:
        return Diverged(f"{point.name} diverged: its loss was not finite")

    def _write(self, point: Point, values: Record) -> None:
        self.records.write(f"{_RUNS}/{point.name}", {**settings(point), **values})

    def _discard(self, point: Point) -> None:
        if not self.keep:
            shutil.rmtree(self.folder / point.name, ignore_errors=True)

    def _loss(self, point: Point, loss: Callable[[Record], float]) -> float:
        record = self._read(point)
        if record is None:
            raise NotOnRecord(f"{self.records.folder} has no record of {point.name}")
        if _DIVERGED in record:
            return math.inf
        try:
            return float(loss(record))
        except (TypeError, ValueError) as error:
            raise self.records.damaged(f"{_RUNS}/{point.name}") from error

    def _read(self, point: Point) -> dict[str, Any] | None:
        name = f"{_RUNS}/{point.name}"
        record, wanted = self.records.read(name), settings(point)
        if record is None:
            return None
        if not {*SETTINGS} <= {*record} or not isinstance(record["fields"], dict):
            raise self.records.damaged(name)
        if difference := settings_difference(record, wanted):
            raise self._other(name, *difference)
        return record

    def _other(self, name: str, there: str, here: str) -> CharlmError:
        return CharlmError(
            f"{self.records.file(name)} is of a run with {there} and not {here}: remove it, or "
            f"name another folder with --records"
        )

    def _groups(self, points: Sequence[Any]) -> list[Sequence[Any]]:
        """Return groups of a few runs per job, so that little is lost if the study is killed."""
        most = _RUNS_AT_ONCE * self.jobs if self.jobs > 1 else 1
        return [points[start : start + most] for start in range(0, len(points), most)]


def settings(point: Point) -> dict[str, Any]:
    """Return the config name of a point, and its fields whose values are not those of base.py.

    A record made before its config changed is so told from one made after; a change of base.py
    itself is not seen. Of a path to a text, the file's name is kept.
    """
    fields, usual = _fields(point.config, point.overrides), _usual_fields()
    return {
        "config": point.config,
        "fields": {field: x for field, x in fields.items() if x != usual.get(field)},
    }


def settings_difference(record: Record, wanted: Record) -> tuple[str, str] | None:
    """Return the first setting that differs, on record and as it is wanted; None if none does.

    Args:
      record: record with settings.
      wanted: settings, as of `settings`.
    """
    if record["config"] != wanted["config"]:
        return record["config"], wanted["config"]
    there, here = ({**_usual_fields(), **x["fields"]} for x in (record, wanted))
    for field in there | here:
        if there.get(field) != here.get(field):
            recorded, expected = (f"{field}={as_text(x.get(field))}" for x in (there, here))
            return recorded, expected
    return None


@functools.cache
def _fields(config: str, overrides: tuple[str, ...]) -> Mapping[str, Any]:
    fields = load_config(config, overrides).flatten()
    if "/" in fields["data.corpus"]:
        fields["data.corpus"] = Path(fields["data.corpus"]).name
    return _jsonable(fields)


@functools.cache
def _usual_fields() -> Mapping[str, Any]:
    return _jsonable(load_config(str(shipped_configs() / "base.py")).flatten())


def _jsonable(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    values: Mapping[str, Any] = to_jsonable(fields)
    return values
