"""Held-out losses apart: by how much was read before a character, and by what kind it is.

For example, by place under the window rule, and by class:

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
from charlm_jax.data.splits import Part, target_positions
from charlm_jax.data.vocabulary import Vocabulary
from charlm_jax.evaluation.bootstrap import Interval, Runs, mean_interval

CLASSES = ("first letter", "later letter", "space", "punctuation", "capital", "newline")

_FIRST, _LATER, _SPACE, _PUNCTUATION, _CAPITAL, _NEWLINE = range(len(CLASSES))


class GroupLoss(NamedTuple):
    """The mean loss over the characters of one group."""

    label: str
    characters: int
    interval: Interval


def breakdown(
    nll_SN: Runs, group_N: np.ndarray, labels: Sequence[str], **bootstrap: Any
) -> list[GroupLoss]:
    """The mean loss of each group of characters.

    Args:
      nll_SN: negative log-likelihoods in nats, a row for each run.
      group_N: the index into `labels` of every character's group.
      labels: names of the groups.
      **bootstrap: options of `mean_interval`, beside the mask.

    Returns:
      The loss of each group that has characters, in the order of the labels.

    Raises:
      CharlmError: as in `mean_interval`, or a group without a label.
    """
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
    """How many characters are read before each target under the `window` rule.

    Args:
      part: what is scored, stretch by stretch.
      context: targets in a window; the longest stretch or more for the `stream` rule.

    Returns:
      p_N from 1 to `context`, one for each target in the text's order.
    """
    if context < 1:
        raise CharlmError(f"context={context} is not allowed: it must be at least 1")
    lengths = [len(target_positions(stretch)) for stretch in part]
    return np.concatenate([np.arange(length) % context + 1 for length in lengths])


def geometric_bins(longest: int) -> tuple[tuple[int, int], ...]:
    """Ranges from 1 to `longest`, both ends inside, each some sqrt(2) times as far as the last.

    They end at 2^k and 3 * 2^k: by turns 3/2 and 4/3 times as far.

    >>> geometric_bins(20)
    ((1, 1), (2, 2), (3, 3), (4, 4), (5, 6), (7, 8), (9, 12), (13, 16), (17, 20))
    """
    if longest < 1:
        raise CharlmError(f"longest={longest} is not allowed: it must be at least 1")
    powers = [2**k for k in range(longest.bit_length())]
    lasts = sorted({last for power in powers for last in (power, 3 * power) if last < longest})
    return tuple((a + 1, b) for a, b in itertools.pairwise([0, *lasts, longest]))


def character_classes(text: str, part: Part) -> np.ndarray:
    """What kind of character each target is.

    The first of these that holds: a newline; other white space ("space"); an upper-case or
    title-case letter ("capital"); another letter, "first" unless it follows a letter, or an
    apostrophe (' or ’) that follows one; anything else, digits too ("punctuation"). Letters of a
    script without case are letters. A combining mark goes on with the word that it follows, as a
    "later letter". What precedes a character is read from the text, whatever the part.

    Args:
      text: the whole text.
      part: whose targets are classified.

    Returns:
      class_N, uint8 indices into `CLASSES`, one for each target in the text's order.
    """
    vocabulary = Vocabulary.from_text(text)
    ids_N = vocabulary.encode(text)
    categories = [unicodedata.category(symbol) for symbol in vocabulary.symbols]
    is_letter_N = np.array([category[0] == "L" for category in categories])[ids_N]
    is_mark_N = np.array([category[0] == "M" for category in categories])[ids_N]
    is_apostrophe_N = np.array([symbol in "'’" for symbol in vocabulary.symbols])[ids_N]
    class_N = np.array([*map(_class_alone, vocabulary.symbols, categories)], np.uint8)[ids_N]

    # A mark belongs to the last character before it that is none.
    base_N = np.maximum.accumulate(np.where(is_mark_N, 0, np.arange(len(ids_N))))
    is_word_N = is_letter_N[base_N]
    goes_on_N = _before(is_word_N | (is_apostrophe_N & _before(is_word_N)))
    class_N[(is_mark_N & is_word_N) | ((class_N == _FIRST) & goes_on_N)] = _LATER
    return np.concatenate([class_N[x.start : x.stop] for x in map(target_positions, part)])


def _class_alone(symbol: str, category: str) -> int:
    """The class of a symbol by itself, when a small letter is the first of a word."""
    if symbol == "\n":
        return _NEWLINE
    if symbol.isspace():
        return _SPACE
    if category in ("Lu", "Lt"):
        return _CAPITAL
    return _FIRST if category[0] == "L" else _PUNCTUATION


def _before(is_N: np.ndarray) -> np.ndarray:
    """The same of the character before; False for the very first."""
    return np.concatenate([[False], is_N[:-1]])
