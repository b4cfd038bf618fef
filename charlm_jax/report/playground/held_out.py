"""Held-out losses that the page of a model names: its own, of an n-gram, and of xz."""

import dataclasses
from typing import NamedTuple

from charlm_jax.comparison.compare import compare
from charlm_jax.core.errors import CharlmError
from charlm_jax.core.progress import Report, report_nothing
from charlm_jax.core.types import bits
from charlm_jax.data.download import Progress
from charlm_jax.data.splits import size
from charlm_jax.evaluation.ngram import last_characters
from charlm_jax.inference.run import Run
from charlm_jax.report.headline import next_to
from charlm_jax.report.playground.model_data import check_precision, rounded_params

MOST_CHARACTERS = 5_000_000
"""Length of the longest text that is scored; a longer one would take minutes."""


class HeldOut(NamedTuple):
    """Held-out losses in bits per character, or byte; None where unknown.

    Attributes:
      model: loss of the model's float32 weights.
      rounded: loss of the weights as the page stores them, if that is not float32.
      ngram: loss of a Kneser-Ney n-gram on the same characters.
      order: order of the n-gram.
      counted: number of characters, the last of the training text, that the n-gram counted; None if
        it counted all.
      xz: loss of the compressor xz on the held-out text, after the training text.
      training: number of characters of the training text.
      context: number of characters in a window in which the text was scored; None for a loss that
        training recorded.
      missing: why n-gram and xz are unknown, for the page; empty if they are known, or were not
        wanted.
      reason: error because of which the text was not scored, for the terminal; empty if none.
    """

    model: float | None
    rounded: float | None = None
    ngram: float | None = None
    order: int | None = None
    counted: int | None = None
    xz: float | None = None
    training: int | None = None
    context: int | None = None
    missing: str = ""
    reason: str = ""


def recorded_held_out(run: Run, missing: str = "") -> HeldOut:
    """Return the validation loss that training recorded.

    Args:
      run: run at one of its checkpoints.
      missing: why nothing else is known, for the page; empty to say nothing.
    """
    loss_nats = run.recorded_loss
    return HeldOut(None if loss_nats is None else bits(loss_nats), missing=missing)


def measure_held_out(
    run: Run,
    *,
    precision: str = "float32",
    progress: Progress | None = None,
    report: Report = report_nothing,
) -> HeldOut:
    """Score the validation part, as `charlm compare` does, if the run's text is at hand.

    Args:
      run: run at one of its checkpoints.
      precision: precision in which the page stores the weights.
      progress: callback for the progress of a download of the text.
      report: callback for the progress of the computation.

    Returns:
      The losses; the recorded one alone if the text is missing, longer than `MOST_CHARACTERS`, or
      has no held-out part.

    Raises:
      CharlmError: there is no such precision, or `run.corpus` names another text.
    """
    check_precision(precision)
    try:
        dataset = run.dataset(progress)
    except CharlmError as error:
        if run.corpus is not None:
            raise
        kept = recorded_held_out(run, "the text was not at hand when this page was written")
        return kept._replace(reason=str(error))
    characters = dataset.corpus.characters
    training = size(dataset.parts["train"])
    if "valid" not in dataset.parts:
        kept = recorded_held_out(run, "the model was trained on the whole text")
        return kept._replace(training=training)
    if characters > MOST_CHARACTERS:
        kept = recorded_held_out(
            run, f"the text is longer than {MOST_CHARACTERS:,} {dataset.corpus.unit}"
        )
        return kept._replace(training=training)
    comparison = compare(run, progress=progress, report=report)
    evaluation = comparison.groups[0].evaluations[0]
    (ngram,) = (x for x in comparison.baselines if x.kind == "ngram")
    (xz,) = (x for x in comparison.baselines if x.name == "xz")
    counted = size(last_characters(dataset.parts["train"]))
    rounded = None
    if precision != "float32":
        stored = dataclasses.replace(run, params=rounded_params(run.params, precision))
        rounded = stored.evaluate(evaluation.key.protocol, report=report)[0].bits_per_char
    return HeldOut(
        model=evaluation.bits_per_char,
        rounded=rounded,
        ngram=ngram.bits_per_char,
        order=int(ngram.name.partition("-")[0]),
        counted=counted if counted < training else None,
        xz=xz.bits_per_char,
        training=training,
        context=evaluation.key.protocol.context,
    )


def describe_held_out(held_out: HeldOut, *, precision: str, unit: str) -> list[str]:
    r"""Return sentences on held-out losses, for a page and a terminal.

    Args:
      held_out: losses.
      precision: precision in which the page stores the weights.
      unit: `character` or `byte`.

    >>> figures = HeldOut(1.672, 1.6741, ngram=2.054, order=8, xz=2.401, context=64)
    >>> print(*describe_held_out(figures, precision="int8", unit="character"), sep="\n")
    On held-out text it needs 1.67 bits per character, an 8-gram 2.05, xz 2.40. Lower is better.
    Its weights are rounded to int8: that costs 0.0021 bits per character.
    """
    return [*_describe_loss(held_out, unit), *_describe_rounding(held_out, precision, unit)]


def _describe_loss(held_out: HeldOut, unit: str) -> list[str]:
    model, missing = held_out.model, held_out.missing
    if model is None:
        why = f": {missing}" if missing else ""
        return [f"Its loss on held-out text is unknown{why}."]
    if held_out.ngram is None or held_out.xz is None:
        why = f" No other predictor is named here: {missing}." if missing else ""
        return [f"Training recorded a held-out loss of {model:.2f} bits per {unit}.{why}"]
    name = f"{held_out.order}-gram"
    others = next_to({name: held_out.ngram, "xz": held_out.xz})
    loss = f"On held-out text it needs {model:.2f} bits per {unit}{others}. Lower is better."
    if held_out.counted is None:
        return [loss]
    last = f"the last {held_out.counted:,} {unit}s"
    return [loss, f"The {name} counted only {last} of the training text."]


def _describe_rounding(held_out: HeldOut, precision: str, unit: str) -> list[str]:
    if precision == "float32":
        return []
    if held_out.model is None or held_out.rounded is None:
        return [f"Its weights are rounded to {precision}: what that costs was not measured."]
    difference = round(held_out.rounded - held_out.model, 4) + 0.0  # -0.0 becomes 0.0
    return [f"Its weights are rounded to {precision}: that costs {difference:.4f} bits per {unit}."]
