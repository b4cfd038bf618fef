"""Results of the skills study: comparisons, tables and the figure."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from charlm_jax.core.errors import CharlmError
from charlm_jax.core.json_files import to_jsonable
from charlm_jax.data.skills import SkillSource
from charlm_jax.data.synthetic import parse_source
from charlm_jax.evaluation.block_sums import BlockSums
from charlm_jax.evaluation.bootstrap import Interval, mean_interval
from charlm_jax.evaluation.families import BestComparison, compare_with_best
from charlm_jax.report.figures.base import save_figure
from charlm_jax.report.figures.panels import draw_heat_map
from experiments.block_records import from_sums
from experiments.markdown import table
from experiments.recorded_training import Record
from experiments.results_folder import write_results_folder
from experiments.skills.arms import FIRST_PLACES, SEQUENCE_LENGTH, Preset, arm_name
from experiments.tuned_arms import ArmRuns, RunCounts, describe_gaps, is_rate_at_edge

TITLE = "# Which layers learn which skill? Tables"
FIGURE = "skills.png"
LEARNT_SHARE = 0.05
FEWEST_PLACES = 3  # ranges of places for which shares are listed
_LEAST_NATS = 0.01  # per answer, left by the last character alone; a share of less is noise
# Fields that are equal for all models.
_OF_TEXT = ("fingerprint", "best_loss", "answers", "stream_answers", "place_counts")


class SkillResult(NamedTuple):
    """Result of one model on one skill.

    A share is a loss above the best in nats per answer, divided by that of the best predictor that
    knows the last character alone, on the same answers: 0 is a model that has the skill, 1 one that
    has learnt nothing.

    Attributes:
      share: mean share over runs, in windows of the training length.
      stream_same: share on the same answers with the state carried on.
      stream: share on all answers that count with the state carried on.
      shares: share of every run, in windows.
      runs: number of runs; means are over the finished ones.
      parameters: number of parameters.
      rate: learning rate.
      is_at_edge: whether the rate is the lowest or highest tried, and better than the next.
      by_place: loss above the best in nats per answer, in windows, by place of the answer in its
        episode, as `5-6`.
    """

    share: Interval
    stream_same: Interval
    stream: Interval
    shares: tuple[float, ...]
    runs: RunCounts
    parameters: int
    rate: float
    is_at_edge: bool
    by_place: Mapping[str, float]

    @property
    def is_learnt(self) -> bool:
        """True if the interval of the share lies below 5 %, and no run is left out."""
        return self.share.high < LEARNT_SHARE and self.runs.is_whole

    @property
    def learnt(self) -> int:
        """Number of runs whose share lies below 5 %."""
        return sum(share < LEARNT_SHARE for share in self.shares)


class Reference(NamedTuple):
    """Answers of a skill that count, and the predictor that knows the last character alone.

    Its losses are above the best, in nats per answer.

    Attributes:
      answers: number of answers that count in windows of the training length.
      stream_answers: number of answers that count with the state carried on.
      last: loss of the predictor in windows.
      stream_last: the same with the state carried on.
      last_by_place: loss in windows by place of the answer in its episode, as `5-6`.
    """

    answers: int
    stream_answers: int
    last: float
    stream_last: float
    last_by_place: Mapping[str, float]


class Results(NamedTuple):
    """All results.

    Attributes:
      preset: size of the study.
      skills: task -> model -> result.
      references: task -> number of answers, and the predictor whose loss is a share of 1.
      comparisons: task -> comparison of the models with the best, in the order of `skills`. The
        intervals of all skills hold at once (Bonferroni).
    """

    preset: Preset
    skills: Mapping[str, Mapping[str, SkillResult]]
    references: Mapping[str, Reference]
    comparisons: Mapping[str, BestComparison]

    @property
    def gaps(self) -> list[str]:
        """Sentences on what of the plan is not in the results."""
        return describe_gaps(
            [f"{task}, {name}" for task in self.preset.tasks for name in self.preset.layers],
            {
                f"{task}, {name}": found.runs
                for task, by_name in self.skills.items()
                for name, found in by_name.items()
            },
        )


def build_results(preset: Preset, runs: Mapping[str, ArmRuns]) -> Results:
    """Compute the results from the records.

    Args:
      preset: size of the study.
      runs: arms of which a run is on record, by name.

    Raises:
      CharlmError: the records of a skill are of different texts, or a record is damaged.
    """
    skills: dict[str, dict[str, SkillResult]] = {}
    references, comparisons = {}, {}
    for task in preset.tasks:
        found = {name: runs.get(arm_name(task, name)) for name in preset.layers}
        arms = {name: arm for name, arm in found.items() if arm is not None}
        if not arms:
            continue
        first = _common_text(list(arms.values()))
        references[task] = _reference(first)
        sums = {name: _sums(arm, "excess", first["answers"]) for name, arm in arms.items()}
        skills[task] = {
            name: _skill_result(arm, sums[name], references[task]) for name, arm in arms.items()
        }
        groups = list(sums.values())
        comparisons[task] = compare_with_best(
            groups,
            best=min(range(len(groups)), key=lambda index: groups[index].mean),
            is_choice_independent=False,
            is_paired_by_run=False,
            level=1 - 0.05 / len(preset.tasks),
        )
    return Results(preset, skills, references, comparisons)


def _common_text(arms: Sequence[ArmRuns]) -> Record:
    """Return the first record of a skill, which has the text of all.

    Raises:
      CharlmError: a record is of another text.
    """
    first, *others = [
        (f"{found.arm.name}, seed {seed}", record)
        for found in arms
        for seed, record in found.records.items()
    ]
    for name, record in others:
        if any(record[field] != first[1][field] for field in _OF_TEXT):
            raise CharlmError(
                f"the records of {first[0]}, and {name}, are of different texts: remove those of "
                "one, or name another folder with --records"
            )
    return first[1]


def _reference(record: Record) -> Reference:
    return Reference(
        answers=sum(record["answers"]),
        stream_answers=sum(record["stream_answers"]),
        last=from_sums([record["last_character"]], record["answers"]).mean,
        stream_last=from_sums([record["stream_last_character"]], record["stream_answers"]).mean,
        last_by_place={
            place: from_sums([sums], record["place_counts"][place]).mean
            for place, sums in record["last_character_by_place"].items()
        },
    )


def _sums(arm: ArmRuns, field: str, counts: Sequence[int]) -> BlockSums:
    return from_sums([record[field] for record in arm.records.values()], counts)


def _skill_result(arm: ArmRuns, excess: BlockSums, reference: Reference) -> SkillResult:
    records = list(arm.records.values())
    first = records[0]
    stream = _sums(arm, "stream", first["stream_answers"])
    stream_same = _sums(arm, "stream_same", first["answers"])
    return SkillResult(
        share=_divided(mean_interval(excess), reference.last),
        stream_same=_divided(mean_interval(stream_same), reference.last),
        stream=_divided(mean_interval(stream), reference.stream_last),
        shares=tuple(float(mean) / reference.last for mean in excess.means_S),
        runs=arm.counts,
        parameters=first["parameters"],
        rate=arm.tuned.value,
        is_at_edge=is_rate_at_edge(arm.tuned),
        by_place={
            place: from_sums([record["by_place"][place] for record in records], counts).mean
            for place, counts in first["place_counts"].items()
        },
    )


def _divided(interval: Interval, whole: float) -> Interval:
    return Interval(*(x / whole for x in interval))


def write_results(results: Results, folder: Path, command: str) -> None:
    """Write results.json, tables.md and the figure, and print the tables.

    Args:
      results: the results.
      folder: folder to write into.
      command: command line of the study.
    """
    write_results_folder(
        folder,
        values=to_json(results, command),
        draw=lambda folder: _draw(results, folder / FIGURE),
        text=tables(results, command),
    )


def to_json(results: Results, command: str) -> dict[str, Any]:
    """Return the content of results.json."""
    return {
        "command": command,
        "effort_per_arm": results.preset.effort.describe(),
        "gaps": results.gaps,
        "references": to_jsonable(results.references),
        "skills": to_jsonable(results.skills),
        "comparisons": to_jsonable(results.comparisons),
    }


def tables(results: Results, command: str) -> str:
    """Return the contents of tables.md."""
    found = [x for by_name in results.skills.values() for x in by_name.values()]
    edge, sizes = [x.is_at_edge for x in found], [x.parameters for x in found]
    effort, tasks = results.preset.effort, len(results.preset.tasks)
    seeds = " and seeds" if len(effort.seeds) > 1 else ", of one run each"
    parts = [
        TITLE,
        f"    {command}",
        "Loss above that of the best predictor, as a share of what a predictor that knows the last "
        "character alone has above it: 0 for a model that has the skill, 1 for one that has learnt "
        f"nothing of it. It is the loss on the answers in windows of {SEQUENCE_LENGTH} characters, "
        f"with 95 % intervals over blocks of the text{seeds}. Bold: learnt, which is to say that "
        f"the interval lies below {LEARNT_SHARE}, and no seed is left out; every model and skill "
        "is judged by an interval of its own, so that one verdict in forty may be wrong where a "
        f"share is just {LEARNT_SHARE}. The models have {min(sizes):,} to {max(sizes):,} "
        "parameters. The first seed of each model is "
        f"the best of {effort.rates} runs with different learning rates.",
        *results.gaps,
        _table(results, _share),
        *_notes(results),
        "Number of answers that count, in windows and with the state carried on, and the loss "
        "above the best of the predictor that knows the last character alone, in nats per answer. "
        "An answer counts if the end before its episode is read too; those that windows leave out "
        "are late in their episodes.",
        _references(results),
        "## Who learns which skill",
        f"A model is said to come closest if it is better than every other, over {tasks} skills at "
        "once.",
        "\n".join(f"- {task}: {_verdict(results, task)}." for task in results.skills),
        "## With the state carried on",
        "The share on the same answers if the test text is read in one go; attention keeps the "
        f"last {SEQUENCE_LENGTH} characters. The first table differs in the state alone.",
        _table(results, lambda found: found.stream_same.describe(3)),
        "The share on all answers that count with the state carried on, late ones too:",
        _table(results, lambda found: found.stream.describe(3)),
        *_by_place(results),
        "## Runs that have learnt the skill",
        f"Number of runs whose share is below {LEARNT_SHARE}.",
        _table(results, lambda found: found.runs.label(f"{found.learnt} of {found.runs.finished}")),
        "## Effort",
        f"{effort.describe()}, for each model and skill. In {sum(edge)} of {len(edge)} searches "
        "the chosen rate is the lowest or the highest tried, and better than the next by more than "
        "0.002 nats per answer.",
        _table(results, _rate),
    ]
    return "\n\n".join(parts) + "\n"


def _notes(results: Results) -> list[str]:
    """Return how to read the shares of some skills."""
    notes = []
    if "recall" in results.skills:
        source = parse_source(results.preset.corpus("recall"))
        assert isinstance(source, SkillSource)
        pairs, values = (int(source.parameters[name]) for name in ("pairs", "values"))
        often, left = unbound_shares(pairs=pairs, values=values)
        notes.append(
            "recall: a model that knows how often each value was listed, but not with which key, "
            f"has a share of {often:.2f}, and of {left:.2f} if it leaves out those that were asked "
            "for."
        )
    if "parity" in results.skills:
        notes.append(
            f"parity: answers after {FIRST_PLACES['parity'] - 2} bits or more count; most shorter "
            "strings are in the training text too, and few of these."
        )
    if "counting" in results.skills:
        notes.append(
            "counting: all episodes are in the training text; it shows lengths as trained, and no "
            "extrapolation."
        )
    return ["\n".join(f"- {note}" for note in notes)] if notes else []


def unbound_shares(*, pairs: int, values: int) -> tuple[float, float]:
    """Return the expected shares in recall of models that know the values without their keys.

    Of n pairs, c have one of the v values with a binomial probability P(c). The probability of a
    value in an answer is c / n for a model that knows how often each was listed, which has a loss
    of log n - v / n * sum P(c) c log c. If it leaves out the values that were asked for, all orders
    of the n values are equally probable: (log n! - v * sum P(c) log c!) / n. The last character
    alone leaves log v.

    Args:
      pairs: number of pairs n.
      values: number of values v, at least 2.

    Returns:
      Shares of the former and the latter model.

    >>> [round(share, 3) for share in unbound_shares(pairs=8, values=10)]
    [0.716, 0.479]
    """
    chances = [
        math.comb(pairs, c) * (values - 1) ** (pairs - c) / values**pairs for c in range(pairs + 1)
    ]
    kept = sum(p * c * math.log(c) for c, p in enumerate(chances) if c)
    orders = sum(p * math.lgamma(c + 1) for c, p in enumerate(chances))
    often = math.log(pairs) - values / pairs * kept
    left = (math.lgamma(pairs + 1) - values * orders) / pairs
    return often / math.log(values), left / math.log(values)


def _by_place(results: Results) -> list[str]:
    """Return tables of shares by place in the episode, of skills whose answers have several."""
    parts = [
        "## By place in the episode",
        f"The share in windows, by the place of the answer in its episode, from 1; - if the last "
        f"character alone leaves less than {_LEAST_NATS} nats per answer.",
    ]
    for task, reference in results.references.items():
        places = reference.last_by_place
        if len(places) >= FEWEST_PLACES:
            rows = (
                [
                    found.runs.label(name),
                    *(
                        f"{found.by_place[place] / nats:z.3f}" if nats >= _LEAST_NATS else "-"
                        for place, nats in places.items()
                    ),
                ]
                for name, found in results.skills[task].items()
            )
            parts.append(table([task, *map(_place, places)], rows))
    return parts if len(parts) > 2 else []


def _place(name: str) -> str:
    """Return a range of places as it is written, `5` for `5-5`."""
    first, last = name.split("-")
    return first if first == last else name


def _models(results: Results) -> list[str]:
    return [x for x in results.preset.layers if any(x in y for y in results.skills.values())]


def _table(results: Results, cell: Callable[[SkillResult], str]) -> str:
    rows = (
        [
            name,
            *(
                cell(by_name[name]) if name in by_name else ""
                for by_name in results.skills.values()
            ),
        ]
        for name in _models(results)
    )
    return table(["model", *results.skills], rows)


def _references(results: Results) -> str:
    rows = [
        [
            task,
            *(f"{count:,}" for count in (found.answers, found.stream_answers)),
            *(f"{nats:.3f}" for nats in (found.last, found.stream_last)),
        ]
        for task, found in results.references.items()
    ]
    names = [f"{x}, {how}" for x in ("answers", "loss") for how in ("windows", "carried on")]
    return table(["skill", *names], rows)


def _share(found: SkillResult) -> str:
    text = found.runs.label(found.share.describe(3))
    return f"**{text}**" if found.is_learnt else text


def _rate(found: SkillResult) -> str:
    return f"{found.rate:g} ({found.parameters:,} parameters, seeds: {found.runs.describe()})"


def _verdict(results: Results, task: str) -> str:
    found, comparison = results.skills[task], results.comparisons[task]
    best = list(found)[comparison.best]
    learnt = [name for name, each in found.items() if each.is_learnt]
    partial = [x.runs.label(name) for name, x in found.items() if not x.runs.is_whole]
    rest = f"; on fewer seeds: {'; '.join(partial)}" if partial else ""
    if learnt:
        return f"learnt by {', '.join(learnt)}{rest}"
    if len(found) == 1:
        return f"not learnt by {found[best].runs.label(best)}, which alone is on record"
    if comparison.is_best and found[best].share.high < 1:
        return f"learnt by none of {len(found)}; {best} comes closest{rest}"
    return f"learnt by none of {len(found)}; none is clearly closer than all others{rest}"


def _draw(results: Results, path: Path) -> None:
    models = _models(results)
    shares = [
        [each[name].share.mean if name in each else np.nan for each in results.skills.values()]
        for name in models
    ]
    is_whole = all(x.runs.is_whole for each in results.skills.values() for x in each.values())
    figure = draw_heat_map(
        np.array(shares),
        rows=models,
        columns=list(results.skills),
        title="What is left to learn, by layer and skill: 0 is a model that has the skill, 1 one "
        f"that knows the last character alone\nabout {results.preset.parameters:,} parameters, "
        f"{results.preset.effort.characters:,} characters read in training"
        + ("" if is_whole else "; some means leave out seeds, see tables.md"),
        x_label="skill",
        y_label="layer",
        unit="share of the loss above the best",
    )
    save_figure(figure, path)
