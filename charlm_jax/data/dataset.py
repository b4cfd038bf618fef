"""The text of a run: its vocabulary, encoding, parts and fingerprint."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Mapping

import numpy as np

from charlm_jax.config.schema import Config
from charlm_jax.core.errors import CharlmError, lookup
from charlm_jax.data.corpora import Corpus, absolute_spec, load_corpus
from charlm_jax.data.download import Progress
from charlm_jax.data.splits import Part, SplitRule, split_text
from charlm_jax.data.vocabulary import Vocabulary


@dataclasses.dataclass(frozen=True)
class Dataset:
    """An encoded text.

    Attributes:
      corpus: the text and its source.
      vocabulary: symbols of the whole text, or of its training part.
      ids_N: the text as ids, in the smallest unsigned type that holds them.
      parts: `train`, and `valid` and `test` if the split holds text out.
    """

    corpus: Corpus
    vocabulary: Vocabulary
    ids_N: np.ndarray
    parts: Mapping[str, Part]

    @property
    def fingerprint(self) -> str:
        """Hash of text, vocabulary and split; results are comparable only if it is equal."""
        facts = {
            "text_sha256": self.corpus.text_sha256,
            "symbols": self.vocabulary.symbols,
            "parts": {
                name: [[stretch.start, stretch.stop] for stretch in part]
                for name, part in self.parts.items()
            },
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def part(self, name: str) -> Part:
        """Return the positions of a part; raises `CharlmError` if the split does not have it."""
        if name in self.parts:
            return self.parts[name]
        if name == "test" and "valid" in self.parts:
            raise CharlmError(
                "this run has no 'test' part: train with config.split.test_fraction=0.1, or "
                "evaluate split='valid'"
            )
        if name in ("valid", "test"):
            raise CharlmError(
                f"this run has no held-out text (no {name!r} part), so it has no held-out loss: "
                f"train with config.split.kind=tail, or evaluate split='train'"
            )
        raise CharlmError(f"unknown part {name!r}: this run has {', '.join(self.parts)}")


def with_absolute_paths(config: Config) -> Config:
    """Return a config with absolute paths, as a run stores it, which works from any folder."""
    init_from = config.train.init_from
    return config.with_paths(
        corpus=absolute_spec(config.data.corpus),
        init_from=os.path.abspath(os.path.expanduser(init_from)) if init_from else "",
    )


def load_dataset(config: Config, *, progress: Progress | None = None) -> Dataset:
    """Load, encode and split the text that a config names.

    Raises:
      CharlmError: there is no such corpus, or its text cannot be decoded or is too short.
    """
    corpus = load_corpus(config.data.corpus, encoding=config.data.encoding, progress=progress)
    split = config.split
    rule = SplitRule(
        split.kind, split.valid_fraction, split.test_fraction, split.blocks, split.guard
    )
    parts = split_text(corpus.characters, rule, sequence_length=config.data.sequence_length)
    vocabulary = lookup(_VOCABULARIES, split.vocabulary, "config.split.vocabulary")(
        corpus.text, parts
    )
    ids_N = vocabulary.encode(
        corpus.text,
        what="the text outside the training part",
        advice="train with config.split.vocabulary=all",
    )
    return Dataset(corpus, vocabulary, ids_N, parts)


def _vocabulary_of_training(text: str, parts: Mapping[str, Part]) -> Vocabulary:
    return Vocabulary.from_text("".join(text[r.start : r.stop] for r in parts["train"]))


_VOCABULARIES: Mapping[str, Callable[[str, Mapping[str, Part]], Vocabulary]] = {
    "all": lambda text, parts: Vocabulary.from_text(text),
    "train": _vocabulary_of_training,
}
