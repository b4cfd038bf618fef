"""Charts of training and held-out losses by number of updates."""

import math
from collections.abc import Sequence

from markupsafe import Markup

from charlm_jax.comparison.findings import GroupFacts
from charlm_jax.comparison.run_facts import Curve, RunFacts
from charlm_jax.report.html.page import figure
from charlm_jax.report.html.rendering import render
from charlm_jax.report.html.svg_charts import DataPoint, Line, line_chart, swatch
from charlm_jax.report.html.ticks import Axis, linear_axis
from charlm_jax.storage.weights import describe_average

_MAX_POINTS = 200  # of one line
_STEEP = 0.1  # share of the longest run in which losses fall too fast for the scale of the rest


def learning_curves(
    groups: Sequence[GroupFacts], watched_characters: Sequence[int]
) -> list[Markup]:
    """Render training and held-out losses, a line per run.

    Args:
      groups: groups of runs of one text; at least one run has rows of metrics.
      watched_characters: numbers of characters that the runs validate on.
    """
    runs = [run for group in groups for run in group.runs]
    by_steps = len({run.characters_per_step for run in runs}) == 1
    contexts = " or ".join(dict.fromkeys(f"{run.context:,}" for run in runs))
    characters = " or ".join(f"{count:,}" for count in watched_characters)
    training, held_out = [], []
    for style_index, group in enumerate(groups):
        for run in group.runs:
            label = f"{group.name}, seed {run.seed}" if len(group.runs) > 1 else group.name
            if run.training:
                points = _points(_averaged(run.training), run, by_steps)
                training.append(Line(label, style_index, points))
            for weights, curve in run.held_out.items():
                held_out.append(
                    Line(
                        label + describe_average(weights),
                        style_index,
                        _points(_every_nth(curve), run, by_steps),
                        is_dotted=weights != run.weights,
                    )
                )
    charts = [
        _chart(lines, title, about, by_steps=by_steps, text_unit=runs[0].unit)
        for lines, title, about in (
            (training, "Training loss", "means over the steps between points"),
            (
                held_out,
                "Held-out loss",
                f"{characters} {runs[0].unit} in windows of {contexts}",
            ),
        )
        if lines
    ]
    has_average = any(len(run.held_out) > 1 for run in runs)
    note = "dotted, with hollow markers: raw weights of runs that are scored with averaged weights"
    return [
        *charts,
        legend([group.name for group in groups], note=note if has_average else ""),
    ]


def legend(names: Sequence[str], *, note: str = "") -> Markup:
    """Render the style of each group's lines, with its name."""
    entries = [(swatch(style_index), name) for style_index, name in enumerate(names)]
    return render("blocks.html.j2", "legend", entries=entries, note=note)


def _averaged(curve: Curve) -> Curve:
    """Average neighbouring points, so that at most `_MAX_POINTS` are left."""
    every = math.ceil(len(curve) / _MAX_POINTS)
    pieces = (curve[start : start + every] for start in range(0, len(curve), every))
    return [(piece[-1][0], sum(nats for _, nats in piece) / len(piece)) for piece in pieces]


def _every_nth(curve: Curve) -> Curve:
    """Keep the last point and every n-th before it, at most `_MAX_POINTS`, and the lowest."""
    every = math.ceil(len(curve) / _MAX_POINTS)
    lowest = min(curve, key=lambda point: point[1])
    kept = {*curve[(len(curve) - 1) % every :: every], lowest}
    return sorted(kept)


def _points(curve: Curve, run: RunFacts, by_steps: bool) -> list[DataPoint]:
    unit = 1 if by_steps else run.characters_per_step
    return [DataPoint(step * unit, nats) for step, nats in curve]


def _chart(
    lines: Sequence[Line], title: str, about: str, *, by_steps: bool, text_unit: str
) -> Markup:
    unit = "steps" if by_steps else f"{text_unit} trained on (steps × batch × length)"
    points = [point for line in lines for point in line.points]
    x = linear_axis(unit, [0.0, *(point.x for point in points)], max_ticks=5)
    y = _loss_axis(lines, max(point.x for point in points), text_unit.removesuffix("s"))
    is_cut = max(point.y for point in points) > y.high
    cut = f"; losses above {y.high:g} are cut off" if is_cut else ""
    drawing = line_chart(lines, title=f"{title} by {unit}", x=x, y=y)
    return figure(f"{title}: {about}{cut}", drawing)


def _loss_axis(lines: Sequence[Line], longest: float, noun: str) -> Axis:
    """Return an axis for losses after the steep beginning, and the last and lowest of each line."""
    values = []
    for line in lines:
        late = [point.y for point in line.points if point.x >= _STEEP * longest]
        values += [*(late or [line.points[-1].y]), min(point.y for point in line.points)]
    return linear_axis(f"nats per {noun}", values)
