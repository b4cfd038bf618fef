"""Training of the study: what is not on record is trained, measured and put on record."""

import functools
import math
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from charlm_jax.config.loading import load_config
from charlm_jax.config.schema import Config
from charlm_jax.core.errors import CharlmError
from charlm_jax.data.dataset import Dataset, load_dataset
from charlm_jax.data.download import DownloadProgress
from charlm_jax.inference.run import load_run
from charlm_jax.sweeps.local import run_points
from charlm_jax.sweeps.points import Point, make_point
from charlm_jax.sweeps.progress_bars import sweep_view
from charlm_jax.sweeps.tuning import Trial, Tuned, train_trials, tune
from charlm_jax.training.throughput import measure_speeds
from experiments.sequence_length.arms import (
    BATCH_CHARACTERS,
    TEXTBOOK_LENGTH,
    Arm,
    Preset,
    length_schedule,
    whole_batches,
)
from experiments.sequence_length.records import Records, RunRecord, TextRecord, TrialRecord
from experiments.sequence_length.scoring import Scorer

_RUNS_AT_ONCE = 3  # per job: all are put on record once the last has ended


class PlannedRun(NamedTuple):
    """One run to train.

    Attributes:
      arm: its arm.
      seed: its seed.
      rate: learning rate.
      characters: characters to read.
    """

    arm: Arm
    seed: int
    rate: float
    characters: int

    @property
    def name(self) -> str:
        """Name of its folder and record."""
        return f"{self.arm.name}-seed{self.seed}"


