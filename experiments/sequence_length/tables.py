"""Results of the study as files: results.json, tables.md and the figures."""

import functools
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from charlm_jax.core.json_files import to_jsonable
from charlm_jax.evaluation.bootstrap import mean_interval
from experiments.block_records import from_sums
from experiments.markdown import signed, table
from experiments.results_folder import write_results_folder
from experiments.sequence_length.arms import LENGTHS, WINDOW, Arm
from experiments.sequence_length.figures import save_figures
from experiments.sequence_length.records import RULES
from experiments.sequence_length.results import ArmResult, Family, Results

TITLE = "# How long should training sequences be? Tables"

NOTES = f"""\
T is the training sequence length in characters. Losses are in nats per character, with 95 %
intervals over blocks of 1,000 characters. Learning rates, checkpoints and best lengths are chosen
on the second part of the text; losses are of the third part, unless a heading says otherwise.

`window`: the state is reset every {WINDOW} characters, for attention with a shorter T too, which
then reads further than it was trained to. `stream`: the state is carried through the whole part;
attention keeps the last T characters. `seconds`: training time on an idle machine. A length is
worse than the best if the interval of its difference lies above 0; the intervals of a family hold
all at once, with 95 %.

Figures are of the first seed, unless a heading says otherwise, and their intervals say nothing of
other seeds."""

SEARCHED = """\
The run of the first seed at equal characters is the best of several with different learning rates,
so its loss is lower than that of another seed with the same rate. Comparisons of other seeds, which
had no choice, have intervals over text and seeds."""

_QUALITY = {
    "word_validity": "words of the book",
    "distinct_word_bigrams": "distinct pairs of words",
    "distinct_6grams": "distinct 6-grams",
    "copied": "copied",
    "excess_bits": "excess divergence, bits",
}


def write_results(results: Results, folder: Path, command: str) -> None:
    """Write results.json, the figures and tables.md, and print the tables.

    Args:
      results: results of the study.
      folder: folder to write into.
      command: command line of the study.
    """
    write_results_folder(
        folder,
        values=to_json(results, command),
        draw=functools.partial(save_figures, results),
        text=tables(results, command=command),
    )


def to_json(results: Results, command: str) -> dict[str, Any]:
    """Return the content of results.json."""
    return {
        "command": command,
        "effort_per_arm": results.effort,
        "rates_at_edge": [arm.name for arm in results.at_edge],
        "gaps": results.gaps,
        "text": to_jsonable(results.text),
        "arms": {arm.name: to_jsonable(found) for arm, found in results.arms.items()},
        "families": [
            {
                "name": family.name,
                "arms": [arm.name for arm in family.arms],
                "best": family.best.name,
                "not_worse": [arm.name for arm in family.as_good],
                **to_jsonable(family.comparison),
            }
            for family in (*results.families, *results.schedules)
        ],
        "carried_less_reset": [
            {"runs": runs, "model": model, "length": length, **to_jsonable(difference)}
            for runs, found in results.carried.items()
            for (model, length), difference in found.items()
        ],
        "shortest_less_best_by_class": to_jsonable(results.by_class),
    }


