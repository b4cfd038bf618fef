"""Arms of a study: each has its learning rate searched with equal effort, then one run per seed.

Trials of a search that read as much as a run are runs of the first seed, and put on record as such.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from charlm_jax.config.loading import load_config
from charlm_jax.core.prng import root_key
from charlm_jax.core.trees import count_parameters
from charlm_jax.inference.run import Run
from charlm_jax.models import build_model
from charlm_jax.sweeps.points import Point, make_point
from charlm_jax.sweeps.tuning import Search, Trial, Tuned
from experiments.recorded_training import Record, RecordedTraining, WholeRuns

_LARGEST_WIDTH = 4_096


class TunedArm(NamedTuple):
    """Settings of runs that differ in their seed.

    Attributes:
      name: name of the arm, unique in its study.
      config: config name.
      fields: fields of the config to change, apart from the learning rate, seed and steps.
    """

    name: str
    config: str
    fields: Mapping[str, Any]


class Effort(NamedTuple):
    """Effort of each arm of a study.

    Attributes:
      search: search of the learning rate.
      characters: characters read by one run.
      seeds: seeds, one run each.
      scores: number of evaluations of a run while it trains.
    """

    search: Search
    characters: int
    seeds: tuple[int, ...]
    scores: int = 1

    @property
    def searches_whole_runs(self) -> bool:
        """Whether the last trials of a search read as much as a run, and so are runs."""
        return self.search.rungs[-1].characters == self.characters

    def describe(self) -> str:
        """Describe the effort per arm."""
        left = len(self.seeds) - self.searches_whole_runs
        runs = "run" if left == 1 else "runs"
        then = f", then {left} {runs} of {self.characters:,}" if left else ""
        return f"{self.search.describe()} to search the learning rate{then}"


class ArmRuns(NamedTuple):
    """What is on record of an arm.

    Attributes:
      arm: the arm.
      tuned: search of its learning rate.
      records: records of its runs, by seed.
    """

    arm: TunedArm
    tuned: Tuned
    records: Mapping[int, Record]


def train_arms(
    training: RecordedTraining,
    arms: Sequence[TunedArm],
    effort: Effort,
    measure: Callable[[Point, Run], Record],
    *,
    train: bool = True,
) -> dict[str, ArmRuns]:
    """Tune and train all arms; what is on record is not trained again.

    Args:
      training: folders and number of runs at once.
      arms: the arms.
      effort: effort of each.
      measure: returns the record of a finished run; `second` is its loss on the second part.
      train: whether to train what is not on record.

    Returns:
      Arms of which a run is on record, by name.

    Raises:
      CharlmError: a run failed, or a record is damaged or of other settings.
    """
    by_name = {arm.name: arm for arm in arms}

    def losses(trials: Sequence[Trial]) -> list[float]:
        runs = [_run_point(by_name[x.arm.name], effort, x.value, x.seed) for x in trials]
        if train:
            training.train(runs, measure)
        return [record["second"] for record in training.require(runs)]

    points = [make_point(arm.name, arm.config, arm.fields) for arm in arms]
    whole = WholeRuns(effort.characters, losses)
    tuned = training.tune(points, effort.search, whole, train=train)
    arms = [arm for arm in arms if arm.name in tuned]
    plan = {
        (arm.name, seed): _run_point(arm, effort, tuned[arm.name].value, seed)
        for seed in effort.seeds
        for arm in arms
    }
    if train:
        training.train(list(plan.values()), measure)
    found = {key: training.recorded(point) for key, point in plan.items()}
    runs = {
        arm.name: ArmRuns(
            arm,
            tuned[arm.name],
            {
                seed: record
                for (name, seed), record in found.items()
                if name == arm.name and record is not None
            },
        )
        for arm in arms
    }
    return {name: each for name, each in runs.items() if each.records}


def _run_point(arm: TunedArm, effort: Effort, rate: float, seed: int) -> Point:
    data = load_config(arm.config, arm.fields).data
    steps = max(1, effort.characters // (data.batch_size * data.sequence_length))
    fields = {
        **arm.fields,
        effort.search.field: rate,
        "seed": seed,
        "train.max_steps": steps,
        "train.evaluate_every_steps": math.ceil(steps / effort.scores),
    }
    return make_point(f"{arm.name}-rate={rate:g}-seed={seed}", arm.config, fields)


def fit_width(
    config: str, fields: Mapping[str, Any], *, parameters: int, symbols: int, multiple: int = 8
) -> int:
    """Return the width of layers with which a model has about a number of parameters.

    Args:
      config: config name.
      fields: fields of the config to change; embedding and layers are as wide as each other.
      parameters: number of parameters to come close to.
      symbols: size of the vocabulary.
      multiple: number that divides the width.
    """

    def distance(width: int) -> int:
        return abs(_count(config, fields, width, symbols) - parameters)

    low, high = multiple, _LARGEST_WIDTH
    while low < high:  # the count grows with the width
        middle = (low + high) // 2 // multiple * multiple
        if _count(config, fields, middle, symbols) < parameters:
            low = middle + multiple
        else:
            high = middle
    return min((low, max(multiple, low - multiple)), key=distance)


def _count(config: str, fields: Mapping[str, Any], width: int, symbols: int) -> int:
    sizes = {"model.embedding_size": width, "model.hidden_size": width}
    model = load_config(config, {**fields, **sizes}).model
    return count_parameters(jax.eval_shape(build_model(model, symbols).init, root_key(0)))
