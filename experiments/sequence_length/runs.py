"""Training of the study: what is not on record is trained, measured and put on record."""

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from charlm_jax.config.loading import load_config
from charlm_jax.config.schema import Config
from charlm_jax.core.errors import CharlmError
from charlm_jax.data.dataset import Dataset, load_dataset
from charlm_jax.data.download import DownloadProgress
from charlm_jax.inference.run import Run
from charlm_jax.sweeps.points import Point, make_point
from charlm_jax.sweeps.tuning import Trial, Tuned
from charlm_jax.training.throughput import measure_speeds
from experiments.recorded_training import Record, RecordedTraining
from experiments.sequence_length.arms import (
    BATCH_CHARACTERS,
    TEXTBOOK_LENGTH,
    Arm,
    Preset,
    length_schedule,
    whole_batches,
)
from experiments.sequence_length.records import SPEEDS, TEXT, Records, RunRecord, TextRecord
from experiments.sequence_length.scoring import Scorer
from experiments.tuned_arms import arm_name, run_fields, run_name


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
        return run_name(self.arm.name, rate=self.rate, seed=self.seed)


class Study:
    """Runs of a preset.

    Args:
      preset: size of the study.
      training: training whose memory is the records.
    """

    def __init__(self, preset: Preset, training: RecordedTraining) -> None:
        self.preset = preset
        self.training = training
        self.records = Records(training.records.folder)

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
            speeds = measure_speeds(configs, rounds=3, steps=5)
            found = {name: float(round(speed)) for name, speed in speeds.items()}
            self.records.write(SPEEDS, found)
        return found

    def text(self) -> TextRecord:
        """Measure the text and its simple predictors, unless they are on record.

        Raises:
          CharlmError: the record is of another text.
        """
        found = self.records.text()
        if found is None:
            found = self.scorer.text_record()
            self.records.write(TEXT, found._asdict())
        if found.fingerprint != self.dataset.fingerprint:
            raise CharlmError(
                f"{self.records.folder} is of another text than {self.preset.corpus}: name "
                f"another folder with --records"
            )
        return found

    def tune(self, *, train: bool = True) -> dict[Arm, Tuned]:
        """Search the learning rate of every fixed length at equal characters.

        Rates are chosen by the loss on the second part, the state carried on.

        Args:
          train: whether to train the runs that are not on record; if not, arms that miss one are
            left out.
        """
        arms = {arm.name: arm for arm in self.preset.arms() if arm == arm.tuned}
        characters = whole_batches(self.preset.effort.characters)

        def point_of(trial: Trial) -> Point:
            arm = arms[trial.arm.name]
            return self.run_point(PlannedRun(arm, trial.seed, trial.value, characters))

        first = {"seed": self.preset.effort.seeds[0]}
        tuned = self.training.tune(
            [self._point(arm, name, first) for name, arm in arms.items()],
            self.preset.effort.rates,
            self.preset.effort.characters,
            point_of,
            self._measure,
            lambda record: record["second"]["stream"],
            more=lambda run: self.scorer.more(run),
            train=train,
        )
        return {arm: tuned[name] for name, arm in arms.items() if name in tuned}

    def plan(
        self, rates: Mapping[Arm, float], speeds: Mapping[str, float], seeds: Iterable[int]
    ) -> list[PlannedRun]:
        """Return one run of every arm and seed, of arms whose learning rate is known.

        The time budget of a model is the time in which an arm of median speed reads the character
        budget.

        Args:
          rates: learning rate of each fixed length at equal characters.
          speeds: characters per second, by name.
          seeds: seeds to plan.
        """
        plan = []
        for arm in self.preset.arms():
            if arm.tuned not in rates:
                continue
            characters = self.preset.effort.characters
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
          CharlmError: a run failed, or a record is of a run with other settings.
        """
        self.training.train([self.run_point(run) for run in runs], self._measure)
        return self.recorded(runs)

    def _measure(self, run: Run) -> Record:
        arms = {arm.name: arm for arm in self.preset.arms()}
        return self.scorer.run_record(arms[arm_name(run)], run)._asdict()

    def describe_cost(self, speeds: Mapping[str, float]) -> str:
        """Describe the cost of the whole study, all runs trained to the end one after another.

        Args:
          speeds: characters per second, by name.
        """
        rates = dict.fromkeys((arm for arm in self.preset.arms() if arm == arm.tuned), 1.0)
        effort = self.preset.effort
        first, *others = effort.seeds
        runs = self.plan(rates, speeds, [first])
        runs += [run for run in runs if run.arm in rates] * (effort.rates - 1)
        seconds = sum(run.characters / mean_speed(run.arm, speeds) for run in runs)
        seeds = "seed" if len(others) == 1 else "seeds"
        more = f"; the best arms again with {len(others)} more {seeds}" if others else ""
        search = f", with {effort.rates} learning rates where they are searched"
        return (
            f"{len(runs)} runs{search * (effort.rates > 1)}: "
            f"{seconds / 60:.0f} minutes of training at the measured speeds{more}"
        )

    def recorded(self, runs: Sequence[PlannedRun]) -> dict[PlannedRun, RunRecord]:
        """Return the runs that are on record.

        Raises:
          CharlmError: a record is damaged, or is of a run with other settings.
        """
        found = {run: self.training.recorded(self.run_point(run)) for run in runs}
        return {
            run: self.records.run(f"runs/{run.name}", values)
            for run, values in found.items()
            if values is not None
        }

    def repeated_arms(self, first: Mapping[PlannedRun, RunRecord]) -> set[Arm]:
        """Return the arms to train with all seeds.

        They are the best fixed lengths of each model and state by the second part, the textbook's
        length and the schedules, at equal characters; or every arm of the models that are repeated.

        Args:
          first: records of the first seed.
        """
        chosen = set()
        families: dict[tuple[str, str], list[tuple[float, Arm]]] = {}
        for run, record in first.items():
            arm = run.arm
            if not self.preset.models[arm.model].is_repeated:
                continue
            if not self.preset.repeated:
                chosen.add(arm)
            elif arm.budget == "seconds":
                continue
            elif len(arm.lengths) > 1 or arm.length == TEXTBOOK_LENGTH:
                chosen.add(arm)
            else:
                loss = record.second["stream"]
                families.setdefault((arm.model, arm.state), []).append((loss, arm))
        for losses in families.values():
            chosen |= {arm for _, arm in sorted(losses)[: self.preset.repeated]}
        return chosen

    def run_point(self, run: PlannedRun) -> Point:
        """Return a planned run as a point that can be trained."""
        steps = run.characters // BATCH_CHARACTERS
        scores = self.preset.effort.scores
        fields = run_fields(rate=run.rate, seed=run.seed, steps=steps, scores=scores)
        schedule = length_schedule(run.arm.lengths, steps)
        return self._point(run.arm, run.name, {**fields, "data.length_schedule": schedule})

    def _point(self, arm: Arm, name: str, fields: Mapping[str, Any]) -> Point:
        config = self.preset.models[arm.model].config
        return make_point(name, config, {**self.preset.fields(arm), **fields})


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
