"""What the study of scale factors found, in sentences made from its numbers."""

import math
from collections.abc import Sequence

from charlm_jax.analysis.text_quality import TextQuality
from charlm_jax.evaluation.bootstrap import Interval
from experiments.scale_factor.measures import Findings, Text

TEXTBOOK_SCALES = (0.5, 1.0, 2.0)
_MOST_SHOWN = 80  # characters of a copy


def answer(findings: Findings) -> list[str]:
    """Paragraphs about one run."""
    paragraphs = [_calibration(findings), _even(findings)]
    scales = findings.of("scale")
    if scales:
        human = findings.human.judgement
        paragraphs += [_nearest(scales), _limits(scales, human), _recommended(scales, human)]
    paragraphs += [_truncations(findings)] if len(scales) < len(findings.texts) else []
    return [*paragraphs, _copies(findings)]


def excess_of(text: Text) -> Interval:
    """By how much more its strings of 4 characters differ from human ones than both do inside."""
    found = text.judgement.excess_bits
    assert found is not None  # of fewer samples there is no study
    return found


def nearest(texts: Sequence[Text]) -> Text:
    """The one of the least excess."""
    return min(texts, key=lambda text: excess_of(text).mean)


def alike(texts: Sequence[Text], best: Text) -> list[Text]:
    """Those that are not clearly farther from human text than the nearest."""
    most = excess_of(best).high
    return [text for text in texts if text is not best and excess_of(text).low < most]


def _calibration(findings: Findings) -> str:
    held_out = findings.held_out
    found = held_out.calibrated
    if found.low > 1:
        verdict = "the model is not as sure as it could be"
    elif found.high < 1:
        verdict = "the model is too sure of itself"
    elif math.isfinite(found.low):
        verdict = "the model is not shown to be too sure of itself, or not sure enough"
    else:
        verdict = "so little text does not say how far that is from 1"
    return (
        f"The held-out loss is least at scale {found.in_words(3)}: {verdict}. It is "
        f"{held_out.least_loss.mean:.4f} nats per character there, and {held_out.loss.mean:.4f} at "
        f"scale 1."
    )


def _even(findings: Findings) -> str:
    human = findings.held_out.least_loss.mean
    if findings.even is None:
        return (
            f"At none of the scales between those that were tried has drawn text the "
            f"{human:.4f} nats per character of held-out text."
        )
    return (
        f"What is drawn is as uncertain as held-out text is to the model, {human:.4f} nats per "
        f"character, at scale {findings.even.in_words(3)}."
    )


def _nearest(texts: Sequence[Text]) -> str:
    best = nearest(texts)
    others = [f"{text.setting.scale:g}" for text in alike(texts, best)]
    words = (
        f"Most like held-out text is what is drawn at {best.setting.name}: its strings of four "
        f"characters and those of held-out text diverge by {excess_of(best).in_words(3)} bits more "
        f"than the two do among themselves, on average"
    )
    return f"{words}; not clearly farther: {', '.join(others)}." if others else f"{words}."


def _limits(texts: Sequence[Text], human: TextQuality) -> str:
    parts = []
    least, most = human.word_validity, human.repeated
    if least is not None:
        known = "words are not clearly less often known to the training text than a human's"
        parts.append(
            f"{known} ({least.in_words(3)}) "
            f"{_from_on(texts, [_is_spelt(text, least) for text in texts])}"
        )
    repeats = [text.judgement.repeated.low > most.high for text in texts]
    parts.append(
        f"text repeats itself more than a human's ({most.in_words(3)}) {_from_on(texts, repeats)}"
    )
    joined = "; ".join(parts)
    return f"{joined[0].upper()}{joined[1:]}."


def _is_spelt(text: Text, least: Interval) -> bool:
    found = text.judgement.word_validity
    return found is not None and found.high >= least.low


def _from_on(texts: Sequence[Text], holds: Sequence[bool]) -> str:
    """At which scales something holds: from one on, where it does at all that follow."""
    scales = [f"{text.setting.scale:g}" for text in texts]
    held = [scale for scale, is_held in zip(scales, holds, strict=True) if is_held]
    if not held:
        return "at no scale that was tried"
    if scales[-len(held) :] == held:
        return f"from scale {held[0]} on"
    return f"at scale {', '.join(held)}"


def _recommended(texts: Sequence[Text], human: TextQuality) -> str:
    best = nearest(texts)
    if len(texts) == 1:
        return "Nothing is recommended: there is no other scale to set this one beside."
    if len(alike(texts, best)) == len(texts) - 1:
        return "Nothing is recommended: so little text does not tell these scales apart."
    words = (
        f"Recommended for text like the book's: {best.setting.name}, with "
        f"{_shares(best.judgement)} (a human's: {_shares(human)})"
    )
    place = list(texts).index(best)
    for beside in (place - 1, place + 1):
        if 0 <= beside < len(texts):
            other = texts[beside]
            words += f". At {other.setting.name} it is {_shares(other.judgement)}"
    return f"{words}."


def _shares(judgement: TextQuality) -> str:
    """How many words are known, and how many 6-grams are distinct."""
    distinct = f"{judgement.distinct_6grams.mean:.0%} of the 6-grams distinct"
    known = judgement.word_validity
    if known is None:
        return f"no whole word and {distinct}"
    return f"{known.mean:.0%} of the words known to the training text and {distinct}"


def _truncations(findings: Findings) -> str:
    parts = []
    for varied in dict.fromkeys(text.setting.varied for text in findings.texts):
        best = nearest(findings.of(varied))
        parts.append(
            f"{best.setting.name}, {excess_of(best).in_words(3)} bits, {_shares(best.judgement)}"
        )
    return f"The nearest of each kind, by the same measure: {'; '.join(parts)}."


def _copies(findings: Findings) -> str:
    text = max(findings.texts, key=_longest)
    copy = text.judgement.longest_copy
    most = max(findings.texts, key=lambda text: text.judgement.copied.mean)
    words = (
        f"Of all strings of 24 characters, {most.judgement.copied.in_words(4)} stand in the "
        f"training text at {most.setting.name}, where most do; of held-out text "
        f"{findings.human.judgement.copied.in_words(4)} do."
    )
    if copy is None:
        return words
    run = text.samples[copy.sample][copy.start : copy.start + copy.length]
    return (
        f"{words} The longest copy, {copy.length} characters at {text.setting.name}, stands at "
        f"character {copy.place:,}: {run[:_MOST_SHOWN]!r}."
    )


def _longest(text: Text) -> int:
    copy = text.judgement.longest_copy
    return 0 if copy is None else copy.length
