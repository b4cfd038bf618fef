"""Figures of the study."""

import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from charlm_jax.analysis.loss_breakdown import geometric_bins
from charlm_jax.evaluation.bootstrap import Interval
from charlm_jax.report.figures.base import save_figure
from charlm_jax.report.figures.panels import IntervalCurve, Panel, draw_panels
from experiments.sequence_length.arms import WINDOW, Arm
from experiments.sequence_length.results import ArmResult, Results

LOSS = "held-out loss, nats per character"
LENGTH = "training sequence length T, characters"
BY_LENGTH = "loss_by_length.png"
CURVES = "learning_curves.png"
CONTEXT = "effective_context.png"
PLACE = "loss_by_position.png"
GRADIENTS = "gradient_norms.png"
FIGURES = (BY_LENGTH, CURVES, CONTEXT, PLACE, GRADIENTS)

_LEAST_SHARE = 1e-12  # of the nearest character's gradient: less is rounding
_CHANGES = {"truncated": "cut off", "shuffled": "shuffled"}


def save_figures(results: Results, folder: Path) -> None:
    """Draw all figures, one file per question.

    Args:
      results: results of the study.
      folder: folder to write into.
    """
    _by_length(results, folder / BY_LENGTH)
    _curves(results, folder / CURVES)
    _effective_context(results, folder / CONTEXT)
    _by_place(results, folder / PLACE)
    _gradients(results, folder / GRADIENTS)


def _about(results: Results) -> str:
    """Return the budget, for the second line of a title."""
    return (
        f"{results.text.corpus}, up to {results.preset.effort.characters:,} characters of training"
    )


def _models(results: Results) -> list[str]:
    return [name for name in results.preset.models if any(x.model == name for x in results.arms)]


def _fixed(
    results: Results, model: str, state: str, budget: str = "characters"
) -> list[tuple[Arm, ArmResult]]:
    """Return the arms of one family, shortest first."""
    found = [
        (arm, result)
        for arm, result in results.arms.items()
        if len(arm.lengths) == 1 and (arm.model, arm.state, arm.budget) == (model, state, budget)
    ]
    return sorted(found, key=lambda pair: pair[0].length)


def _families(results: Results, model: str) -> Iterator[tuple[str, str, str]]:
    for state, budget, words in (
        ("reset", "characters", "state reset"),
        ("carried", "characters", "state carried"),
        ("reset", "seconds", "state reset, equal time"),
    ):
        if _fixed(results, model, state, budget):
            yield state, budget, words


def _by_length(results: Results, path: Path) -> None:
    order = results.text.ngram_order
    ngram = f"{order}-gram: {_ngram_loss(results):.3f}"
    panels = []
    for model in _models(results):
        curves = []
        for state, budget, words in _families(results, model):
            arms = _fixed(results, model, state, budget)
            curves.append(
                IntervalCurve(
                    words,
                    [arm.length for arm, _ in arms],
                    [Interval(*result.by_seed[0]) for _, result in arms],
                    is_dashed=budget == "seconds",
                    others=[(arm.length, x.mean) for arm, each in arms for x in each.by_seed[1:]],
                )
            )
        panels.append(Panel(model, curves, lines=((ngram, 0.0),)))
    has_dots = any(curve.others for panel in panels for curve in panel.curves)
    figure = draw_panels(
        panels,
        title=f"Loss by training length, less that of the {order}-gram (below 0 is better)\n"
        f"{results.text.corpus}; lines: first seed with 95 % over the text"
        + "; dots: other seeds"
        * has_dots,
        x_label=LENGTH,
        y_label="difference, nats per character",
        ticks=_ticks(panels),
        y_range=_y_range(panels),
    )
    save_figure(figure, path)


def _ngram_loss(results: Results) -> float:
    return sum(results.text.ngram["stream"]) / sum(results.text.counts)


def _curves(results: Results, path: Path) -> None:
    text = results.text
    panels = []
    for model in _models(results):
        for state in results.preset.models[model].states:
            found = _fixed(results, model, state)
            curves = [
                IntervalCurve(
                    f"T = {arm.length}",
                    [characters / 1_000 for characters, _ in result.curve],
                    [Interval(loss, loss, loss) for _, loss in result.curve],
                )
                for arm, result in found
            ]
            if found:
                contexts = dict.fromkeys(result.watched_context for _, result in found)
                lines = [
                    (f"{text.ngram_order}-gram", text.ngram_watched[str(context)])
                    for context in contexts
                ]
                windows = " or ".join(map(str, contexts))
                title = f"{model}, state {state}, windows of {windows}"
                panels.append(Panel(title, curves, lines=lines if len(lines) == 1 else ()))
    figure = draw_panels(
        panels,
        title="Loss on the second part while training, in windows from an empty state\n"
        f"{text.corpus}, first seed",
        x_label="thousand characters read in training",
        y_label=LOSS,
        ordered=True,
        ticks=[results.preset.effort.characters / 1_000 / 2**power for power in range(5, -1, -1)],
        y_range=_y_range(panels, most=0.6),
        columns=2,
    )
    save_figure(figure, path)


