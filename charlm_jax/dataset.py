"""The text of a run: its vocabulary, its encoding, its parts, and a fingerprint of all three."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping

import numpy as np

from charlm_jax.batches import split_text
from charlm_jax.config import Config
from charlm_jax.corpora import Corpus, load_corpus
from charlm_jax.download import Progress
from charlm_jax.types import CharlmError
from charlm_jax.vocab import Vocabulary


@dataclasses.dataclass(frozen=True)
class Dataset:
    """An encoded text.

    Attributes:
      corpus: the text and where it came from.
      vocabulary: the symbols of the whole text.
      ids_N: the text as ids, the smallest unsigned type that holds them.
      parts: `train`, and `valid` where the split holds text out, as ranges of positions.
    """

    corpus: Corpus
    vocabulary: Vocabulary
    ids_N: np.ndarray
    parts: Mapping[str, range]

    @property
    def fingerprint(self) -> str:
        """A hash of text, vocabulary and split: what two results must share to be compared."""
        facts = {
            "text_sha256": self.corpus.text_sha256,
            "symbols": self.vocabulary.symbols,
            "parts": {name: [part.start, part.stop] for name, part in self.parts.items()},
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def part(self, name: str) -> range:
        """The positions of a part; one that the split does not have is a `CharlmError`."""
        if name in self.parts:
            return self.parts[name]
        if name in ("valid", "test"):
            raise CharlmError(
                f"this run holds no text out (no {name!r} part), so it has no held-out figure: "
                f"train with --config.split.kind=tail, or score --split=train"
            )
        raise CharlmError(f"no part {name!r}: this run has {', '.join(self.parts)}")


def load_dataset(config: Config, *, progress: Progress | None = None) -> Dataset:
    """Load, encode and split the text that a config names.

    Raises:
      CharlmError: no such corpus, a text that does not decode or is too short.
    """
    corpus = load_corpus(config.data.corpus, encoding=config.data.encoding, progress=progress)
    parts = split_text(
        corpus.characters,
        kind=config.split.kind,
        valid_fraction=config.split.valid_fraction,
        sequence_length=config.data.sequence_length,
    )
    vocabulary = Vocabulary.from_text(corpus.text)
    return Dataset(corpus, vocabulary, vocabulary.encode(corpus.text), parts)
