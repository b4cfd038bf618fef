"""Large texts as files of ids in the cache, found again by their content.

There are two kinds of files. `SHA256-UNIT.ids`, named by the hash of the text, has a line of JSON
and the ids. `NAME.json`, named by paths and encoding, says which text these files had, and their
signature. If the signature is unchanged, the files are not read again. A signature is recorded only
if the files had not been changed for two seconds when they were read: a later change then has
another time. Both kinds are written atomically, so that several processes may write one.
"""

import contextlib
import errno
import hashlib
import json
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from charlm_jax.core.errors import CharlmError
from charlm_jax.core.files import atomic_file, atomic_write, read_regular
from charlm_jax.data.download import cache_folder
from charlm_jax.data.large_text import LargeText
from charlm_jax.data.text_encoder import encode_pieces
from charlm_jax.data.text_pieces import (
    Signature,
    TextFacts,
    TextSource,
    read_facts,
    read_signature,
    read_symbols,
)

FOLDER = "texts"
"""Folder in the cache."""

_FORMAT = 1
_PAGE = 4096  # bytes, to a multiple of which the line before the ids is filled up
_LONGEST_LINE = 1 << 24
_PIECE = 1 << 22
_SETTLED_SECONDS = 2.0  # more than the resolution of any file system's times

_log = logging.getLogger(__name__)

# Signatures of files of ids whose hash was checked by this process.
_checked: set[tuple[str, int, int, int]] = set()


def load_large_text(source: TextSource) -> tuple[LargeText, TextFacts]:
    """Return a text from the cache; write it there first if it is new, has changed or is damaged.

    If the cache cannot be written, the ids are held in memory, and a warning says so.

    Raises:
      CharlmError: a file cannot be read or decoded, is changed meanwhile, or the text is too long.
    """
    signature, started = read_signature(source), time.time()
    folder = _folder()
    record = None if folder is None else folder / f"{_name(source)}.json"
    recorded = _read_record(record, signature)
    if recorded is not None and folder is not None and (text := _open(folder, source, recorded)):
        return text, recorded
    facts = read_facts(source)
    if not facts.characters:
        raise CharlmError(f"{source.described!r} is empty: it has no {source.unit}")
    text = None
    if folder is not None and facts != recorded:  # what is recorded could not be opened
        text = _open(folder, source, facts)
    if text is None:
        text = _build(folder, source, facts)
    if read_signature(source) != signature:
        raise _changed(source)
    if record is not None and started - signature.newest_change > _SETTLED_SECONDS:
        with contextlib.suppress(OSError):  # the text is read again next time
            values = {"format": _FORMAT, **facts._asdict(), **signature._asdict()}
            atomic_write(record, json.dumps(values).encode())
    return text, facts


def _folder() -> Path | None:
    """Return the folder of texts; None, with a warning, if there is none to write to."""
    try:
        folder = cache_folder() / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
    except (CharlmError, OSError) as error:
        reason = (error.strerror or error) if isinstance(error, OSError) else error
        _log.warning("the encoded text is not kept for the next start: %s", reason)
        return None
    return folder


def _name(source: TextSource) -> str:
    values = [[*map(os.path.abspath, source.paths)], *source[1:]]
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()


def _read_record(path: Path | None, signature: Signature) -> TextFacts | None:
    """Return the facts of a text whose files have the recorded signature."""
    try:
        values = json.loads(read_regular(path)) if path is not None else {}
        if values.pop("format") == _FORMAT and values.pop("files") == signature.files:
            return TextFacts(**values)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    return None


def _open(folder: Path, source: TextSource, facts: TextFacts) -> LargeText | None:
    """Return a text that was written before; None if it was not, or is damaged."""
    path = _path(folder, source, facts)
    try:
        ids_N = _map(path, source, facts)
    except FileNotFoundError:
        return None
    except OSError as error:
        _log.warning("%s cannot be read (%s): it is written again", path, error.strerror)
        return None
    except ValueError as error:
        _log.warning("%s was damaged (%s): it is written again", path, error)
        return None
    return LargeText(ids_N, facts.symbols, source.unit, facts.text_sha256)


def _path(folder: Path, source: TextSource, facts: TextFacts) -> Path:
    return folder / f"{facts.text_sha256}-{source.unit}.ids"


