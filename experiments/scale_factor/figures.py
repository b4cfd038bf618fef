"""Figures of the scale factor study."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from charlm_jax.evaluation.bootstrap import Interval
from charlm_jax.report.figures.base import DOTS_PER_INCH, save_figure
from charlm_jax.report.palette import BLUE, GREEN, GREY, PURPLE, VERMILION
from experiments.scale_factor.measures import GRID_A, MeasuredText, RunResults
from experiments.scale_factor.settings import TEXTBOOK_SCALES

_LOOKS: Mapping[str, Mapping[str, Any]] = {
    "scale": {"color": BLUE, "marker": "o"},
    "top_k": {"color": VERMILION, "marker": "s"},
    "top_p": {"color": GREEN, "marker": "^"},
    "min_p": {"color": PURPLE, "marker": "D"},
}

_NEAR = 0.1  # half the width of the inset around human text
_LINEAR = 0.001  # the axis of shares is linear below this value, so that it includes 0
PLACES = 25  # window of the entropy by position, in characters
_TICKS = (0.25, 0.5, 1, 2, 4)
_RATIOS = (0.1, 0.25, 0.5, 0.7, 1, 1.4, 2, 4, 10)


def save_picture(results: Sequence[RunResults], path: Path, *, about: str) -> Path:
    """Draw validity against diversity, and surprisal, loss and copying against scale, by run.

    Args:
      results: results of the runs.
      path: file to write; its suffix sets the format.
      about: number and length of the samples, shown under the title.

    Raises:
      CharlmError: the file cannot be written.
    """
    figure = _figure(15.0, 4.8 * len(results))
    grid = figure.subplots(len(results), 3, squeeze=False, width_ratios=(1.5, 1.0, 1.0))
    for (left, middle, right), found in zip(grid, results, strict=True):
        _validity_by_diversity(left, found)
        _nats_by_scale(middle, found)
        _copied_by_scale(right, found)
        left.set_title(found.name, fontsize=10, loc="left", parse_math=False)
    figure.suptitle(f"What the scale factor does to sampled text\n{about}", fontsize=11)
    save_figure(figure, path)
    return path


def save_reliability(results: Sequence[RunResults], path: Path) -> Path:
    """Draw reliability diagrams: observed frequency of symbols against predicted probability.

    Args:
      results: results of the runs.
      path: file to write; its suffix sets the format.

    Raises:
      CharlmError: the file cannot be written.
    """
    figure = _figure(4.6 * len(results) + 0.4, 7.0)
    grid = figure.subplots(
        2, len(results), squeeze=False, sharex=True, sharey="row", height_ratios=(1.6, 1.0)
    )
    for (upper, lower), found in zip(grid.T, results, strict=True):
        bins = [b for b in found.held_out.bins if b.observed.mean > 0]  # of a logarithmic axis
        predicted = [b.predicted for b in bins]
        _curve(upper, predicted, [b.observed for b in bins], label="observed", color=BLUE)
        upper.plot(predicted, predicted, color=GREY, linestyle=":", label="as predicted")
        upper.set(xscale="log", yscale="log")
        ratios = [Interval(*(end / b.predicted for end in b.observed)) for b in bins]
        _curve(lower, predicted, ratios, label="observed", color=BLUE)
        lower.axhline(1.0, color=GREY, linestyle=":")
        lower.set(xlabel="predicted probability at scale 1", yscale="log")
        lower.yaxis.set_major_locator(FixedLocator(_RATIOS))
        lower.yaxis.set_minor_locator(NullLocator())
        lower.yaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        title = f"{found.name}\n{found.held_out.characters:,} held-out characters"
        upper.set_title(title, fontsize=9.5, parse_math=False)
        _tidy(upper)
        _tidy(lower)
    grid[0, 0].set_ylabel("share of symbols that occurred")
    grid[1, 0].set_ylabel("that share over the prediction")
    grid[0, 0].legend(frameon=False, fontsize=9)
    save_figure(figure, path)
    return path


def save_entropy_by_place(results: Sequence[RunResults], path: Path, *, about: str) -> Path:
    """Draw the entropy of samples and human text by position, which reveals drift.

    Args:
      results: results of the runs.
      path: file to write; its suffix sets the format.
      about: number and length of the samples, shown under the title.

    Raises:
      CharlmError: the file cannot be written.
    """
    figure = _figure(4.6 * len(results) + 2.2, 4.4)
    grid = figure.subplots(1, len(results), squeeze=False, sharey=True)
    for axes, found in zip(grid.flat, results, strict=True):
        texts = [text for text in found.of("scale") if text.setting.scale in TEXTBOOK_SCALES]
        looks = ((VERMILION, "--"), (BLUE, "-"), (GREEN, "-."))
        for text, (color, style) in zip(texts, looks, strict=False):
            _by_place(axes, text, f"scale {text.setting.scale:g}", color=color, style=style)
        _by_place(axes, found.human, "held-out text, scale 1", color=GREY, style=":")
        axes.set_xlabel(f"position in the sample, averaged over {PLACES}")
        axes.set_title(found.name, fontsize=9.5, parse_math=False)
        _tidy(axes)
    grid[0, 0].set_ylabel("entropy, nats per character")
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False, fontsize=9)
    figure.suptitle(f"Entropy of the samples, by position\n{about}", fontsize=10.5)
    save_figure(figure, path)
    return path


def _by_place(axes: Axes, text: MeasuredText, label: str, *, color: str, style: str) -> None:
    found = text.entropy_by_place(PLACES)
    places = [PLACES * (step + 0.5) for step in range(len(found))]
    _curve(axes, places, found, label=label, color=color, marker="", linestyle=style)


def _validity_by_diversity(axes: Axes, found: RunResults) -> None:
    _curves_to_human(axes, found)
    axes.set_xlabel("diversity: share of distinct 6-grams")
    axes.set_ylabel("validity: share of words in the training text")
    axes.legend(frameon=False, fontsize=9, loc="lower left")
    _tidy(axes)
    human = found.human.judgement
    if human.word_validity is None:
        return
    near = axes.inset_axes((0.36, 0.16, 0.5, 0.62))
    _curves_to_human(near, found)
    x, y = human.distinct_6grams.mean, human.word_validity.mean
    near.set(xlim=(x - _NEAR, min(x + _NEAR, 1.005)), ylim=(y - _NEAR, min(y + _NEAR, 1.005)))
    near.tick_params(labelsize=8)
    _tidy(near)
    axes.indicate_inset_zoom(near, edgecolor=GREY)


def _curves_to_human(axes: Axes, found: RunResults) -> None:
    """Draw a curve per varied field, mark the textbook's scales, and human text with a star."""
    for varied in dict.fromkeys(text.setting.varied for text in found.texts):
        texts = [text for text in found.of(varied) if text.judgement.word_validity is not None]
        xs = [text.judgement.distinct_6grams.mean for text in texts]
        ys = [_valid(text).mean for text in texts]
        axes.plot(xs, ys, label=varied, linewidth=1.6, markersize=4.5, **_LOOKS[varied])
        for text, x, y in zip(texts, xs, ys, strict=True):
            if varied == "scale" and text.setting.scale in TEXTBOOK_SCALES:
                _mark_scale(axes, text.setting.scale, (x, y))
    human = found.human.judgement
    if human.word_validity is not None:
        star = (human.distinct_6grams.mean, human.word_validity.mean)
        axes.plot(*star, "*", color="black", markersize=15, label="held-out human text", zorder=6)


