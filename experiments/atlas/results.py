"""Results of the atlas: comparisons, tables and the figure."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from charlm_jax.analysis.effective_context import ContextReach, effective_context_interval
from charlm_jax.core.json_files import to_jsonable
from charlm_jax.evaluation.block_sums import BlockSums
from charlm_jax.evaluation.bootstrap import Interval, mean_interval, std_over_seeds
from charlm_jax.evaluation.families import BestComparison, compare_with_best
from charlm_jax.report.figures.base import InlineFigure, save_figure
from experiments.atlas.arms import Preset
from experiments.block_records import from_sums
from experiments.markdown import signed, table
from experiments.results_folder import write_results_folder
from experiments.tuned_arms import ArmRuns, RunCounts, describe_gaps

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
      is_at_edge: whether the rate is the lowest or highest that was tried.
      losses: mean loss by evaluation protocol, `window` or `stream`.
      spread: standard deviation over seeds of the `stream` loss; None for one run.
      second: mean loss on the second part, by which the best arm is chosen.
      effective: effective context, of the first run.
      training: speed of training in characters per second.
      decoding: speed of sampling one text, in characters per second.
      state_bytes: memory of a text's state.
      curve: characters read and mean loss over runs on the second part, at each evaluation.
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
    effective: ContextReach
    training: int
    decoding: int
    state_bytes: int
    curve: tuple[tuple[int, float], ...]


class Results(NamedTuple):
    """All results.

    Attributes:
      preset: size of the study.
      arms: results by name of the arm.
      comparison: all arms compared with the best by their `stream` losses, in the order of `arms`.
    """

    preset: Preset
    arms: Mapping[str, ArmResult]
    comparison: BestComparison

    @property
    def gaps(self) -> list[str]:
        """Sentences on what of the plan is not in the results."""
        return describe_gaps(
            [_name(*pair) for pair in self.preset.names().values()],
            {_name(arm.model, arm.rule): arm.runs for arm in self.arms.values()},
        )


def build_results(
    preset: Preset, runs: Mapping[str, ArmRuns], speeds: Mapping[str, Mapping[str, int]]
) -> Results:
    """Compute the results from the records.

    Args:
      preset: size of the study.
      runs: arms of which a run is on record, by name.
      speeds: speeds and sizes of the models, by name of the arm.
    """
    arms, streams = {}, []
    for name, (model, rule) in preset.names().items():
        if name not in runs:
            continue
        records = list(runs[name].records.values())
        first, tuned = records[0], runs[name].tuned
        sums = {
            protocol: from_sums([record[protocol] for record in records], first["counts"])
            for protocol in RULES
        }
        by_context = {
            int(n): from_sums([row], first["target_counts"])
            for n, row in first["by_context"].items()
        }
        streams.append(sums["stream"])
        arms[name] = ArmResult(
            model=model,
            rule=rule,
            runs=runs[name].counts,
            parameters=first["parameters"],
            rate=tuned.value,
            is_at_edge=tuned.is_at_edge,
            losses={protocol: mean_interval(x) for protocol, x in sums.items()},
            spread=std_over_seeds(sums["stream"]),
            second=float(np.mean([record["second"] for record in records])),
            effective=effective_context_interval(by_context),
            **speeds[name],
            curve=_mean_curve([record["curve"] for record in records]),
        )
    return Results(preset, arms, _compare(list(arms.values()), streams))


def _mean_curve(curves: list[Any]) -> tuple[tuple[int, float], ...]:
    losses = np.mean([[loss for _, loss in curve] for curve in curves], axis=0)
    return tuple(
        (characters, float(x)) for (characters, _), x in zip(curves[0], losses, strict=True)
    )


def _compare(arms: list[ArmResult], streams: list[BlockSums]) -> BestComparison:
    return compare_with_best(
        streams,
        best=min(range(len(arms)), key=lambda index: arms[index].second),
        is_choice_independent=all(arm.runs.finished == 1 for arm in arms),
        is_paired_by_run=False,
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
        "arms": to_jsonable(results.arms),
        "comparison": to_jsonable(results.comparison),
    }


def tables(results: Results, command: str) -> str:
    """Return the contents of tables.md."""
    edge = [arm.is_at_edge for arm in results.arms.values()]
    parts = [
        TITLE,
        f"    {command}",
        "Losses in nats per character on held-out text, with 95 % intervals over blocks of 1,000 "
        "characters and seeds. `window`: the state is reset every 64 characters; `stream`: it is "
        "carried through the text, and attention keeps 64 positions. `less the best`: of the "
        "stream losses; the intervals of all rows hold at once. Speeds in characters per second "
        "on an idle machine; `state`: memory of one text's state, of 64 positions for attention; "
        "`context`: effective context in characters, of one run. The first run of each model is "
        "the best of several with different learning rates.",
        *results.gaps,
        _losses(results),
        f"{results.comparison.describe([_label(arm) for arm in results.arms.values()])}.",
        "## Speeds and sizes",
        _sizes(results),
        "## Effort",
        f"{results.preset.effort.describe()}, for each row. In {sum(edge)} of {len(edge)} searches "
        "the chosen rate is the lowest or the highest tried.",
    ]
    return "\n\n".join(parts) + "\n"


def _name(model: str, rule: str) -> str:
    return f"{model}, {rule}" if rule else model


def _label(arm: ArmResult) -> str:
    return arm.runs.label(_name(arm.model, arm.rule))


def _losses(results: Results) -> str:
    rows = [
        [
            _name(arm.model, arm.rule),
            arm.runs.describe(),
            f"{arm.rate:g}",
            *(arm.losses[protocol].describe() for protocol in RULES),
            "" if arm.spread is None else f"{arm.spread:.4f}",
            "best" if difference is None else signed(difference),
        ]
        for arm, difference in zip(
            results.arms.values(), results.comparison.differences, strict=True
        )
    ]
    return table(["model", "seeds", "rate", *RULES, "over seeds", "less the best"], rows)


def _sizes(results: Results) -> str:
    rows = [
        [
            _name(arm.model, arm.rule),
            f"{arm.parameters:,}",
            f"{arm.training:,}",
            f"{arm.decoding:,}",
            f"{arm.state_bytes / 1024:.1f} KB",
            f"{arm.effective.characters} [{arm.effective.low}, {arm.effective.high}]",
        ]
        for arm in results.arms.values()
    ]
    return table(["model", "parameters", "training", "decoding", "state", "context"], rows)


def _draw(results: Results, path: Path) -> None:
    """Draw the stream losses with their intervals, best first, as points in rows."""
    arms = sorted(results.arms.values(), key=lambda arm: -arm.losses["stream"].mean)
    figure = InlineFigure(
        figsize=(7.2, 1.4 + 0.32 * len(arms)), dpi=110, facecolor="white", layout="constrained"
    )
    axes = figure.add_subplot()
    for row, arm in enumerate(arms):
        found = arm.losses["stream"]
        axes.plot([found.low, found.high], [row, row], color="#2a6f97", linewidth=2)
        axes.plot(found.mean, row, "o", color="#2a6f97", markersize=5)
    axes.set_yticks(range(len(arms)), [_label(arm) for arm in arms])
    axes.set_xlabel("held-out loss, nats per character, the text read in one go")
    axes.set_title(
        f"About {results.preset.parameters:,} parameters, "
        f"{results.preset.effort.characters:,} characters of The Mysterious Island"
    )
    axes.grid(axis="x", alpha=0.3)
    save_figure(figure, path)
