"""Sections of held-out losses: by run group and baseline, by position, and by character class."""

import math
from collections.abc import Callable, Mapping, Sequence

from markupsafe import Markup

from charlm_jax.analysis.loss_breakdown import GroupLoss
from charlm_jax.comparison.compare import GroupResult, describe_baselines
from charlm_jax.comparison.findings import GroupFacts
from charlm_jax.comparison.scores import Scores
from charlm_jax.core.types import bits
from charlm_jax.evaluation.bootstrap import Interval
from charlm_jax.report.html.page import PageBlock, Table, details, figure
from charlm_jax.report.html.rendering import format_percent, render
from charlm_jax.report.html.svg_charts import (
    DataPoint,
    Line,
    Span,
    line_chart,
    series_class,
    span_chart,
)
from charlm_jax.report.html.ticks import doubling_axis, linear_axis
from charlm_jax.report.learning_curves import legend

# Summaries of the modes that `charlm_jax.evaluation.protocol` defines.
_MODES: Mapping[str, str] = {
    "window": "The scored text is cut into windows, each read from an empty state; each of its "
    "{unit} is scored once.",
    "sliding": "Every target is scored after a fixed number of preceding {unit}; the targets are "
    "evenly spaced.",
    "stream": "Each stretch of the scored text is read in one pass, the state carried from its "
    "start; each of its {unit} is scored once.",
}

BYTE_CLASSES = "A byte is of the class of the character that it belongs to."
"""Remark on the classes of a text of bytes."""


def comparison_blocks(scores: Scores, groups: Sequence[GroupFacts]) -> list[PageBlock]:
    """Return the table of run groups and baselines, its chart, and the loss of every run."""
    columns = _group_columns(scores)
    figures = Table(
        columns=["group", "nats", "95 % interval", "bits", "95 % interval", *columns],
        rows=[
            [
                row.name,
                *_loss_cells(row.loss, row.bits_per_char),
                *(cell(row) for cell in columns.values()),
            ]
            for row in scores.rows
        ],
        more_rows=[
            [b.name, *_loss_cells(b.loss, b.bits_per_char), *("" for _ in columns)]
            for b in scores.baselines
        ],
        caption=f"Loss per {_noun(scores)}: {scored(scores)}",
    )
    drawn = ["Means with their intervals"]
    if any(len(row.seeds) > 1 for row in scores.rows):
        drawn.append("small circles are single runs")
    if any(baseline.loss and baseline.kind == "ngram" for baseline in scores.baselines):
        drawn.append("the dashed line is the n-gram")
    caption = "; ".join(drawn) + "."
    return [
        figures,
        _about_figures(scores),
        figure(caption, _span_chart(scores)),
        details("Every run", _run_table(scores, groups)),
    ]


def scored(scores: Scores) -> str:
    """Describe the scored text and the protocol."""
    return f"{_text_of(scores)}, {scores.characters:,} {scores.unit}, {'; '.join(scores.rules)}"


def _noun(scores: Scores) -> str:
    return scores.unit.removesuffix("s")


def _text_of(scores: Scores) -> str:
    return "training text" if scores.split == "train" else f"held-out text ({scores.split})"


def _about_figures(scores: Scores) -> str:
    counts = {len(row.seeds) for row in scores.rows}
    sentences = [_MODES[scores.mode].format(unit=scores.unit)]
    blocks = f"Intervals are over blocks of {scores.block_characters:,} {scores.unit}"
    if counts == {1}:
        sentences.append(f"{blocks}, not over seeds.")
    else:
        sentences.append(f"{blocks}, and over seeds if there are several.")
        sentences.append("Spread is the standard deviation over seeds.")
    if len(scores.rows) > 1:
        sentences.append(
            "A difference is significant if its interval, over the same blocks of both runs, "
            "excludes 0."
        )
    if scores.baselines:
        sentences.append(describe_baselines(scores.split, scores.mode, scores.unit))
    return " ".join(sentences)


def _group_columns(scores: Scores) -> Mapping[str, Callable[[GroupResult], str]]:
    """Return the columns after the loss: heading -> cell of a row."""
    columns: dict[str, Callable[[GroupResult], str]] = {}
    if any(row.spread is not None for row in scores.rows):
        columns["spread"] = lambda row: "" if row.spread is None else f"{row.spread:.4f}"
    if len(scores.rows) > 1:
        columns[f"nats minus {scores.rows[0].name}"] = lambda row: (
            "" if row.difference is None else row.difference.describe()
        )
    columns["seeds"] = lambda row: ", ".join(map(str, row.seeds))
    columns["parameters"] = lambda row: f"{row.parameters:,}"
    return columns


def _loss_cells(loss: Interval | None, bits_per_char: float) -> list[str]:
    """Return nats and bits, each followed by its interval if there is one."""
    if loss is None:
        return [f"{bits_per_char * math.log(2.0):.4f}", "", f"{bits_per_char:.4f}", ""]
    in_bits = Interval(*map(bits, loss))
    return [
        f"{loss.mean:.4f}",
        loss.describe_ends(),
        f"{bits_per_char:.4f}",
        in_bits.describe_ends(),
    ]


