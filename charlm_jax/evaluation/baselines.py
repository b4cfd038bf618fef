"""Baselines on the same held-out characters: uniform, unigram and general-purpose compressors.

As under `Stream` in `charlm_jax.evaluation.protocol`, a character may be predicted from everything
before it in its stretch and the one character before the stretch. Losses under `Window`, with its
cold starts, are not comparable. Counts never span two stretches of the training part.

Letters of this module: N characters in the text's order, V symbols.
"""

import bz2
import functools
import gzip
import lzma
import math
from collections.abc import Callable, Mapping

import numpy as np

from charlm_jax.core.errors import CharlmError
from charlm_jax.data.large_text import cut
from charlm_jax.data.splits import Part, target_positions
from charlm_jax.evaluation.ngram import check_ids, join_stretches

MOST_COMPRESSED = 1 << 24
"""Characters of a training part that compressors read at most, the last ones.

They have at most 64 MiB in UTF-8, as far as xz looks back; it takes 0.7 GB of memory.
"""


def uniform_nll(ids_N: np.ndarray, part: Part, symbols: int) -> np.ndarray:
    """Return the loss of a uniform distribution over the vocabulary: ln V for every target.

    Args:
      ids_N: the whole text, ids in [0, V).
      part: part of the text to score.
      symbols: V, the size of the vocabulary.

    Returns:
      nll_N in nats, float64, one entry per target in the text's order.

    Raises:
      CharlmError: an id is out of range.
    """
    target_N, _ = join_stretches(ids_N, map(target_positions, part), symbols)
    return np.full(len(target_N), math.log(symbols))


def unigram_nll(ids_N: np.ndarray, train: Part, part: Part, symbols: int) -> np.ndarray:
    """Return the loss under the symbol frequencies of the training text, regardless of context.

        p(w) = (count(w) + 1) / (characters + V)

    The added one keeps the loss of an unseen symbol finite.

    Args:
      ids_N: the whole text, ids in [0, V).
      train: part of the text to count symbols in.
      part: part of the text to score.
      symbols: V, the size of the vocabulary.

    Returns:
      nll_N in nats, float64, one entry per target in the text's order.

    Raises:
      CharlmError: an id is out of range.
    """
    counts_V = np.ones(symbols, np.int64)
    for piece_N in cut(ids_N, train):
        check_ids(piece_N, symbols)
        counts_V += np.bincount(piece_N, minlength=symbols)
    target_N, _ = join_stretches(ids_N, map(target_positions, part), symbols)
    return -np.log(counts_V / counts_V.sum())[target_N]


def compressed_bits_per_char(
    train_text: str, held_out_text: str, *, encoding: str = "utf-8"
) -> dict[str, float]:
    """Compute what held-out text adds to the compressed training text, in bits per character.

        8 (size(train + held-out) - size(train)) / characters of held-out

    Compressors run at their best levels, on the encoded text. gzip looks back only 32 KB and bz2 at
    most 900 KB; xz 64 MiB. The caller joins the stretches of a part.

    Args:
      train_text: training text, compressed first.
      held_out_text: text to measure, at least one character.
      encoding: `utf-8`, or `latin-1` for symbols that stand for bytes.

    Returns:
      Bits per character by the compressor's name: `gzip`, `bz2`, `xz`.

    Raises:
      CharlmError: the held-out text is empty.
    """
    if not held_out_text:
        raise CharlmError("the held-out text is empty: it needs at least one character")
    before, added = (text.encode(encoding, "surrogatepass") for text in (train_text, held_out_text))
    both = before + added
    return {
        name: 8 * (len(compress(both)) - len(compress(before))) / len(held_out_text)
        for name, compress in _COMPRESSORS.items()
    }


_COMPRESSORS: Mapping[str, Callable[[bytes], bytes]] = {
    "gzip": functools.partial(gzip.compress, compresslevel=9),
    "bz2": functools.partial(bz2.compress, compresslevel=9),
    "xz": functools.partial(lzma.compress, preset=9 | lzma.PRESET_EXTREME),
}
