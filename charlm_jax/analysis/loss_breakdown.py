"""Breakdown of held-out losses by the number of characters read before, and by character class.

For example, by position under the `window` protocol, and by class:

    p_N, bins = positions_in_window(part, context), geometric_bins(context)
    group_N = np.searchsorted([last for _, last in bins], p_N)
    breakdown(nll_SN, group_N, [f"{first}-{last}" for first, last in bins])

    breakdown(nll_SN, character_classes(text, part), CLASSES)
"""

import itertools
import unicodedata
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from charlm_jax.core.errors import CharlmError
from charlm_jax.core.limits import require_within
from charlm_jax.data.large_text import Text
from charlm_jax.data.splits import Part, target_positions
from charlm_jax.data.vocabulary import Vocabulary
from charlm_jax.evaluation.block_sums import Runs
from charlm_jax.evaluation.bootstrap import Interval, mean_interval

CLASSES = (
    "first letter",
    "later letter",
    "space",
    "punctuation",
    "capital",
    "newline",
    "byte outside UTF-8",
)

_FIRST, _LATER, _SPACE, _PUNCTUATION, _CAPITAL, _NEWLINE, _OUTSIDE = range(len(CLASSES))

# Characters that are classified at once, and that are read before them: a letter with more marks in
# a row is not known as one.
_PIECE, _READ_BEFORE = 1 << 20, 1000

# Bytes that are read after a piece, so that its last character is whole.
_READ_AFTER = 3


class GroupLoss(NamedTuple):
    """Mean loss over the characters of one group."""

    label: str
    characters: int
    interval: Interval


def breakdown(
    nll_SN: Runs, group_N: np.ndarray, labels: Sequence[str], **bootstrap: Any
) -> list[GroupLoss]:
    """Compute the mean loss of each group of characters.

    Args:
      nll_SN: negative log-likelihoods in nats, a row per run.
      group_N: index into `labels` for every character.
      labels: names of the groups.
      **bootstrap: options of `mean_interval`, except the mask.

    Returns:
      The loss of each group that has characters, in the order of the labels.

    Raises:
      CharlmError: a group has no label, the groups are not a row of whole numbers, or an argument
        is invalid (see `mean_interval`).
    """
    group_N = np.asarray(group_N)
    if group_N.ndim != 1 or not group_N.size or not np.can_cast(group_N.dtype, np.int64):
        raise CharlmError(
            f"the groups have shape {group_N.shape} and dtype {group_N.dtype}: they must be a "
            f"non-empty row of whole numbers"
        )
    for group in (group_N.min(), group_N.max()):
        if not 0 <= group < len(labels):
            raise CharlmError(f"group {group} has no label: there are {len(labels)}")
    sizes = np.bincount(group_N, minlength=len(labels))
    return [
        GroupLoss(label, int(size), mean_interval(nll_SN, mask_N=group_N == group, **bootstrap))
        for group, (label, size) in enumerate(zip(labels, sizes, strict=True))
        if size
    ]


def positions_in_window(part: Part, context: int) -> np.ndarray:
    """Return the number of characters read before each target under the `window` protocol.

    Args:
      part: part that is scored, stretch by stretch.
      context: number of targets in a window; for `stream`, at least the longest stretch.

    Returns:
      p_N from 1 to `context`, one per target in the text's order.

    Raises:
      CharlmError: the context is not a positive whole number.
    """
    require_within("context", context, 1)
    lengths = [len(target_positions(stretch)) for stretch in part]
    return np.concatenate([np.arange(length) % context + 1 for length in lengths])


