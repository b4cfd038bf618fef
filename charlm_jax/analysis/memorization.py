"""Memorization: exact copies of the training text in other texts, and their positions there.

The training text is indexed once, as a suffix array: the positions of all its characters, sorted
by the text that begins there. A text's neighbours in that order are the positions that share the
longest run with it, so a binary search finds that run (Manber and Myers 1993). Characters are
compared, not hashed, so there are no false positives. Several characters are packed into one
number, so that all positions of all texts are searched together, one number at a time.

Letters of this module: N positions of the training text or of concatenated texts, Q positions that
are searched for or compared at once, U positions whose order is still undecided.

Sources: Manber and Myers 1993, SIAM Journal on Computing 22, sections 2 and 3; sorting only the
undecided positions, by twice as many characters at every pass: Larsson and Sadakane 2007,
Theoretical Computer Science 387; the packing is our choice.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from charlm_jax.core.errors import CharlmError
from charlm_jax.data.splits import Part

# Bits of a packed word. float64 holds 53 exactly: its exponent gives the first differing bit.
_WORD_BITS = 53
# Follows every stretch of the training text, whose characters have codes from 1.
_END = 0


class CopiedSpan(NamedTuple):
    """A run of characters that also occurs in the training text.

    Attributes:
      sample: index of the text that contains the run.
      start: position of the run in that text.
      length: number of characters.
      position: first position in the training part, counted in the whole text.
    """

    sample: int
    start: int
    length: int
    position: int


@dataclasses.dataclass(frozen=True, eq=False)
class CopyIndex:
    """Searchable index of the training text.

    Attributes:
      text: the whole text, of which the training text is a part.
      part: the training part. A run never spans two of its stretches.
      points_V: code points of the training text, ascending.
      words_N: characters from each position on, packed into a number; one more for the end.
      order_N: positions, sorted by the text that begins there.
    """

    text: str = dataclasses.field(repr=False)
    part: Part
    points_V: np.ndarray = dataclasses.field(repr=False)
    words_N: np.ndarray = dataclasses.field(repr=False)
    order_N: np.ndarray = dataclasses.field(repr=False)

    def common_lengths(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Compute the length of the longest copied run that begins at each character.

        Args:
          texts: texts to search for.

        Returns:
          For each text the lengths in characters, int64, one per character: the longest run from
          there on that occurs in the training text.

        Raises:
          CharlmError: the texts are one string.
        """
        if isinstance(texts, str):
            raise CharlmError("texts is a string, not a list of strings: write [text]")
        unknown = len(self.points_V) + 1  # also ends a text, since it matches no character
        codes = [np.append(_encode(text, self.points_V), unknown) for text in texts]
        asked_N = _packed(np.concatenate([[unknown], *codes]), len(self.points_V), pad=unknown)
        lengths_N = self._longest(asked_N)
        ends = 1 + np.cumsum([len(x) for x in codes])
        return [lengths_N[end - len(x) : end - 1] for x, end in zip(codes, ends, strict=True)]

    def longest_copy(self, texts: Sequence[str]) -> CopiedSpan | None:
        """Find the longest run that one of the texts has in common with the training text.

        Args:
          texts: texts to search for.

        Returns:
          The first of the longest runs; None if there is no character in common.

        Raises:
          CharlmError: the texts are one string.
        """
        return self.longest_of(texts, self.common_lengths(texts))

    def longest_of(self, texts: Sequence[str], lengths: Sequence[np.ndarray]) -> CopiedSpan | None:
        """Find the longest run, given the `common_lengths` of the texts."""
        most = [int(lengths_N.max(initial=0)) for lengths_N in lengths]
        length = max(most, default=0)
        if not length:
            return None
        sample = most.index(length)
        start = int(np.argmax(lengths[sample]))
        run = texts[sample][start : start + length]
        starts = (self.text.find(run, stretch.start, stretch.stop) for stretch in self.part)
        return CopiedSpan(
            sample, start, length, next(position for position in starts if position >= 0)
        )

    def _longest(self, asked_N: np.ndarray) -> np.ndarray:
        """Return the longest common run from each position on, by binary search for neighbours."""
        from_Q = np.arange(len(asked_N))
        low_Q, high_Q = np.zeros_like(from_Q), np.full_like(from_Q, len(self.order_N))
        low_common_Q, high_common_Q = np.zeros_like(from_Q), np.zeros_like(from_Q)
        while from_Q.size:
            middle_Q = (low_Q[from_Q] + high_Q[from_Q]) // 2
            # All texts between two neighbours share the prefix that both share.
            common_Q = np.minimum(low_common_Q[from_Q], high_common_Q[from_Q])
            is_after_Q = self._compare(asked_N, from_Q, self.order_N[middle_Q], common_Q)
            after_Q, before_Q = from_Q[is_after_Q], from_Q[~is_after_Q]
            low_Q[after_Q] = middle_Q[is_after_Q] + 1
            low_common_Q[after_Q] = common_Q[is_after_Q]
            high_Q[before_Q] = middle_Q[~is_after_Q]
            high_common_Q[before_Q] = common_Q[~is_after_Q]
            from_Q = from_Q[low_Q[from_Q] < high_Q[from_Q]]
        return np.maximum(low_common_Q, high_common_Q)

    def _compare(
        self, asked_N: np.ndarray, from_Q: np.ndarray, positions_Q: np.ndarray, common_Q: np.ndarray
    ) -> np.ndarray:
        """Return True where the query sorts after the text at a position.

        Increases `common_Q` to the length of the common prefix. The loop ends, since every query
        ends in a character that the training text lacks.
        """
        bits, width = _packing(len(self.points_V))
        is_after_Q = np.zeros(len(from_Q), bool)
        open_Q = np.arange(len(from_Q))
        while open_Q.size:
            asked_Q = asked_N[from_Q[open_Q] + common_Q[open_Q]]
            word_Q = self.words_N[positions_Q[open_Q] + common_Q[open_Q]]
            is_after_Q[open_Q] = asked_Q > word_Q
            _, unlike_bits_Q = np.frexp((asked_Q ^ word_Q).astype(np.float64))
            common_Q[open_Q] += width + -unlike_bits_Q // bits
            open_Q = open_Q[asked_Q == word_Q]
        return is_after_Q


