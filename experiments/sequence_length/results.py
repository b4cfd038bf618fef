"""Results of the study, computed from its records; nothing is trained or scored here."""

import functools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
from experiments.sequence_length.runs import PlannedRun, training_seconds
from experiments.tuned_arms import RunCounts, describe_gaps, is_rate_at_edge


class ArmResult(NamedTuple):
    """Results of one arm: of its first run, unless said.

    Losses are in nats per character, on the third part unless said.

    Attributes:
      arm: the arm.
      seeds: seeds of the runs on record, the first first.
      rate: learning rate.
      parameters: number of parameters of the model.
      characters: characters read by one training, at most.
      seconds: training time on an idle machine.
      flops: floating-point operations in the matrix products of one training.
      best_characters: characters read by the best checkpoint of every run on record.
      second: loss on the second part, the state carried on. The best length is chosen by it, since
        the first run of every arm was chosen among equally many.
      losses: loss by rule (`window` or `stream`).
      other_seeds: mean `stream` loss of the other seeds, with an interval over text and seeds; None
        before all are on record.
      spread: standard deviation over the other seeds of the `stream` loss; None for fewer than two.
      cold_start: window loss less stream loss, on the same characters.
      less_ngram: loss less that of the n-gram, by rule. The intervals of a rule hold for the arms
        of the same model, state and budget at once (Bonferroni).
      by_seed: stream loss of every run on record less that of the n-gram, with intervals over the
        text.
      watched_context: length of the windows by which runs are watched while they train.
      to_reach_ngram: characters after which the watched loss of every run on record was at most
        that of the n-gram; None for a run where it never was.
      seconds_to_reach_ngram: training time after which it was.
      by_class: stream loss by kind of character.
      by_place: loss by number of characters read before.
      by_context: change -> n -> loss with all but the nearest n characters changed.
      effective: change -> effective context.
      gradients: distance -> mean norm of the gradient.
      quality: measures of generated text.
      curve: characters read and watched loss.
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
    other_seeds: Interval | None
    spread: float | None
    cold_start: Interval
    less_ngram: Mapping[str, Difference]
    by_seed: tuple[Difference, ...]
    watched_context: int
    to_reach_ngram: tuple[int | None, ...]
    seconds_to_reach_ngram: tuple[float | None, ...]
    by_class: Mapping[str, Interval]
    by_place: Mapping[str, Interval]
    by_context: Mapping[str, Mapping[int, Interval]]
    effective: Mapping[str, ContextReach]
    gradients: Mapping[str, float]
    quality: Mapping[str, Any]
    curve: Sequence[tuple[int, float]]


class Family(NamedTuple):
    """Arms that are compared with the best of them, by their stream losses.

    Attributes:
      name: what the arms have in common.
      arms: the arms.
      comparison: differences from the best, with intervals that hold all at once.
      loss: loss of the best.
    """

    name: str
    arms: tuple[Arm, ...]
    comparison: BestComparison
    loss: Interval

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

    First runs are compared with first runs, each chosen among equally many, and other seeds with
    other seeds. The intervals of first runs are over the text only.

    Attributes:
      preset: size of the study.
      text: the text and its simple predictors.
      speeds: characters per second in training, by model and length.
      tuned: search of each arm's learning rate.
      counts: numbers of the planned runs of every arm of which one is on record.
      arms: results of every arm whose first run is on record.
      families: fixed lengths of one model, state and budget: first runs, and the other seeds of the
        arms that have them.
      schedules: the best fixed length and the schedules of several, of one model and budget.
      carried: stream loss with carried state less that with reset state, by runs (`first seed` or
        `other seeds`), model and length. The intervals of the same runs and model hold all at once
        (Bonferroni).
      by_class: stream loss of the shortest length less that of the best, by kind of character, of
        every family of first runs. The intervals of a family hold all at once (Bonferroni).
    """

    preset: Preset
    text: TextRecord
    speeds: Mapping[str, float]
    tuned: Mapping[Arm, Tuned]
    counts: Mapping[Arm, RunCounts]
    arms: Mapping[Arm, ArmResult]
    families: Sequence[Family]
    schedules: Sequence[Family]
    carried: Mapping[str, Mapping[tuple[str, int], Difference]]
    by_class: Mapping[str, Mapping[str, Difference]]

    @property
    def gaps(self) -> list[str]:
        """Sentences on what of the plan is not in the results."""
        one = {arm.name: RunCounts(1) for arm in self.arms}
        gaps = describe_gaps([arm.name for arm in self.preset.arms()], one)
        partial = [
            count.label(arm.name)
            for arm, count in self.counts.items()
            if arm in self.arms and not count.is_whole
        ]
        if partial:
            gaps.append(f"Other seeds count once all are on record; not so: {'; '.join(partial)}.")
        return gaps

    @property
    def at_edge(self) -> list[Arm]:
        """Arms whose best learning rate is the lowest or the highest tried, if several were.

        A rate that is better than the next by at most 0.002 nats does not count.
        """
        if self.preset.rates:
            return []
        return [arm for arm, tuned in self.tuned.items() if is_rate_at_edge(tuned)]

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
    counts: Mapping[Arm, RunCounts],
) -> Results:
    """Compute all results from the records.

    Args:
      preset: size of the study.
      text: record of the text.
      speeds: characters per second in training, by model and length.
      tuned: search of each arm's learning rate.
      runs: records of the runs.
      counts: numbers of the planned runs of every arm of which one is on record.
    """
    by_arm: dict[Arm, dict[int, RunRecord]] = {}
    for run, record in runs.items():
        by_arm.setdefault(run.arm, {})[run.seed] = record
    first_seed, *other_seeds = preset.effort.seeds
    records = {
        arm: [by_arm[arm][seed] for seed in preset.effort.seeds if seed in by_arm[arm]]
        for arm in preset.arms()
        if first_seed in by_arm.get(arm, {})
    }
    first = {arm: _stream(found[:1], text) for arm, found in records.items()}
    others = {
        arm: _stream(found[1:], text)
        for arm, found in records.items()
        if other_seeds and len(found) == len(preset.effort.seeds)
    }
    compared = Counter((arm.model, arm.state, arm.budget) for arm in records)
    results = {
        arm: _arm_result(
            found,
            others.get(arm),
            preset,
            text,
            speeds,
            level=1 - 0.05 / compared[arm.model, arm.state, arm.budget],
        )
        for arm, found in records.items()
    }
    families = _families(results, first, "")
    # The first run of a fixed length is chosen among several, that of a schedule is not.
    equal, runs_compared = (others, ", other seeds") if other_seeds else (first, "")
    return Results(
        preset=preset,
        text=text,
        speeds=speeds,
        tuned=tuned,
        counts=counts,
        arms=results,
        families=[
            *families,
            *(x for x in _families(results, others, ", other seeds") if len(x.arms) > 1),
        ],
        schedules=_schedules(results, equal, runs_compared),
        carried={
            name: found
            for name, streams in (("first seed", first), ("other seeds", others))
            if (found := _carried_less_reset(streams))
        },
        by_class={
            family.name: _by_class(records, text, family)
            for family in families
            if family.best != min(family.arms, key=lambda arm: arm.length)
        },
    )


