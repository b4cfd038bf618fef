"""Contents of the study's tables.md."""

import math
from collections.abc import Iterable, Mapping, Sequence

from charlm_jax.analysis.effective_context import CHANGES
from charlm_jax.analysis.loss_breakdown import CLASSES
from charlm_jax.evaluation.bootstrap import Difference
from experiments.markdown import signed, table
from experiments.sequence_length.measures import LengthComparison
from experiments.sequence_length.results import Results

TITLE = "# How long should training sequences be? Tables"

NOTES = """\
T is the training sequence length in characters. Losses are in nats per character, with 95 %
intervals over seeds and blocks of 1,000 characters. Learning rates and best lengths are chosen on
the second part of the text; all losses below are of the third, unless a heading says otherwise.

`in windows`: the state is reset every 64 characters. `reading on`: the state is carried through
the whole part; attention keeps the last T characters. `over seeds`: standard deviation of
`reading on`. `seconds`: training time on an idle machine. Differences are taken run by run and
character by character, of the losses `reading on`. A length is significantly worse than the best
if the interval of its difference lies above 0."""


def tables(results: Results, *, command: str) -> str:
    """Returns the contents of tables.md.

    Args:
      results: results of the study.
      command: command line of the study.
    """
    conditions = list(results.measurements)
    read = max(x.characters for x in conditions if x.budget == "characters")
    edges = sum(map(_is_at_edge, results.tried.values()))
    parts = [
        TITLE,
        f"    {command}",
        f"{read:,} characters read in training, {len(conditions[0].seeds)} seeds, "
        f"{results.characters:,} held-out characters scored.",
        NOTES,
        "## Best length of each group of runs",
        "\n".join(_summary(x, results) for x in results.comparisons),
        "## Loss less that of the best length",
        _to_best(results.comparisons),
        "## Loss with carried state less that with reset state, equal characters",
        _carried(results.carried),
        "## Loss of the shortest length less that of the best, by kind of character",
        _by_class(results.comparisons),
        "## Effective context, in characters",
        "The shortest context within a hundredth of the loss with the longest, if everything "
        "before it is cut off, shuffled, or replaced by another passage. One run per model, at "
        "its best length with reset state.",
        _effective(results.effective),
        "## Loss",
        _losses(results),
        "## Learning rates: loss of the first seed on the second part",
        f"The best rate is bold. In {edges} of {len(results.tried)} rows it is the lowest or the "
        "highest tried.",
        _rates(results),
    ]
    return "\n\n".join(parts) + "\n"


def _summary(comparison: LengthComparison, results: Results) -> str:
    best = next(x for x in results.measurements if comparison.is_best(x))
    others = ", ".join(str(length) for length in comparison.as_good if length != best.length)
    return (
        f"- {comparison.model}, state {comparison.state}, equal {comparison.budget}: T = "
        f"{best.length}, loss {results.measurements[best].stream.describe()}. Not significantly "
        f"worse: {others or 'none'}."
    )


def _to_best(comparisons: Sequence[LengthComparison]) -> str:
    lengths = sorted({length for x in comparisons for length in x.lengths})
    rows = []
    for x in comparisons:
        cells = {
            length: "best" if difference is None else signed(difference)
            for length, difference in zip(x.lengths, x.to_best, strict=True)
        }
        rows.append([x.model, x.state, x.budget, *(cells.get(length, "") for length in lengths)])
    return table(["model", "state", "equal", *(f"T = {length}" for length in lengths)], rows)


def _carried(carried: Mapping[tuple[str, int], Difference]) -> str:
    lengths = sorted({length for _, length in carried})
    models = dict.fromkeys(model for model, _ in carried)
    rows = (
        [model, *(signed(carried[model, t]) if (model, t) in carried else "" for t in lengths)]
        for model in models
    )
    return table(["model", *(f"T = {length}" for length in lengths)], rows)


def _by_class(comparisons: Sequence[LengthComparison]) -> str:
    rows = (
        [
            x.model,
            x.state,
            x.budget,
            f"{x.lengths[0]} less {x.best_length}",
            *(signed(x.by_class[name]) if name in x.by_class else "" for name in CLASSES),
        ]
        for x in comparisons
        if x.by_class
    )
    return table(["model", "state", "equal", "T", *CLASSES], rows)


def _effective(effective: Mapping[str, Mapping[str, int]]) -> str:
    rows = ([model, *(by_change[x] for x in CHANGES)] for model, by_change in effective.items())
    return table(["model", *CHANGES], rows)


def _losses(results: Results) -> str:
    columns = "model,state,equal,T,rate,characters,seconds,TFLOPs,in windows,reading on,over seeds"
    rows = [
        [
            condition.model,
            condition.state,
            condition.budget,
            condition.length,
            f"{condition.rate:g}",
            f"{condition.characters:,}",
            f"{condition.seconds:.0f}",
            f"{condition.flops / 1e12:.1f}",
            found.window.describe(),
            found.stream.describe(),
            "" if found.spread is None else f"{found.spread:.4f}",
        ]
        for condition, found in results.measurements.items()
    ]
    for baseline in results.baselines:
        nats = f"{baseline.bits_per_char * math.log(2):.4f}"
        loss = baseline.loss.describe() if baseline.loss else nats
        rows.append([baseline.name, *[""] * 8, loss, ""])
    return table(columns.split(","), rows)


def _rates(results: Results) -> str:
    count = max(map(len, results.tried.values()))
    columns = ["model", "T", "state", *(f"rate {number}" for number in range(1, count + 1))]
    return table(columns, ([*key, *_cells(x)] for key, x in results.tried.items()))


def _cells(loss_by_rate: Mapping[float, float]) -> Iterable[str]:
    best = min(loss_by_rate.values())
    for rate, loss in loss_by_rate.items():
        cell = f"{loss:.4f} at {rate:g}"
        yield f"**{cell}**" if loss == best else cell


def _is_at_edge(loss_by_rate: Mapping[float, float]) -> bool:
    best = min(loss_by_rate, key=loss_by_rate.__getitem__)
    return len(loss_by_rate) > 1 and best in (min(loss_by_rate), max(loss_by_rate))
