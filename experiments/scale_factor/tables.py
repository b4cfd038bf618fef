"""Contents of the study's tables.md."""

import textwrap
from collections.abc import Iterable, Sequence
from itertools import zip_longest

from charlm_jax.analysis.text_quality import TextQuality
from charlm_jax.evaluation.bootstrap import Interval
from experiments.markdown import table
from experiments.scale_factor.measures import GRID_A, MeasuredText, RunResults
from experiments.scale_factor.settings import TEXTBOOK_SCALES, UNCHANGED, SamplePlan

TITLE = "# What does the scale factor do? Tables"

NOTES = """\
Every setting continues the same prompt with the same number of samples and the same noise. A
truncation acts before the scale, which is 1 where none is named. The row `human` is as much
held-out text, cut into pieces of the same length and measured in the same way
(`charlm_jax/analysis/text_quality.py`).

`surprisal` is the loss of the model at scale 1 on the samples, `entropy` that of the distributions
sampled from, both in nats per character. `held-out loss` is that of the whole held-out part at the
same scale, with the state carried through it. `excess` is how much more the 4-grams of samples and
human text diverge than those of two halves of either: about 0 for a perfect imitation. Unlike
`divergence`, it does not favour low-entropy text.

Intervals are 95 %: over samples; over blocks of 1,000 characters for held-out losses and the scale
of smallest loss; over both for the scale of equal entropy."""

_MEASURES = (
    ("words known", "word_validity", 3),
    ("distinct 6-grams", "distinct_6grams", 3),
    ("distinct word pairs", "distinct_word_bigrams", 3),
    ("DEFLATE, bits", "compressed_bits_per_char", 2),
    ("repeated", "repeated", 3),
    ("24-grams copied", "copied", 4),
    ("longest copy", "longest_copy_characters", 1),
    ("divergence, bits", "divergence_bits", 3),
    ("excess, bits", "excess_bits", 3),
)
_LONGEST_QUOTE = 80  # maximum length of a quoted copy, in characters
_SNIPPET_WIDTH, _SNIPPET_LINES = 38, 12


def tables(results: Sequence[RunResults], *, plan: SamplePlan, command: str) -> str:
    """Return the contents of tables.md.

    Args:
      results: results of every run.
      plan: prompt, number and length of the samples.
      command: command line of the study.
    """
    parts = [
        TITLE,
        f"    {command}",
        f"{plan.samples} samples of {plan.characters} characters under each setting, all "
        f"continuing {plan.prompt!r}.",
        NOTES,
        "## Runs",
        _runs(results),
        "## Smallest excess of each kind of setting",
        _nearest(results),
        "## Longest copy from the training text",
        _longest_copies(results),
    ]
    for run in results:
        parts += [f"## {run.name}", _summary(run), _settings(run)]
        parts.append(f"```\n{snippets(run, plan.prompt)}\n```")
    return "\n\n".join(parts) + "\n"


def snippets(run: RunResults, prompt: str) -> str:
    """Return the start of a sample at the textbook's scales and at that of smallest excess."""
    shown = [text for text in run.of("scale") if text.setting.scale in TEXTBOOK_SCALES]
    if run.nearest("scale") not in shown:
        shown.append(run.nearest("scale"))
    columns = [_column(text, prompt) for text in sorted(shown, key=lambda t: t.setting.scale)]
    rows = zip_longest(*columns, fillvalue="")
    return "\n".join("  ".join(cell.ljust(_SNIPPET_WIDTH) for cell in row).rstrip() for row in rows)


def _column(text: MeasuredText, prompt: str) -> list[str]:
    whole = prompt + text.samples[0]
    lines = [
        piece
        for line in whole.splitlines()
        for piece in textwrap.wrap(line, _SNIPPET_WIDTH) or [""]
    ]
    return [f"scale {text.setting.scale:g}", "", *lines[:_SNIPPET_LINES]]


def _runs(results: Sequence[RunResults]) -> str:
    columns = (
        "run",
        "held-out loss at scale 1",
        "smallest loss",
        "at scale",
        "equal entropy at scale",
        "scale of smallest excess",
        "excess, bits",
    )
    rows = (
        [
            run.name,
            _cell(run.held_out.loss, 4),
            _cell(run.held_out.least_loss, 4),
            _cell(run.held_out.calibrated, 3),
            _cell(run.even, 3),
            f"{run.nearest('scale').setting.scale:g}",
            _cell(run.nearest("scale").excess, 3),
        ]
        for run in results
    )
    return table(columns, rows)


def _nearest(results: Sequence[RunResults]) -> str:
    rows = []
    for run in results:
        for varied in dict.fromkeys(text.setting.varied for text in run.texts):
            text = run.nearest(varied)
            known, distinct = text.judgement.word_validity, text.judgement.distinct_6grams
            cells = (_cell(x, 3) for x in (text.excess, known, distinct))
            rows.append([run.name, text.setting.name, *cells])
    return table(["run", "setting", "excess, bits", "words known", "distinct 6-grams"], rows)


def _longest_copies(results: Sequence[RunResults]) -> str:
    rows = []
    for run in results:
        text = max(run.texts, key=_longest)
        copy = text.judgement.longest_copy
        if copy is not None:
            quote = text.samples[copy.sample][copy.start : copy.start + copy.length]
            cells = (copy.length, f"{copy.position:,}", repr(quote[:_LONGEST_QUOTE]))
            rows.append([run.name, text.setting.name, *cells])
    return table(["run", "setting", "characters", "position in the text", "text"], rows)


def _longest(text: MeasuredText) -> int:
    copy = text.judgement.longest_copy
    return 0 if copy is None else copy.length


def _summary(run: RunResults) -> str:
    best = run.nearest("scale")
    others = (
        f"{text.setting.scale:g}"
        for text in run.of("scale")
        if text is not best and text.excess.low < best.excess.high
    )
    return (
        f"Smallest excess of the scales: {best.setting.name}, {_cell(best.excess, 3)} bits. "
        f"Overlapping intervals: {', '.join(others) or 'none'}."
    )


def _settings(run: RunResults) -> str:
    names = [name for name, _, _ in _MEASURES]
    rows = [_row(text.setting.name, text, _held_out_loss(run, text)) for text in run.texts]
    rows.append(_row("human", run.human, f"{run.held_out.loss.mean:.4f}"))
    return table(["setting", *names, "surprisal", "entropy", "held-out loss"], rows)


def _row(name: str, text: MeasuredText, loss: str) -> list[str]:
    measures = _measures(text.judgement)
    return [name, *measures, _cell(text.surprisal, 3), _cell(text.entropy, 3), loss]


def _held_out_loss(run: RunResults, text: MeasuredText) -> str:
    """Return the loss at the setting's scale; empty for truncations or scales outside the grid."""
    scale = text.setting.scale
    is_scale_alone = text.setting == UNCHANGED._replace(scale=scale)
    if not is_scale_alone or not GRID_A[0] <= scale <= GRID_A[-1]:
        return ""
    return f"{run.held_out.loss_at(scale):.4f}"


def _measures(judgement: TextQuality) -> Iterable[str]:
    return (_cell(getattr(judgement, field), digits) for _, field, digits in _MEASURES)


def _cell(interval: Interval | None, digits: int) -> str:
    return "" if interval is None else interval.describe(digits)
