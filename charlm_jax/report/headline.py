"""The first sentences of a page: what a model is, and how well it predicts held-out text."""

from collections import Counter
from collections.abc import Mapping, Sequence

from charlm_jax.comparison.findings import GroupFacts, ReportData
from charlm_jax.comparison.readings import Reading
from charlm_jax.comparison.scores import Scores
from charlm_jax.core.trees import count_parameters
from charlm_jax.core.types import bits
from charlm_jax.data.corpora import corpus_title

_LAYERS: Mapping[str, str] = {
    "lstm": "LSTM",
    "gru": "GRU",
    "rnn": "RNN",
    "mingru": "minGRU",
    "minlstm": "minLSTM",
    "rglru": "RG-LRU",
    "gated_deltanet": "Gated DeltaNet",
    "mamba2": "Mamba 2",
    "mlstm": "mLSTM",
    "slstm": "sLSTM",
    "attention": "attention",
    "self_attention": "self-attention",
}


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


def introduce(noun: str, layers: Sequence[str], parameters: int, text: str) -> str:
    """Return a sentence that says what a model is, without its full stop.

    >>> introduce("byte", ["gru"], 1234, "mine.txt")
    'A byte-level language model (1 GRU layer; 1,234 parameters), trained on mine.txt'
    """
    return (
        f"A {noun}-level language model ({describe_model(layers, parameters)}), trained on {text}"
    )


def report_headline(findings: ReportData) -> str:
    """Return the first sentences of a page about runs."""
    noun = findings.unit.removesuffix("s")
    groups, text = findings.groups, corpus_title(findings.corpus)
    if len(groups) == 1:
        run = groups[0].runs[0]
        what = f"{introduce(noun, run.layers, run.parameters, text)}."
    else:
        what = f"Compared here: {len(groups)} {noun}-level language models, trained on {text}."
    if findings.scores is None:
        return f"{what} No text was held out, so how well it predicts new text is not known."
    return f"{what} {_describe_losses(findings.scores, groups, noun)} Lower is better."


def _describe_group(group: GroupFacts) -> str:
    return describe_model(group.runs[0].layers, group.runs[0].parameters)


def _describe_losses(scores: Scores, groups: Sequence[GroupFacts], noun: str) -> str:
    """Return a sentence on the lowest loss, next to those of an n-gram and xz."""
    best, group = min(zip(scores.rows, groups, strict=True), key=lambda pair: pair[0].bits_per_char)
    is_alone = len(groups) == 1
    where = "the text that it was trained on" if scores.split == "train" else "held-out text"
    seeds = f" (mean of {len(best.seeds)} seeds)" if len(best.seeds) > 1 else ""
    others = {
        _short_name(baseline.name): baseline.bits_per_char
        for baseline in scores.baselines
        if baseline.kind == "ngram" or baseline.name.split()[0] == "xz"
    }
    figure = f"{best.bits_per_char:.2f} bits per {noun}{seeds}"
    if is_alone:
        return f"On {where} it needs {figure}{next_to(others)}."
    who = f"{best.name} ({_describe_group(group)})"
    return f"On {where} {who} has the lowest loss, {figure}{next_to(others)}."


def _short_name(name: str) -> str:
    """Return the name of an n-gram or xz with no more than the text it has read, if not all.

    >>> _short_name("8-gram (Kneser-Ney)")
    '8-gram'
    >>> _short_name("8-gram (Kneser-Ney, of the last 9 characters)")
    '8-gram (of the last 9 characters)'
    """
    return name.replace(" (Kneser-Ney)", "").replace("Kneser-Ney, ", "")


def next_to(losses: Mapping[str, float]) -> str:
    """Return the losses of other predictors by name, to follow that of a model in a sentence.

    >>> next_to({"8-gram": 2.054, "xz": 2.4})
    ', an 8-gram 2.05, xz 2.40'
    """
    return "".join(f", {_article(name)} {loss:.2f}" for name, loss in losses.items())


def _article(name: str) -> str:
    """Return a predictor's name as a sentence has it.

    >>> _article("7-gram"), _article("8-gram"), _article("xz")
    ('a 7-gram', 'an 8-gram', 'xz')
    """
    if not name.split()[0].endswith("-gram"):
        return name
    return f"{'an' if name.startswith(('8', '11')) else 'a'} {name}"


def reading_headline(readings: Sequence[Reading], name: str) -> str:
    """Return the first sentences of a page about a text.

    Args:
      readings: scores of the text under one run or two.
      name: name of the text.
    """
    noun = readings[0].run.vocabulary.noun
    first, *others = readings
    figure = f"{first.score.bits_per_char:.2f} bits per {noun}"
    sentence = f"{_describe_reading(first)} needs {figure} for {_scored(first)} of {name}"
    for other in others:
        sentence += f", {_describe_reading(other)} {other.score.bits_per_char:.2f}"
        if _scored(other) != _scored(first):
            sentence += f" for {_scored(other)}"
    return f"{sentence}. {_describe_own_losses(readings)}Lower is better."


def _scored(reading: Reading) -> str:
    """Return how many characters were scored, and what was read before each in brackets."""
    score, unit = reading.score, reading.run.vocabulary.unit
    return f"{score.characters:,} {unit} ({score.rule})"


def _describe_reading(reading: Reading) -> str:
    """Return a run's name, the layers and size of its model, and the text of its training."""
    run = reading.run
    model = describe_model(run.config.model.layers, count_parameters(run.params))
    return f"{reading.label} ({model}; trained on {corpus_title(run.config.data.corpus)})"


def _describe_own_losses(readings: Sequence[Reading]) -> str:
    """Return a sentence on the losses that runs recorded on their own held-out text, and a space.

    It is empty if none has recorded one.
    """
    known = []
    for label, run, *_ in readings:
        if (nats := run.recorded_loss) is not None:
            window = f"windows of {run.config.evaluation_context:,}"
            known.append(f"{label} needed {bits(nats):.2f} ({window})")
    return f"On text held out in training, {' and '.join(known)}. " if known else ""