def tables(results: Results, *, command: str) -> str:
    """Return the contents of tables.md.

    Args:
      results: results of the study.
      command: command line of the study.
    """
    text, preset = results.text, results.preset
    sizes = ", ".join(f"{name} {count:,}" for name, count in text.characters.items())
    parts = [
        TITLE,
        f"    {command}",
        f"{text.corpus}, {text.symbols} symbols; characters: {sizes}. Up to "
        f"{preset.effort.characters:,} characters read in training.",
        NOTES,
        *([] if preset.rates else [SEARCHED]),
        *results.gaps,
        "## Best length of each family",
        "\n".join(map(_summary, results.families)),
        "## Loss less that of the best length",
        _to_best(results.families),
    ]
    if results.schedules:
        parts += [
            "## Schedules of lengths less the best fixed length",
            "Each length of a schedule has an equal share of the training. The best fixed length "
            "is that of the runs that are compared.",
            _schedules(results.schedules),
        ]
    parts += [
        "## Loss",
        _losses(results),
        "## Loss less that of the n-gram",
        "The intervals of a column hold for all lengths of a model, state and budget at once.",
        _less_ngram(results),
        "## Training until the n-gram's loss",
        "Characters and seconds after which the loss on the second part is at most that of the "
        f"{text.ngram_order}-gram on the same characters; median over all runs on record, the "
        "lower of two, where a run that never has that loss counts as the longest; `-` if the "
        "median is such a run. The characters are those by which runs are watched, in windows "
        "whose first character a model reads from an empty state; the n-gram starts each window "
        "anew too.",
        _to_reach(results),
    ]
    if results.carried:
        parts += [
            "## Loss with carried state less that with reset state",
            "The intervals of a row hold all at once.",
            _carried(results),
        ]
    if results.by_class:
        parts += [
            "## Loss of the shortest length less that of the best, by kind of character",
            "The intervals of a row hold all at once.",
            _by_class(results),
        ]
    parts += [
        "## Effective context, in characters",
        "The shortest context within a hundredth of the loss with the longest, if everything "
        "before it is cut off or shuffled; measured where a learning rate was searched.",
        _effective(results),
        "## Generated text",
        f"{preset.samples} samples of {preset.sample_characters} characters at "
        "scale 1, where a learning rate was searched, next to as much held-out text.",
        _quality(results),
        "## Learning rates: loss on the second part, the state carried on",
        _search(results),
        _rates(results),
    ]
    return "\n\n".join(parts) + "\n"


def _names(family: Family) -> list[str]:
    return [arm.label for arm in family.arms]


def _summary(family: Family) -> str:
    comparison = family.comparison
    others = ", ".join(arm.label for arm in family.as_good if arm != family.best)
    if len(family.arms) == 1:
        verdict = "No other length is on record"
    elif comparison.is_best:
        verdict = f"It is better than every other length ({comparison.looked_at} comparisons)"
    else:
        verdict = f"Not worse: {others} ({comparison.looked_at} comparisons)"
    loss = family.loss.describe()
    return f"- {family.name}: T = {family.best.label}, loss {loss}. {verdict}."


def _to_best(families: Sequence[Family]) -> str:
    rows = []
    for family in families:
        cells = {
            arm.length: "best" if difference is None else signed(difference)
            for arm, difference in zip(family.arms, family.comparison.differences, strict=True)
        }
        rows.append([family.name, *(cells.get(length, "") for length in LENGTHS)])
    return table(["family", *(f"T = {length}" for length in LENGTHS)], rows)


def _schedules(families: Sequence[Family]) -> str:
    rows = [
        [family.name.partition(":")[0], family.arms[0].label, arm.label, signed(difference)]
        for family in families
        for arm, difference in zip(family.arms, family.comparison.differences, strict=True)
        if difference is not None
    ]
    return table(["family", "best fixed T", "schedule", "difference"], rows)


def _key(arm: Arm) -> list[str]:
    return [arm.model, arm.state, arm.budget, arm.label]


_KEY = ["model", "state", "equal", "T"]


def _losses(results: Results) -> str:
    columns = [*_KEY, "runs", "parameters", "rate", "characters", "seconds", "TFLOPs"]
    rows: list[list[object]] = [
        [
            *_key(arm),
            len(found.seeds),
            f"{found.parameters:,}",
            f"{found.rate:g}",
            f"{found.characters:,}",
            f"{found.seconds:.0f}",
            f"{found.flops / 1e12:.1f}",
            *(found.losses[rule].describe() for rule in RULES),
            "" if found.other_seeds is None else found.other_seeds.describe(),
            "" if found.spread is None else f"{found.spread:.4f}",
        ]
        for arm, found in results.arms.items()
    ]
    text = results.text
    ngram = [mean_interval(from_sums([text.ngram[rule]], text.counts)).describe() for rule in RULES]
    rows.append([f"{text.ngram_order}-gram", *[""] * 9, *ngram, "", ""])
    rows += [
        [name, *[""] * 9, "", f"{nats:.4f}", "", ""]
        for name, nats in results.text.compressed.items()
    ]
    return table([*columns, *RULES, "stream, other seeds", "standard deviation"], rows)


