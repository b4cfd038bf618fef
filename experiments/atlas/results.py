"""Results of the atlas: comparisons, tables and the figure."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from charlm_jax.analysis.effective_context import ContextReach, effective_context_interval
from charlm_jax.core.json_files import to_jsonable
from charlm_jax.evaluation.block_sums import BlockSums
from charlm_jax.evaluation.bootstrap import (
    Difference,
    Interval,
    mean_interval,
    std_over_seeds,
)
from charlm_jax.evaluation.families import BestComparison, compare_with_best
from charlm_jax.report.figures.base import InlineFigure, save_figure
from experiments.atlas.arms import REFERENCE, SEQUENCE_LENGTH, WINDOW, Preset
from experiments.atlas.speeds import ROUNDS, ModelSpeeds, Speed
from experiments.block_records import from_sums
from experiments.markdown import signed, table
from experiments.recorded_training import Record
from experiments.results_folder import write_results_folder
from experiments.run_measures import characters_to_reach
from experiments.tuned_arms import ArmRuns, RunCounts, describe_gaps, is_rate_at_edge

TITLE = "# Atlas of layers and update rules. Tables"
FIGURE = "atlas.png"
RULES = ("window", "stream")


class ArmResult(NamedTuple):
    """Result of one arm; losses are in nats per character, on the third part unless said.

    Attributes:
      model: name of the model.
      rule: name of the update rule; empty for the config's own.
      runs: number of runs; means are over the finished ones.
      parameters: number of parameters.
      rate: learning rate.
      is_at_edge: whether the rate is the lowest or highest tried, and better than the next.
      losses: mean loss by evaluation protocol, `window` or `stream`.
      spread: standard deviation over seeds of the `stream` loss; None for one run.
      second: mean loss on the second part, by which the best arm is chosen.
      effective: effective context, of the first run; None if update rules are compared.
      training: speed of training.
      decoding: speed of sampling one text.
      state_bytes: memory of a text's state.
      curves: characters read and loss on the second part, in windows, at each evaluation of each
        run.
    """

    model: str
    rule: str
    runs: RunCounts
    parameters: int
    rate: float
    is_at_edge: bool
    losses: Mapping[str, Interval]
    spread: float | None
    second: float
    effective: ContextReach | None
    training: Speed
    decoding: Speed
    state_bytes: int
    curves: tuple[tuple[tuple[int, float], ...], ...]


class Family(NamedTuple):
    """Arms that are compared with the best of them, by their `stream` losses.

    Attributes:
      name: what they have in common: the model if update rules are compared, else their kind.
      arms: names of the arms.
      comparison: differences from the best. The intervals of all families hold at once
        (Bonferroni).
    """

    name: str
    arms: tuple[str, ...]
    comparison: BestComparison

    def is_one_seed(self, arms: Mapping[str, ArmResult]) -> bool:
        """Return whether all arms have one run: the intervals are then over the text alone."""
        return all(arms[name].runs.finished == 1 for name in self.arms)


class Results(NamedTuple):
    """All results.

    Attributes:
      preset: size of the study.
      arms: results by name of the arm.
      families: the rules of each model if the preset has rules, else bare layers and stacks.
      commits: commits of the project that trained the runs, each once; empty text if unknown.
    """

    preset: Preset
    arms: Mapping[str, ArmResult]
    families: Sequence[Family]
    commits: Sequence[str]

    @property
    def is_one_seed(self) -> bool:
        """True if no comparison has a second run: the intervals are over the text alone."""
        return all(family.is_one_seed(self.arms) for family in self.families)

    @property
    def gaps(self) -> list[str]:
        """Sentences on what of the plan is not in the results."""
        return describe_gaps(
            [_name(*pair) for pair in self.preset.names().values()],
            {_name(arm.model, arm.rule): arm.runs for arm in self.arms.values()},
        )


def build_results(
    preset: Preset, runs: Mapping[str, ArmRuns], speeds: Mapping[str, ModelSpeeds]
) -> Results:
    """Compute the results from the records.

    Args:
      preset: size of the study.
      runs: arms of which a run is on record, by name.
      speeds: speeds and sizes of the models, by name of the arm.
    """
    arms: dict[str, ArmResult] = {}
    commits: set[str] = set()
    streams: dict[str, BlockSums] = {}
    for name, (model, rule) in preset.names().items():
        if name not in runs:
            continue
        records = list(runs[name].records.values())
        first, tuned = records[0], runs[name].tuned
        sums = {
            protocol: from_sums([record[protocol] for record in records], first["counts"])
            for protocol in RULES
        }
        streams[name] = sums["stream"]
        commits |= {record["commit"] for record in records}
        arms[name] = ArmResult(
            model=model,
            rule=rule,
            runs=runs[name].counts,
            parameters=first["parameters"],
            rate=tuned.value,
            is_at_edge=is_rate_at_edge(tuned),
            losses={protocol: mean_interval(x) for protocol, x in sums.items()},
            spread=std_over_seeds(sums["stream"]),
            second=float(np.mean([record["second"] for record in records])),
            effective=None if preset.rules else _effective(first),
            **speeds[name]._asdict(),
            curves=tuple(tuple(map(tuple, record["curve"])) for record in records),
        )
    by_family: dict[str, list[str]] = {}
    for name, arm in arms.items():
        by_family.setdefault(preset.family(arm.model), []).append(name)
    level = 1 - 0.05 / len({preset.family(model) for model in preset.models})
    families = [
        Family(name, tuple(members), _compare(members, arms, streams, level))
        for name, members in by_family.items()
    ]
    return Results(preset, arms, families, sorted(commits))


def _effective(record: Record) -> ContextReach:
    by_context = {
        int(n): from_sums([row], record["target_counts"]) for n, row in record["by_context"].items()
    }
    return effective_context_interval(by_context)


def _compare(
    names: Sequence[str],
    arms: Mapping[str, ArmResult],
    streams: Mapping[str, BlockSums],
    level: float,
) -> BestComparison:
    return compare_with_best(
        [streams[name] for name in names],
        best=min(range(len(names)), key=lambda index: arms[names[index]].second),
        is_choice_independent=all(arms[name].runs.finished == 1 for name in names),
        is_paired_by_run=False,
        level=level,
    )


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
        "commits": results.commits,
        "arms": to_jsonable(results.arms),
        "families": to_jsonable(results.families),
    }


def tables(results: Results, command: str) -> str:
    """Return the contents of tables.md."""
    preset = results.preset
    edge = [arm.is_at_edge for arm in results.arms.values()]
    seeds = "; nothing is known of other seeds" if results.is_one_seed else " and seeds"
    several = " of all families" if len(results.families) > 1 else ""
    parts = [
        TITLE,
        f"    {command}",
        f"Losses in nats per character on held-out text, with 95 % intervals over blocks of 1,000 "
        f"characters{seeds}. They do not cover the choice of the learning rate. `window`: the "
        f"state is reset every {WINDOW} characters; `stream`: it is carried through the text, and "
        f"attention keeps {SEQUENCE_LENGTH} positions. `less the best`: the stream loss less that "
        f"of {_the_best(results)}; the intervals{several} hold at once, and a row is worse if its "
        "interval lies above 0. The first run of each row is the best of "
        f"{preset.effort.rates} with different learning rates; `(edge)`: its rate is the lowest or "
        "the highest tried, and better than the next by more than 0.002 nats.",
        *results.gaps,
        *_several_commits(results),
        _losses(results),
        "\n".join(_verdict(family, results) for family in results.families),
        "## Update rules" if preset.rules else "## Update rule",
        "\n".join(f"- {preset.describe_rule(rule)}" for rule in preset.rules or (REFERENCE,)),
    ]
    if preset.rules:
        parts += [
            "## Training until a loss that every run reaches",
            "Characters after which the loss on the second part, in windows of "
            f"{WINDOW}, is at most the highest last loss of a run of the model: median and range "
            "over seeds, and seconds of the median. Rates fall to 0 at the end, except for "
            "schedule-free, and a shorter run, whose rate falls earlier, would reach the loss "
            "sooner: the number of a rule that reaches it at its own end is an upper bound.",
            _to_reach(results),
        ]
    parts += [
        "## Speeds and sizes",
        f"Speeds in characters per second on an idle machine, median [lowest, highest] of {ROUNDS} "
        "rounds in which all take turns; `state`: memory of one text's state, of "
        f"{SEQUENCE_LENGTH} positions for attention.",
    ]
    if preset.rules:
        parts += [_rule_speeds(results), _model_sizes(results)]
    else:
        parts[-1] += (
            " `context`: effective context of one run, the number of nearest characters that "
            "suffice for a loss within 1 % of that with the longest context, which is "
            f"{preset.context_reach} characters, and {SEQUENCE_LENGTH} for attention."
        )
        parts.append(_sizes(results))
    parts += [
        "## Effort",
        f"{preset.effort.describe()}, for each row. In {sum(edge)} of {len(edge)} searches the "
        "chosen rate is at an edge.",
    ]
    return "\n\n".join(parts) + "\n"


def _the_best(results: Results) -> str:
    if results.preset.rules:
        return "the best of the same model"
    return "the best of the same kind, bare or stack" if len(results.families) > 1 else "the best"


def _several_commits(results: Results) -> list[str]:
    commits = [commit or "unknown" for commit in results.commits]
    return [f"Runs are of several commits: {', '.join(commits)}."] if len(commits) > 1 else []


def _verdict(family: Family, results: Results) -> str:
    arms = [results.arms[name] for name in family.arms]
    labels = [arm.runs.label(arm.rule or arm.model) for arm in arms]
    verdict = f"- {family.name}: {family.comparison.describe(labels)}."
    if len(family.arms) > 1 and family.is_one_seed(results.arms):
        verdict += " One seed each: another may change the order."
    return verdict


def _name(model: str, rule: str) -> str:
    return f"{model}, {rule}" if rule else model


def _label(arm: ArmResult) -> str:
    return arm.runs.label(_name(arm.model, arm.rule))


def _differences(results: Results) -> list[tuple[ArmResult, Difference | None]]:
    """Return all arms with their differences from the best of their families."""
    return [
        (results.arms[name], difference)
        for family in results.families
        for name, difference in zip(family.arms, family.comparison.differences, strict=True)
    ]


def _losses(results: Results) -> str:
    rows = [
        [
            _name(arm.model, arm.rule),
            arm.runs.describe(),
            f"{arm.rate:g} (edge)" if arm.is_at_edge else f"{arm.rate:g}",
            *(arm.losses[protocol].describe() for protocol in RULES),
            "" if arm.spread is None else f"{arm.spread:.4f}",
            "best" if difference is None else signed(difference),
        ]
        for arm, difference in _differences(results)
    ]
    return table(["model", "seeds", "rate", *RULES, "over seeds", "less the best"], rows)


def _to_reach(results: Results) -> str:
    rows = []
    for family in results.families:
        arms = [results.arms[name] for name in family.arms]
        loss = max(curve[-1][1] for arm in arms for curve in arm.curves)
        for arm in arms:
            found = [characters_to_reach(curve, loss) for curve in arm.curves]
            reached = [characters for characters in found if characters is not None]  # all
            median = statistics.median(reached)
            ends = f" [{min(reached):,}, {max(reached):,}]" if len(reached) > 1 else ""
            rows.append(
                [
                    _name(arm.model, arm.rule),
                    f"{loss:.4f}",
                    f"{median:,.0f}{ends}",
                    f"{median / arm.training.median:.0f}",
                ]
            )
    return table(["model", "loss", "characters", "seconds"], rows)


def _rule_speeds(results: Results) -> str:
    rows = [[_name(arm.model, arm.rule), arm.training.describe()] for arm in results.arms.values()]
    return table(["model", "training"], rows)


def _model_sizes(results: Results) -> str:
    first = {arm.model: arm for arm in reversed([*results.arms.values()])}
    rows = [
        [model, f"{first[model].parameters:,}", *_decoding(first[model])]
        for model in results.preset.models
        if model in first
    ]
    return table(["model", "parameters", "decoding", "state"], rows)


def _sizes(results: Results) -> str:
    rows = [
        [
            arm.model,
            f"{arm.parameters:,}",
            arm.training.describe(),
            *_decoding(arm),
            f"{arm.effective.characters} [{arm.effective.low}, {arm.effective.high}]",
        ]
        for arm in results.arms.values()
        if arm.effective is not None
    ]
    return table(["model", "parameters", "training", "decoding", "state", "context"], rows)


def _decoding(arm: ArmResult) -> tuple[str, str]:
    return arm.decoding.describe(), f"{arm.state_bytes / 1024:.1f} KB"


def _draw(results: Results, path: Path) -> None:
    """Draw the stream losses less the best with their intervals, as points in rows."""
    rows = sorted(
        _differences(results),
        key=lambda found: (results.preset.family(found[0].model), found[1] or (0.0,)),
        reverse=True,
    )
    figure = InlineFigure(
        figsize=(7.2, 1.6 + 0.32 * len(rows)), dpi=110, facecolor="white", layout="constrained"
    )
    axes = figure.add_subplot()
    for row, (_, difference) in enumerate(rows):
        if difference is not None:
            axes.plot([difference.low, difference.high], [row, row], color="#2a6f97", linewidth=2)
        axes.plot(difference.mean if difference else 0.0, row, "o", color="#2a6f97", markersize=5)
    axes.axvline(0.0, color="#888888", linewidth=1)
    axes.set_yticks(range(len(rows)), [_label(arm) for arm, _ in rows])
    axes.set_xlabel(
        f"held-out loss less that of {_the_best(results)},\n"
        "nats per character, the text read in one go\n"
        "(intervals of 95 % that hold all at once"
        + (", over the text alone: one seed each)" if results.is_one_seed else ")")
    )
    axes.set_title(
        f"About {results.preset.parameters:,} parameters, "
        f"{results.preset.effort.characters:,} characters of The Mysterious Island"
    )
    axes.grid(axis="x", alpha=0.3)
    save_figure(figure, path)