class Study:
    """Runs of a preset.

    Args:
      preset: size of the study.
      records: folder of the records.
      folder: folder of the runs; a run's folder is removed once the run is on record.
      jobs: number of runs to train at once.
      keep: keep the folders of the runs.
    """

    def __init__(
        self, preset: Preset, records: Path, folder: Path, *, jobs: int = 1, keep: bool = False
    ) -> None:
        self.preset = preset
        self.records = Records(records)
        self.folder = folder
        self.jobs = jobs
        self.keep = keep

    def config(self, arm: Arm) -> Config:
        """Return the config of an arm, apart from seed, rate and steps."""
        return load_config(self.preset.models[arm.model].config, self.preset.fields(arm))

    @functools.cached_property
    def dataset(self) -> Dataset:
        """Text split into three parts, the same for every arm."""
        return load_dataset(self.config(next(self.preset.arms())), progress=DownloadProgress())

    @functools.cached_property
    def scorer(self) -> Scorer:
        """Measurements on the text."""
        return Scorer(self.preset, self.dataset)

    def speeds(self) -> dict[str, float]:
        """Measure training speeds, unless they are on record.

        Returns:
          Characters per second by name, as of `speed_name`.
        """
        found = self.records.speeds()
        arms = {speed_name(arm.model, arm.length): arm for arm in self.preset.arms()}
        if found is None or set(found) != set(arms):
            configs = {name: self.config(arm) for name, arm in arms.items()}
            self.records.write_speeds(measure_speeds(configs, rounds=3, steps=5))
            found = self.records.speeds()
        assert found is not None
        return found

    def text(self) -> TextRecord:
        """Measure the text and its simple predictors, unless they are on record.

        Raises:
          CharlmError: the record is of another text.
        """
        found = self.records.text()
        if found is None:
            found = self.scorer.text_record()
            self.records.write_text(found)
        if found.fingerprint != self.dataset.fingerprint:
            raise CharlmError(
                f"{self.records.folder} is of another text than {self.preset.corpus}: name "
                f"another folder with --records"
            )
        return found

    def tune(self, *, train: bool = True) -> dict[Arm, Tuned]:
        """Search the learning rate of every fixed length at equal characters.

        Args:
          train: whether to train the trials that are not on record.

        Raises:
          CharlmError: a trial is not on record, and `train` is False.
        """
        arms = [arm for arm in self.preset.arms() if arm == arm.tuned]
        points = [self._point(arm, arm.name, {}) for arm in arms]
        losses = functools.partial(self._losses, train=train)
        tuned = tune(points, self.preset.search, losses)
        return {arm: tuned[arm.name] for arm in arms}

    def _losses(self, trials: Sequence[Trial], *, train: bool) -> list[float]:
        """Return the losses of trials, training those that are not on record."""
        missing = [trial for trial in trials if self.records.trial(trial.name) is None]
        if missing and not train:
            raise CharlmError(
                f"{self.records.folder} has no record of the trial {missing[0].name}: run the "
                f"study without --from_records"
            )
        for some in _in_groups(missing, self.jobs):
            try:
                with sweep_view() as view:
                    train_trials(some, self.folder, jobs=self.jobs, view=view)
            finally:  # after a signal, those that were finished
                self._record_trials([x for x in some if self._has_ended(x.point())])
        found = [self.records.trial(trial.name) for trial in trials]
        return [math.inf if x is None or x.loss is None else x.loss for x in found]

    def _record_trials(self, trials: Sequence[Trial]) -> None:
        for trial, loss in zip(trials, train_trials(trials, self.folder), strict=True):
            arm = next(arm for arm in self.preset.arms() if arm.name == trial.arm.name)
            fields = {
                **self.preset.fields(arm),
                trial.field: trial.value,
                "seed": trial.seed,
                "train.max_steps": trial.characters // BATCH_CHARACTERS,
            }
            config = self.preset.models[arm.model].config
            kept = round(loss, 6) if math.isfinite(loss) else None
            self.records.write_trial(trial.name, TrialRecord(config, _portable(fields), kept))
            self._discard(trial.name)

    def _has_ended(self, point: Point) -> bool:
        return point.is_finished(self.folder) or point.workdir(self.folder).fault.exists()

    def plan(
        self, rates: Mapping[Arm, float], speeds: Mapping[str, float], seeds: Iterable[int]
    ) -> list[PlannedRun]:
        """Return one run of every arm and seed.

        The time budget of a model is the time in which an arm of median speed reads the character
        budget.

        Args:
          rates: learning rate of each fixed length at equal characters.
          speeds: characters per second, by name.
          seeds: seeds to plan.
        """
        plan = []
        for arm in self.preset.arms():
            characters = self.preset.characters
            if arm.budget == "seconds":
                lengths = self.preset.models[arm.model].lengths
                median = float(np.median([speeds[speed_name(arm.model, T)] for T in lengths]))
                characters = int(characters * mean_speed(arm, speeds) / median)
            rate = rates[arm.tuned]
            plan += [PlannedRun(arm, seed, rate, whole_batches(characters)) for seed in seeds]
        return plan

    def train(self, runs: Sequence[PlannedRun]) -> dict[PlannedRun, RunRecord]:
        """Train and measure the runs that are not on record.

        Raises:
          CharlmError: a run failed; the others of its group were finished first.
        """
        missing = [run for run in runs if self.records.run(run.name) is None]
        for some in _in_groups(missing, self.jobs):
            points = [self._run_point(run) for run in some]
            with sweep_view() as view:
                outcomes = run_points(points, self.folder, jobs=self.jobs, view=view)
            for run, (point, state, loss_nats, says) in zip(some, outcomes, strict=True):
                if loss_nats is None:
                    raise CharlmError(f"{point.name}: {says or state}; the same command resumes")
                self._record_run(run)
        return self.recorded(runs)

    def _record_run(self, run: PlannedRun) -> None:
        record = self.scorer.run_record(
            run.arm,
            load_run(self.folder / run.name, checkpoint="best"),
            config=self.preset.models[run.arm.model].config,
            fields=_portable(self._run_fields(run)),
            is_first=run.seed == self.preset.seeds[0],
        )
        self.records.write_run(run.name, record)
        self._discard(run.name)

    def recorded(self, runs: Sequence[PlannedRun]) -> dict[PlannedRun, RunRecord]:
        """Return the runs that are on record.

        Raises:
          CharlmError: a record is of another learning rate or number of characters.
        """
        found = {}
        for run in runs:
            record = self.records.run(run.name)
            if record is None:
                continue
            if (record.rate, record.characters) != (run.rate, run.characters):
                raise CharlmError(
                    f"the record of {run.name} has learning rate {record.rate:g} and "
                    f"{record.characters:,} characters, not {run.rate:g} and {run.characters:,}: "
                    f"remove it, or name another folder with --records"
                )
            found[run] = record
        return found

    def repeated_arms(self, first: Mapping[PlannedRun, RunRecord]) -> set[Arm]:
        """Return the arms to train with all seeds.

        They are the best fixed lengths of each model and state by the second part, the textbook's
        length and the schedules; the same lengths at equal seconds.

        Args:
          first: records of the first seed.
        """
        chosen = set()
        families: dict[tuple[str, str], list[tuple[float, Arm]]] = {}
        for run, record in first.items():
            arm = run.arm
            if not self.preset.models[arm.model].is_repeated:
                continue
            if not self.preset.repeated or len(arm.lengths) > 1 or arm.length == TEXTBOOK_LENGTH:
                chosen.add(arm)
            elif arm.budget == "characters":
                loss = record.second["stream"]
                families.setdefault((arm.model, arm.state), []).append((loss, arm))
        for losses in families.values():
            chosen |= {arm for _, arm in sorted(losses)[: self.preset.repeated]}
        return {run.arm for run in first if run.arm._replace(budget="characters") in chosen}

    def _run_fields(self, run: PlannedRun) -> dict[str, Any]:
        steps = run.characters // BATCH_CHARACTERS
        return {
            **self.preset.fields(run.arm),
            self.preset.search.field: run.rate,
            "seed": run.seed,
            "train.max_steps": steps,
            "train.evaluate_every_steps": math.ceil(steps / self.preset.scores),
            "data.length_schedule": length_schedule(run.arm.lengths, steps),
        }

    def _run_point(self, run: PlannedRun) -> Point:
        return self._point(run.arm, run.name, self._run_fields(run))

    def _point(self, arm: Arm, name: str, fields: Mapping[str, Any]) -> Point:
        config = self.preset.models[arm.model].config
        return make_point(name, config, {**self.preset.fields(arm), **fields})

    def _discard(self, name: str) -> None:
        if not self.keep:
            shutil.rmtree(self.folder / name, ignore_errors=True)


def speed_name(model: str, length: int) -> str:
    """Return the key of a training speed.

    >>> speed_name("lstm", 40)
    'lstm-T40'
    """
    return f"{model}-T{length}"


def mean_speed(arm: Arm, speeds: Mapping[str, float]) -> float:
    """Return the speed of an arm in characters per second, over equal shares of its lengths."""
    seconds = sum(1 / speeds[speed_name(arm.model, length)] for length in arm.lengths)
    return len(arm.lengths) / seconds


def _in_groups(items: Sequence[Any], jobs: int) -> list[Sequence[Any]]:
    """Return groups of a few items for each job, so that little is lost if the study is killed."""
    most = _RUNS_AT_ONCE * jobs if jobs > 1 else 1
    return [items[start : start + most] for start in range(0, len(items), most)]


def _portable(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return config fields without the folder of the text."""
    corpus = str(fields["data.corpus"])
    return {**fields, "data.corpus": Path(corpus).name if "/" in corpus else corpus}
