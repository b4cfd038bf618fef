"""The study of scale factors on one page of Markdown: answers, figures, tables, snippets."""

import textwrap
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from pathlib import Path

from charlm_jax.analysis.text_quality import TextQuality
from charlm_jax.evaluation.bootstrap import Interval
from experiments.markdown import head, row
from experiments.scale_factor.answer import TEXTBOOK_SCALES, answer, excess_of, nearest
from experiments.scale_factor.measures import GRID_A, Findings, Text
from experiments.scale_factor.settings import AS_IT_IS, Draws

TITLE = "# What does the scale factor do?"

METHOD = """\
Under every setting the same number of samples goes on from the same prompt, with the same noise.
What is measured of them (charlm_jax/analysis/text_quality.py says how) is measured of as much
held-out text, cut into pieces of the same length: the human row.
Surprisal is what a sample costs the model at scale 1, entropy that of what each character was drawn
from, both in nats per character; human text
is read from the characters before it on, as many as the prompt has. Held-out loss is that of the
whole held-out part at the same scale (of the human row: 1), the state carried through it. Intervals
are 95 %, over samples; those of losses and of the scale of least loss are over blocks of 1,000
characters, that of the scale of even entropy over both.

The divergence from human text is largely due to how little text there is, and less so for text that
is surer of itself: it favours sharp text. The excess is by how much drawn and human text diverge
more than halves of each do from one another, the mean of the two: but for chance, 0 for a perfect
imitation at every amount of text. It says which setting is most like human text.

A truncation acts before the scale, which is 1 where none is named."""

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
_SNIPPET_WIDTH, _SNIPPET_LINES = 38, 12


def page(
    findings: Sequence[Findings], pictures: Sequence[Path], *, draws: Draws, command: str
) -> str:
    """All of it.

    Args:
      findings: of every run.
      pictures: files beside the page.
      draws: what was drawn.
      command: that made it.
    """
    parts = [
        TITLE,
        f"{draws.samples} samples of {draws.characters} characters under each setting, all going "
        f"on from {draws.prompt!r}.",
        f"    {command}",
    ]
    if len(findings) > 1:
        parts.append("\n".join(_runs(findings)))
    parts += [f"![{path.stem.replace('_', ' ')}]({path.name})" for path in pictures]
    for found in findings:
        parts += [f"## {found.name}", *answer(found), "\n".join(_table(found))]
        parts.append(f"```\n{snippets(found, draws.prompt)}\n```")
    return "\n\n".join([*parts, "## Method", METHOD]) + "\n"


def snippets(findings: Findings, prompt: str) -> str:
    """How the first sample begins, at the textbook's scales and the best one, side by side."""
    scales = findings.of("scale")
    shown = [text for text in scales if text.setting.scale in TEXTBOOK_SCALES]
    if scales and nearest(scales) not in shown:
        shown.append(nearest(scales))
    columns = [_column(text, prompt) for text in sorted(shown, key=lambda t: t.setting.scale)]
    rows = zip_longest(*columns, fillvalue="")
    return "\n".join("  ".join(cell.ljust(_SNIPPET_WIDTH) for cell in row).rstrip() for row in rows)


def _column(text: Text, prompt: str) -> list[str]:
    whole = prompt + text.samples[0]
    lines = [
        piece
        for line in whole.splitlines()
        for piece in textwrap.wrap(line, _SNIPPET_WIDTH) or [""]
    ]
    return [f"scale {text.setting.scale:g}", "", *lines[:_SNIPPET_LINES]]


def _runs(findings: Sequence[Findings]) -> Iterable[str]:
    yield from head(
        *("run", "held-out loss at scale 1", "least loss", "at scale", "even entropy at scale"),
        *("nearest scale", "its excess, bits"),
    )
    for found in findings:
        held_out, scales = found.held_out, found.of("scale")
        best = nearest(scales) if scales else None
        yield row(
            *(found.name, _ends(held_out.loss, 4), _ends(held_out.least_loss, 4)),
            *(_ends(held_out.calibrated, 3), _ends(found.even, 3)),
            "" if best is None else f"{best.setting.scale:g}",
            "" if best is None else _ends(excess_of(best), 3),
        )


def _table(findings: Findings) -> Iterable[str]:
    names = [name for name, _, _ in _MEASURES]
    yield from head("setting", *names, "surprisal", "entropy", "held-out loss")
    for text in findings.texts:
        loss = findings.held_out.loss_at(text.setting.scale) if _is_on_grid(text) else None
        yield row(
            text.setting.name,
            *_measures(text.judgement),
            *(_ends(text.surprisal, 3), _ends(text.entropy, 3)),
            "" if loss is None else f"{loss:.4f}",
        )
    human = findings.human
    yield row(
        *("human", *_measures(human.judgement)),
        *(_ends(human.surprisal, 3), _ends(human.entropy, 3)),
        f"{findings.held_out.loss.mean:.4f}",
    )


def _is_on_grid(text: Text) -> bool:
    scale = text.setting.scale
    return text.setting == AS_IT_IS._replace(scale=scale) and GRID_A[0] <= scale <= GRID_A[-1]


def _measures(judgement: TextQuality) -> Iterable[str]:
    return (_ends(getattr(judgement, field), digits) for _, field, digits in _MEASURES)


def _ends(found: Interval | None, digits: int) -> str:
    return "" if found is None else found.in_words(digits)
