r"""A text of one or several files, read in pieces: its symbols, hashes and signature.

Files of a joined text have a blank line between them, if the unit is characters; others follow each
other without anything between.
"""

import hashlib
import os
import stat
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from charlm_jax.core.errors import CharlmError, read_error
from charlm_jax.core.limits import MAX_INT32
from charlm_jax.data.decoding import BYTE_ORDER_MARK, decode_pieces
from charlm_jax.data.text_encoder import Digest

_PIECE = 1 << 22  # bytes


class TextSource(NamedTuple):
    """Files of a text, and how they are read.

    Attributes:
      paths: paths of regular files, in the order of reading.
      encoding: encoding of the files.
      unit: `characters` or `bytes`.
      is_joined: whether a blank line is put between files, under `characters`.
    """

    paths: Sequence[str]
    encoding: str
    unit: str
    is_joined: bool

    @property
    def described(self) -> str:
        """The path of a single file, else their number with the first and the last path."""
        paths = self.paths
        return paths[0] if len(paths) == 1 else f"{len(paths)} files, {paths[0]} to {paths[-1]}"


class TextFacts(NamedTuple):
    """Facts of a whole text.

    Attributes:
      symbols: every symbol once, sorted by code point.
      characters: number of characters, or bytes.
      lengths: number of characters of each file, with the blank line before it.
      sha256: hash of the file's bytes if there is one file, else of the text.
      text_sha256: hash of the text in UTF-8, or of its bytes.
    """

    symbols: str
    characters: int
    lengths: Sequence[int]
    sha256: str
    text_sha256: str


class Signature(NamedTuple):
    """Sizes, times and inodes of a text's files, which change whenever one of them is written.

    Attributes:
      files: size in bytes, times of the last change of content and of inode in ns, inode, and
        device of each file.
    """

    files: Sequence[Sequence[int]]

    @property
    def newest_change(self) -> float:
        """Time of the last change of any file, in seconds since the epoch."""
        return max(max(times[1:3]) for times in self.files) / 1e9


def read_signature(source: TextSource) -> Signature:
    """Return the signature of a text's files.

    Raises:
      CharlmError: a file cannot be read.
    """
    files = []
    for path in source.paths:
        try:
            found = os.stat(path)
        except OSError as error:
            raise read_error(path, error) from None
        times = (found.st_mtime_ns, found.st_ctime_ns)
        files.append([found.st_size, *times, found.st_ino, found.st_dev])
    return Signature(files)


def read_facts(source: TextSource) -> TextFacts:
    """Read a text once, in pieces, for its symbols and hashes.

    Raises:
      CharlmError: a file cannot be read or decoded, or the text is too long.
    """
    seen, lengths = _Symbols(), [0] * len(source.paths)
    of_bytes, of_text = hashlib.sha256(), hashlib.sha256()
    characters, encoding = 0, "latin-1" if source.unit == "bytes" else "utf-8"
    for file, symbols in read_symbols(source, of_bytes):
        characters += len(symbols)
        if characters > MAX_INT32:
            raise CharlmError(
                f"{source.described}: the text has more than {MAX_INT32:,} {source.unit}, "
                f"which is the most: use a part of it"
            )
        lengths[file] += len(symbols)
        of_text.update(symbols.encode(encoding))
        seen.add(symbols)
    text_sha256 = of_text.hexdigest()
    sha256 = of_bytes.hexdigest() if len(source.paths) == 1 else text_sha256
    return TextFacts(seen.sorted(), characters, lengths, sha256, text_sha256)


def read_symbols(source: TextSource, digest: Digest | None = None) -> Iterator[tuple[int, str]]:
    """Yield the symbols of a text, in pieces that are not empty, with the index of their file.

    Args:
      source: the text.
      digest: hash that is given the bytes of all files.

    Raises:
      CharlmError: a file cannot be read or decoded.
    """
    last = ""
    for file, path in enumerate(source.paths):
        is_first = True
        for symbols in _symbols_of(source, path, digest):
            if is_first and last and source.is_joined and source.unit == "characters":
                yield file, "\n" if last == "\n" else "\n\n"
            yield file, symbols
            is_first, last = False, symbols[-1]


def _symbols_of(source: TextSource, path: str, digest: Digest | None) -> Iterator[str]:
    pieces = _bytes_of(path, digest)
    if source.unit == "bytes":
        yield from (piece.decode("latin-1") for piece in pieces)
        return
    is_first = True
    for text in decode_pieces(pieces, encoding=source.encoding, source=path):
        symbols = text.removeprefix(BYTE_ORDER_MARK) if is_first else text
        is_first = False
        if symbols:
            yield symbols


def _bytes_of(path: str, digest: Digest | None) -> Iterator[bytes]:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        with open(descriptor, "rb", buffering=0) as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise CharlmError(f"{path} is not a regular file (a pipe or a device?)")
            while piece := file.read(_PIECE):
                if digest is not None:
                    digest.update(piece)
                yield piece
    except OSError as error:
        raise read_error(path, error) from None


class _Symbols:
    """The distinct symbols of a text that comes in pieces."""

    def __init__(self) -> None:
        self.is_there = np.zeros(sys.maxunicode + 1, bool)  # by code point
        self.ascii = b""

    def add(self, symbols: str) -> None:
        """Add the symbols of a piece."""
        if symbols.isascii():
            # Fast once nearly all symbols are known.
            new = symbols.encode("ascii").translate(None, self.ascii)
            self.ascii += bytes({*new})
        else:
            self.is_there[np.frombuffer(symbols.encode("utf-32-le"), "<u4")] = True

    def sorted(self) -> str:
        """Return every symbol once, by code point."""
        self.is_there[np.frombuffer(self.ascii, np.uint8)] = True
        return "".join(map(chr, np.flatnonzero(self.is_there)))
