"""A text as ids in a memory-mapped file, which is sliced and searched like a string."""

import dataclasses
import itertools
from collections.abc import Iterator
from functools import cached_property
from typing import overload

import numpy as np

from charlm_jax.data.vocabulary import Vocabulary

_PIECE = 1 << 20  # characters


@dataclasses.dataclass(frozen=True, eq=False)
class LargeText:
    """A text that is not held in memory.

    Attributes:
      ids_N: ids of its symbols, memory-mapped, in the smallest unsigned type that holds them.
      symbols: every symbol once, sorted by code point; a symbol's id is its index.
      unit: `characters` or `bytes`.
      sha256: hash of the text in UTF-8, or of its bytes.
    """

    ids_N: np.ndarray
    symbols: str = dataclasses.field(repr=False)
    unit: str
    sha256: str

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """Vocabulary of the whole text."""
        return Vocabulary(self.symbols, self.unit)

    def __len__(self) -> int:
        return len(self.ids_N)

    @overload
    def __getitem__(self, where: int) -> str: ...
    @overload
    def __getitem__(self, where: slice) -> str: ...
    def __getitem__(self, where: int | slice) -> str:
        ids_N = self.ids_N[where if isinstance(where, slice) else [where]]
        return self.vocabulary.decode_symbols(ids_N)

    def find(self, symbols: str, start: int, stop: int) -> int:
        """Return the first position of a string within [start, stop); -1 if it is not there.

        The whole stretch is decoded.
        """
        found = self[start:stop].find(symbols)
        return found if found < 0 else start + found

    def rfind(self, symbols: str, start: int, stop: int) -> int:
        """Return the last position of a string within [start, stop); -1 if it is not there.

        The whole stretch is decoded.
        """
        found = self[start:stop].rfind(symbols)
        return found if found < 0 else start + found

    def symbols_of(self, stretches: tuple[range, ...]) -> str:
        """Return every symbol of some stretches once, sorted by code point."""
        is_there_V = np.zeros(len(self.symbols), bool)
        for ids_N in cut(self.ids_N, stretches):
            is_there_V |= np.bincount(ids_N, minlength=len(self.symbols)) > 0
        return "".join(itertools.compress(self.symbols, is_there_V))


Text = str | LargeText
"""A text, held in memory or not."""


def cut(ids_N: np.ndarray, stretches: tuple[range, ...]) -> Iterator[np.ndarray]:
    """Yield the ids of stretches, in pieces of bounded length."""
    for stretch in stretches:
        for start in range(stretch.start, stretch.stop, _PIECE):
            yield ids_N[start : min(start + _PIECE, stretch.stop)]
