"""Training of the study: what is not on record is trained, measured and put on record."""

import contextlib
import functools
from collections import Counter
from collections.abc import Mapping, Sequence
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
from experiments.recorded_training import Diverged, Record, RecordedTraining
from experiments.sequence_length.arms import (
    BATCH_CHARACTERS,
    Arm,
    Preset,
    length_schedule,
    whole_batches,
)
from experiments.sequence_length.records import SPEEDS, TEXT, Records, RunRecord, TextRecord
from experiments.sequence_length.scoring import Scorer
from experiments.tuned_arms import RunCounts, arm_name, run_fields, run_name


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
        found = self.records.speeds() or {}
        arms = {speed_name(arm.model, arm.length): arm for arm in self.preset.arms()}
        configs = {name: self.config(arm) for name, arm in arms.items() if name not in found}
        if configs:
            speeds = measure_speeds(configs, rounds=3, steps=5)
            found |= {name: float(round(speed)) for name, speed in speeds.items()}
            self.records.write(SPEEDS, found)
        return found

    def text(self) -> TextRecord:
        """Measure the text and its simple predictors, unless they are on record.

        Raises:
          CharlmError: the record is of another text, or of measurements of another size.
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
        if found.sizes != self.preset.sizes:
            raise CharlmError(
                f"{self.records.file(TEXT)} has measurements of other sizes, {found.sizes}: "
                f"name another folder with --records"
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

    def plan(self, rates: Mapping[Arm, float], speeds: Mapping[str, float]) -> list[PlannedRun]:
        """Return all runs of the arms whose learning rate is known, those of the first seed first.

        The time budget of a model is the time in which an arm of median speed reads the character
        budget.

        Args:
          rates: learning rate of each fixed length at equal characters.
          speeds: characters per second, by name.
        """
        first, *others = self.preset.effort.seeds
        arms = [arm for arm in self.preset.arms() if arm.tuned in rates]
        repeated = [arm for arm in arms if self.preset.is_repeated(arm)]
        pairs = [(arm, first) for arm in arms]
        pairs += [(arm, seed) for seed in others for arm in repeated]
        return [
            PlannedRun(arm, seed, rates[arm.tuned], self._characters(arm, speeds))
            for arm, seed in pairs
        ]

    def _characters(self, arm: Arm, speeds: Mapping[str, float]) -> int:
        characters = self.preset.effort.characters
        if arm.budget == "seconds":
            lengths = self.preset.models[arm.model].lengths
            median = float(np.median([speeds[speed_name(arm.model, T)] for T in lengths]))
            characters = int(characters * mean_speed(arm, speeds) / median)
        return whole_batches(characters)

    def train(self, runs: Sequence[PlannedRun]) -> None:
        """Train and measure the runs that are not on record. One that diverges does not end it.

        Raises:
          CharlmError: a run failed otherwise, or a record is of a run with other settings.
        """
        with contextlib.suppress(Diverged):  # all others are on record
            self.training.train([self.run_point(run) for run in runs], self._measure)

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
        plan = self.plan(rates, speeds)
        searched = [run for run in plan if run.arm in rates and run.seed == effort.seeds[0]]
        runs = plan + searched * (effort.rates - 1)
        seconds = sum(run.characters / mean_speed(run.arm, speeds) for run in runs)
        search = f", with {effort.rates} learning rates where they are searched"
        return (
            f"{len(runs)} runs{search * (effort.rates > 1)}: {seconds / 60:.0f} minutes of "
            f"training at the measured speeds"
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

    def counts(self, plan: Sequence[PlannedRun]) -> dict[Arm, RunCounts]:
        """Return the numbers of planned runs of every arm of which one is on record."""
        kinds: dict[Arm, Counter[str]] = {}
        for run in plan:
            kinds.setdefault(run.arm, Counter())[self._kind(run)] += 1
        counts = {
            arm: RunCounts(*(found[kind] for kind in RunCounts._fields))
            for arm, found in kinds.items()
        }
        return {arm: count for arm, count in counts.items() if count.finished}

    def _kind(self, run: PlannedRun) -> str:
        point = self.run_point(run)
        if self.training.recorded(point) is not None:
            return "finished"
        return "diverged" if self.training.has_diverged(point) else "missing"

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
    return 1 / training_seconds(arm, speeds, 1, budget=1)


def training_seconds(
    arm: Arm, speeds: Mapping[str, float], characters: float, *, budget: int
) -> float:
    """Return the time after which an arm has read a number of the characters of its budget.

    Its lengths have equal shares of the budget, one after the other.
    """
    share = budget / len(arm.lengths)
    return sum(
        min(max(characters - before * share, 0.0), share) / speeds[speed_name(arm.model, length)]
        for before, length in enumerate(arm.lengths)
    )