def _less_ngram(results: Results) -> str:
    rows = (
        [
            *_key(arm),
            *(signed(found.less_ngram[rule]) for rule in RULES),
            ", ".join(f"{each.mean:+.4f}" for each in found.by_seed),
        ]
        for arm, found in results.arms.items()
    )
    return table([*_KEY, *RULES, "stream, each seed on record"], rows)


def _to_reach(results: Results) -> str:
    rows = []
    for arm, found in results.arms.items():
        cells = [_median(found.to_reach_ngram), _median(found.seconds_to_reach_ngram)]
        best = statistics.median_low(found.best_characters)
        goal = results.text.ngram_watched[str(found.watched_context)]
        reached = sum(x is not None for x in found.to_reach_ngram)
        runs = f"{reached} of {len(found.seeds)}"
        rows.append([*_key(arm), found.watched_context, f"{goal:.4f}", *cells, runs, f"{best:,}"])
    columns = ["window", "n-gram", "characters", "seconds", "runs", "best checkpoint"]
    return table([*_KEY, *columns], rows)


def _median(values: Sequence[float | None]) -> str:
    """Return the median, the lower of two, where None is more than any number."""
    median = statistics.median_low(math.inf if x is None else x for x in values)
    return "-" if math.isinf(median) else f"{median:,.0f}"


def _carried(results: Results) -> str:
    lengths = sorted({length for found in results.carried.values() for _, length in found})
    rows = []
    for runs, found in results.carried.items():
        for model in dict.fromkeys(model for model, _ in found):
            cells = (found.get((model, length)) for length in lengths)
            rows.append([model, runs, *("" if x is None else signed(x) for x in cells)])
    return table(["model", "runs", *(f"T = {length}" for length in lengths)], rows)


def _by_class(results: Results) -> str:
    families = {family.name: family for family in results.families}
    names = list(results.text.class_counts)
    rows = []
    for name, found in results.by_class.items():
        family = families[name]
        shortest = min(family.arms, key=lambda arm: arm.length)
        lengths = f"{shortest.label} less {family.best.label}"
        rows.append([name, lengths, *(signed(found[kind]) for kind in names)])
    return table(["family", "T", *names], rows)


def _effective(results: Results) -> str:
    rows = [
        [*_key(arm), *(_reach(found, change) for change in found.effective)]
        for arm, found in results.arms.items()
        if found.effective
    ]
    return table([*_KEY, "cut off", "shuffled"], rows)


def _reach(found: ArmResult, change: str) -> str:
    reach = found.effective[change]
    return f"{reach.characters} [{reach.low}, {reach.high}]"


def _quality(results: Results) -> str:
    rows = [
        [*_key(arm), *_measures(found.quality)]
        for arm, found in results.arms.items()
        if found.quality
    ]
    rows.append(["held-out text", "", "", "", *_measures(results.text.human)])
    return table([*_KEY, *_QUALITY.values()], rows)


def _measures(quality: Mapping[str, Any]) -> list[str]:
    cells = []
    for name in _QUALITY:
        found = quality[name]
        cells.append(
            f"{found['mean']:.3f} [{found['low']:.3f}, {found['high']:.3f}]" if found else ""
        )
    return cells


def _search(results: Results) -> str:
    edge = (
        f" In {len(results.at_edge)} of {len(results.tuned)} arms the chosen rate is the lowest or "
        "the highest tried, and better than the next by more than 0.002 nats."
    )
    return f"Each arm: {results.effort}." + edge * (not results.preset.rates)


def _rates(results: Results) -> str:
    rows = []
    for arm, tuned in results.tuned.items():
        losses = tuned.mean_losses()
        cells = (
            f"**{loss:.4f} at {rate:g}**" if rate == tuned.value else f"{loss:.4f} at {rate:g}"
            for rate, loss in losses.items()
        )
        rows.append([arm.model, arm.state, arm.label, ", ".join(cells)])
    return table(["model", "state", "T", "losses"], rows)