def _arm_result(
    records: Sequence[RunRecord],
    others: BlockSums | None,
    preset: Preset,
    text: TextRecord,
    speeds: Mapping[str, float],
    *,
    level: float,
) -> ArmResult:
    """Compute the results of an arm.

    Args:
      records: its runs on record, the first seed's first.
      others: losses of the other seeds; None before all are on record.
      preset: size of the study.
      text: the text and its simple predictors.
      speeds: characters per second in training, by model and length.
      level: confidence level of the differences from the n-gram.
    """
    first = records[0]
    seconds = functools.partial(training_seconds, first.arm, speeds, budget=first.characters)
    stream = _stream([first], text)
    window = from_sums([first.window], text.counts)
    ngrams = {rule: from_sums([text.ngram[rule]], text.counts) for rule in RULES}
    watched_context = preset.watched_context(first.arm)
    goal = text.ngram_watched[str(watched_context)]
    to_reach = [characters_to_reach(record.curve, goal) for record in records]
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
        seconds=seconds(first.characters),
        flops=first.flops,
        best_characters=tuple(record.best_characters for record in records),
        second=first.second["stream"],
        losses={"window": mean_interval(window), "stream": mean_interval(stream)},
        other_seeds=None if others is None else mean_interval(others),
        spread=None if others is None else std_over_seeds(others),
        cold_start=mean_interval(subtract_runs(window, stream)),
        less_ngram={
            "window": difference(window, ngrams["window"], level=level),
            "stream": difference(stream, ngrams["stream"], level=level),
        },
        by_seed=tuple(difference(_stream([record], text), ngrams["stream"]) for record in records),
        watched_context=watched_context,
        to_reach_ngram=tuple(to_reach),
        seconds_to_reach_ngram=tuple(None if x is None else seconds(x) for x in to_reach),
        by_class=_intervals(first.by_class, text.class_counts),
        by_place=_intervals(first.by_place, text.place_counts),
        by_context={
            change: {n: mean_interval(sums) for n, sums in by_n.items()}
            for change, by_n in by_context.items()
        },
        effective={change: effective_context_interval(by_n) for change, by_n in by_context.items()},
        gradients=first.gradients or {},
        quality=first.quality or {},
        curve=first.curve,
    )


