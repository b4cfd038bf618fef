"""What drawn text is like, set beside held-out human text of the same amount.

A measure of text says little by itself: how many words are misspelt, how often a text repeats
itself, how much of it stands elsewhere depends on how long it is. So everything here is computed
for as many human samples of the same length too, and drawn text is judged by its distance from
those, in either direction.

A sample is what was drawn, without the prompt: what the prompt began does not count as copied or as
a word. An interval comes from a bootstrap over samples (`charlm_jax.evaluation.bootstrap`) and says
how far other samples would lie; the training text and the human text are taken as given.

Every measure but the divergences reads one sample at a time: that all samples are the same text,
only these tell.

Letters of this module: S samples, N whatever is counted in one.
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
    compressed_bits,
    divergence_pseudovalues,
    excess_pseudovalues,
    first_occurrence_mask,
    grams,
    repetition_mask,
    words,
)
from charlm_jax.core.errors import CharlmError
from charlm_jax.data.splits import Part, size
from charlm_jax.evaluation.bootstrap import Interval, mean_interval

DISTINCT_GRAM = 6
REPEATED_GRAM = 12
COPIED_GRAM = 24
DIVERGENCE_GRAM = 4
_LEAST_TO_HALVE = 4  # samples: a half without one of them is still a text


class TextQuality(NamedTuple):
    """What a number of samples are like; each figure with its interval.

    Attributes:
      samples: how many.
      characters: in each.
      word_validity: share of the words that the training text has (`words` says what a word is);
        None if the samples have no whole word.
      distinct_6grams: different strings of 6 characters in a sample over all it has, see
        `first_occurrence_mask`; one less this is seq-rep-6 of Welleck et al. 2020, of characters.
      distinct_word_bigrams: the same for pairs of words, one after the other; None if there are
        none.
      compressed_bits_per_char: see `compressed_bits`.
      repeated: share of the characters that lie in a string of 12 which began earlier in the same
        sample, see `repetition_mask`. Source: our choice; Welleck et al. 2020 (Neural Text
        Generation with Unlikelihood Training) count such strings, not what they cover.
      copied: share of a sample's strings of 24 characters that stand in the training text. Source:
        like McCoy et al. 2023 (RAVEN), for characters.
      longest_copy_characters: the longest run that a sample has in common with the training text,
        mean over samples.
      divergence_bits: Jensen-Shannon divergence from human text, see `divergence_pseudovalues`.
      excess_bits: by how much more drawn and human text diverge than the two do from themselves,
        see `excess_pseudovalues`; None of fewer than 4 samples.
      longest_copy: the longest run of all, and where it stands.
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
    """Measures drawn text against a training text and human text.

    Attributes:
      words: of the training text.
      index: of the training text.
      reference: human samples, from which a divergence is measured.
      others: as many others, which are judged as if they had been drawn.
    """

    words: frozenset[str] = dataclasses.field(repr=False)
    index: CopyIndex = dataclasses.field(repr=False)
    reference: Sequence[str] = dataclasses.field(repr=False)
    others: Sequence[str] = dataclasses.field(repr=False)

    @functools.cached_property
    def human(self) -> TextQuality:
        """Human text under the same measures: what the best of imitations would come to.

        Its divergence is that of two amounts of held-out text (0.23 bits for the last tenth of The
        Mysterious Island); samples of the training part, judged as if they had been drawn, come to
        0.27 bits, for they are of other chapters. Text that is surer than the book's may come below
        either. Its excess is 0, but for chance.
        """
        return self.evaluate(self.others)

    def evaluate(self, samples: Sequence[str]) -> TextQuality:
        """Measure drawn text.

        Args:
          samples: as many as `reference` has, each of the same length as those.

        Raises:
          CharlmError: another number of samples, or another length.
        """
        amount = len(self.reference), len(self.reference[0])
        if (len(samples), *{len(sample) for sample in samples}) != amount:
            raise CharlmError(
                f"{_amount(samples)} cannot be judged: the human text is {_amount(self.reference)},"
                f" and only equal amounts compare"
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
        if len(samples) < _LEAST_TO_HALVE:
            return None
        shares_S = excess_pseudovalues(samples, self.reference, length=DIVERGENCE_GRAM)
        return mean_interval([shares_S], block=1)


def build_text_quality_evaluator(
    text: str, train: Part, human: Sequence[str]
) -> TextQualityEvaluator:
    """Build a judge of drawn text.

    Args:
      text: the whole text.
      train: what was trained on.
      human: held-out samples, twice as many as will be drawn; every other one is the `reference`,
        so that both halves come from the whole of the held-out part.

    Raises:
      CharlmError: the training part is empty; the human samples are an odd number, fewer than 4, of
        unlike lengths, or shorter than a string that is looked for.
    """
    if len(human) % 2 or len(human) < 4:
        raise CharlmError(f"{len(human)} human samples do not do: take an even number, at least 4")
    if len({len(sample) for sample in human}) > 1 or len(human[0]) < COPIED_GRAM:
        raise CharlmError(
            f"the human text is {_amount(human)}: all must be equally long, at least {COPIED_GRAM}"
        )
    known = frozenset[str]().union(*(words(text[r.start : r.stop]) for r in train))
    return TextQualityEvaluator(known, build_copy_index(text, train), human[::2], human[1::2])


def human_samples(text: str, part: Part, *, samples: int, characters: int) -> list[str]:
    """Stretches of human text, for drawn text to be judged by.

    Every stretch of the part is cut into pieces of this length, and what is left at its end is left
    out; the samples are the middle piece of each equal share of them. So they do not overlap, lie
    evenly over the part, and begin anywhere in a sentence, as drawn text ends anywhere.

    Args:
      text: the whole text.
      part: what they are taken from.
      samples: how many, from 1.
      characters: in each, from 1.

    Raises:
      CharlmError: the part has no room for so many, or a number is out of range.

    >>> human_samples("abcdefghijk", (range(1, 11),), samples=2, characters=3)
    ['bcd', 'hij']
    """
    for name, value in (("samples", samples), ("characters", characters)):
        if value < 1:
            raise CharlmError(f"{name}={value} is not allowed: it must be at least 1")
    starts = [s for r in part for s in range(r.start, r.stop - characters + 1, characters)]
    if len(starts) < samples:
        raise CharlmError(
            f"the part of {size(part)} characters has room for {len(starts)} samples of "
            f"{characters}, not {samples}: take fewer, or shorter ones"
        )
    chosen = [starts[(2 * i + 1) * len(starts) // (2 * samples)] for i in range(samples)]
    return [text[start : start + characters] for start in chosen]


def _mean(values: Iterable[float], *, upper: float = math.inf) -> Interval:
    """The mean over samples, of what is from 0 to `upper`."""
    return _within(mean_interval([np.fromiter(values, np.float64)], block=1), upper)


def _share(rows: Iterable[Sequence[bool]]) -> Interval | None:
    """The share of what is true in the rows of all samples together; whole rows are drawn."""
    rows = list(rows)
    longest = max(map(len, rows))
    if not longest:
        return None
    is_true_SN, counts_SN = np.zeros((2, len(rows), longest), bool)
    for row, is_true_N, counts_N in zip(rows, is_true_SN, counts_SN, strict=True):
        is_true_N[: len(row)], counts_N[: len(row)] = row, True
    # The whole line, where only one row has anything.
    interval = mean_interval([is_true_SN.ravel()], mask_N=counts_SN.ravel(), block=longest)
    return _within(interval, 1.0)


def _within(interval: Interval, upper: float) -> Interval:
    """An interval that ends where the values do; one about a mean beyond them is left alone."""
    mean, low, high = interval
    return Interval(mean, min(mean, max(low, 0.0)), max(mean, min(high, upper)))


def _amount(texts: Sequence[str]) -> str:
    lengths = sorted({len(text) for text in texts}) or [0]
    between = f"{lengths[0]} to {lengths[-1]}" if len(lengths) > 1 else lengths[0]
    return f"{len(texts)} samples of {between} characters"