def _map(path: Path, source: TextSource, facts: TextFacts) -> np.ndarray:
    """Return the ids of a file, memory-mapped.

    Raises:
      OSError: the file cannot be read.
      ValueError: it is damaged.
    """
    dtype = _dtype(facts)
    with path.open("rb") as file:
        line = file.readline(_LONGEST_LINE)
        found = json.loads(line)
        if not isinstance(found, dict) or {**found, "ids_sha256": ""} != _note(source, facts):
            raise ValueError("its first line is not that of this text")
        status = os.fstat(file.fileno())
        if status.st_size != len(line) + facts.characters * dtype.itemsize:
            raise ValueError(f"it has {status.st_size:,} bytes")
        if _mark(path, status) not in _checked:
            digest = hashlib.sha256()
            while piece := file.read(_PIECE):
                digest.update(piece)
            if digest.hexdigest() != found["ids_sha256"]:
                raise ValueError("its hash is another")
            _checked.add(_mark(path, status))
        return np.memmap(file, dtype, mode="r", offset=len(line), shape=(facts.characters,))


def _mark(path: Path, status: os.stat_result) -> tuple[str, int, int, int]:
    return str(path), status.st_ino, status.st_mtime_ns, status.st_ctime_ns


def _dtype(facts: TextFacts) -> np.dtype:
    return np.dtype(np.min_scalar_type(len(facts.symbols) - 1)).newbyteorder("<")


def _note(source: TextSource, facts: TextFacts, ids_sha256: str = "") -> dict[str, Any]:
    """Return what the first line of a file of ids says."""
    return {
        "format": _FORMAT,
        "text_sha256": facts.text_sha256,
        "unit": source.unit,
        "symbols": facts.symbols,
        "characters": facts.characters,
        "ids_sha256": ids_sha256,
    }


def _build(folder: Path | None, source: TextSource, facts: TextFacts) -> LargeText:
    """Encode a text, into a file of the cache if that can be written, else into memory."""
    if folder is not None:
        _log.warning(
            "reading %s characters: their ids are kept in %s", f"{facts.characters:,}", folder
        )
        try:
            _write(_path(folder, source, facts), source, facts)
        except OSError as error:
            _log.warning(
                "%s cannot be written (%s): the ids are held in memory, %s MB, and not kept for "
                "the next start",
                folder,
                error.strerror or error,
                f"{facts.characters * _dtype(facts).itemsize / 1e6:,.0f}",
            )
        else:
            if text := _open(folder, source, facts):
                return text
    ids_N, done = np.empty(facts.characters, _dtype(facts)), 0
    for piece_N in _encoded(source, facts):
        ids_N[done : done + len(piece_N)] = piece_N
        done += len(piece_N)
    return LargeText(ids_N, facts.symbols, source.unit, facts.text_sha256)


def _write(path: Path, source: TextSource, facts: TextFacts) -> None:
    """Write the file of ids of a text.

    Raises:
      OSError: the file cannot be written.
    """
    digest = hashlib.sha256()

    def line() -> bytes:
        text = json.dumps(_note(source, facts, digest.hexdigest())).encode()
        return text.ljust(-(-(len(text) + 1) // _PAGE) * _PAGE - 1) + b"\n"

    with atomic_file(path) as file:
        _reserve(file, len(line()) + facts.characters * _dtype(facts).itemsize)
        file.write(line())
        for piece_N in _encoded(source, facts):
            data = piece_N.tobytes()
            digest.update(data)
            file.write(data)
        file.seek(0)
        file.write(line())
    _checked.add(_mark(path, path.stat()))


def _reserve(file: IO[bytes], size: int) -> None:
    """Reserve the disk space of a file, so that a full disk is found before the work is done."""
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                raise


def _encoded(source: TextSource, facts: TextFacts) -> Iterator[np.ndarray]:
    """Yield the ids of a text in pieces; raise a `CharlmError` if it has changed."""
    pieces = (symbols for _, symbols in read_symbols(source))
    digest = hashlib.sha256()
    yield from encode_pieces(pieces, facts.symbols, source.unit, digest)
    if digest.hexdigest() != facts.text_sha256:
        raise _changed(source)


def _changed(source: TextSource) -> CharlmError:
    return CharlmError(f"{source.described} was changed while it was read: start again")
