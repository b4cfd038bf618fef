"""What simple predictors pay for the same held-out characters: is the network worth its trouble?

As under the `stream` rule of `charlm_jax.evaluation.scoring`, a stretch is predicted from the one
character before it and what was read of it since: a `window` figure, with its cold starts, is
no match. Nor does counting cross from one stretch of the training part to another.

Letters of this module: N characters in the text's order, G strings of one length, C of one less.
"""

import bz2
import functools
import gzip
import lzma
import math
from collections.abc import Callable, Mapping

import numpy as np

from charlm_jax.core.errors import CharlmError
from charlm_jax.data.splits import Part, target_positions
from charlm_jax.evaluation.ngram import join_stretches


def uniform_nll(ids_N: np.ndarray, part: Part, symbols: int) -> np.ndarray:
    """The price of knowing nothing but the alphabet: ln V for every target.

    Args:
      ids_N: the whole text, ids in [0, V).
      part: what is scored.
      symbols: V.

    Returns:
      nll_N in nats, float64, one entry a target in the text's order.
    """
    target_N, _ = join_stretches(ids_N, map(target_positions, part), symbols)
    return np.full(len(target_N), math.log(symbols))


def unigram_nll(ids_N: np.ndarray, train: Part, part: Part, symbols: int) -> np.ndarray:
    """How rare each target is in the training text, whatever stands before it.

        p(w) = (count(w) + 1) / (characters + V)

    The added one makes a symbol that was never seen cost something finite.

    Args:
      ids_N: the whole text, ids in [0, V).
      train: what is counted.
      part: what is scored.
      symbols: V.

    Returns:
      nll_N in nats, float64, one entry a target in the text's order.
    """
    train_N, _ = join_stretches(ids_N, train, symbols)
    counts_V = np.bincount(train_N, minlength=symbols) + 1
    target_N, _ = join_stretches(ids_N, map(target_positions, part), symbols)
    return -np.log(counts_V / counts_V.sum())[target_N]


def compressed_bits_per_char(train_text: str, held_out_text: str) -> dict[str, float]:
    """What general compressors pay for held-out text after the training text, in bits a character.

        8 (size(train + held-out) - size(train)) / characters of held-out

    All at their best levels, on UTF-8. gzip looks back 32 KB only and bz2 900 KB at most; xz sees
    everything. Stretches of a part are to be joined.

    Args:
      train_text: what comes first.
      held_out_text: what is paid for, at least one character.

    Returns:
      Bits per character by the compressor's name: `gzip`, `bz2`, `xz`.

    Raises:
      CharlmError: nothing is held out.
    """
    if not held_out_text:
        raise CharlmError("the held-out text is empty: it needs at least one character")
    before = train_text.encode("utf-8", "surrogatepass")
    both = before + held_out_text.encode("utf-8", "surrogatepass")
    return {
        name: 8 * (len(compress(both)) - len(compress(before))) / len(held_out_text)
        for name, compress in _COMPRESSORS.items()
    }


_COMPRESSORS: Mapping[str, Callable[[bytes], bytes]] = {
    "gzip": functools.partial(gzip.compress, compresslevel=9),
    "bz2": functools.partial(bz2.compress, compresslevel=9),
    "xz": functools.partial(lzma.compress, preset=9 | lzma.PRESET_EXTREME),
}
