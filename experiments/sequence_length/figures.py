"""The figures of the study of sequence lengths."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from charlm_jax.analysis.loss_breakdown import CLASSES, geometric_bins
from charlm_jax.evaluation.bootstrap import Interval
from charlm_jax.report.figures.panels import Curve, Panel, save_heat_map, save_panels
from experiments.sequence_length.measures import BUDGETS, STATES, Arm, Figures

LOSS = "loss, nats per character"
LENGTH = "training sequence length T, characters"


def save_figures(
    figures: Mapping[Arm, Figures],
    folder: Path,
    *,
    reach: int,
    window: int,
    about: str,
    baseline: tuple[str, float],
) -> list[Path]:
    """Draw what the arms measured, a file for each question.

    Args:
      figures: of every arm.
      folder: where to.
      reach: of the windows behind the losses by place.
      window: of the validation.
      about: budget and seeds, under every title.
      baseline: name and loss of the best simple predictor.

    Returns:
      The files.
    """
    files = [
        _by_place(figures, folder / "loss_by_position.png", reach=reach, about=about),
        *_heat_maps(figures, folder, reach=reach, about=about),
        _by_length(figures, folder / "loss_by_length.png", about, baseline),
        _cold_start(figures, folder / "cold_start.png", window, about),
        _by_class(figures, folder / "loss_by_class.png", about),
    ]
    return files


def save_effective_context(
    losses: Mapping[str, Mapping[str, Mapping[int, Interval]]],
    effective: Mapping[str, Mapping[str, int]],
    path: Path,
    *,
    about: str,
) -> Path:
    """Draw what models lose when the characters beyond n are changed.

    Args:
      losses: model -> change -> n -> loss.
      effective: model -> change -> effective context.
      path: where to; its ending names the format.
      about: under the title.
    """
    panels = []
    for model, by_change in losses.items():
        curves = [
            Curve(
                f"{change} beyond n",
                list(by_context),
                list(by_context.values()),
                marks=(effective[model][change],),
            )
            for change, by_context in by_change.items()
        ]
        panels.append(Panel(model, curves))
    save_panels(
        panels,
        path,
        title=f"How far back it looks: large marks are the effective context\n{about}",
        x_label="characters before the target that are left unchanged (n)",
        y_label=LOSS,
    )
    return path


def _models(figures: Mapping[Arm, Figures]) -> list[str]:
    return list(dict.fromkeys(arm.model for arm in figures))


def _arms(figures: Mapping[Arm, Figures], **wanted: str) -> list[Arm]:
    """Those that have all of these, the shortest first."""
    found = [arm for arm in figures if all(getattr(arm, k) == v for k, v in wanted.items())]
    return sorted(found, key=lambda arm: arm.length)


def _by_place(figures: Mapping[Arm, Figures], path: Path, *, reach: int, about: str) -> Path:
    panels = []
    for state in STATES:
        for model in _models(figures):
            arms = _arms(figures, model=model, state=state, budget="characters")
            curves = [
                Curve(
                    f"T = {arm.length}",
                    [(first * last) ** 0.5 for first, last in geometric_bins(reach)],
                    [cell.interval for cell in figures[arm].by_place],
                    marks=(_bin_of(arm.length, reach),),
                )
                for arm in arms
                if figures[arm].by_place
            ]
            if curves:
                panels.append(Panel(f"{model}, state {state}", curves))
    save_panels(
        panels,
        path,
        title="Loss by context position: large marks are the training length, the first places "
        f"lie above\n{about}",
        x_label="characters read before the target (p), from an empty state",
        y_label=LOSS,
        ordered=True,
        y_range=_shown(panels, most=0.6),
        columns=len(_models(figures)),
    )
    return path


def _bin_of(length: int, reach: int) -> float:
    """Where the curve has the point of a position."""
    first, last = next(ends for ends in geometric_bins(reach) if length <= ends[1])
    return float((first * last) ** 0.5)


def _heat_maps(
    figures: Mapping[Arm, Figures], folder: Path, *, reach: int, about: str
) -> list[Path]:
    files = []
    for model in _models(figures):
        arms = _arms(figures, model=model, state="reset", budget="characters")
        cells = [figures[arm].by_place for arm in arms]
        if not arms or not all(cells):
            continue
        path = folder / f"length_by_context_{model}.png"
        save_heat_map(
            np.array([[cell.interval.mean for cell in row] for row in cells]),
            path,
            rows=[str(arm.length) for arm in arms],
            columns=[cell.label for cell in cells[0]],
            title=f"{model}, state reset: loss by training length and context\n{about}",
            x_label="characters read before the target (p)",
            y_label="training length T",
            unit=LOSS,
        )
        files.append(path)
    return files


def _by_length(
    figures: Mapping[Arm, Figures],
    path: Path,
    about: str,
    baseline: tuple[str, float],
) -> Path:
    panels = []
    for model in _models(figures):
        curves = []
        for budget in BUDGETS:
            for state in STATES:
                arms = _arms(figures, model=model, state=state, budget=budget)
                if arms:
                    points = [figures[arm].stream for arm in arms]
                    label = f"state {state}, equal {budget}"
                    lengths = [arm.length for arm in arms]
                    curves.append(Curve(label, lengths, points, is_dashed=budget == "seconds"))
        panels.append(Panel(model, curves, lines=(baseline,)))
    title = f"Held-out loss by training length, state carried through the text\n{about}"
    return _save_by_length(panels, path, title, y_range=_shown(panels))


def _cold_start(figures: Mapping[Arm, Figures], path: Path, window: int, about: str) -> Path:
    panels = []
    for model in _models(figures):
        curves = []
        for state in STATES:
            arms = _arms(figures, model=model, state=state, budget="characters")
            lengths = [arm.length for arm in arms]
            if not arms:
                continue
            costs = [figures[arm].cold_start for arm in arms]
            curves.append(Curve(f"state {state}", lengths, costs))
        panels.append(Panel(model, curves, lines=(("", 0.0),)))
    title = f"Cost of a cold start: windows of {window} less the state carried on\n{about}"
    return _save_by_length(panels, path, title, y_label="nats per character")


def _by_class(figures: Mapping[Arm, Figures], path: Path, about: str) -> Path:
    panels = []
    for model in _models(figures):
        arms = _arms(figures, model=model, state="reset", budget="characters")
        curves = []
        for name in CLASSES:
            found = [
                (arm.length, cell.interval)
                for arm in arms
                for cell in figures[arm].by_class
                if cell.label == name
            ]
            if found:
                lengths, points = zip(*found, strict=True)
                curves.append(Curve(name, lengths, points))
        panels.append(Panel(f"{model}, state reset", curves))
    title = f"Loss by kind of character, state carried through the text\n{about}"
    return _save_by_length(panels, path, title)


def _shown(panels: Sequence[Panel], most: float = math.inf) -> tuple[float, float]:
    """The range of the means and lines, of which an interval may run out; at most so many nats."""
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
    save_panels(
        panels, path, title=title, x_label=LENGTH, y_label=y_label, ticks=lengths, y_range=y_range
    )
    return path
