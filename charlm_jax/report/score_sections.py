"""What a page says of held-out figures: the table, and what the figures are made of."""

import math
from collections.abc import Callable, Mapping, Sequence

from charlm_jax.analysis.loss_breakdown import GroupLoss
from charlm_jax.comparison.compare import Row, baselines_in_words
from charlm_jax.comparison.findings import ArmFacts
from charlm_jax.comparison.scores import Scores
from charlm_jax.core.types import bits
from charlm_jax.evaluation.bootstrap import Interval
from charlm_jax.report.html.markup import Markup, details, element, markup, table
from charlm_jax.report.html.svg_charts import Line, Point, Span, line_chart, span_chart
from charlm_jax.report.html.ticks import doubling_axis, linear_axis
from charlm_jax.report.learning_curves import legend

# What a reader has to know of `charlm_jax.evaluation.scoring`, where they are defined.
_RULES: Mapping[str, str] = {
    "window": "The text is cut into windows, each of which a model begins to read from nothing; "
    "every character is scored once.",
    "sliding": "Exactly so many characters are read before each of an even choice of characters.",
    "stream": "The text is read through, and every character is scored once.",
}


def comparison_blocks(scores: Scores, arms: Sequence[ArmFacts]) -> list[str]:
    """The table of arms and baselines, the same as a drawing, and every run's own figure."""
    more = _columns_of_arms(scores)
    figures = table(
        ["arm", "nats", "95 % interval", "bits", "95 % interval", *more],
        [
            [
                row.name,
                *_loss_cells(row.loss, row.bits_per_char),
                *(say(row) for say in more.values()),
            ]
            for row in scores.rows
        ],
        [
            [found.name, *_loss_cells(found.loss, found.bits_per_char), *("" for _ in more)]
            for found in scores.baselines
        ],
        caption=f"Loss per character: {scored(scores)}",
    )
    drawn = element(
        "figure",
        _spans(scores),
        element(
            "figcaption",
            "Means with their intervals, and below them single runs as small circles; the dashed "
            "line is what counting strings of characters gives.",
        ),
    )
    return [figures, _about_figures(scores), drawn, details("Every run", _runs(scores, arms))]


def scored(scores: Scores) -> str:
    """What was scored, and how, in words."""
    return f"{_text_of(scores)}, {scores.characters:,} characters, {'; '.join(scores.rules)}"


def _text_of(scores: Scores) -> str:
    return "training text" if scores.split == "train" else f"held-out text ({scores.split})"


def _about_figures(scores: Scores) -> str:
    counts = {len(row.seeds) for row in scores.rows}
    words = _RULES[scores.mode] + " Intervals are over blocks of 1,000 characters"
    words += ", and over seeds where there are several" if counts != {1} else ""
    words += "; of a single run they say nothing about other seeds" if 1 in counts else ""
    words += ". Spread is the standard deviation over seeds." if counts != {1} else "."
    if len(scores.rows) > 1:
        words += " A difference is shown where its interval, over the same blocks of both, leaves "
        words += "0 out."
    return f"{words} {baselines_in_words(scores.split, scores.mode)}"


def _columns_of_arms(scores: Scores) -> Mapping[str, Callable[[Row], str]]:
    """What is said of an arm beside its loss."""
    columns: dict[str, Callable[[Row], str]] = {}
    if any(row.spread is not None for row in scores.rows):
        columns["spread"] = lambda row: "" if row.spread is None else f"{row.spread:.4f}"
    if len(scores.rows) > 1:
        columns[f"nats less {scores.rows[0].name}"] = lambda row: (
            "" if row.difference is None else row.difference.in_words()
        )
    columns["seeds"] = lambda row: ", ".join(map(str, row.seeds))
    columns["parameters"] = lambda row: f"{row.parameters:,}"
    return columns


def _loss_cells(loss: Interval | None, bits_per_char: float) -> list[str]:
    """Nats and bits, each with its interval if there is one."""
    if loss is None:
        return [f"{bits_per_char * math.log(2.0):.4f}", "", f"{bits_per_char:.4f}", ""]
    ends = [found.ends_in_words() for found in (loss, Interval(*map(bits, loss)))]
    return [f"{loss.mean:.4f}", ends[0], f"{bits_per_char:.4f}", ends[1]]


