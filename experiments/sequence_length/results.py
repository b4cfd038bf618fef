"""Results of the study, computed from its records; nothing is trained or scored here."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from charlm_jax.analysis.effective_context import ContextReach, effective_context_interval
from charlm_jax.evaluation.block_sums import BlockSums, subtract_runs
from charlm_jax.evaluation.bootstrap import (
    Difference,
    Interval,
    difference,
    mean_interval,
    std_over_seeds,
)
from charlm_jax.evaluation.families import BestComparison, compare_with_best
from charlm_jax.sweeps.tuning import Tuned
from experiments.block_records import Sums, from_sums
from experiments.run_measures import characters_to_reach
from experiments.sequence_length.arms import Arm, Preset
from experiments.sequence_length.records import RULES, RunRecord, TextRecord
from experiments.sequence_length.runs import PlannedRun, mean_speed


class ArmResult(NamedTuple):
    """Results of one arm; losses are in nats per character, on the third part unless said.

    Attributes:
      arm: the arm.
      seeds: seeds of the runs that count: all of the preset, or the first alone.
      rate: learning rate.
      parameters: number of parameters of the model.
      characters: characters read by one training, at most.
      seconds: training time on an idle machine.
      flops: floating-point operations in the matrix products of one training.
      best_characters: characters read by the best checkpoint of each run.
      second: loss of the first run on the second part, the state carried on. The best length is
        chosen by it, since the first run of every arm was chosen among equally many.
      losses: mean loss by rule (`window` or `stream`).
      spread: standard deviation over seeds of the `stream` loss; None for one run.
      cold_start: window loss less stream loss, of the same runs and characters.
      less_ngram: loss less that of the n-gram, by rule.
      by_seed: stream loss of every run on record less that of the n-gram, with intervals over the
        text.
      to_reach_ngram: characters after which each run had the n-gram's loss on the second part, by
        the rule that is watched while it trains; None for a run that never had.
      by_class: stream loss by kind of character.
      by_place: loss by number of characters read before.
      by_context: change -> n -> loss with all but the nearest n characters changed; one run.
      effective: change -> effective context; one run.
      gradients: distance -> mean norm of the gradient; one run.
      quality: measures of generated text; one run.
      curves: characters read and loss on the second part while training, of each run.
    """

    arm: Arm
    seeds: tuple[int, ...]
    rate: float
    parameters: int
    characters: int
    seconds: float
    flops: float
    best_characters: tuple[int, ...]
    second: float
    losses: Mapping[str, Interval]
    spread: float | None
    cold_start: Interval
    less_ngram: Mapping[str, Difference]
    by_seed: tuple[Difference, ...]
    to_reach_ngram: tuple[int | None, ...]
    by_class: Mapping[str, Interval]
    by_place: Mapping[str, Interval]
    by_context: Mapping[str, Mapping[int, Interval]]
    effective: Mapping[str, ContextReach]
    gradients: Mapping[str, float]
    quality: Mapping[str, Any]
    curves: Sequence[Sequence[tuple[int, float]]]

    @property
    def seconds_to_reach_ngram(self) -> tuple[float | None, ...]:
        """Training time after which each run had the n-gram's loss."""
        per_character = self.seconds / self.characters
        return tuple(None if x is None else x * per_character for x in self.to_reach_ngram)


class Family(NamedTuple):
    """Arms that are compared with the best of them, by their stream losses.

    Attributes:
      name: what the arms have in common.
      arms: the arms.
      comparison: differences from the best, with intervals that hold all at once.
    """

    name: str
    arms: tuple[Arm, ...]
    comparison: BestComparison

    @property
    def best(self) -> Arm:
        """The arm with the lowest loss on the second part."""
        return self.arms[self.comparison.best]

    @property
    def as_good(self) -> tuple[Arm, ...]:
        """Arms that are not worse than the best, and the best itself."""
        return tuple(self.arms[index] for index in self.comparison.as_good)


