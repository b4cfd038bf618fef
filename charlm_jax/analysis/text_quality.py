"""Quality of generated text, compared with the same amount of held-out human text.

A text metric means little by itself: the shares of misspelt words, repetition and copied text
depend on the length of the text. So every metric is also computed for the same number of human
samples of the same length, and generated text is judged by its distance from them, in either
direction.

A sample excludes the prompt: a copy or a word that began in the prompt does not count. Intervals
come from a bootstrap over samples (`charlm_jax.evaluation.bootstrap`) and describe the variation
between samples; the training text and the human text are taken as fixed. A width of 0 means only
that all samples have the same value, not that the value is certain.

All metrics except the divergences read one sample at a time, so only the divergences show if all
samples are the same text.

Letters of this module: S samples, N items counted in a sample.
"""

import dataclasses
import functools
import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from charlm_jax.analysis.memorization import CopiedSpan, CopyIndex, build_copy_index
from charlm_jax.analysis.text_metrics import (
    FEWEST_TO_HALVE,
    compressed_bits,
    divergence_pseudovalues,
    excess_pseudovalues,
    first_occurrence_mask,
    grams,
    repetition_mask,
    words,
)
from charlm_jax.core.errors import CharlmError
from charlm_jax.core.limits import require_within
from charlm_jax.data.splits import Part, size
from charlm_jax.evaluation.bootstrap import Interval, mean_interval

DISTINCT_GRAM = 6
REPEATED_GRAM = 12
COPIED_GRAM = 24
DIVERGENCE_GRAM = 4


class TextQuality(NamedTuple):
    """Metrics of a set of samples, each with its interval.

    An interval of width 0 means only that all samples have the same value.

    Attributes:
      samples: number of samples.
      characters: number of characters in each.
      word_validity: share of words that occur in the training text (`words` defines a word); None
        if the samples have no complete word.
      distinct_6grams: distinct strings of 6 characters over all in a sample, see
        `first_occurrence_mask`; 1 minus this is seq-rep-6 of Welleck et al. 2020, for characters.
      distinct_word_bigrams: distinct pairs of adjacent words over all pairs; None if there are
        none.
      compressed_bits_per_char: compressed size, see `compressed_bits`.
      repeated: share of the characters inside a string of 12 that also began earlier in the same
        sample, see `repetition_mask`. Source: our choice; Welleck et al. 2020 (Neural Text
        Generation with Unlikelihood Training) count such strings, not the characters they cover.
      copied: share of a sample's strings of 24 characters that occur in the training text. Source:
        like McCoy et al. 2023 (RAVEN), for characters.
      longest_copy_characters: length of the longest run that a sample has in common with the
        training text, mean over samples.
      divergence_bits: Jensen-Shannon divergence from human text, see `divergence_pseudovalues`.
      excess_bits: divergence between generated and human text in excess of that within each, see
        `excess_pseudovalues`; None for fewer than 4 samples.
      longest_copy: longest copied run of all samples, with its position.
    """

    samples: int
    characters: int
    word_validity: Interval | None
    distinct_6grams: Interval
    distinct_word_bigrams: Interval | None
    compressed_bits_per_char: Interval
    repeated: Interval
    copied: Interval
    longest_copy_characters: Interval
    divergence_bits: Interval
    excess_bits: Interval | None
    longest_copy: CopiedSpan | None


@dataclasses.dataclass(frozen=True, eq=False)
class TextQualityEvaluator:
    """Evaluator of generated text, given the training text and human text.

    Attributes:
      words: words of the training text.
      index: copy index of the training text.
      reference: human samples, from which a divergence is measured.
      others: the same number of other human samples, evaluated like generated ones.
    """

    words: frozenset[str] = dataclasses.field(repr=False)
    index: CopyIndex = dataclasses.field(repr=False)
    reference: Sequence[str] = dataclasses.field(repr=False)
    others: Sequence[str] = dataclasses.field(repr=False)

    @functools.cached_property
    def human(self) -> TextQuality:
        """Metrics of human text: the values that a perfect imitation would have.

        Its divergence is that of two amounts of held-out text (0.23 bits for the last tenth of The
        Mysterious Island). Samples of the training part have 0.27 bits, since they are from other
        chapters. Text more predictable than the book may be below either. The excess is 0, except
        for chance.
        """
        return self.evaluate(self.others)

    def evaluate(self, samples: Sequence[str]) -> TextQuality:
        """Evaluate generated text.

        Args:
          samples: the same number of samples as `reference`, of the same length.

        Raises:
          CharlmError: the number or length of the samples differs from `reference`.
        """
        amount = len(self.reference), len(self.reference[0])
        if (len(samples), *{len(sample) for sample in samples}) != amount:
            raise CharlmError(
                f"{_amount(samples)} cannot be evaluated: they must match the human text, "
                f"{_amount(self.reference)}"
            )
        lengths = self.index.common_lengths(samples)
        words_by_sample = [words(sample) for sample in samples]
        return TextQuality(
            *amount,
            word_validity=_share([word in self.words for word in x] for x in words_by_sample),
            distinct_6grams=_mean(
                (float(np.mean(first_occurrence_mask(grams(x, DISTINCT_GRAM)))) for x in samples),
                upper=1.0,
            ),
            distinct_word_bigrams=_share(
                first_occurrence_mask(list(pairwise(x))) for x in words_by_sample
            ),
            compressed_bits_per_char=_mean(map(compressed_bits, samples)),
            repeated=_mean((repetition_mask(x, REPEATED_GRAM).mean() for x in samples), upper=1.0),
            copied=_mean(
                ((x[: 1 - COPIED_GRAM] >= COPIED_GRAM).mean() for x in lengths), upper=1.0
            ),
            longest_copy_characters=_mean(x.max() for x in lengths),
            divergence_bits=_mean(
                divergence_pseudovalues(samples, self.reference, length=DIVERGENCE_GRAM)
            ),
            excess_bits=self._excess(samples),
            longest_copy=self.index.longest_of(samples, lengths),
        )

    def _excess(self, samples: Sequence[str]) -> Interval | None:
        if len(samples) < FEWEST_TO_HALVE:
            return None
        shares_S = excess_pseudovalues(samples, self.reference, length=DIVERGENCE_GRAM)
        return mean_interval([shares_S], block=1)


