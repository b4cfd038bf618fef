"""The text of a run: its vocabulary, encoding, parts and fingerprint."""

import dataclasses
import glob
import hashlib
import json
import os
from collections.abc import Callable, Mapping

import numpy as np

from charlm_jax.config.counts import parse_counts
from charlm_jax.config.schema import Config
from charlm_jax.core.errors import CharlmError, lookup
from charlm_jax.data.corpora import (
    Corpus,
    absolute_spec,
    joined_parts,
    load_corpus,
    load_part_files,
)
from charlm_jax.data.download import Progress
from charlm_jax.data.large_text import LargeText, Text
from charlm_jax.data.splits import Part, SplitRule, split_text, thin
from charlm_jax.data.vocabulary import Vocabulary

MOST_SCORED = 10_000_000
"""Characters of a part that are scored at most: each takes about 30 bytes of memory."""


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
        unit = {} if self.corpus.unit == "characters" else {"unit": self.corpus.unit}
        facts = {
            **unit,
            "text_sha256": self.corpus.text_sha256,
            "symbols": self.vocabulary.symbols,
            "parts": {
                name: [[stretch.start, stretch.stop] for stretch in part]
                for name, part in self.parts.items()
            },
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def resplit(self, config: Config) -> "Dataset":
        """Return the same text, split as another config says."""
        return _split(self.corpus, config)

    def first_position(self, name: str) -> int:
        """Return the first position that may be read before a part: that of its file, or 0."""
        return self.corpus.part_starts.get(name, 0)

    def thinned_part(self, name: str, *, read_before: int = 0) -> Part:
        """Return the positions of a part, thinned evenly to at most `MOST_SCORED` characters.

        Arguments and errors are those of `part`.
        """
        return self.part(name, read_before=read_before, most=MOST_SCORED)

    def part(self, name: str, *, read_before: int = 0, most: int | None = None) -> Part:
        """Return the positions of a part.

        Args:
          name: `train`, `valid` or `test`.
          most: number of characters to which a longer part is thinned, see `thin`; None for all.
          read_before: number of characters that are read before each position. If the part is a
            file, only positions with that many characters before them in the file are returned.

        Raises:
          CharlmError: the split does not have the part, or no position has so much before it.
        """
        if name in self.parts:
            first = self.first_position(name) + read_before if self.corpus.part_starts else 0
            whole = self.parts[name]
            thinned = whole if most is None else thin(whole, most=most)
            part = tuple(range(max(first, r.start), r.stop) for r in thinned)
            if not any(map(len, part)):
                raise CharlmError(
                    f"context={read_before} is too long: no character of the part {name!r} has "
                    f"that many before it"
                )
            return part
        if name == "test" and "valid" in self.parts:
            hold_out = (
                "a file such as test.txt"
                if self.corpus.part_starts
                else "config.split.test_fraction=0.1, or a third of config.split.counts"
            )
            raise CharlmError(
                f"this run has no 'test' part: train with {hold_out}, or evaluate split='valid'"
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
    data = config.data
    how = {
        "encoding": data.encoding,
        "unit": data.unit,
    }
    if config.split.kind == "files":
        return _split(load_part_files(data.corpus, **how), config)
    return _split(load_corpus(data.corpus, **how, progress=progress), config)


def refuse_joined_parts(config: Config) -> str | None:
    """Refuse a folder whose files are the parts of a text, unless they are kept apart.

    Returns:
      A remark about a glob that joins such files; None if there is nothing to remark.

    Raises:
      CharlmError: the text is such a folder, and `config.split.kind` is not `files`.
    """
    spec = config.data.corpus
    found = None if config.split.kind == "files" else joined_parts(spec)
    if found is None:
        return None
    apart = "--config.split.kind=files keeps them apart"
    ways = [apart] if found.is_split else []
    if not os.path.isdir(os.path.expanduser(spec)):
        return ": ".join([f"{spec} joins the parts of a text, in the order {found}", *ways])
    ways.append(f"a glob such as '{glob.escape(spec.rstrip('/'))}/**' joins them")
    raise CharlmError(
        f"{spec} has the parts of a text, which would be joined in the order {found}: "
        f"{', and '.join(ways)}"
    )


def _split(corpus: Corpus, config: Config) -> Dataset:
    split = config.split
    rule = SplitRule(
        kind=split.kind,
        valid_fraction=split.valid_fraction,
        test_fraction=split.test_fraction,
        counts=parse_counts(split.counts) if split.counts else (),
        blocks=split.blocks,
        guard=split.guard,
        rounding=split.rounding,
        part_starts=corpus.part_starts,
    )
    parts = split_text(corpus.characters, rule, sequence_length=config.data.sequence_length)
    symbols = lookup(_VOCABULARIES, split.vocabulary, "config.split.vocabulary")(corpus.text, parts)
    vocabulary = Vocabulary(symbols, corpus.unit)
    return Dataset(corpus, vocabulary, _encode(corpus.text, vocabulary), parts)


def _encode(text: Text, vocabulary: Vocabulary) -> np.ndarray:
    """Return the ids of a text; a `CharlmError` names symbols that the vocabulary lacks."""
    if isinstance(text, LargeText):
        if text.symbols == vocabulary.symbols:
            return text.ids_N
        text = text.symbols  # of which those that are unknown are named
    return vocabulary.encode_symbols(
        text,
        what="the text outside the training part",
        advice="train with config.split.vocabulary=all",
    )


def _all_symbols(text: Text, parts: Mapping[str, Part]) -> str:
    return text.symbols if isinstance(text, LargeText) else Vocabulary.from_text(text).symbols


def _symbols_of_training(text: Text, parts: Mapping[str, Part]) -> str:
    if isinstance(text, LargeText):
        return text.symbols_of(parts["train"])
    return Vocabulary.from_text("".join(text[r.start : r.stop] for r in parts["train"])).symbols


_VOCABULARIES: Mapping[str, Callable[[Text, Mapping[str, Part]], str]] = {
    "all": _all_symbols,
    "train": _symbols_of_training,
}