def geometric_bins(longest: int) -> tuple[tuple[int, int], ...]:
    """Return ranges that cover 1 to `longest`, ends included, growing by about sqrt(2).

    They end at 2^k and 3 * 2^k: alternately at 3/2 and 4/3 times the previous end.

    Raises:
      CharlmError: `longest` is not a positive whole number.

    >>> geometric_bins(20)
    ((1, 1), (2, 2), (3, 3), (4, 4), (5, 6), (7, 8), (9, 12), (13, 16), (17, 20))
    """
    require_within("longest", longest, 1)
    longest = int(longest)
    powers = [2**k for k in range(longest.bit_length())]
    lasts = sorted({last for power in powers for last in (power, 3 * power) if last < longest})
    return tuple((a + 1, b) for a, b in itertools.pairwise([0, *lasts, longest]))


def character_classes(text: Text, part: Part, *, unit: str = "characters") -> np.ndarray:
    """Classify each target by the kind of its character.

    The first match applies: a newline; other white space ("space"); an upper-case or title-case
    letter ("capital"); another letter, "first" unless it follows a letter, or an apostrophe (' or
    ’) that follows one; anything else, including digits ("punctuation"). Letters of a script
    without case are letters. A combining mark continues the word that it follows, as a "later
    letter". Preceding characters are read from the text even if they lie outside the part. The text
    is read in pieces.

    Under the unit bytes, a byte is of the class of the character that it belongs to; a byte that is
    not UTF-8 has a class of its own and ends a word.

    Args:
      text: the whole text, as symbols.
      part: part whose targets are classified.
      unit: `characters` or `bytes`.

    Returns:
      class_N, uint8 indices into `CLASSES`, one per target in the text's order.
    """
    pieces = [
        range(start, min(start + _PIECE, targets.stop))
        for targets in map(target_positions, part)
        for start in range(targets.start, targets.stop, _PIECE)
    ]
    classes = [np.empty(0, np.uint8)]
    for piece in pieces:
        first = max(0, piece.start - _READ_BEFORE)
        read = text[first : piece.stop + _READ_AFTER]
        classes.append(_classes(read, unit)[piece.start - first : piece.stop - first])
    return np.concatenate(classes)


def _classes(symbols: str, unit: str) -> np.ndarray:
    """Classify all symbols of a text; the first has nothing before it."""
    read = Vocabulary.from_text(symbols).with_unit(unit)
    text = read.to_text(symbols)
    vocabulary = Vocabulary.from_text(text)
    ids_N = vocabulary.encode(text)
    categories = [unicodedata.category(symbol) for symbol in vocabulary.symbols]
    is_letter_N = np.array([category[0] == "L" for category in categories])[ids_N]
    is_mark_N = np.array([category[0] == "M" for category in categories])[ids_N]
    is_apostrophe_N = np.array([symbol in "'’" for symbol in vocabulary.symbols])[ids_N]
    class_N = np.array([*map(_class_alone, vocabulary.symbols, categories)], np.uint8)[ids_N]

    # A mark belongs to the last character before it that is not a mark.
    base_N = np.maximum.accumulate(np.where(is_mark_N, 0, np.arange(len(ids_N))))
    is_word_N = is_letter_N[base_N]
    continues_word_N = _before(is_word_N | (is_apostrophe_N & _before(is_word_N)))
    class_N[(is_mark_N & is_word_N) | ((class_N == _FIRST) & continues_word_N)] = _LATER
    lengths_V = np.array([len(read.to_symbols(symbol)) for symbol in vocabulary.symbols])
    return np.repeat(class_N, lengths_V[ids_N])


def _class_alone(symbol: str, category: str) -> int:
    """Classify a symbol without context, taking a small letter to be the first of a word."""
    if symbol == "\n":
        return _NEWLINE
    if symbol.isspace():
        return _SPACE
    if category in ("Lu", "Lt"):
        return _CAPITAL
    if category == "Cs":  # how a text has a byte that is not UTF-8
        return _OUTSIDE
    return _FIRST if category[0] == "L" else _PUNCTUATION


def _before(is_N: np.ndarray) -> np.ndarray:
    """Shift a mask by one character: the value of the one before, False for the first."""
    return np.concatenate([[False], is_N[:-1]])
