"""Losses as runs went on."""

import math
from collections.abc import Iterator, Sequence

from charlm_jax.comparison.findings import ArmFacts
from charlm_jax.comparison.run_facts import Curve, RunFacts
from charlm_jax.report.html.markup import Markup, element, markup
from charlm_jax.report.html.svg_charts import Line, Point, line_chart, swatch
from charlm_jax.report.html.ticks import Axis, linear_axis
from charlm_jax.storage.weights import averaged_in_words

_MOST_POINTS = 200  # of one line
_STEEP = 0.1  # share of the longest run in which losses fall too fast to be seen beside the rest


def learning_curves(arms: Sequence[ArmFacts], valid_characters: int) -> Markup:
    """Training and held-out losses side by side, a line for each run.

    Args:
      arms: at least one has rows of metrics.
      valid_characters: that every run validates on.
    """
    runs = [run for arm in arms for run in arm.runs]
    by_steps = len({run.characters_per_step for run in runs}) == 1
    contexts = " or ".join(dict.fromkeys(f"{run.context:,}" for run in runs))
    read = f"{valid_characters:,} characters in windows of {contexts}"
    figures = [
        _figure(lines, title, about, by_steps)
        for lines, title, about in (
            (_training(arms, by_steps), "Training loss", "means over the steps between points"),
            (_held_out(arms, by_steps), "Held-out loss", read),
        )
        if lines
    ]
    is_averaged = any(len(run.held_out) > 1 for run in runs)
    return markup(
        element("div", *figures, class_="charts"),
        legend([arm.name for arm in arms], is_averaged=is_averaged),
    )


def legend(names: Sequence[str], *, is_averaged: bool = False) -> Markup:
    """Which look is which arm's."""
    entries = [element("li", swatch(look), name) for look, name in enumerate(names)]
    if is_averaged:
        words = "dotted, with empty marks: raw weights, where their average is what counts"
        entries.append(element("li", words))
    return element("ul", *entries, class_="legend")


def _training(arms: Sequence[ArmFacts], by_steps: bool) -> list[Line]:
    return [
        Line(_label(arm, run), look, _points(_thinned(run.training), run, by_steps))
        for look, arm, run in _numbered(arms)
        if run.training
    ]


def _held_out(arms: Sequence[ArmFacts], by_steps: bool) -> list[Line]:
    return [
        Line(
            _label(arm, run) + averaged_in_words(weights),
            look,
            _points(_spaced(curve), run, by_steps),
            is_dotted=weights != run.weights,
        )
        for look, arm, run in _numbered(arms)
        for weights, curve in run.held_out.items()
    ]


def _numbered(arms: Sequence[ArmFacts]) -> Iterator[tuple[int, ArmFacts, RunFacts]]:
    return ((look, arm, run) for look, arm in enumerate(arms) for run in arm.runs)


def _label(arm: ArmFacts, run: RunFacts) -> str:
    return f"{arm.name}, seed {run.seed}" if len(arm.runs) > 1 else arm.name


def _thinned(curve: Curve) -> Curve:
    """Means over as many neighbours as there are too many."""
    every = math.ceil(len(curve) / _MOST_POINTS)
    pieces = (curve[start : start + every] for start in range(0, len(curve), every))
    return [(piece[-1][0], sum(nats for _, nats in piece) / len(piece)) for piece in pieces]


def _spaced(curve: Curve) -> Curve:
    """Every n-th point, up to the last."""
    every = math.ceil(len(curve) / _MOST_POINTS)
    return curve[(len(curve) - 1) % every :: every]


def _points(curve: Curve, run: RunFacts, by_steps: bool) -> list[Point]:
    unit = 1 if by_steps else run.characters_per_step
    return [Point(step * unit, nats) for step, nats in curve]


def _figure(lines: Sequence[Line], title: str, about: str, by_steps: bool) -> Markup:
    unit = "steps" if by_steps else "characters trained on (steps × batch × length)"
    everything = [point for line in lines for point in line.points]
    x = linear_axis(unit, [0.0, *(point.x for point in everything)], most_ticks=5)
    y = _loss_axis(lines, max(point.x for point in everything))
    is_cut = max(point.y for point in everything) > y.high
    cut = f"; what lies above {y.high:g} is cut off" if is_cut else ""
    drawn = line_chart(lines, title=f"{title} by {unit}", x=x, y=y)
    return element("figure", element("figcaption", f"{title}: {about}{cut}"), drawn)


def _loss_axis(lines: Sequence[Line], longest: float) -> Axis:
    """Shows every loss but those of the first, steep part, of which each line keeps one point."""
    values = []
    for line in lines:
        late = [point.y for point in line.points if point.x >= _STEEP * longest]
        values += late or [line.points[-1].y]
    return linear_axis("nats per character", values)