def _effective_context(results: Results, path: Path) -> None:
    panels = []
    for model in _models(results):
        curves = []
        for state in results.preset.models[model].states:
            arms = [x for x in _fixed(results, model, state) if x[1].effective]
            for change, words in _CHANGES.items():
                points = [Interval(*result.effective[change]) for _, result in arms]
                label = f"state {state}, the rest {words}"
                curves.append(
                    IntervalCurve(
                        label,
                        [arm.length for arm, _ in arms],
                        points,
                        is_dashed=change == "shuffled",
                        has_bars=True,
                    )
                )
        panels.append(Panel(model, [curve for curve in curves if curve.x]))
    figure = draw_panels(
        panels,
        title="Effective context: fewest last characters for a loss within 1 % of that of all\n"
        f"{results.text.corpus}, one run of each; bars: 95 % over the text",
        x_label=LENGTH,
        y_label="effective context, characters",
        ticks=_ticks(panels),
        is_y_logarithmic=True,
    )
    save_figure(figure, path)


def _by_place(results: Results, path: Path) -> None:
    bins = geometric_bins(results.preset.reach)
    panels = []
    for model in _models(results):
        for state in results.preset.models[model].states:
            curves = [
                IntervalCurve(
                    f"T = {arm.length}",
                    [math.sqrt(first * last) for first, last in bins],
                    list(result.by_place.values()),
                    marks=[
                        math.sqrt(first * last)
                        for first, last in bins
                        if first <= arm.length <= last
                    ],
                )
                for arm, result in _fixed(results, model, state)
            ]
            if curves:
                panels.append(Panel(f"{model}, state {state}", curves))
    figure = draw_panels(
        panels,
        title="Loss by number of characters read before: large marks are the training length\n"
        f"{_about(results)}; up to {WINDOW} in windows of {WINDOW}, then of "
        f"{results.preset.reach:,}",
        x_label="characters read before the target, from an empty state",
        y_label=LOSS,
        ordered=True,
        y_range=_y_range(panels, most=0.6),
        columns=2,
    )
    save_figure(figure, path)


def _gradients(results: Results, path: Path) -> None:
    panels = []
    for model in _models(results):
        for state in results.preset.models[model].states:
            curves = []
            for arm, result in _fixed(results, model, state):
                norms = list(result.gradients.values())
                reach = min(results.preset.context_reach, _longest(result))
                places = [math.sqrt(first * last) for first, last in geometric_bins(reach)]
                if norms:
                    shares = (norm / norms[0] for norm in norms)
                    powers = map(math.log10, itertools.takewhile(_LEAST_SHARE.__le__, shares))
                    points = [Interval(power, power, power) for power in powers]
                    curves.append(IntervalCurve(f"T = {arm.length}", places[: len(points)], points))
            if curves:
                panels.append(Panel(f"{model}, state {state}", curves))
    figure = draw_panels(
        panels,
        title="Gradient of a prediction's loss by distance, relative to the nearest character\n"
        f"{_about(results)}, one run of each; a line ends below {_LEAST_SHARE:g}",
        x_label="distance from the predicted character",
        y_label="norm, as a power of 10",
        ordered=True,
        columns=2,
    )
    save_figure(figure, path)


def _longest(result: ArmResult) -> int:
    """Return the longest distance of the gradients that were measured."""
    return int(list(result.gradients)[-1].rpartition("-")[2]) if result.gradients else 1


def _ticks(panels: Sequence[Panel]) -> list[float]:
    return sorted({x for panel in panels for curve in panel.curves for x in curve.x})


def _y_range(panels: Sequence[Panel], most: float = math.inf) -> tuple[float, float]:
    """Return the y range of all means and lines, at most `most` nats above the lowest."""
    found = [point.mean for panel in panels for curve in panel.curves for point in curve.points]
    found += [y for panel in panels for _, y in panel.lines]
    low, high = min(found), min(max(found), min(found) + most)
    margin = 0.1 * (high - low)
    return low - margin, high + margin
