"""Surprisal of a text: by character and by line, and the model's top predictions.

Letters of this module: N characters that were scored, R lines, G top predictions.
"""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from charlm_jax.core.errors import CharlmError
from charlm_jax.core.html_table import html_table
from charlm_jax.core.powers import next_power_of_two
from charlm_jax.core.types import bits
from charlm_jax.data.dataset import MOST_SCORED
from charlm_jax.data.splits import Part, target_positions
from charlm_jax.data.vocabulary import Vocabulary
from charlm_jax.evaluation.protocol import EvalProtocol
from charlm_jax.models import LanguageModel

TOP_PREDICTIONS = 5
"""Number of most probable characters kept per position."""


class TextScore(NamedTuple):
    """Surprisal of a text under a model.

    Attributes:
      nll_N: -log p of every scored character, in nats, float32.
      loss_nats: mean of nll_N.
      bits_per_char: the mean in bits.
      characters: number of scored characters.
      positions_N: their positions in the text, from 0, ascending. Dropped characters are not read;
        `protocol` defines which of the others are scored.
      protocol: evaluation protocol.
      separate_lines: whether each line was read from the model's initial state.
    """

    nll_N: np.ndarray
    loss_nats: float
    bits_per_char: float
    characters: int
    positions_N: np.ndarray
    protocol: EvalProtocol
    separate_lines: bool = False

    @property
    def rule(self) -> str:
        """Description of what was read before each character."""
        return f"{self.protocol}{', each line on its own' if self.separate_lines else ''}"

    @property
    def nats(self) -> float:
        """Sum over all characters, in float64."""
        return float(np.sum(self.nll_N, dtype=np.float64))

    def along(self, characters: int) -> np.ndarray:
        """Return the nats of the first `characters` characters; NaN for those without a score."""
        nll_N = np.full(characters, np.nan, np.float32)
        count = int(np.searchsorted(self.positions_N, characters))
        nll_N[self.positions_N[:count]] = self.nll_N[:count]
        return nll_N

    def _repr_html_(self) -> str:
        rows = [
            ["loss, nats", f"{self.loss_nats:.4f}"],
            ["loss, bits", f"{self.bits_per_char:.4f}"],
            ["scored", f"{self.characters:,}"],
            ["protocol", self.rule],
        ]
        return html_table(rows)


def surprisal_difference(first: TextScore, second: TextScore) -> np.ndarray:
    """Compare two scores of the same text.

    Returns:
      difference_N in nats, float64: the second minus the first, for characters that both scored.
    """
    _, one, other = np.intersect1d(
        first.positions_N, second.positions_N, assume_unique=True, return_indices=True
    )
    return second.nll_N[other].astype(np.float64) - first.nll_N[one]


