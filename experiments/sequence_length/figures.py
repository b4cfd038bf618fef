"""Figures of the sequence length study."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from charlm_jax.analysis.loss_breakdown import CLASSES, geometric_bins
from charlm_jax.evaluation.bootstrap import Interval
from charlm_jax.report.figures.base import save_figure
from charlm_jax.report.figures.panels import IntervalCurve, Panel, draw_heat_map, draw_panels
from experiments.sequence_length.measures import BUDGETS, STATES, Condition, Measurements

LOSS = "loss, nats per character"
LENGTH = "training sequence length T, characters"
EFFECTIVE_CONTEXT = "effective_context.png"


def save_figures(
    figures: Mapping[Condition, Measurements],
    folder: Path,
    *,
    reach: int,
    window: int,
    about: str,
    baseline: tuple[str, float],
) -> list[Path]:
    """Draw the measurements, one file per question.

    Args:
      figures: measurements of every condition.
      folder: folder to write into.
      reach: longest context of the losses by position, in characters.
      window: validation context, in characters.
      about: budget and seeds, shown under every title.
      baseline: name and loss of the best simple predictor.

    Returns:
      The files.
    """
    return [
        _by_place(figures, folder / "loss_by_position.png", reach=reach, about=about),
        *_heat_maps(figures, folder, reach=reach, about=about),
        _by_length(figures, folder / "loss_by_length.png", about, baseline),
        _cold_start(figures, folder / "cold_start.png", window, about),
        _by_class(figures, folder / "loss_by_class.png", about),
    ]


def figure_names(models: Iterable[str]) -> list[str]:
    """Returns the names of all figures of a study of these models."""
    heat_maps = [f"length_by_context_{model}.png" for model in models]
    questions = ("loss_by_position", "loss_by_length", "cold_start", "loss_by_class")
    return [*heat_maps, *(f"{name}.png" for name in questions), EFFECTIVE_CONTEXT]


def save_effective_context(
    losses: Mapping[str, Mapping[str, Mapping[int, Interval]]],
    effective: Mapping[str, Mapping[str, int]],
    path: Path,
    *,
    about: str,
) -> Path:
    """Draw the loss with all but the nearest n characters of context changed.

    Args:
      losses: model -> change -> n -> loss.
      effective: model -> change -> effective context, in characters.
      path: file to write; its suffix sets the format.
      about: text shown under the title.
    """
    panels = []
    for model, by_change in losses.items():
        curves = [
            IntervalCurve(
                f"{change} beyond n",
                list(by_context),
                list(by_context.values()),
                marks=(effective[model][change],),
            )
            for change, by_context in by_change.items()
        ]
        panels.append(Panel(model, curves))
    figure = draw_panels(
        panels,
        title=f"How far back it looks: large marks are the effective context\n{about}",
        x_label="characters before the target that are left unchanged (n)",
        y_label=LOSS,
    )
    save_figure(figure, path)
    return path


def _models(figures: Mapping[Condition, Measurements]) -> list[str]:
    return list(dict.fromkeys(condition.model for condition in figures))


def _conditions(figures: Mapping[Condition, Measurements], **wanted: str) -> list[Condition]:
    """Returns the conditions with these field values, shortest first."""
    found = [
        condition
        for condition in figures
        if all(getattr(condition, k) == v for k, v in wanted.items())
    ]
    return sorted(found, key=lambda condition: condition.length)


def _by_place(
    figures: Mapping[Condition, Measurements], path: Path, *, reach: int, about: str
) -> Path:
    panels = []
    for state in STATES:
        for model in _models(figures):
            conditions = _conditions(figures, model=model, state=state, budget="characters")
            curves = [
                IntervalCurve(
                    f"T = {condition.length}",
                    [(first * last) ** 0.5 for first, last in geometric_bins(reach)],
                    [cell.interval for cell in figures[condition].by_place],
                    marks=(_bin_of(condition.length, reach),),
                )
                for condition in conditions
                if figures[condition].by_place
            ]
            if curves:
                panels.append(Panel(f"{model}, state {state}", curves))
    figure = draw_panels(
        panels,
        title="Loss by context position: large marks are the training length, the first places "
        f"lie above\n{about}",
        x_label="characters read before the target (p), from an empty state",
        y_label=LOSS,
        ordered=True,
        y_range=_y_range(panels, most=0.6),
        columns=len(_models(figures)),
    )
    save_figure(figure, path)
    return path


def _bin_of(length: int, reach: int) -> float:
    """Returns the x coordinate of the bin that contains a position."""
    first, last = next(ends for ends in geometric_bins(reach) if length <= ends[1])
    return float((first * last) ** 0.5)


def _heat_maps(
    figures: Mapping[Condition, Measurements], folder: Path, *, reach: int, about: str
) -> list[Path]:
    files = []
    for model in _models(figures):
        conditions = _conditions(figures, model=model, state="reset", budget="characters")
        cells = [figures[condition].by_place for condition in conditions]
        if not conditions or not all(cells):
            continue
        path = folder / f"length_by_context_{model}.png"
        figure = draw_heat_map(
            np.array([[cell.interval.mean for cell in row] for row in cells]),
            rows=[str(condition.length) for condition in conditions],
            columns=[cell.label for cell in cells[0]],
            title=f"{model}, state reset: loss by training length and context\n{about}",
            x_label="characters read before the target (p)",
            y_label="training length T",
            unit=LOSS,
        )
        save_figure(figure, path)
        files.append(path)
    return files


def _by_length(
    figures: Mapping[Condition, Measurements],
    path: Path,
    about: str,
    baseline: tuple[str, float],
) -> Path:
    panels = []
    for model in _models(figures):
        curves = []
        for budget in BUDGETS:
            for state in STATES:
                conditions = _conditions(figures, model=model, state=state, budget=budget)
                if conditions:
                    points = [figures[condition].stream for condition in conditions]
                    label = f"state {state}, equal {budget}"
                    lengths = [condition.length for condition in conditions]
                    curves.append(
                        IntervalCurve(label, lengths, points, is_dashed=budget == "seconds")
                    )
        panels.append(Panel(model, curves, lines=(baseline,)))
    title = f"Held-out loss by training length, state carried through the text\n{about}"
    return _save_by_length(panels, path, title, y_range=_y_range(panels))


def _cold_start(
    figures: Mapping[Condition, Measurements], path: Path, window: int, about: str
) -> Path:
    panels = []
    for model in _models(figures):
        curves = []
        for state in STATES:
            conditions = _conditions(figures, model=model, state=state, budget="characters")
            lengths = [condition.length for condition in conditions]
            if not conditions:
                continue
            costs = [figures[condition].cold_start for condition in conditions]
            curves.append(IntervalCurve(f"state {state}", lengths, costs))
        panels.append(Panel(model, curves, lines=(("", 0.0),)))
    title = f"Cost of a cold start: windows of {window} less the state carried on\n{about}"
    return _save_by_length(panels, path, title, y_label="nats per character")


def _by_class(figures: Mapping[Condition, Measurements], path: Path, about: str) -> Path:
    panels = []
    for model in _models(figures):
        conditions = _conditions(figures, model=model, state="reset", budget="characters")
        curves = []
        for name in CLASSES:
            found = [
                (condition.length, cell.interval)
                for condition in conditions
                for cell in figures[condition].by_class
                if cell.label == name
            ]
            if found:
                lengths, points = zip(*found, strict=True)
                curves.append(IntervalCurve(name, lengths, points))
        panels.append(Panel(f"{model}, state reset", curves))
    title = f"Loss by kind of character, state carried through the text\n{about}"
    return _save_by_length(panels, path, title)


def _y_range(panels: Sequence[Panel], most: float = math.inf) -> tuple[float, float]:
    """Returns the y range of all means and lines, limited to `most` nats above the lowest."""
    found = [point.mean for panel in panels for curve in panel.curves for point in curve.points]
    found += [y for panel in panels for _, y in panel.lines]
    low, high = min(found), min(max(found), min(found) + most)
    margin = 0.1 * (high - low)
    return low - margin, high + margin


def _save_by_length(
    panels: Sequence[Panel],
    path: Path,
    title: str,
    *,
    y_label: str = LOSS,
    y_range: tuple[float, float] | None = None,
) -> Path:
    lengths = sorted({x for panel in panels for curve in panel.curves for x in curve.x})
    figure = draw_panels(
        panels, title=title, x_label=LENGTH, y_label=y_label, ticks=lengths, y_range=y_range
    )
    save_figure(figure, path)
    return path
