"""Training data of the benchmarks: a text, or as many random ids as the book has characters."""

from typing import NamedTuple

import numpy as np

from charlm_jax.core.errors import CharlmError
from charlm_jax.data.corpora import load_corpus
from charlm_jax.data.vocabulary import Vocabulary

SYMBOLS = 80
CHARACTERS = 1_112_350


class Text(NamedTuple):
    """Symbols of a text, and the text as ids."""

    symbols: str
    ids_N: np.ndarray


def load_text(corpus: str, *, batch_size: int, sequence_length: int) -> Text:
    """Load a corpus, or random characters if none is named, cut to whole batches of T + 1.

    Without a short last batch in each epoch, every step does the same work.

    Raises:
      CharlmError: the corpus does not exist or is shorter than one batch.
    """
    piece = batch_size * (sequence_length + 1)
    if corpus:
        text = load_corpus(corpus).text[:]
        vocabulary = Vocabulary.from_text(text)
        ids_N, symbols = vocabulary.encode(text), vocabulary.symbols
    else:
        characters = max(CHARACTERS, piece)
        ids_N = np.random.default_rng(0).integers(SYMBOLS, size=characters, dtype=np.uint8)
        symbols = "".join(map(chr, range(ord("!"), ord("!") + SYMBOLS)))
    if len(ids_N) < piece:
        raise CharlmError(
            f"corpus {corpus!r} has {len(ids_N):,} characters, and a batch takes {piece:,}"
        )
    return Text(symbols, ids_N[: len(ids_N) // piece * piece])


def cut_chunks(text: Text, *, sequence_length: int) -> np.ndarray:
    """Return the text in chunks of T + 1 ids, ids_CN; inputs are all but the last id of each."""
    return text.ids_N.reshape(-1, sequence_length + 1).astype(np.int64)


def cut_batches(text: Text, *, batch_size: int, sequence_length: int) -> np.ndarray:
    """Return the chunks of T + 1 ids in random order and in batches, ids_EBN."""
    chunks_CN = cut_chunks(text, sequence_length=sequence_length)
    order = np.random.default_rng(0).permutation(len(chunks_CN))
    return chunks_CN[order].reshape(-1, batch_size, sequence_length + 1)