def _spans(scores: Scores) -> Markup:
    spans = [
        Span(row.name, look, *row.loss, values=means)
        for look, (row, means) in enumerate(zip(scores.rows, scores.means, strict=True))
    ]
    ngrams = [(b.name, b.loss.mean) for b in scores.baselines if b.loss and "gram (" in b.name]
    values = [x for span in spans for x in (span.mean, span.low, span.high, *span.values)]
    axis = linear_axis("nats per character", [*values, *(value for _, value in ngrams)])
    return span_chart(spans, ngrams, title="Loss of every arm, with its interval", x=axis)


def _runs(scores: Scores, arms: Sequence[ArmFacts]) -> Markup:
    rows = []
    for arm, means in zip(arms, scores.means, strict=True):
        for run, loss_nats in zip(arm.runs, means, strict=True):
            state = "" if run.has_ended else ", not finished"
            steps = f"{run.step:,} of {run.total_steps:,}" if run.total_steps else f"{run.step:,}"
            rows.append(
                [
                    run.name,
                    arm.name,
                    str(run.seed),
                    steps + state,
                    f"{run.checkpoint:,}",
                    "averaged" if run.weights == "average" else "raw",
                    f"{loss_nats:.4f}",
                    f"{bits(loss_nats):.4f}",
                ]
            )
    columns = ["run", "arm", "seed", "steps made", "checkpoint", "weights", "nats", "bits"]
    return table(columns, rows, caption=f"Every run: {scored(scores)}", text_columns=2)


def place_blocks(scores: Scores) -> list[str]:
    """The loss by how much was read before a character."""
    lines = [
        Line(
            row.name,
            look,
            [Point(math.sqrt(place.first * place.last), *place.cell.interval) for place in places],
        )
        for look, (row, places) in enumerate(zip(scores.rows, scores.places, strict=True))
    ]
    everything = [point for line in lines for point in line.points]
    windows = " and ".join(dict.fromkeys(f"{window:,}" for window in scores.windows))
    count = sum(place.cell.characters for place in scores.places[0])
    caption = (
        f"Separate windows of {windows} characters, each begun from nothing, over "
        f"{_text_of(scores)}, {count:,} characters: a point is the mean over a range of places, "
        f"with its 95 % interval as a band."
    )
    drawn = line_chart(
        lines,
        title="Loss by the number of characters read before, in nats",
        x=doubling_axis("characters read before", 1.0, max(scores.windows)),
        y=linear_axis("nats per character", [y for point in everything for y in point[1:]]),
        upright=[(f"trained on {n:,}", n) for n in dict.fromkeys(scores.trained)],
    )
    names = [row.name for row in scores.rows]
    return [
        markup(element("figure", element("figcaption", caption), drawn), legend(names)),
        details("As a table", _place_table(scores)),
    ]


def _place_table(scores: Scores) -> Markup:
    by_label = [{place.cell.label: place.cell for place in places} for places in scores.places]
    longest = max(by_label, key=len)
    rows = [
        [label, f"{cell.characters:,}", *(_figure(found.get(label)) for found in by_label)]
        for label, cell in longest.items()
    ]
    columns = ["read before", "characters", *(row.name for row in scores.rows)]
    return table(columns, rows, caption="Nats per character, 95 % interval")


def _figure(cell: GroupLoss | None) -> str:
    return "" if cell is None else f"{cell.interval.mean:.4f} {_short_ends(cell.interval)}"


def _short_ends(interval: Interval) -> str:
    is_finite = math.isfinite(interval.low)
    return f"[{interval.low:.3f}, {interval.high:.3f}]" if is_finite else ""


def class_table(scores: Scores) -> Markup:
    """The loss by the class of a character, each figure over a bar."""
    largest = max(cell.interval.mean for cells in scores.classes for cell in cells)
    by_label = [{cell.label: cell for cell in cells} for cells in scores.classes]
    rows = [
        [
            label,
            f"{cell.characters:,}",
            f"{100 * cell.characters / scores.characters:.1f} %",
            *(_bar(found[label].interval, look, largest) for look, found in enumerate(by_label)),
        ]
        for label, cell in by_label[0].items()
    ]
    names = [row.name for row in scores.rows]
    return table(
        ["class", "characters", "share", *names],
        rows,
        caption=f"Nats per character by its class, 95 % interval: {scored(scores)}",
    )


def _bar(interval: Interval, look: int, largest: float) -> Markup:
    share = 100 * interval.mean / largest if largest > 0 else 0.0
    filled = element("i", class_=f"f{look % 7}", style=f"width:{share:.1f}%")
    words = f"{interval.mean:.4f} {_short_ends(interval)}"
    return markup(words, element("span", filled, class_="bar"))