class Results(NamedTuple):
    """All results of a preset.

    Attributes:
      preset: size of the study.
      text: the text and its simple predictors.
      speeds: characters per second in training, by model and length.
      tuned: search of each arm's learning rate.
      arms: results of every arm of which a run is on record.
      families: fixed lengths of one model, state and budget.
      schedules: the best fixed length and the schedules of several, of one model and budget. Runs
        that were chosen among several learning rates are left out where there are others.
      carried: stream loss with carried state less that with reset state, by model and length. The
        intervals of a model hold all at once (Bonferroni).
      by_class: stream loss of the shortest length less that of the best, by kind of character, of
        every family. The intervals of a family hold all at once (Bonferroni).
    """

    preset: Preset
    text: TextRecord
    speeds: Mapping[str, float]
    tuned: Mapping[Arm, Tuned]
    arms: Mapping[Arm, ArmResult]
    families: Sequence[Family]
    schedules: Sequence[Family]
    carried: Mapping[tuple[str, int], Difference]
    by_class: Mapping[str, Mapping[str, Difference]]

    @property
    def at_edge(self) -> list[Arm]:
        """Arms whose learning rate is the lowest or the highest that was tried, if several were."""
        if self.preset.rates:
            return []
        return [arm for arm, tuned in self.tuned.items() if tuned.is_at_edge]

    @property
    def effort(self) -> str:
        """Effort of the search of each arm."""
        effort = self.preset.effort
        rates = f"{effort.rates} learning rates"
        if self.preset.rates:
            rates = "one learning rate, which was searched on another text"
        return f"{rates}, {effort.characters:,} characters in each run"


def build_results(
    preset: Preset,
    text: TextRecord,
    speeds: Mapping[str, float],
    tuned: Mapping[Arm, Tuned],
    runs: Mapping[PlannedRun, RunRecord],
) -> Results:
    """Compute all results from the records.

    Args:
      preset: size of the study.
      text: record of the text.
      speeds: characters per second in training, by model and length.
      tuned: search of each arm's learning rate.
      runs: records of the runs.
    """
    records: dict[Arm, list[RunRecord]] = {}
    for run, record in runs.items():
        records.setdefault(run.arm, []).append(record)
    count = len(preset.effort.seeds)
    arms = {arm: _counted(records[arm], count) for arm in preset.arms() if arm in records}
    streams = {arm: _stream(found, text) for arm, found in arms.items()}
    results = {arm: _arm_result(found, records[arm], text, speeds) for arm, found in arms.items()}
    fixed = [arm for arm in arms if len(arm.lengths) == 1]
    keys = list(dict.fromkeys((arm.model, arm.state, arm.budget) for arm in fixed))
    families = {
        key: _family(
            f"{key[0]}, {key[1]} state, equal {key[2]}",
            [arm for arm in fixed if (arm.model, arm.state, arm.budget) == key],
            results,
            streams,
        )
        for key in keys
    }
    schedules = []
    for (model, state, budget), family in families.items():
        several = [
            arm
            for arm in arms
            if len(arm.lengths) > 1 and (arm.model, arm.state, arm.budget) == (model, state, budget)
        ]
        if several:
            name = f"{family.name}: schedules and the best fixed length"
            compared = [family.best, *several]
            fresh = {arm: _stream(_fresh(arm, arms[arm]), text) for arm in compared}
            schedules.append(_family(name, compared, results, fresh, best=0))
    return Results(
        preset=preset,
        text=text,
        speeds=speeds,
        tuned=tuned,
        arms=results,
        families=list(families.values()),
        schedules=schedules,
        carried=_carried_less_reset(streams),
        by_class={
            family.name: _by_class(arms, text, family)
            for family in families.values()
            if family.best != min(family.arms, key=lambda arm: arm.length)
        },
    )


def _counted(records: Sequence[RunRecord], count: int) -> Sequence[RunRecord]:
    """Return the records of all seeds, or the first: two of three say little of how seeds vary."""
    return records if len(records) == count else records[:1]