def _stream(records: Sequence[RunRecord], text: TextRecord) -> BlockSums:
    return from_sums([record.stream for record in records], text.counts)


def _intervals(
    sums: Mapping[str, Sums], counts: Mapping[str, Sequence[int]]
) -> dict[str, Interval]:
    return {name: mean_interval(from_sums([sums[name]], counts[name])) for name in counts}


def _grouped(arms: Iterable[Arm]) -> Iterator[tuple[str, list[Arm], list[Arm]]]:
    """Yield the name of a model, state and budget, its fixed lengths and its schedules."""
    groups: dict[tuple[str, str, str], list[Arm]] = {}
    for arm in arms:
        groups.setdefault((arm.model, arm.state, arm.budget), []).append(arm)
    for (model, state, budget), found in groups.items():
        fixed = [arm for arm in found if len(arm.lengths) == 1]
        name = f"{model}, {state} state, equal {budget}"
        yield name, fixed, [arm for arm in found if arm not in fixed]


def _families(
    results: Mapping[Arm, ArmResult], streams: Mapping[Arm, BlockSums], runs: str
) -> list[Family]:
    """Return the families of fixed lengths.

    Args:
      results: results of all arms.
      streams: losses that are compared, of some arms.
      runs: end of the names, which says of which runs they are.
    """
    return [
        _family(f"{name}{runs}", fixed, results, streams)
        for name, fixed, _ in _grouped(arm for arm in results if arm in streams)
        if fixed
    ]


def _schedules(
    results: Mapping[Arm, ArmResult], streams: Mapping[Arm, BlockSums], runs: str
) -> list[Family]:
    """Return the families of the best fixed length and the schedules; see `_families`."""
    families = []
    for name, fixed, schedules in _grouped(arm for arm in results if arm in streams):
        if fixed and schedules:
            best = min(fixed, key=lambda arm: results[arm].second)
            name += f"{runs}: schedules and the best fixed length"
            families.append(_family(name, [best, *schedules], results, streams, best=0))
    return families


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
        is_choice_independent=True,  # by the first run, on the second part
        is_paired_by_run=False,
    )
    return Family(name, tuple(arms), comparison, mean_interval(streams[arms[best]]))


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
    records: Mapping[Arm, Sequence[RunRecord]], text: TextRecord, family: Family
) -> dict[str, Difference]:
    shortest = min(family.arms, key=lambda arm: arm.length)

    def losses(arm: Arm, name: str) -> BlockSums:
        return from_sums([records[arm][0].by_class[name]], text.class_counts[name])

    compare = functools.partial(difference, level=1 - 0.05 / len(text.class_counts))
    return {
        name: compare(losses(shortest, name), losses(family.best, name))
        for name in text.class_counts
    }