def build_text_quality_evaluator(
    text: str, train: Part, human: Sequence[str]
) -> TextQualityEvaluator:
    """Build an evaluator of generated text.

    Args:
      text: the whole text.
      train: the training part.
      human: held-out samples, twice as many as will be generated; every other one belongs to the
        `reference`, so that both halves cover the whole held-out part.

    Raises:
      CharlmError: the training part is empty; the human samples are odd in number, fewer than 4, of
        different lengths, or shorter than 24 characters.
    """
    if len(human) % 2 or len(human) < 4:
        raise CharlmError(
            f"{len(human)} human samples are not allowed: use an even number, at least 4"
        )
    if len({len(sample) for sample in human}) > 1 or len(human[0]) < COPIED_GRAM:
        raise CharlmError(
            f"the human text is {_amount(human)}: all must have the same length, at least "
            f"{COPIED_GRAM}"
        )
    known = frozenset[str]().union(*(words(text[r.start : r.stop]) for r in train))
    return TextQualityEvaluator(known, build_copy_index(text, train), human[::2], human[1::2])


def human_samples(text: str, part: Part, *, samples: int, characters: int) -> list[str]:
    """Return samples of human text, for comparison with generated text.

    Every stretch of the part is cut into pieces of this length, and the remainder is dropped; the
    samples are the middle piece of each equal share of them. So they do not overlap, lie evenly
    over the part, and begin anywhere in a sentence, just as generated text ends anywhere.

    Args:
      text: the whole text.
      part: part to take the samples from.
      samples: number of samples, from 1.
      characters: number of characters in each, from 1.

    Raises:
      CharlmError: the part is too short, or a number is out of range.

    >>> human_samples("abcdefghijk", (range(1, 11),), samples=2, characters=3)
    ['bcd', 'hij']
    """
    require_within("samples", samples, 1)
    require_within("characters", characters, 1)
    starts = [s for r in part for s in range(r.start, r.stop - characters + 1, characters)]
    if len(starts) < samples:
        raise CharlmError(
            f"the part of {size(part)} characters has room for {len(starts)} samples of "
            f"{characters}, not {samples}: use fewer or shorter samples"
        )
    chosen = [starts[(2 * i + 1) * len(starts) // (2 * samples)] for i in range(samples)]
    return [text[start : start + characters] for start in chosen]


def _mean(values: Iterable[float], *, upper: float = math.inf) -> Interval:
    """Return the mean over samples of values from 0 to `upper`."""
    return _within(mean_interval([np.fromiter(values, np.float64)], block=1), upper)


def _share(rows: Iterable[Sequence[bool]]) -> Interval | None:
    """Return the share of True in the rows of all samples; the bootstrap samples whole rows."""
    rows = list(rows)
    longest = max(map(len, rows))
    if not longest:
        return None
    is_true_SN, counts_SN = np.zeros((2, len(rows), longest), bool)
    for row, is_true_N, counts_N in zip(rows, is_true_SN, counts_SN, strict=True):
        is_true_N[: len(row)], counts_N[: len(row)] = row, True
    # The interval is infinite before clipping if only one row has any item.
    interval = mean_interval([is_true_SN.ravel()], mask_N=counts_SN.ravel(), block=longest)
    return _within(interval, 1.0)


def _within(interval: Interval, upper: float) -> Interval:
    """Clip an interval to the range of the values, but never past its mean."""
    mean, low, high = interval
    return Interval(mean, min(mean, max(low, 0.0)), max(mean, min(high, upper)))


def _amount(texts: Sequence[str]) -> str:
    lengths = sorted({len(text) for text in texts}) or [0]
    between = f"{lengths[0]} to {lengths[-1]}" if len(lengths) > 1 else lengths[0]
    return f"{len(texts)} samples of {between} characters"
