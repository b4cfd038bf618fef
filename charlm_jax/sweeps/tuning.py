"""Tuning of one number in the config, such as the learning rate, with equal effort for every arm.

An arm is one of the settings to be compared. Every arm gets the same number of runs of the same
lengths: the first rung tries values one after another, extends their range while the best is at an
edge and otherwise halves the gap beside the best; later rungs train the best few longer and with
more seeds (successive halving). Losses are held-out losses of the part that is watched in training.

A search has no state of its own: the losses of its trials determine what is tried next. The same
call therefore resumes a search whose trials are kept.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from charlm_jax.core.errors import CharlmError
from charlm_jax.data.dataset import Dataset, load_dataset
from charlm_jax.sweeps.local import build_undivided, run_points
from charlm_jax.sweeps.points import Point
from charlm_jax.sweeps.progress_bars import SweepView

_DIGITS = 4  # significant digits of a value that is tried
_MOST_VALUES, _LEAST_FACTOR = 10, 1.5  # so that neighbouring values differ in these digits

# Sections of the config that change neither the text that is scored nor the length of a run.
_TUNABLE = ("optimizer.", "model.")


class Rung(NamedTuple):
    """One stage of a search.

    Attributes:
      values: number of values per arm; all are new on the first rung, and the best of the rung
        before on every other.
      seeds: number of runs of each value.
      characters: characters read by each run in training.
    """

    values: int
    seeds: int
    characters: int

    @property
    def runs(self) -> int:
        """Number of runs per arm."""
        return self.values * self.seeds


class AllDiverged(CharlmError):
    """A search of an arm in which every value diverged."""


class Search(NamedTuple):
    """Settings of a search, the same for every arm.

    Attributes:
      field: config field, a positive number.
      rungs: stages; the effort of an arm is their sum.
      factor: ratio of neighbouring values at first.
    """

    field: str
    rungs: tuple[Rung, ...]
    factor: float = 2.0

    @property
    def runs(self) -> int:
        """Number of runs per arm."""
        return sum(rung.runs for rung in self.rungs)

    @property
    def characters(self) -> int:
        """Characters read by all runs of an arm."""
        return sum(rung.runs * rung.characters for rung in self.rungs)

    def describe(self) -> str:
        """Describe the effort per arm.

        >>> Search("optimizer.learning_rate", (Rung(5, 1, 8_000), Rung(2, 2, 16_000))).describe()
        '9 runs and 104,000 characters'
        """
        return f"{self.runs} runs and {self.characters:,} characters"


class Trial(NamedTuple):
    """One run of a search.

    Attributes:
      arm: point to be tuned.
      field: config field that is tuned.
      value: value of the field.
      seed: seed of the run.
      characters: characters to read in training.
    """

    arm: Point
    field: str
    value: float
    seed: int
    characters: int

    @property
    def name(self) -> str:
        """Name of the run, unique within the searches of one field."""
        leaf = self.field.rpartition(".")[2]
        return (
            f"{self.arm.name}-{leaf}={self.value:g}-characters={self.characters}-seed={self.seed}"
        )

    def point(self) -> Point:
        """Return the trial as a point that can be trained."""
        data = self.arm.load().data
        steps = self.characters // (data.batch_size * data.sequence_length)
        texts = (f"{self.field}={self.value}", f"seed={self.seed}", f"train.max_steps={steps}")
        return self.arm._replace(name=self.name, overrides=self.arm.overrides + texts)


class Tuned(NamedTuple):
    """Result of the search for one arm.

    Attributes:
      value: value with the lowest mean loss of the longest runs.
      losses: trial -> held-out loss in nats per character, infinite if it diverged, in the order
        in which they were trained.
    """

    value: float
    losses: Mapping[Trial, float]

    @property
    def is_at_edge(self) -> bool:
        """True if no lower or no higher value was tried, so that a better one may lie beyond."""
        values = [trial.value for trial in self.losses]
        return self.value in (min(values), max(values))

    @property
    def lengths(self) -> list[int]:
        """Characters read by the runs of each rung, ascending."""
        return sorted({trial.characters for trial in self.losses})

    def mean_losses(self, characters: int | None = None) -> dict[float, float]:
        """Return the mean loss over seeds of runs of one length, by value.

        Args:
          characters: characters read by each run; those of the last rung if None.
        """
        return _mean_losses(self.losses, self.lengths[-1] if characters is None else characters)

    def describe(self) -> str:
        """Describe all values that were tried on each rung, and say if the best is at an edge."""
        rungs = []
        for characters in self.lengths:
            found = self.mean_losses(characters).items()
            tried = ", ".join(f"{loss:.4f} at {value:g}" for value, loss in found)
            rungs.append(f"after {characters:,} characters: {tried}")
        edge = "; it is at an edge, so a better one may lie beyond" if self.is_at_edge else ""
        return f"held-out losses {'; '.join(rungs)}{edge}"


def refuse_untunable(arms: Sequence[Point], field: str) -> None:
    """Check that a field is a number that can be multiplied, and that its losses can be compared.

    Raises:
      CharlmError: it is not a positive number of optimizer or model in an arm; the message names
        those that are.
    """
    for arm in arms:
        fields = arm.load().flatten()
        numbers = [
            name
            for name, value in fields.items()
            if isinstance(value, float) and value > 0 and name.startswith(_TUNABLE)
        ]
        if field not in numbers:
            value = f"={fields[field]}" if field in fields else ""
            reason = ""
            if field in fields and not field.startswith(_TUNABLE):
                reason = (
                    "it bears on the held-out text, its scoring, or the length or noise of a run, "
                    "so the losses of its values cannot be compared: "
                )
            raise CharlmError(
                f"config.{field}{value} of {arm.name} cannot be tuned: {reason}name a number above "
                f"0 of the optimizer or the model, such as {', '.join(numbers)}"
            )


def default_search(arms: Sequence[Point], field: str) -> Search:
    """Return a search that costs about 1.6 times the training of the arms.

    Five values are tried with an eighth of the characters of the shortest arm; the best two are
    trained with a quarter, twice each.

    Args:
      arms: points to tune.
      field: config field, a positive number.

    Raises:
      CharlmError: an arm cannot be trained, holds out no text, or is too short to be searched, or
        a first trial of it could not be trained.
    """
    refuse_untunable(arms, field)
    characters, batches, datasets = [], [], {}
    for arm in arms:
        config = arm.load()
        datasets[arm.name] = load_dataset(config)
        trainer = build_undivided(config, datasets[arm.name])
        if not trainer.watched:
            raise CharlmError(f"{arm.name} holds out no text to judge values by: set config.split")
        batches.append(config.data.batch_size * config.data.sequence_length)
        characters.append(trainer.total_steps * batches[-1])
    # Whole batches of every arm, where a run is long enough.
    step, eighth = math.lcm(*batches), min(characters) // 8
    eighth -= eighth % step if eighth >= step else 0
    search = Search(field, (Rung(5, 1, eighth), Rung(2, 2, 2 * eighth)))
    _refuse_unsound(arms, search)
    for arm in arms:
        _check_trials(arm, search, datasets[arm.name])
    return search


def _check_trials(arm: Point, search: Search, dataset: Dataset) -> None:
    """Refuse a search whose first trials could not be trained, or would only warm up."""
    rung = search.rungs[0]
    for value in _next_values(arm, search, {}, most=rung.values):
        trial = _trials(arm, search, rung, value)[0]
        config = trial.point().load()
        try:
            trainer = build_undivided(config, dataset)
        except CharlmError as error:
            raise CharlmError(
                f"a run of {rung.characters:,} characters of {arm.name}, which the search needs, "
                f"could not be trained: {error}"
            ) from error
        warmup, steps = config.optimizer.warmup_steps, trainer.total_steps
        if 2 * warmup > steps:
            raise CharlmError(
                f"config.optimizer.warmup_steps={warmup} of {arm.name} is more than half of the "
                f"{steps} steps of the first runs of a search, whose losses would tell little of "
                f"whole runs: set at most {steps // 2}, or train longer"
            )


def tune(
    arms: Sequence[Point], search: Search, train: Callable[[Sequence[Trial]], Sequence[float]]
) -> dict[str, Tuned]:
    """Search the best value of a field for every arm.

    Args:
      arms: points to tune; they name their own first value.
      search: settings of the search.
      train: returns the held-out loss of every given trial, in nats per character.

    Returns:
      The result for every arm, by name.

    Raises:
      CharlmError: the field is not a positive number in an arm, a rung is empty, shorter than an
        arm's batch or larger than the one before, or the factor is below 1.5.
      AllDiverged: every value that an arm tried on a rung diverged; the trials of the first rung
        are trained for all arms.
    """
    _refuse_unsound(arms, search)
    losses: dict[str, dict[Trial, float]] = {arm.name: {} for arm in arms}

    def run(wanted: Sequence[Trial]) -> None:
        for trial, loss in zip(wanted, train(wanted), strict=True):
            losses[trial.arm.name][trial] = loss if math.isfinite(loss) else math.inf

    first, *others = search.rungs
    while wanted := [
        trial
        for arm in arms
        for value in _next_values(
            arm, search, _mean_losses(losses[arm.name], first.characters), most=first.values
        )
        for trial in _trials(arm, search, first, value)
    ]:
        run(wanted)
    best = {name: _best_finite(name, search, first, found) for name, found in losses.items()}
    for rung in others:
        run(
            [
                trial
                for arm in arms
                for value in best[arm.name][: rung.values]
                for trial in _trials(arm, search, rung, value)
            ]
        )
        best = {name: _best_finite(name, search, rung, found) for name, found in losses.items()}
    return {name: Tuned(best[name][0], found) for name, found in losses.items()}


def train_trials(
    trials: Sequence[Trial], folder: Path, *, jobs: int = 1, view: SweepView | None = None
) -> list[float]:
    """Train trials on this machine, and return their best held-out losses.

    Args:
      trials: trials to train; finished ones are skipped.
      folder: folder of the runs, one folder each.
      jobs: maximum number of runs trained at once.
      view: callbacks.

    Returns:
      Losses in nats per character; infinite if the run diverged.

    Raises:
      CharlmError: a run failed otherwise, or holds out no text.
    """
    losses = []
    for outcome in run_points([trial.point() for trial in trials], folder, jobs=jobs, view=view):
        if outcome.best_loss_nats is not None:
            losses.append(outcome.best_loss_nats)
        elif outcome.point.has_diverged(folder):
            losses.append(math.inf)
        else:
            raise CharlmError(f"{outcome.point.name}: {outcome.says}{_UNUSABLE[outcome.state]}")
    return losses


# Ends of the messages about outcomes that have no loss.
_UNUSABLE = {
    "done": "it holds out no text to judge values by: set config.split",
    "elsewhere": ": wait for it, or stop it",
    "failed": "",
}


def _trials(arm: Point, search: Search, rung: Rung, value: float) -> list[Trial]:
    first = arm.load().seed
    return [
        Trial(arm, search.field, value, seed, rung.characters)
        for seed in range(first, first + rung.seeds)
    ]


def _mean_losses(losses: Mapping[Trial, float], characters: int) -> dict[float, float]:
    """Return the mean loss over seeds by ascending value, of the trials of one length."""
    by_value: dict[float, list[float]] = {}
    for trial in sorted(losses, key=lambda trial: trial.value):
        if trial.characters == characters:
            by_value.setdefault(trial.value, []).append(losses[trial])
    return {value: math.fsum(found) / len(found) for value, found in by_value.items()}


def _best_finite(
    name: str, search: Search, rung: Rung, losses: Mapping[Trial, float]
) -> list[float]:
    """Return the values of a rung by rising loss.

    Raises:
      AllDiverged: every value diverged.
    """
    means = _mean_losses(losses, rung.characters)
    if not any(map(math.isfinite, means.values())):
        tried = ", ".join(f"{value:g}" for value in means)
        raise AllDiverged(
            f"every config.{search.field} that was tried for {name} diverged ({tried}): start from "
            f"another value, or set config.optimizer.clip_norm"
        )
    return _best(means)


def _best(losses: Mapping[float, float]) -> list[float]:
    """Return the values by rising loss; of equal losses, the lower value first."""
    return sorted(losses, key=losses.__getitem__)


def _next_values(
    arm: Point, search: Search, losses: Mapping[float, float], *, most: int
) -> list[float]:
    """Return the values to try next; none when as many as allowed have been tried."""
    left = most - len(losses)
    if left <= 0:
        return []
    if not losses:
        own = arm.load().flatten()[search.field]
        first = (own, _rounded(own / search.factor))
        return [value for value in first if _is_allowed(arm, search, value)][:left] or [own]
    values, best = list(losses), _best(losses)[0]
    at = values.index(best)
    beyond = [best / search.factor] if at == 0 else []
    beyond += [best * search.factor] if at == len(values) - 1 else []
    for value in map(_rounded, beyond):
        if _is_allowed(arm, search, value):
            return [value]
    neighbours = [*values[max(at - 1, 0) : at], *values[at + 1 : at + 2]]
    if not neighbours:
        return []
    between = _rounded(math.sqrt(best * min(neighbours, key=losses.__getitem__)))
    return [] if between in values else [between]


def _is_allowed(arm: Point, search: Search, value: float) -> bool:
    """Return whether the config of an arm may have a value; the others are left out."""
    try:
        arm._replace(overrides=(*arm.overrides, f"{search.field}={value}")).load()
    except CharlmError:
        return False
    return True


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")


def _refuse_unsound(arms: Sequence[Point], search: Search) -> None:
    lengths = [rung.characters for rung in search.rungs]
    values = [rung.values for rung in search.rungs]
    least = [min(rung.values, rung.seeds, rung.characters) for rung in search.rungs]
    if not lengths or min(least) < 1 or lengths != sorted({*lengths}):
        raise CharlmError(
            "a search needs at least one rung, each of at least one value, seed and character, "
            "and each longer than the one before"
        )
    if values != sorted(values, reverse=True) or values[0] > _MOST_VALUES:
        raise CharlmError(
            f"a search has at most {_MOST_VALUES} values in its first rung, and in every other no "
            f"more values than the one before, not {', '.join(map(str, values))}"
        )
    if search.factor < _LEAST_FACTOR:
        raise CharlmError(
            f"factor={search.factor:g} is not allowed: it must be at least {_LEAST_FACTOR}"
        )
    refuse_untunable(arms, search.field)
    for arm in arms:
        config = arm.load()
        batch = config.data.batch_size * config.data.sequence_length
        if lengths[0] < batch:
            raise CharlmError(
                f"a run of {lengths[0]:,} characters is shorter than a batch of {arm.name}, which "
                f"has {batch:,}"
            )