def known_characters(
    text: str, vocabulary: Vocabulary, *, unknown: str, replacement: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return the characters of a text that a model reads.

    Args:
      text: any string.
      vocabulary: the model's vocabulary, of characters or bytes.
      unknown: policy for characters outside the vocabulary, see `Vocabulary.encode`.
      replacement: character that replaces unknown ones, see `Vocabulary.encode`.

    Returns:
      ids_N, and positions_N: their positions among the symbols of the text.

    Raises:
      CharlmError: the text is too long, fewer than two characters remain, or `Vocabulary.encode`
        raises it.
    """
    symbols = vocabulary.to_symbols(text)
    _refuse_long(symbols, vocabulary)
    return _known(symbols, vocabulary, unknown=unknown, replacement=replacement)


def _refuse_long(symbols: str, vocabulary: Vocabulary) -> None:
    if len(symbols) > MOST_SCORED:
        raise CharlmError(
            f"the text has {len(symbols):,} {vocabulary.unit}: at most {MOST_SCORED:,} are scored "
            f"at once: give a part of it"
        )


def _known(
    symbols: str, vocabulary: Vocabulary, *, unknown: str, replacement: str
) -> tuple[np.ndarray, np.ndarray]:
    text = vocabulary.to_text(symbols)
    ids_N = vocabulary.encode(text, unknown=unknown, replacement=replacement)
    if len(ids_N) < 2:
        raise CharlmError(
            f"the text is too short to score ({len(ids_N)} known {vocabulary.unit}): it needs two, "
            f"since the first is not predicted"
        )
    is_whole = len(ids_N) == len(symbols)
    known_N = np.arange(len(symbols)) if is_whole else np.flatnonzero(vocabulary.knows(symbols))
    return ids_N, known_N


class SeparateLines(NamedTuple):
    """Characters of a text that a model reads line by line, each from its initial state.

    Attributes:
      ids_N: ids of the characters. Every line stands between two newlines, if the model knows them:
        the first predicts the line's first character, the last is predicted.
      positions_N: positions among the text's symbols; -1 for the newline before them, their number
        for one after them.
      part: stretch of every line that has a character to predict.
    """

    ids_N: np.ndarray
    positions_N: np.ndarray
    part: Part


def split_lines(
    text: str, vocabulary: Vocabulary, *, unknown: str, replacement: str
) -> SeparateLines:
    """Return the lines of a text as a model reads them one by one.

    Without a newline in the vocabulary no newline is read, and the first character of each line is
    not scored.

    Args:
      text: any string.
      vocabulary: the model's vocabulary.
      unknown: policy for characters outside the vocabulary, see `Vocabulary.encode`.
      replacement: character that replaces unknown ones, see `Vocabulary.encode`.

    Raises:
      CharlmError: the text is too long, no line has a character to predict, or
        `Vocabulary.encode` raises it.
    """
    symbols = vocabulary.to_symbols(text)
    _refuse_long(symbols, vocabulary)
    has_newlines = "\n" in vocabulary.symbols and symbols != ""
    newlines = np.array([place for place, c in enumerate(symbols) if c == "\n"], np.int64)
    if has_newlines:
        framed = "\n" + symbols.removesuffix("\n") + "\n"
        positions_N = np.arange(-1, len(framed) - 1)
    else:
        framed = symbols.replace("\n", "")
        positions_N = np.delete(np.arange(len(symbols)), newlines)
    ids_N, kept_N = _known(framed, vocabulary, unknown=unknown, replacement=replacement)
    positions_N = positions_N[kept_N]
    line_N = np.searchsorted(newlines, positions_N)
    bounds = [0, *(np.flatnonzero(np.diff(line_N)) + 1).tolist(), len(line_N)]
    first = 0 if has_newlines else 1  # offset of a line's first target
    stretches = [range(a + first, b) for a, b in itertools.pairwise(bounds)]
    part = tuple(stretch for stretch in stretches if target_positions(stretch))
    if not part:
        raise CharlmError("no line is long enough to score: one needs two known characters")
    return SeparateLines(ids_N, positions_N, part)


def parts_by_length(part: Part) -> list[tuple[int, Part]]:
    """Group stretches by their number of targets, so that few shapes are compiled.

    >>> parts_by_length((range(1, 4), range(4, 5), range(5, 9)))
    [(1, (range(4, 5),)), (4, (range(1, 4), range(5, 9)))]

    Returns:
      Pairs of a power of two and the stretches with at most that number of targets and more than
      half of it.
    """
    groups: dict[int, list[range]] = {}
    for stretch in part:
        size = next_power_of_two(len(target_positions(stretch)))
        groups.setdefault(size, []).append(stretch)
    return [(size, tuple(groups[size])) for size in sorted(groups)]


class LineScore(NamedTuple):
    """Surprisal of a line, including the newline that ends it, if that was scored.

    Attributes:
      number: line number, from 1.
      text: the line without its newline.
      characters: number of scored characters.
      nats: sum of their surprisals; None if no character was scored.
    """

    number: int
    text: str
    characters: int
    nats: float | None

    @property
    def bits_per_char(self) -> float | None:
        """Mean over the scored characters; None if no character was scored."""
        return None if self.nats is None else bits(self.nats) / self.characters


def score_lines(symbols: str, score: TextScore) -> list[LineScore]:
    r"""Split a text's score by line: characters and nats add up to those of the whole text.

    Args:
      symbols: symbols of the scored text, with "\n" newlines: the text itself, or a symbol for
        each of its bytes (`Vocabulary.to_symbols`).
      score: score of the whole text.

    Returns:
      Every line in the text's order. A newline belongs to the line that it ends; a newline at the
      end of the text starts no further line.
    """
    lines = symbols.split("\n")
    if not lines[-1]:
        lines.pop()
    ends_R = np.cumsum([len(line) + 1 for line in lines])
    line_N = np.searchsorted(ends_R, score.positions_N, side="right")
    counts_R = np.bincount(line_N, minlength=len(lines)).tolist()
    nats_R = np.bincount(line_N, weights=score.nll_N, minlength=len(lines)).tolist()
    return [
        LineScore(number, line, count, nats if count else None)
        for number, (line, count, nats) in enumerate(zip(lines, counts_R, nats_R, strict=True), 1)
    ]


def sort_by_surprisal(lines: Sequence[LineScore]) -> list[LineScore]:
    """Sort lines by bits per character, highest first; those without a score come last.

    Lines with equal figures keep their order.
    """

    def bits_per_char(line: LineScore) -> float:
        value = line.bits_per_char
        return -math.inf if value is None else value

    return sorted(lines, key=bits_per_char, reverse=True)


class TopPredictions(NamedTuple):
    """Most probable characters at the positions of a text.

    Attributes:
      positions_N: positions in the text, the same as in `TextScore`.
      symbols: characters predicted at each position, the most probable first.
      probability_NG: their probabilities, float32.
    """

    positions_N: np.ndarray
    symbols: Sequence[str]
    probability_NG: np.ndarray


class TopIds(NamedTuple):
    """Most probable symbols, the most probable first: ids (..., G) int32, and probabilities."""

    ids: jax.Array
    probability: jax.Array


def top_k_predictions(logits_BTV: jax.Array, targets_BT: jax.Array) -> TopIds:
    """Return the most probable symbols, at most `TOP_PREDICTIONS`; a `Measure`."""
    probability_BTV = jax.nn.softmax(logits_BTV.astype(jnp.float32))
    count = min(TOP_PREDICTIONS, logits_BTV.shape[-1])
    probability_BTG, ids_BTG = jax.lax.top_k(probability_BTV, count)
    return TopIds(ids_BTG, probability_BTG)


def name_predictions(top: TopIds, positions_N: np.ndarray, symbols: str) -> TopPredictions:
    """Return predictions with characters in place of their ids.

    Args:
      top: ids and probabilities (N, G).
      positions_N: positions in the text.
      symbols: characters of the vocabulary, in the order of their ids.
    """
    names = ["".join(symbols[index] for index in ids_G) for ids_G in np.asarray(top.ids).tolist()]
    return TopPredictions(positions_N, names, np.asarray(top.probability))


def default_scoring_mode(model: LanguageModel) -> str:
    """Return the mode for texts of any length: `window` if the model's length is limited."""
    return "stream" if model.max_length is None else "window"