def _span_chart(scores: Scores) -> Markup:
    spans = [
        Span(row.name, style_index, *row.loss, values=means)
        for style_index, (row, means) in enumerate(zip(scores.rows, scores.means, strict=True))
    ]
    ngrams = [(b.name, b.loss.mean) for b in scores.baselines if b.loss and b.kind == "ngram"]
    values = [x for span in spans for x in (span.mean, span.low, span.high, *span.values)]
    axis = linear_axis(f"nats per {_noun(scores)}", [*values, *(value for _, value in ngrams)])
    return span_chart(spans, ngrams, title="Loss of every group, with 95 % intervals", x=axis)


def _run_table(scores: Scores, groups: Sequence[GroupFacts]) -> Table:
    rows = []
    for group, means in zip(groups, scores.means, strict=True):
        for run, loss_nats in zip(group.runs, means, strict=True):
            state = "" if run.has_ended else ", not finished"
            steps = f"{run.step:,} of {run.total_steps:,}" if run.total_steps else f"{run.step:,}"
            rows.append(
                [
                    run.name,
                    group.name,
                    str(run.seed),
                    steps + state,
                    f"{run.checkpoint:,}",
                    "averaged" if run.weights == "average" else "raw",
                    f"{loss_nats:.4f}",
                    f"{bits(loss_nats):.4f}",
                ]
            )
    columns = ["run", "group", "seed", "steps", "checkpoint", "weights", "nats", "bits"]
    return Table(columns, rows, f"Every run: {scored(scores)}", text_columns=2)


def position_blocks(scores: Scores) -> list[PageBlock]:
    """Return the loss by the number of characters read before, as a chart and a table."""
    lines = [
        Line(
            row.name,
            style_index,
            [
                DataPoint(math.sqrt(group.first * group.last), *group.cell.interval)
                for group in groups
            ],
        )
        for style_index, (row, groups) in enumerate(
            zip(scores.rows, scores.by_position, strict=True)
        )
    ]
    points = [point for line in lines for point in line.points]
    windows = " and ".join(dict.fromkeys(f"{window:,}" for window in scores.windows))
    count = sum(group.cell.characters for group in scores.by_position[0])
    caption = (
        f"Separate windows of {windows} {scores.unit}, each read from an empty state, over "
        f"{_text_of(scores)}, {count:,} {scores.unit}. Points are means over ranges of positions, "
        f"bands their 95 % intervals."
    )
    drawing = line_chart(
        lines,
        title=f"Loss by number of preceding {scores.unit}, in nats",
        x=doubling_axis(f"preceding {scores.unit}", 1.0, max(scores.windows)),
        y=linear_axis(f"nats per {_noun(scores)}", [y for point in points for y in point[1:]]),
        verticals=[
            (f"trained on {n:,}", n)
            for n in dict.fromkeys(scores.trained)
            if n <= max(scores.windows)
        ],
    )
    return [
        figure(caption, drawing),
        legend([row.name for row in scores.rows]),
        details("As a table", _position_table(scores)),
    ]


def _position_table(scores: Scores) -> Table:
    """Return the losses of all ranges; their counts, if all windows are equally long."""
    cells = [{(x.first, x.last): x.cell for x in groups} for groups in scores.by_position]
    is_one_length = len({*scores.windows}) == 1
    rows = []
    for ends in sorted({ends for by_ends in cells for ends in by_ends}):
        found = [by_ends.get(ends) for by_ends in cells]
        cell = next(cell for cell in found if cell is not None)
        counts = [f"{cell.characters:,}"] if is_one_length else []
        rows.append([cell.label, *counts, *map(_loss_cell, found)])
    columns = ["context", *[scores.unit] * is_one_length, *(row.name for row in scores.rows)]
    return Table(columns, rows, f"Nats per {_noun(scores)}, 95 % interval")


def _loss_cell(cell: GroupLoss | None) -> str:
    return "" if cell is None else f"{cell.interval.mean:.4f} {_short_ends(cell.interval)}"


def _short_ends(interval: Interval) -> str:
    is_finite = math.isfinite(interval.low)
    return f"[{interval.low:.3f}, {interval.high:.3f}]" if is_finite else ""


def class_table(scores: Scores) -> Table:
    """Return the loss by character class, each value with a bar below it."""
    maximum = max(cell.interval.mean for cells in scores.classes for cell in cells)
    by_label = [{cell.label: cell for cell in cells} for cells in scores.classes]
    rows = [
        [
            label,
            f"{cell.characters:,}",
            format_percent(cell.characters / scores.characters),
            *(
                _bar(cells[label], style_index, maximum)
                for style_index, cells in enumerate(by_label)
            ),
        ]
        for label, cell in by_label[0].items()
    ]
    return Table(
        ["class", scores.unit, "share", *(row.name for row in scores.rows)],
        rows,
        f"Nats per {_noun(scores)} by character class, 95 % interval: {scored(scores)}",
    )


def _bar(cell: GroupLoss, style_index: int, maximum: float) -> Markup:
    percent = 100 * cell.interval.mean / maximum if maximum > 0 else 0.0
    return render(
        "blocks.html.j2",
        "bar",
        text=_loss_cell(cell),
        percent=f"{percent:.1f}",
        css_class=series_class(style_index),
    )