def _mark_scale(axes: Axes, scale: float, point: tuple[float, float]) -> None:
    axes.plot(*point, "o", color=BLUE, markersize=10, markeredgecolor="white", zorder=5)
    axes.annotate(
        f"{scale:g}",
        point,
        xytext=(-8, -9),
        textcoords="offset points",
        horizontalalignment="right",
        fontsize=10,
        weight="bold",
        color=BLUE,
        annotation_clip=True,
    )


def _valid(text: MeasuredText) -> Interval:
    assert text.judgement.word_validity is not None
    return text.judgement.word_validity


def _nats_by_scale(axes: Axes, found: RunResults) -> None:
    texts = _on_axis(found)
    scales = [text.setting.scale for text in texts]
    _curve(axes, scales, [text.surprisal for text in texts], label="surprisal", color=VERMILION)
    _curve(axes, scales, [text.entropy for text in texts], label="entropy", color=BLUE, marker="s")
    axes.plot(GRID_A, found.held_out.loss_A, color=GREEN, label="held-out loss", linewidth=1.8)
    best = found.held_out
    axes.plot(
        best.calibrated.mean,
        best.least_loss.mean,
        marker="*",
        linestyle="none",
        color=GREEN,
        markersize=13,
        zorder=6,
        label="smallest held-out loss",
    )
    axes.axhline(best.least_loss.mean, color=GREEN, linestyle=":", linewidth=1.0)
    axes.set_ylim(0, min(axes.get_ylim()[1], 3 * best.loss.mean))
    axes.set_ylabel("nats per character")
    axes.legend(frameon=False, fontsize=9)
    _over_scale(axes)


