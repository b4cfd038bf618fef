"""Training runs of the study and their scores. Finished runs are reused."""

import functools
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from charlm_jax.analysis.effective_context import CHANGES, losses_by_context
from charlm_jax.config.loading import load_config
from charlm_jax.config.schema import Config
from charlm_jax.core.errors import CharlmError
from charlm_jax.core.json_files import to_jsonable, write_json
from charlm_jax.data.dataset import Dataset, load_dataset
from charlm_jax.data.download import DownloadProgress
from charlm_jax.evaluation.block_sums import BLOCK
from charlm_jax.evaluation.bootstrap import Interval, mean_interval
from charlm_jax.evaluation.protocol import Stream, Window
from charlm_jax.evaluation.results import Evaluation
from charlm_jax.inference.run import Run, load_run
from charlm_jax.models.flops import train_flops
from charlm_jax.sweeps.local import run_points
from charlm_jax.sweeps.points import Point, make_point
from charlm_jax.sweeps.progress_bars import sweep_view
from charlm_jax.training.throughput import measure_speeds
from experiments.sequence_length.measures import Condition, ConditionLosses, RateKey

BATCH_CHARACTERS = 2_560
WINDOW = 64
LOADERS = {"reset": "chunks", "carried": "streams"}
STATES_AND_BUDGETS = (("reset", "characters"), ("carried", "characters"), ("reset", "seconds"))


class Preset(NamedTuple):
    """Size of the study.

    Attributes:
      models: fields to change in each config, keyed by config name.
      timed: models that are also compared at equal seconds.
      lengths: T, in characters.
      seeds: seeds; every condition is run once with each.
      characters: characters read by one run.
      rate_factors: learning rates tried with the first seed, relative to that of the config.
      reach: context of the windows for the loss by position, in characters.
      context_reach: longest context for the effective context, in characters.
      context_targets: number of targets for the effective context.
    """

    models: Mapping[str, Mapping[str, Any]]
    timed: tuple[str, ...]
    lengths: tuple[int, ...]
    seeds: tuple[int, ...]
    characters: int
    rate_factors: tuple[float, ...]
    reach: int
    context_reach: int
    context_targets: int


