"""Vectorised conversion of characters to ids and back, by sorted Unicode code points."""

import dataclasses
from functools import cached_property

import numpy as np

from charlm_jax.core.errors import CharlmError
from charlm_jax.core.html_table import html_table

UNKNOWN_POLICIES = ("error", "drop", "replace")

_SHOWN = 200  # symbols in a notebook


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """The symbols of a text; a symbol's id is its index in code-point order.

    Attributes:
      symbols: every symbol once, sorted by code point, as one string.
    """

    symbols: str

    def __post_init__(self) -> None:
        if not self.symbols:
            raise CharlmError("a vocabulary needs at least one symbol")
        if list(self.symbols) != sorted(set(self.symbols)):
            raise CharlmError("the symbols of a vocabulary must be distinct and sorted")

    @classmethod
    def from_text(cls, text: str) -> "Vocabulary":
        """Build the vocabulary of all characters in `text`."""
        return cls("".join(map(chr, np.unique(_code_points(text)))))

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

    def knows(self, text: str) -> np.ndarray:
        """Return a mask of the characters that are symbols: is_known_N, boolean."""
        return self._look_up(_code_points(text))[1]

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
        """Encode characters as ids.

        Args:
          text: any string.
          unknown: treatment of characters outside the vocabulary: `error`, `drop`, or
            `replace` by `replacement`.
          replacement: one character of the vocabulary.
          what: name of the text in error messages, such as "the prompt".
          advice: alternative to changing the text, for error messages.

        Returns:
          ids_N of `dtype`, in [0, V); N is shorter than the text only under `drop`.

        Raises:
          CharlmError: unknown characters under `error` (named in the message), or a bad option.
        """
        if unknown not in UNKNOWN_POLICIES:
            raise CharlmError(f"unknown={unknown!r}: it must be {', '.join(UNKNOWN_POLICIES)}")
        points_N = _code_points(text)
        ids_N, known_N = self._look_up(points_N)
        if known_N.all():
            return ids_N.astype(self.dtype)
        if unknown == "drop":
            return ids_N[known_N].astype(self.dtype)
        if unknown == "replace":
            if len(replacement) != 1 or replacement not in self.symbols:
                raise CharlmError(
                    f"the replacement {replacement!r} is not one of the model's {len(self)} "
                    f"symbols: name another replacement"
                )
            return np.where(known_N, ids_N, self.symbols.index(replacement)).astype(self.dtype)
        raise CharlmError(
            f"{what} has {_name_characters(points_N[~known_N])} outside the model's vocabulary of "
            f"{len(self)} symbols: change it, or {advice}"
        )

    def decode(self, ids_N: np.ndarray) -> str:
        """Decode ids in [0, V) into characters; an id out of range raises `CharlmError`."""
        ids_N = np.asarray(ids_N)
        if ids_N.size and not (ids_N.min() >= 0 and ids_N.max() < len(self)):
            raise CharlmError(f"ids must lie in [0, {len(self)})")
        points_N = self._sorted_points[ids_N]
        return points_N.astype("<u4").tobytes().decode("utf-32-le", errors="surrogatepass")


def _code_points(text: str) -> np.ndarray:
    # surrogatepass: a command-line argument may hold lone surrogates; they are unknown symbols,
    # not a reason to crash.
    return np.frombuffer(text.encode("utf-32-le", errors="surrogatepass"), dtype="<u4")


def _name_characters(points: np.ndarray, most: int = 8) -> str:
    unique = np.unique(points)
    named = ", ".join(f"{chr(point)!r} (U+{point:04X})" for point in unique[:most])
    more = f" and {len(unique) - most} more" if len(unique) > most else ""
    noun = "the character" if len(unique) == 1 else "the characters"
    return f"{noun} {named}{more}"