def _arm_result(
    records: Sequence[RunRecord],
    recorded: Sequence[RunRecord],
    text: TextRecord,
    speeds: Mapping[str, float],
) -> ArmResult:
    first = records[0]
    stream = _stream(records, text)
    window = from_sums([record.window for record in records], text.counts)
    ngrams = {rule: from_sums([text.ngram[rule]], text.counts) for rule in RULES}
    goal = text.ngram_second[first.arm.watched_rule]
    reached = [characters_to_reach(record.curve, goal) for record in records]
    by_context = {
        change: {int(n): from_sums([sums], text.target_counts) for n, sums in by_n.items()}
        for change, by_n in (first.by_context or {}).items()
    }
    return ArmResult(
        arm=first.arm,
        seeds=tuple(record.seed for record in records),
        rate=first.rate,
        parameters=first.parameters,
        characters=first.characters,
        seconds=first.characters / mean_speed(first.arm, speeds),
        flops=first.flops,
        best_characters=tuple(record.best_characters for record in records),
        second=first.second["stream"],
        losses={"window": mean_interval(window), "stream": mean_interval(stream)},
        spread=std_over_seeds(stream),
        cold_start=mean_interval(subtract_runs(window, stream)),
        less_ngram={
            "window": difference(window, ngrams["window"]),
            "stream": difference(stream, ngrams["stream"]),
        },
        by_seed=tuple(difference(_stream([record], text), ngrams["stream"]) for record in recorded),
        to_reach_ngram=tuple(reached),
        by_class=_intervals(records, text.class_counts, lambda record: record.by_class),
        by_place=_intervals(records, text.place_counts, lambda record: record.by_place),
        by_context={
            change: {n: mean_interval(sums) for n, sums in by_n.items()}
            for change, by_n in by_context.items()
        },
        effective={change: effective_context_interval(by_n) for change, by_n in by_context.items()},
        gradients=first.gradients or {},
        quality=first.quality or {},
        curves=[record.curve for record in records],
    )


def _fresh(arm: Arm, records: Sequence[RunRecord]) -> Sequence[RunRecord]:
    """Return the runs that were not chosen among several learning rates; all if there are none."""
    return records[1:] or records if arm == arm.tuned else records


def _stream(records: Sequence[RunRecord], text: TextRecord) -> BlockSums:
    return from_sums([record.stream for record in records], text.counts)


def _intervals(
    records: Sequence[RunRecord],
    counts: Mapping[str, Sequence[int]],
    sums: Callable[[RunRecord], Mapping[str, Sums]],
) -> dict[str, Interval]:
    return {
        name: mean_interval(from_sums([sums(record)[name] for record in records], counts[name]))
        for name in counts
    }


def _family(
    name: str,
    arms: Sequence[Arm],
    results: Mapping[Arm, ArmResult],
    streams: Mapping[Arm, BlockSums],
    *,
    best: int | None = None,
) -> Family:
    if best is None:
        best = min(range(len(arms)), key=lambda index: results[arms[index]].second)
    comparison = compare_with_best(
        [streams[arm] for arm in arms],
        best=best,
        # With several runs, the second part and the third share the luck of their seeds.
        is_choice_independent=all(len(results[arm].seeds) == 1 for arm in arms),
        is_paired_by_run=False,
    )
    return Family(name, tuple(arms), comparison)


def _carried_less_reset(streams: Mapping[Arm, BlockSums]) -> dict[tuple[str, int], Difference]:
    pairs = [
        (arm, arm._replace(state="reset"))
        for arm in streams
        if arm.state == "carried" and arm._replace(state="reset") in streams
    ]
    looked_at = {model: sum(arm.model == model for arm, _ in pairs) for model, *_ in streams}
    return {
        (arm.model, arm.length): difference(
            streams[arm], streams[other], level=1 - 0.05 / looked_at[arm.model]
        )
        for arm, other in pairs
    }


def _by_class(
    arms: Mapping[Arm, Sequence[RunRecord]], text: TextRecord, family: Family
) -> dict[str, Difference]:
    shortest = min(family.arms, key=lambda arm: arm.length)

    def losses(arm: Arm, name: str) -> BlockSums:
        return from_sums([record.by_class[name] for record in arms[arm]], text.class_counts[name])

    compare = functools.partial(difference, level=1 - 0.05 / len(text.class_counts))
    return {
        name: compare(losses(shortest, name), losses(family.best, name))
        for name in text.class_counts
    }
