"""Vectorised conversion of characters or bytes to ids and back, by sorted code points.

Under the unit bytes, symbols are a string with a character U+0000 to U+00FF for each byte. The text
that a person types or reads has these bytes in UTF-8; bytes that are not UTF-8 are lone surrogates
U+DC80 to U+DCFF in it, as in the arguments of a command (`surrogateescape`), so that text and
symbols correspond exactly.
"""

import dataclasses
import re
from collections.abc import Callable
from functools import cached_property

import numpy as np

from charlm_jax.core.errors import CharlmError, lookup
from charlm_jax.core.html_table import html_table

UNKNOWN_POLICIES = ("error", "drop", "replace")
UNITS = ("characters", "bytes")

_SHOWN = 200  # symbols in a notebook
_ESCAPED = re.compile("[\udc80-\udcff]")  # bytes that are not UTF-8


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """The symbols of a text; a symbol's id is its index in code-point order.

    Attributes:
      symbols: every symbol once, sorted by code point, as one string.
      unit: `characters`, or `bytes` if each symbol stands for a byte.
    """

    symbols: str
    unit: str = "characters"

    def __post_init__(self) -> None:
        lookup(dict.fromkeys(UNITS), self.unit, "config.data.unit")
        if not self.symbols:
            raise CharlmError("a vocabulary needs at least one symbol")
        if list(self.symbols) != sorted(set(self.symbols)):
            raise CharlmError("the symbols of a vocabulary must be distinct and sorted")
        if self.unit == "bytes" and self.symbols[-1] > "\xff":
            raise CharlmError("the symbols of a vocabulary of bytes must lie in U+0000 to U+00FF")

    @classmethod
    def from_text(cls, text: str) -> "Vocabulary":
        """Build the vocabulary of all characters in `text`."""
        return cls("".join(map(chr, np.unique(_code_points(text)))))

    @property
    def whole_characters(self) -> str:
        """Symbols that are characters by themselves: a byte above 127 is only part of one."""
        is_bytes = self.unit == "bytes"
        return "".join(x for x in self.symbols if x.isascii() or not is_bytes)

    def with_unit(self, unit: str) -> "Vocabulary":
        """Return the same symbols as another unit; raises `CharlmError` if they cannot be it."""
        return dataclasses.replace(self, unit=unit)

    @property
    def noun(self) -> str:
        """The unit in the singular: `character` or `byte`."""
        return self.unit.removesuffix("s")

    @cached_property
    def utf8_lengths_V(self) -> np.ndarray:
        """Number of bytes of every symbol: 1 for a byte, 1 to 4 in UTF-8 for a character."""
        if self.unit == "bytes":
            return np.ones(len(self), np.int64)
        return 1 + np.searchsorted([0x80, 0x800, 0x10000], self._sorted_points, side="right")

    def to_symbols(self, text: str) -> str:
        """Return a text as symbols: the text itself, or a character for each byte of its UTF-8.

        Raises:
          CharlmError: the text is not a string, or has a lone surrogate, which has no UTF-8.
        """
        if not isinstance(text, str):
            raise CharlmError(f"a text must be a string, not of type {type(text).__name__}")
        if self.unit == "characters":
            return text
        try:
            return text.encode("utf-8", "surrogateescape").decode("latin-1")
        except UnicodeEncodeError as error:
            raise CharlmError(
                f"the text has the lone surrogate U+{ord(text[error.start]):04X}, which is not a "
                f"character and has no bytes"
            ) from None

    def to_text(self, symbols: str) -> str:
        """Return symbols as the text that they are; the inverse of `to_symbols`."""
        if self.unit == "characters":
            return symbols
        return symbols.encode("latin-1").decode("utf-8", "surrogateescape")

    def shown(self, text: str) -> str:
        """Return a text as it is printed: bytes that are not UTF-8 become U+FFFD."""
        return text if self.unit == "characters" else _ESCAPED.sub("\ufffd", text)

    def __len__(self) -> int:
        return len(self.symbols)

    def _repr_html_(self) -> str:
        more = f" and {len(self) - _SHOWN:,} more" if len(self) > _SHOWN else ""
        symbols = repr(self.symbols[:_SHOWN])
        return html_table([["symbols", f"{len(self):,}"], ["by id", symbols + more]])

    @cached_property
    def _sorted_points(self) -> np.ndarray:
        return _code_points(self.symbols)

    @property
    def dtype(self) -> np.dtype:
        """The smallest unsigned integer type that holds every id."""
        return np.min_scalar_type(len(self) - 1)

    def knows(self, symbols: str) -> np.ndarray:
        """Return a mask of the characters or bytes that are symbols: is_known_N, boolean.

        Args:
          symbols: text as symbols.
        """
        return self._look_up(_code_points(symbols))[1]

    def _look_up(self, points_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return ids, and a mask of those that match the code points."""
        ids_N = np.searchsorted(self._sorted_points, points_N)
        ids_N = np.minimum(ids_N, len(self) - 1)
        return ids_N, self._sorted_points[ids_N] == points_N

    def encode(
        self,
        text: str,
        *,
        unknown: str = "error",
        replacement: str = " ",
        what: str = "the text",
        advice: str = "drop or replace them (unknown='drop' or unknown='replace')",
    ) -> np.ndarray:
        """Encode a text as ids.

        Args:
          text: any string.
          unknown: treatment of characters, or bytes, outside the vocabulary: `error`, `drop`, or
            `replace` by `replacement`.
          replacement: one symbol of the vocabulary.
          what: name of the text in error messages, such as "the prompt".
          advice: alternative to changing the text, for error messages.

        Returns:
          ids_N of `dtype`, in [0, V); N is shorter than the text's symbols only under `drop`.

        Raises:
          CharlmError: the text is not a string, unknown symbols under `error` (named in the
            message), or a bad option.
        """
        if unknown not in UNKNOWN_POLICIES:
            raise CharlmError(f"unknown={unknown!r}: it must be {', '.join(UNKNOWN_POLICIES)}")
        symbols = self.to_symbols(text)
        if unknown == "error":
            return self.encode_symbols(symbols, what=what, advice=advice)
        ids_N, known_N = self._look_up(_code_points(symbols))
        if known_N.all():
            return ids_N.astype(self.dtype)
        if unknown == "drop":
            return ids_N[known_N].astype(self.dtype)
        instead = self.to_symbols(replacement) if isinstance(replacement, str) else ""
        if len(instead) != 1 or instead not in self.symbols:
            raise CharlmError(
                f"the replacement {replacement!r} is not one of the model's {len(self)} "
                f"symbols: name another replacement"
            )
        return np.where(known_N, ids_N, self.symbols.index(instead)).astype(self.dtype)

    def encode_symbols(self, symbols: str, *, what: str, advice: str) -> np.ndarray:
        """Encode symbols as ids, all of which must be known.

        Args:
          symbols: text as symbols.
          what: name of the text in error messages.
          advice: alternative to changing the text, for error messages.

        Returns:
          ids_N of `dtype`, in [0, V), one for each symbol.

        Raises:
          CharlmError: a symbol is not in the vocabulary.
        """
        points_N = _code_points(symbols)
        ids_N, known_N = self._look_up(points_N)
        if known_N.all():
            return ids_N.astype(self.dtype)
        name = _name_byte if self.unit == "bytes" else _name_character
        unknown = _name(points_N[~known_N], self.noun, name)
        raise CharlmError(
            f"{what} has {unknown} outside the model's vocabulary of "
            f"{len(self)} symbols: change it, or {advice}"
        )

    def decode(self, ids_N: np.ndarray) -> str:
        """Decode ids in [0, V) into a text; an id out of range raises `CharlmError`."""
        return self.to_text(self.decode_symbols(ids_N))

    def decode_symbols(self, ids_N: np.ndarray) -> str:
        """Decode ids in [0, V) into symbols; an id out of range raises `CharlmError`."""
        ids_N = np.asarray(ids_N)
        if ids_N.size and not (ids_N.min() >= 0 and ids_N.max() < len(self)):
            raise CharlmError(f"ids must lie in [0, {len(self)})")
        points_N = self._sorted_points[ids_N]
        return points_N.astype("<u4").tobytes().decode("utf-32-le", errors="surrogatepass")


def _code_points(text: str) -> np.ndarray:
    # surrogatepass: a command-line argument may hold lone surrogates; they are unknown symbols,
    # not a reason to crash.
    return np.frombuffer(text.encode("utf-32-le", errors="surrogatepass"), dtype="<u4")


def _name_character(point: int) -> str:
    return f"{chr(point)!r} (U+{point:04X})"


def _name_byte(point: int) -> str:
    return f"0x{point:02X}" + (f" ({chr(point)!r})" if point < 0x80 else "")


def _name(points: np.ndarray, noun: str, name: Callable[[int], str], most: int = 8) -> str:
    unique = np.unique(points).tolist()
    named = ", ".join(map(name, unique[:most]))
    more = f" and {len(unique) - most} more" if len(unique) > most else ""
    return f"the {noun if len(unique) == 1 else f'{noun}s'} {named}{more}"