def build_copy_index(text: str, train: Part) -> CopyIndex:
    """Index the training part of a text.

    The index takes about 16 bytes per character, and 50 while it is built.

    Args:
      text: the whole text.
      train: the training part.

    Returns:
      The index. It returns positions in the whole text.

    Raises:
      CharlmError: the training part is empty.

    >>> index = build_copy_index("one swallow makes no summer", (range(0, 17),))
    >>> index.longest_copy(["no swallows make summer"])
    CopiedSpan(sample=0, start=2, length=8, position=3)
    """
    stretches = [text[stretch.start : stretch.stop] for stretch in train if len(stretch)]
    if not stretches:
        raise CharlmError("the training part is empty: it needs at least one character")
    symbols = sorted(set().union(*stretches))
    points_V = np.array([ord(symbol) for symbol in symbols], np.uint32)
    pieces = [_encode(stretches[0], points_V)]
    for stretch in stretches[1:]:
        pieces += [np.array([_END]), _encode(stretch, points_V)]
    words_N = _packed(np.concatenate(pieces), len(points_V), pad=_END)
    _, width = _packing(len(points_V))
    return CopyIndex(text, train, points_V, words_N, _suffix_array(words_N, width))


def _encode(text: str, points_V: np.ndarray) -> np.ndarray:
    """Encode characters as numbers from 1, ordered by code point; V + 1 if unknown."""
    points_N = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.dtype("<u4"))
    codes_N = np.searchsorted(points_V, points_N).astype(np.int32)
    is_known_N = points_V.take(codes_N, mode="clip") == points_N
    return np.where(is_known_N, codes_N + 1, len(points_V) + 1)


def _packing(symbols: int) -> tuple[int, int]:
    """Return the bits per character and the characters per word."""
    bits = (symbols + 1).bit_length()
    return bits, _WORD_BITS // bits


def _packed(codes_N: np.ndarray, symbols: int, *, pad: int) -> np.ndarray:
    """Pack the characters from each position on into one number, the first in the highest bits."""
    bits, width = _packing(symbols)
    padded_N = np.append(codes_N, np.full(width, pad))
    words_N = np.zeros(len(codes_N) + 1, np.int64)
    for offset in range(width):
        words_N <<= bits
        words_N |= padded_N[offset : offset + len(words_N)]
    return words_N


def _suffix_array(words_N: np.ndarray, width: int) -> np.ndarray:
    """Sort the positions by the text that begins there.

    Args:
      words_N: packed first characters from each position on, and one more for the end.
      width: number of characters in a word.
    """
    end = len(words_N) - 1
    small = np.int32 if end < 2**31 else np.int64  # these arrays are most of the memory
    order_N, slots_U = np.arange(end, dtype=small), np.arange(end, dtype=small)
    rank_N = np.full(end + 1, -1, small)  # ties so far have the rank of their first
    key_U, length = words_N[:end], width
    while slots_U.size:
        by_key_U = np.argsort(key_U)
        key_U, positions_U = key_U[by_key_U], order_N[slots_U][by_key_U]
        order_N[slots_U] = positions_U
        is_first_U = np.append(True, key_U[1:] != key_U[:-1])
        rank_N[positions_U] = np.maximum.accumulate(np.where(is_first_U, slots_U, 0))
        slots_U = slots_U[~(is_first_U & np.append(is_first_U[1:], True))]
        positions_U = order_N[slots_U]
        # Ties are decided by the text that follows, which is ranked already.
        key_U = rank_N[positions_U] * np.int64(end + 1)
        key_U += rank_N[np.minimum(positions_U.astype(np.int64) + length, end)] + 1
        length *= 2
    return order_N
