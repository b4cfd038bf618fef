"""The study of sequence lengths on one page of Markdown: the answer, figures and tables."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from charlm_jax.comparison.compare import Baseline
from charlm_jax.evaluation.bootstrap import Difference, Interval
from experiments.markdown import head, row
from experiments.sequence_length.answer import answer
from experiments.sequence_length.measures import Arm, Figures, Group, RateKey

TITLE = "# How long should training sequences be?"

METHOD = """\
Sequences are cut from the text one after another and read in a shuffled order, each from an empty
state (reset), or read in the text's order, and the state goes on from batch to batch (carried). A
batch has 2,560 characters at every length T, so equal characters are equally many updates; equal
seconds are those of this machine, measured beforehand with one run at a time on all its cores. The
text is cut 80/10/10. On the second part the learning rate is chosen among three, in the first seed,
for each model, length and way with the state, and then the best length, by the mean over seeds of
the loss reading on; all figures are of the third. Each interval is one of 95 % by itself: of twenty
differences that are not there, one is shown.
"In windows" begins anew every 64 characters; "reading on" carries the state through the whole part,
or, where a model keeps what it has read, the last T characters. Differences are taken run by run,
since runs of a seed begin with the same weights, and character by character; one whose 95 %
interval holds 0 is not shown. The n-gram, of the order up to 12 that the first part itself favours,
has counted all of the first part, and reads on. Effective contexts are those of one run of each
model, at the best length with the state reset."""


class Results(NamedTuple):
    """What the study found.

    Attributes:
      tried: held-out loss by learning rate, for every model, length and state.
      figures: of every arm.
      groups: arms that differ by their length alone.
      carried: what carrying the state changes, by model and length.
      looks: model -> change -> n -> loss, where all beyond the nearest n characters is changed.
      effective: model -> change -> effective context.
      baselines: simple predictors.
      characters: that were scored.
    """

    tried: Mapping[RateKey, Mapping[float, float]]
    figures: Mapping[Arm, Figures]
    groups: Sequence[Group]
    carried: Mapping[tuple[str, int], Difference]
    looks: Mapping[str, Mapping[str, Mapping[int, Interval]]]
    effective: Mapping[str, Mapping[str, int]]
    baselines: Sequence[Baseline]
    characters: int

    @property
    def counted(self) -> tuple[str, Interval]:
        """The best of the simple predictors that say what a single character costs."""
        found = [(b.name, b.loss) for b in self.baselines if b.loss is not None]
        return min(found, key=lambda pair: pair[1].mean)


def page(results: Results, pictures: Sequence[Path], *, about: str, command: str) -> str:
    """All of it.

    Args:
      results: what the study found.
      pictures: files beside the page.
      about: budget, seeds and text, in a sentence.
      command: that made it.
    """
    parts = [
        TITLE,
        f"{about}.",
        f"    {command}",
        "## Answer",
        *answer(
            results.groups,
            results.figures,
            results.carried,
            results.effective,
            results.counted,
            results.tried,
        ),
        "## Figures",
        *(f"![{path.stem.replace('_', ' ')}]({path.name})" for path in pictures),
        "## Method",
        METHOD,
        "## Loss on the third part, nats per character",
        "\n".join(_losses(results)),
        "## Learning rates: loss of the first seed on the second part, nats per character",
        "\n".join(_rates(results)),
    ]
    return "\n\n".join(parts) + "\n"


def _losses(results: Results) -> Iterable[str]:
    """An arm a line; the seconds are those of an idle machine, the last a standard deviation."""
    yield from head(
        *("model", "state", "equal", "T", "rate", "characters", "seconds", "TFLOPs"),
        *("in windows", "reading on", "over seeds"),
    )
    for arm, found in results.figures.items():
        yield row(
            *(arm.model, arm.state, arm.budget, arm.length, f"{arm.rate:g}"),
            *(f"{arm.characters:,}", f"{arm.seconds:.0f}", f"{arm.flops / 1e12:.1f}"),
            *(found.window.in_words(), found.stream.in_words()),
            "" if found.spread is None else f"{found.spread:.4f}",
        )
    for baseline in results.baselines:
        nats = f"{baseline.bits_per_char * math.log(2):.4f}"
        loss = baseline.loss.in_words() if baseline.loss else nats
        yield row(baseline.name, *[""] * 8, loss, "")


def _rates(results: Results) -> Iterable[str]:
    most = max(map(len, results.tried.values()))
    yield from head("model", "T", "state", *(f"rate {number}" for number in range(1, most + 1)))
    for key, losses in results.tried.items():
        yield row(*key, *(f"{loss:.4f} at {rate:g}" for rate, loss in losses.items()))
