"""Results of the skills study: comparisons, tables and the figure."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from charlm_jax.core.json_files import to_jsonable
from charlm_jax.evaluation.block_sums import BlockSums
from charlm_jax.evaluation.bootstrap import Interval, mean_interval
from charlm_jax.evaluation.families import BestComparison, compare_with_best
from charlm_jax.report.figures.base import save_figure
from charlm_jax.report.figures.panels import draw_heat_map
from experiments.block_records import from_sums
from experiments.markdown import table
from experiments.results_folder import write_results_folder
from experiments.skills.arms import Preset, arm_name
from experiments.tuned_arms import ArmRuns, RunCounts, describe_gaps

TITLE = "# Which layers learn which skill? Tables"
FIGURE = "skills.png"
SOLVED_NATS = 0.05


class SkillResult(NamedTuple):
    """Result of one model on one skill.

    Attributes:
      excess: loss above the best, in nats per answer.
      runs: number of runs; the excess is a mean over the finished ones.
      parameters: number of parameters.
      rate: learning rate.
      is_at_edge: whether the rate is the lowest or highest that was tried.
    """

    excess: Interval
    runs: RunCounts
    parameters: int
    rate: float
    is_at_edge: bool


class Results(NamedTuple):
    """All results.

    Attributes:
      preset: size of the study.
      skills: task -> model -> result.
      comparisons: task -> comparison of the models with the best, in the order of `skills`.
    """

    preset: Preset
    skills: Mapping[str, Mapping[str, SkillResult]]
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
    """
    skills: dict[str, dict[str, SkillResult]] = {}
    comparisons = {}
    for task in preset.tasks:
        sums: dict[str, BlockSums] = {}
        for name in preset.layers:
            found = runs.get(arm_name(task, name))
            if found is None:
                continue
            records = list(found.records.values())
            rows = [record["excess"] for record in records]
            sums[name] = from_sums(rows, records[0]["answers"])
            skills.setdefault(task, {})[name] = SkillResult(
                excess=mean_interval(sums[name]),
                runs=found.counts,
                parameters=records[0]["parameters"],
                rate=found.tuned.value,
                is_at_edge=found.tuned.is_at_edge,
            )
        if sums:
            groups = list(sums.values())
            comparisons[task] = compare_with_best(
                groups,
                best=min(range(len(groups)), key=lambda index: groups[index].mean),
                is_choice_independent=False,
                is_paired_by_run=False,
            )
    return Results(preset, skills, comparisons)


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
        "skills": to_jsonable(results.skills),
        "comparisons": to_jsonable(results.comparisons),
    }


def tables(results: Results, command: str) -> str:
    """Return the contents of tables.md."""
    edge = [x.is_at_edge for by_name in results.skills.values() for x in by_name.values()]
    parts = [
        TITLE,
        f"    {command}",
        f"Loss above that of the best predictor, in nats per answer, with 95 % intervals over "
        f"blocks of the text and seeds. Bold: the whole interval lies below {SOLVED_NATS}, and no "
        f"seed is left out.",
        *results.gaps,
        _excess(results),
        "## Best of each skill",
        "\n".join(_verdicts(results)),
        "## Effort",
        f"{results.preset.effort.describe()}, for each model and skill. In {sum(edge)} of "
        f"{len(edge)} searches the chosen rate is the lowest or the highest tried.",
        _rates(results),
    ]
    return "\n\n".join(parts) + "\n"


def _models(results: Results) -> list[str]:
    return [x for x in results.preset.layers if any(x in y for y in results.skills.values())]


def _rows(results: Results, cell: Any) -> str:
    rows = (
        [name, *(cell(by_name[name]) if name in by_name else "" for by_name in _by_task(results))]
        for name in _models(results)
    )
    return table(["model", *results.skills], rows)


def _by_task(results: Results) -> Sequence[Mapping[str, SkillResult]]:
    return list(results.skills.values())


def _excess(results: Results) -> str:
    def cell(found: SkillResult) -> str:
        text = found.runs.label(found.excess.describe(3))
        is_solved = found.excess.high < SOLVED_NATS and found.runs.is_whole
        return f"**{text}**" if is_solved else text

    return _rows(results, cell)


def _rates(results: Results) -> str:
    return _rows(
        results,
        lambda x: f"{x.rate:g} ({x.parameters:,} parameters, seeds: {x.runs.describe()})",
    )


def _verdicts(results: Results) -> list[str]:
    verdicts = []
    for task, comparison in results.comparisons.items():
        labels = [found.runs.label(name) for name, found in results.skills[task].items()]
        verdicts.append(f"- {task}: {comparison.describe(labels)}.")
    return verdicts


def _draw(results: Results, path: Path) -> None:
    models = _models(results)
    excess = [
        [by_name[name].excess.mean if name in by_name else np.nan for by_name in _by_task(results)]
        for name in models
    ]
    is_whole = all(x.runs.is_whole for by_name in _by_task(results) for x in by_name.values())
    figure = draw_heat_map(
        np.array(excess),
        rows=models,
        columns=list(results.skills),
        title="Loss above the best predictor, by layer and skill: 0 is a model that has the skill\n"
        f"about {results.preset.parameters:,} parameters, "
        f"{results.preset.effort.characters:,} characters read in training"
        + ("" if is_whole else "; some means leave out seeds, see tables.md"),
        x_label="skill",
        y_label="layer",
        unit="nats per answer",
    )
    save_figure(figure, path)