def _copied_by_scale(axes: Axes, found: RunResults) -> None:
    texts = _on_axis(found)
    scales = [text.setting.scale for text in texts]
    copied = [text.judgement.copied for text in texts]
    repeated = [text.judgement.repeated for text in texts]
    _curve(axes, scales, copied, label="24-grams copied from training", color=VERMILION)
    _curve(axes, scales, repeated, label="repeated within the sample", color=BLUE, marker="s")
    axes.axhline(
        found.human.judgement.copied.mean,
        color=VERMILION,
        linestyle=":",
        label="copied, human text",
    )
    axes.axhline(
        found.human.judgement.repeated.mean, color=BLUE, linestyle="--", label="repeated, human"
    )
    axes.set_yscale("symlog", linthresh=_LINEAR)
    axes.set_ylim(0, 1)
    axes.set_ylabel(f"share (logarithmic above {_LINEAR:g})")
    axes.legend(frameon=False, fontsize=9, loc="upper left")
    _over_scale(axes)


def _on_axis(found: RunResults) -> list[MeasuredText]:
    """Return the texts with a positive, finite scale, for a logarithmic axis."""
    return [text for text in found.of("scale") if 0 < text.setting.scale < float("inf")]


def _over_scale(axes: Axes) -> None:
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(_TICKS))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    for scale in TEXTBOOK_SCALES:
        axes.axvline(scale, color="#cccccc", linewidth=1.0, zorder=0)
    axes.set_xlabel("scale factor (1 / temperature)")
    _tidy(axes)


def _curve(
    axes: Axes,
    xs: Sequence[float],
    points: Sequence[Interval],
    *,
    label: str,
    color: str,
    marker: str = "o",
    linestyle: str = "-",
) -> None:
    lows, highs = [p.low for p in points], [p.high for p in points]
    axes.fill_between(xs, lows, highs, color=color, alpha=0.16, linewidth=0)
    means = [p.mean for p in points]
    axes.plot(
        xs,
        means,
        linestyle=linestyle,
        marker=marker,
        color=color,
        label=label,
        linewidth=1.8,
        markersize=4.5,
    )


def _tidy(axes: Axes) -> None:
    axes.grid(color="#e2e2e2", linewidth=0.7)
    axes.spines[["top", "right"]].set_visible(False)


def _figure(width: float, height: float) -> Figure:
    size = (min(width, 16.0), height)
    return Figure(figsize=size, dpi=DOTS_PER_INCH, facecolor="white", layout="constrained")
