"""The first sentences of a page: what a model is, and how well it predicts held-out text."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from charlm_jax.comparison.findings import GroupFacts, ReportData
from charlm_jax.comparison.readings import Reading
from charlm_jax.comparison.scores import Scores
from charlm_jax.core.trees import count_parameters
from charlm_jax.core.types import bits

_LAYERS: Mapping[str, str] = {
    "lstm": "LSTM",
    "gru": "GRU",
    "rnn": "RNN",
    "mingru": "minGRU",
    "attention": "attention",
    "self_attention": "self-attention",
}
_MOST_NAMED = 3  # groups


def describe_layers(layers: Sequence[str]) -> str:
    """Return a model's layers with their numbers.

    >>> describe_layers(["lstm"]), describe_layers(["lstm", "lstm", "attention"])
    ('1 LSTM layer', '2 LSTM layers, 1 attention layer')
    """
    counts = Counter(_LAYERS.get(layer, layer) for layer in layers)
    return ", ".join(
        f"{count} {name} layer{'s' if count > 1 else ''}" for name, count in counts.items()
    )


def describe_model(layers: Sequence[str], parameters: int) -> str:
    """Return a model's layers and its size, to stand in brackets."""
    return f"{describe_layers(layers)}; {parameters:,} parameters"


def text_name(corpus: str) -> str:
    """Return the last part of a path, or the name of a corpus."""
    return Path(corpus).name or corpus


def report_headline(findings: ReportData) -> str:
    """Return the first sentences of a page about runs."""
    noun = findings.unit.removesuffix("s")
    groups, text = findings.groups, text_name(findings.corpus)
    if len(groups) == 1:
        model = describe_model(groups[0].runs[0].layers, groups[0].runs[0].parameters)
        first = f"A {noun}-level language model ({model}), trained on {text}."
    else:
        first = f"{len(groups)} {noun}-level language models, trained on {text}"
        first += f": {_named(groups)}." if len(groups) <= _MOST_NAMED else "."
    return f"{first} {_describe_loss(findings.scores, groups, noun)}"


def _named(groups: Sequence[GroupFacts]) -> str:
    *names, last = (
        f"{group.name} ({describe_model(group.runs[0].layers, group.runs[0].parameters)})"
        for group in groups
    )
    return f"{', '.join(names)} and {last}"


def _describe_loss(scores: Scores | None, groups: Sequence[GroupFacts], noun: str) -> str:
    """Return sentences on the loss of the best group, next to an n-gram and xz."""
    if scores is None:
        return "No text was held out, so how well it predicts new text is not known."
    best = min(scores.rows, key=lambda row: row.bits_per_char)
    where = (
        "On the text that it was trained on"
        if scores.split == "train"
        else "On text that was held out"
    )
    seeds = f" (mean of {len(best.seeds)} seeds)" if len(best.seeds) > 1 else ""
    name = "it" if len(groups) == 1 else f"the best, {best.name},"
    needs = f"{where}, {name} needs {best.bits_per_char:.2f} bits per {noun}{seeds}"
    others = [
        f"{_article(b.name.split()[0])} needs {b.bits_per_char:.2f}"
        for b in scores.baselines
        if b.kind == "ngram" or b.name == "xz"
    ]
    beside = f"; {', '.join(others)}" if others else ""
    return f"{needs}{beside}. Lower is better."


def _article(name: str) -> str:
    """Return a predictor's name as a sentence has it.

    >>> _article("7-gram"), _article("8-gram"), _article("xz")
    ('a 7-gram', 'an 8-gram', 'xz')
    """
    if not name.endswith("-gram"):
        return name
    return f"{'an' if name.startswith(('8', '11')) else 'a'} {name}"


def reading_headline(readings: Sequence[Reading], text: str, name: str) -> str:
    """Return the first sentences of a page about a text.

    Args:
      readings: scores of the text under one run or two.
      text: text that was scored, as symbols.
      name: name of the text.
    """
    unit, noun = readings[0].run.vocabulary.unit, readings[0].run.vocabulary.noun
    figures = " and ".join(
        f"{reading.label} needs {reading.score.bits_per_char:.2f} bits per {noun}"
        for reading in readings
    )
    models = " ".join(map(_describe_run, readings))
    return f"{name} has {len(text):,} {unit}: {figures}. Lower is better. {models}"


def _describe_run(reading: Reading) -> str:
    """Return a sentence on a run, with the loss that it had on its own held-out text."""
    run = reading.run
    model = describe_model(run.config.model.layers, count_parameters(run.params))
    sentence = f"{reading.label} ({model}) was trained on {text_name(run.config.data.corpus)}"
    loss_nats = run.recorded_loss
    if loss_nats is None:
        return f"{sentence}."
    own = f"{bits(loss_nats):.2f} bits on text held out from that"
    return f"{sentence}; in training it needed {own}."
