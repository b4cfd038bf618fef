"""Arms of a study: the first seed is trained with several learning rates, others with the best."""

import contextlib
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax

from charlm_jax.config.loading import load_config
from charlm_jax.core.prng import root_key
from charlm_jax.core.trees import count_parameters
from charlm_jax.inference.run import Run
from charlm_jax.models import build_model
from charlm_jax.sweeps.points import Point, make_point
from charlm_jax.sweeps.tuning import Tuned
from experiments.recorded_training import RATE, Diverged, Measure, Record, RecordedTraining

_LARGEST_WIDTH = 4_096
_EQUALLY_GOOD_NATS = 0.002


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
      rates: number of learning rates, with which the first seed is trained.
      characters: characters read by one run.
      seeds: seeds; all but the first are trained with the best rate.
      scores: number of evaluations of a run while it trains.
    """

    rates: int
    characters: int
    seeds: tuple[int, ...]
    scores: int = 1

    def describe(self) -> str:
        """Describe the effort per arm.

        >>> Effort(4, 640_000, (1, 2)).describe()
        '4 learning rates with the first of 2 seeds, 640,000 characters in each run'
        """
        seeds = f"the first of {len(self.seeds)} seeds" if len(self.seeds) > 1 else "one seed"
        return (
            f"{self.rates} learning rates with {seeds}, {self.characters:,} characters in each run"
        )


class RunCounts(NamedTuple):
    """Numbers of the runs of an arm, one for each seed of its plan.

    Attributes:
      finished: runs with a loss.
      diverged: runs whose loss was not finite.
      missing: runs that are not on record.
    """

    finished: int
    diverged: int = 0
    missing: int = 0

    @property
    def is_whole(self) -> bool:
        """True if a mean over the finished runs leaves out none of the plan."""
        return self.diverged == self.missing == 0

    def describe(self) -> str:
        """Describe the numbers of runs.

        >>> RunCounts(3).describe()
        '3'
        >>> RunCounts(1, diverged=1, missing=1).describe()
        '1 of 3 (1 diverged, 1 missing)'
        """
        return str(self.finished) if self.is_whole else self._describe_part("")

    def label(self, text: str) -> str:
        """Add to a name or a figure of the arm which runs it leaves out.

        >>> RunCounts(3).label("lstm"), RunCounts(2, diverged=1).label("lstm")
        ('lstm', 'lstm, 2 of 3 seeds (1 diverged)')
        """
        return text if self.is_whole else f"{text}, {self._describe_part(' seeds')}"

    def _describe_part(self, noun: str) -> str:
        left_out = {"diverged": self.diverged, "missing": self.missing}
        reasons = ", ".join(f"{count} {name}" for name, count in left_out.items() if count)
        return f"{self.finished} of {sum(self)}{noun} ({reasons})"


def describe_gaps(planned: Sequence[str], counts: Mapping[str, RunCounts]) -> list[str]:
    """Return sentences on what of the plan is not in the results; none if nothing is left out.

    Args:
      planned: names of all arms.
      counts: numbers of runs of the arms on record, by name.

    >>> describe_gaps(["a", "b", "c"], {"b": RunCounts(3)})
    ['On record: 1 of 3; missing, or diverged at every rate: a; c.']
    >>> describe_gaps(["a"], {"a": RunCounts(2, diverged=1)})
    ['Means over the seeds that are left: a, 2 of 3 seeds (1 diverged).']
    """
    missing = [name for name in planned if name not in counts]
    partial = [found.label(name) for name, found in counts.items() if not found.is_whole]
    sentences = []
    if missing:
        sentences.append(
            f"On record: {len(counts)} of {len(planned)}; missing, or diverged at every rate: "
            f"{'; '.join(missing)}."
        )
    if partial:
        sentences.append(f"Means over the seeds that are left: {'; '.join(partial)}.")
    return sentences


class ArmRuns(NamedTuple):
    """What is on record of an arm.

    Attributes:
      arm: the arm.
      tuned: search of its learning rate.
      records: records of its finished runs, by seed.
      counts: numbers of its runs, those that diverged or are missing too.
    """

    arm: TunedArm
    tuned: Tuned
    records: Mapping[int, Record]
    counts: RunCounts


def train_arms(
    training: RecordedTraining,
    arms: Sequence[TunedArm],
    effort: Effort,
    search: Measure,
    measure: Measure,
    *,
    more: Measure = lambda run: {},
    train: bool = True,
) -> dict[str, ArmRuns]:
    """Tune and train all arms; what is on record is not trained again.

    A run that diverges after the search is counted, and does not end the study.

    Args:
      training: folders and number of runs at once.
      arms: the arms.
      effort: effort of each.
      search: returns the record of a run of the search; `second` is its loss on the second part.
      measure: returns the record of the best run of the search, and of those of other seeds.
      more: returns what is added to the record of the best run of the search.
      train: whether to train what is not on record.

    Returns:
      Arms of which a run is on record, by name.

    Raises:
      CharlmError: a run failed, or a record is damaged or of other settings.
    """
    by_name, first = {arm.name: arm for arm in arms}, {"seed": effort.seeds[0]}
    tuned = training.tune(
        [make_point(arm.name, arm.config, {**arm.fields, **first}) for arm in arms],
        effort.rates,
        effort.characters,
        lambda trial: _run_point(by_name[trial.arm.name], effort, trial.value, trial.seed),
        search,
        lambda record: record["second"],
        more=lambda run: {**measure(run), **more(run)},
        train=train,
    )
    arms = [arm for arm in arms if arm.name in tuned]
    plan = {
        (arm.name, seed): _run_point(arm, effort, tuned[arm.name].value, seed)
        for seed in effort.seeds
        for arm in arms
    }
    if train:
        with contextlib.suppress(Diverged):  # all others are on record
            training.train(list(plan.values()), measure)
    runs = {}
    for arm in arms:
        points = {seed: plan[arm.name, seed] for seed in effort.seeds}
        found = {seed: training.recorded(point) for seed, point in points.items()}
        records = {seed: record for seed, record in found.items() if record is not None}
        diverged = sum(map(training.has_diverged, points.values()))
        counts = RunCounts(len(records), diverged, len(points) - len(records) - diverged)
        if records:
            runs[arm.name] = ArmRuns(arm, tuned[arm.name], records, counts)
    return runs


def is_rate_at_edge(tuned: Tuned) -> bool:
    """Return whether the best rate is the lowest or the highest tried, and better than the next.

    A difference below 0.002 nats does not count: the rates are then equally good.
    """
    by_rate = sorted(tuned.mean_losses().items())
    losses = [loss for _, loss in by_rate]
    best = [rate for rate, _ in by_rate].index(tuned.value)
    inner = {0: losses[1:2], len(losses) - 1: losses[-2:-1]}.get(best)
    return inner is not None and (not inner or inner[0] - losses[best] > _EQUALLY_GOOD_NATS)


def first_point(arm: TunedArm, effort: Effort) -> Point:
    """Return the run of an arm that is trained first: its own rate, with the first seed."""
    return _run_point(arm, effort, arm.fields[RATE], effort.seeds[0])


def _run_point(arm: TunedArm, effort: Effort, rate: float, seed: int) -> Point:
    data = load_config(arm.config, arm.fields).data
    steps = max(1, effort.characters // (data.batch_size * data.sequence_length))
    fields = run_fields(rate=rate, seed=seed, steps=steps, scores=effort.scores)
    name = run_name(arm.name, rate=rate, seed=seed)
    return make_point(name, arm.config, {**arm.fields, **fields})


def run_fields(*, rate: float, seed: int, steps: int, scores: int) -> dict[str, Any]:
    """Return the config fields that differ between the runs of an arm, in the order of records.

    Args:
      rate: learning rate.
      seed: seed.
      steps: number of updates.
      scores: number of evaluations while it trains.
    """
    return {
        RATE: rate,
        "seed": seed,
        "train.max_steps": steps,
        "train.evaluate_every_steps": math.ceil(steps / scores),
    }


def run_name(arm: str, *, rate: float, seed: int) -> str:
    """Return the name of a run of an arm.

    >>> run_name("lstm", rate=0.02, seed=1)
    'lstm-rate=0.02-seed=1'
    """
    return f"{arm}-rate={rate:g}-seed={seed}"


def arm_name(run: Run) -> str:
    """Return the name of the arm of a run, which is in the run's folder of its `run_name`."""
    return run.workdir.name.rpartition("-rate=")[0]


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

    def count(width: int) -> int:
        return _count(config, tuple(fields.items()), width, symbols)

    def distance(width: int) -> int:
        return abs(count(width) - parameters)

    low, high = multiple, _LARGEST_WIDTH
    while low < high:  # the count grows with the width
        middle = (low + high) // 2 // multiple * multiple
        if count(middle) < parameters:
            low = middle + multiple
        else:
            high = middle
    return min((low, max(multiple, low - multiple)), key=distance)


@functools.cache
def _count(config: str, fields: tuple[tuple[str, Any], ...], width: int, symbols: int) -> int:
    sizes = {"model.embedding_size": width, "model.hidden_size": width}
    model = load_config(config, {**dict(fields), **sizes}).model
    return count_parameters(jax.eval_shape(build_model(model, symbols).init, root_key(0)))