class Study:
    """Runs of the study in one folder.

    Args:
      preset: size of the study.
      corpus: value of `config.data.corpus`.
      folder: folder of the runs and results.
      jobs: number of runs to train at once.
    """

    def __init__(self, preset: Preset, corpus: str, folder: Path, jobs: int = 1) -> None:
        self.preset = preset
        self.corpus = corpus
        self.folder = folder
        self.jobs = jobs

    def fields(self, model: str, length: int, state: str = "reset") -> dict[str, Any]:
        """Returns the config fields that the study changes."""
        return {
            **self.preset.models[model],
            "data.corpus": self.corpus,
            "data.sequence_length": length,
            "data.batch_size": BATCH_CHARACTERS // length,
            "data.loader": LOADERS[state],
            "split.test_fraction": 0.1,
            "evaluation.context": WINDOW,
            "train.epochs": 1_000,  # never reached: `max_steps` ends the run
        }

    def config(self, model: str, length: int) -> Config:
        """Returns the config of a model at one length."""
        return load_config(model, self.fields(model, length))

    @functools.cached_property
    def dataset(self) -> Dataset:
        """Text split into three parts, the same for every condition."""
        first = self.config(next(iter(self.preset.models)), max(self.preset.lengths))
        return load_dataset(first, progress=DownloadProgress())

    def speeds(self) -> dict[tuple[str, int], float]:
        """Returns training speeds in characters per second, by model and length.

        Speeds are read from speeds.json if they were measured for the same models and lengths.
        """
        file = self.folder / "speeds.json"
        keys = {
            f"{model}-T{length}": (model, length)
            for model in self.preset.models
            for length in self.preset.lengths
        }
        measured = {name: to_jsonable(self.fields(*key)) for name, key in keys.items()}
        found = _read_speeds(file)
        if found["of"] != measured:
            configs = {name: self.config(*key) for name, key in keys.items()}
            self.folder.mkdir(parents=True, exist_ok=True)
            speeds = measure_speeds(configs, rounds=3, steps=5)
            found = {"of": measured, "characters_per_second": speeds}
            write_json(file, found)
        return {key: found["characters_per_second"][name] for name, key in keys.items()}

    def tune(self) -> dict[RateKey, dict[float, float]]:
        """Train with every learning rate; return the losses on the second part by rate.

        Returns:
          (model, length, state) -> learning rate -> loss in nats per character.
        """
        named = {}
        for key in itertools.product(self.preset.models, self.preset.lengths, LOADERS):
            model, length, _ = key
            own = self.config(model, length).optimizer.learning_rate
            for rate in (own * factor for factor in self.preset.rate_factors):
                (point,) = self._points(
                    *key,
                    rate=rate,
                    characters=_whole_batches(self.preset.characters),
                    seeds=self.preset.seeds[:1],
                )
                named[point] = key, rate
        losses = self.train(list(named))
        tried: dict[RateKey, dict[float, float]] = {}
        for point, (key, rate) in named.items():
            tried.setdefault(key, {})[rate] = losses[point.name]
        return tried

    def plan(
        self, rates: Mapping[RateKey, float], speeds: Mapping[tuple[str, int], float]
    ) -> dict[Condition, list[Point]]:
        """Returns the conditions and the runs of each.

        The time budget is the time in which a condition of median speed reads the character budget.

        Args:
          rates: learning rate by model, length and state.
          speeds: characters per second by model and length.
        """
        plan = {}
        for model in self.preset.models:
            median = float(np.median([speeds[model, length] for length in self.preset.lengths]))
            for length in self.preset.lengths:
                speed, operations = speeds[model, length], self._operations(model, length)
                for state, budget in STATES_AND_BUDGETS:
                    if budget == "seconds" and model not in self.preset.timed:
                        continue
                    share = 1.0 if budget == "characters" else speed / median
                    characters = _whole_batches(int(self.preset.characters * share))
                    rate = rates[model, length, state]
                    condition = Condition(
                        model=model,
                        length=length,
                        state=state,
                        budget=budget,
                        rate=rate,
                        characters=characters,
                        seconds=characters / speed,
                        flops=float(operations * characters),
                        seeds=self.preset.seeds,
                    )
                    plan[condition] = self._points(
                        model,
                        length,
                        state,
                        rate=rate,
                        characters=characters,
                        seeds=condition.seeds,
                    )
        return plan

    def train(self, points: Sequence[Point]) -> dict[str, float]:
        """Train all unfinished points.

        Returns:
          Loss on the second part by point name, in nats per character.

        Raises:
          CharlmError: a run failed; all others were finished first.
        """
        with sweep_view() as view:
            each = list(dict.fromkeys(points))
            outcomes = run_points(each, self.folder, jobs=self.jobs, view=view)
        losses = {}
        for point, state, loss_nats, says in outcomes:
            if loss_nats is None:
                raise CharlmError(f"{point.name}: {says or state}; the same command resumes")
            losses[point.name] = loss_nats
        return losses

    def run(self, point: Point) -> Run:
        """Returns the run of a point, at its last checkpoint."""
        return load_run(self.folder / point.name, checkpoint="latest")

    def score(self, condition: Condition, points: Sequence[Point]) -> ConditionLosses:
        """Score a condition's runs on the third part and on the second."""
        runs = [self.run(point) for point in points]
        windows = [run.evaluate(Window(WINDOW), split="test", cache=True)[1] for run in runs]
        streams = [self.read_on(condition, run, split="test")[1] for run in runs]
        second = [self.read_on(condition, run, split="valid")[0].loss_nats for run in runs]
        far_SN = None
        if condition.budget == "characters":
            reach = self.preset.reach
            far = [run.evaluate(Window(reach), split="test", cache=True)[1] for run in runs]
            far_SN = np.stack(far)
        return ConditionLosses(np.stack(windows), np.stack(streams), far_SN, float(np.mean(second)))

    def read_on(
        self, condition: Condition, run: Run, *, split: str
    ) -> tuple[Evaluation, np.ndarray]:
        """Score a run on a split of the text, carrying the state through it.

        Attention keeps as many positions as in training.
        """
        protocol = Stream(condition.length if run.model.keeps_positions else None)
        return run.evaluate(protocol, split=split, cache=True)

    def losses_by_context(self, point: Point) -> dict[str, dict[int, Interval]]:
        """Score a run with all but the nearest n characters of context changed.

        For attention, the longest context is the training length.

        Returns:
          change -> n -> loss.
        """
        run, reach = self.run(point), self.preset.context_reach
        if run.model.keeps_positions:
            reach = min(reach, run.config.data.sequence_length)
        losses = {
            change: losses_by_context(
                run.model,
                run.params,
                self.dataset.ids_N,
                self.dataset.part("test"),
                change=change,
                contexts=[2**power for power in range(int(math.log2(reach)) + 1)],
                reach=reach,
                targets=self.preset.context_targets,
                batch_size=run.config.evaluation.batch_size,
            )
            for change in CHANGES
        }
        block = self._block_of_targets()
        return {
            change: {n: mean_interval([nll_P], block=block) for n, nll_P in by_context.items()}
            for change, by_context in losses.items()
        }

    def _block_of_targets(self) -> int:
        """Returns the number of evenly spread targets per bootstrap block of characters."""
        characters = sum(map(len, self.dataset.part("test")))
        return max(1, round(BLOCK * self.preset.context_targets / characters))

    def _operations(self, model: str, length: int) -> int:
        """Returns the FLOPs of training per character, counting matrix products."""
        symbols = len(self.dataset.vocabulary)
        return train_flops(
            self.config(model, length).model, symbols=symbols, sequence_length=length
        )

    def _points(
        self,
        model: str,
        length: int,
        state: str,
        *,
        rate: float,
        characters: int,
        seeds: Sequence[int],
    ) -> list[Point]:
        """Returns one point per seed, named by every field in which runs differ."""
        name = f"{model}-T{length}-{state}-rate{rate:g}-characters{characters}"
        steps = characters // BATCH_CHARACTERS
        fields = {
            **self.fields(model, length, state),
            "optimizer.learning_rate": rate,
            "train.max_steps": steps,
            "train.evaluate_every_steps": steps,
        }
        return [make_point(f"{name}-seed{seed}", model, {**fields, "seed": seed}) for seed in seeds]


def _read_speeds(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    return found if isinstance(found, dict) and "of" in found else {"of": None}


def _whole_batches(characters: int) -> int:
    return max(1, characters // BATCH_CHARACTERS) * BATCH_CHARACTERS
