"""Surprisal of a text: by character and by line, and the model's top predictions.

Letters of this module: N characters that were scored, R lines, G top predictions.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from charlm_jax.core.errors import CharlmError
from charlm_jax.core.html_table import html_table
from charlm_jax.core.types import bits
from charlm_jax.data.vocabulary import Vocabulary
from charlm_jax.evaluation.protocol import EvalProtocol
from charlm_jax.models import LanguageModel

GUESSES = 5
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
    """

    nll_N: np.ndarray
    loss_nats: float
    bits_per_char: float
    characters: int
    positions_N: np.ndarray
    protocol: EvalProtocol

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
            ["loss, nats per character", f"{self.loss_nats:.4f}"],
            ["bits per character", f"{self.bits_per_char:.4f}"],
            ["characters", f"{self.characters:,}"],
            ["protocol", str(self.protocol)],
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
      CharlmError: fewer than two characters remain, or `Vocabulary.encode` raises it.
    """
    ids_N = vocabulary.encode(text, unknown=unknown, replacement=replacement)
    if len(ids_N) < 2:
        raise CharlmError(
            f"the text is too short to score ({len(ids_N)} known {vocabulary.unit}): it needs two, "
            f"since the first is not predicted"
        )
    symbols = vocabulary.to_symbols(text)
    is_whole = len(ids_N) == len(symbols)
    known_N = np.arange(len(symbols)) if is_whole else np.flatnonzero(vocabulary.knows(symbols))
    return ids_N, known_N


class LineScore(NamedTuple):
    """Surprisal of a line, including the newline that ends it.

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


def score_lines(text: str, score: TextScore) -> list[LineScore]:
    r"""Split a text's score by line: characters and nats add up to those of the whole text.

    Args:
      text: the scored text, with "\n" newlines.
      score: score of the whole text.

    Returns:
      Every line in the text's order. A newline belongs to the line that it ends; a newline at the
      end of the text starts no further line.
    """
    lines = text.split("\n")
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
    """Sort lines by bits per character, highest first; those without a score come last."""
    none = float("-inf")
    values = [none if line.bits_per_char is None else line.bits_per_char for line in lines]
    order = sorted(range(len(lines)), key=lambda index: -values[index])
    return [lines[index] for index in order]


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
    """Return the `GUESSES` most probable symbols, or all of a smaller vocabulary; a `Measure`."""
    probability_BTV = jax.nn.softmax(logits_BTV.astype(jnp.float32))
    count = min(GUESSES, logits_BTV.shape[-1])
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
