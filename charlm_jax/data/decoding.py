r"""Strict decoding of text, at once or in pieces of any size, with the same result and errors.

Newlines become "\n". A byte-order mark is kept here; readers of files remove one at the beginning.
"""

import codecs
import sys
from collections.abc import Iterable, Iterator

from charlm_jax.core.errors import CharlmError

BYTE_ORDER_MARK = "\ufeff"

# Encodings by byte-order mark. The mark of UTF-32 begins with that of UTF-16.
_MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}

# UTF-16 has NUL as the high byte of Latin letters, or at least of spaces and newlines: many among
# every second byte, and hardly any among the others. UTF-32 has many among both. A few NUL
# characters in a short text suggest nothing.
_LEAST_NULS, _UTF16_SHARE, _UTF32_SHARE = 4, 0.1, 0.3
_OTHER_NULS = 0.05  # at most, of the many

_ADVICE = (
    "for text in another encoding, set --config.data.encoding (or --encoding), such as {encoding}; "
    "to leave out files that are not text, use a glob such as 'folder/**/*.txt'"
)


def decode(data: bytes, *, encoding: str, source: str, advice: str = _ADVICE) -> str:
    """Return bytes as text; see `decode_pieces`."""
    return "".join(decode_pieces([data], encoding=encoding, source=source, advice=advice))


def decode_pieces(
    pieces: Iterable[bytes], *, encoding: str, source: str, advice: str = _ADVICE
) -> Iterator[str]:
    r"""Yield bytes as text: decoded strictly, with "\n" newlines, a byte-order mark kept.

    Where the bytes are cut changes nothing. Text of UTF-16 or UTF-32 that another encoding happens
    to accept is refused: it has the mark of its own encoding, or NUL characters. Of a text with an
    error in it, valid pieces are yielded before the error is raised.

    Args:
      pieces: the bytes of one file.
      encoding: any encoding known to Python.
      source: name of the data in error messages.
      advice: advice in the error message for bytes that are not text; `{encoding}` in it stands for
        the encoding that the bytes suggest.

    Raises:
      CharlmError: the encoding is unknown, or the bytes are not text in it.
    """
    try:
        "a".encode(encoding)  # empty data would be decoded under any name
        name = codecs.lookup(encoding).name
    except (LookupError, ValueError):
        usual = "common encodings are utf-8, latin-1, cp1252 and utf-16"
        raise CharlmError(f"encoding {encoding!r} is not known to Python; {usual}") from None
    guess, decoder, rest = _Guess(), _Decoder(name), iter(pieces)
    characters, lone, held = 0, None, ""
    for piece, is_last in _marked_last(rest):
        guess.add(piece)
        try:
            text = decoder.decode(piece, is_last=is_last)
        except UnicodeError as error:
            for others in rest:  # what the bytes suggest depends on all of them
                guess.add(others)
            how = advice.format(encoding=guess.encoding() or "latin-1")
            raise _refusal(error, encoding, source, how, decoder.received) from None
        if lone is None:
            lone = _lone_surrogate(text, characters)
        characters += len(text)
        if is_last:
            _refuse_other_encoding(guess, name, encoding, source, advice)
            if lone is not None:
                raise CharlmError(f"{source} has {lone}, which is not a Unicode character")
        text = held + text
        held = "\r" if text.endswith("\r") and not is_last else ""  # a newline may follow
        text = text.removesuffix(held)
        if "\r" in text:
            text = text.replace("\r\n", "\n").replace("\r", "\n")
        if text and lone is None:
            yield text


class _Guess:
    """Encoding that a byte-order mark or NUL bytes suggest, of bytes that come in pieces."""

    def __init__(self) -> None:
        self.start = b""
        self.length = 0
        self.nuls = [0, 0]  # among bytes at even and at odd offsets

    def add(self, piece: bytes) -> None:
        """Take the next bytes into account."""
        if len(self.start) < 4:
            self.start += piece[: 4 - len(self.start)]
        if 0 in piece:
            for first in (0, 1):
                self.nuls[(self.length + first) % 2] += piece[first::2].count(0)
        self.length += len(piece)

    def encoding(self) -> str | None:
        """Return the encoding; None without a mark or many NUL bytes."""
        for mark, name in _MARKS.items():
            if self.start.startswith(mark):
                return name
        few, many = sorted(self.nuls)
        if few >= max(_LEAST_NULS, _UTF32_SHARE * self.length / 2):
            return "utf-32-le" if self.start[0] else "utf-32-be"
        if many < max(_LEAST_NULS, _UTF16_SHARE * self.length / 2) or few > _OTHER_NULS * many:
            return None
        return "utf-16-le" if self.nuls[1] == many else "utf-16-be"


class _Decoder:
    """An incremental decoder that accepts what `bytes.decode` does.

    Attributes:
      received: number of bytes given so far.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.decoder: codecs.IncrementalDecoder | None = None
        self.held = b""
        self.received = 0

    def decode(self, piece: bytes, *, is_last: bool) -> str:
        """Decode the next bytes."""
        self.received += len(piece)
        if self.decoder is None:
            self.held += piece
            if not is_last and (self.name == "punycode" or len(self.held) < 4):
                return ""  # the bytes of punycode mean nothing in pieces
            piece, self.held = self.held, b""
            if is_last:
                return piece.decode(self.name)
            self.decoder = codecs.getincrementaldecoder(_marked(self.name, piece))()
        return self.decoder.decode(piece, is_last)


def _marked(name: str, start: bytes) -> str:
    """Return the name of an encoding, with its byte order if text has no mark of it."""
    if name in ("utf-16", "utf-32") and not any(
        start.startswith(mark) for mark, marked in _MARKS.items() if marked == name
    ):
        return f"{name}-{'le' if sys.byteorder == 'little' else 'be'}"
    return name


def _marked_last(pieces: Iterator[bytes]) -> Iterator[tuple[bytes, bool]]:
    """Yield pieces, then an empty one, and whether a piece is that one."""
    for piece in pieces:
        yield piece, False
    yield b"", True


def _lone_surrogate(text: str, before: int) -> str | None:
    """Name the first lone surrogate of a text, with its position; None if there is none."""
    try:
        text.isascii() or text.encode()
    except UnicodeEncodeError as error:
        point, position = ord(text[error.start]), before + error.start
        return f"the lone surrogate U+{point:04X} at character {position}"
    return None


def _refuse_other_encoding(
    guess: _Guess, name: str, encoding: str, source: str, advice: str
) -> None:
    """Refuse text that looks like another encoding than the one that it was decoded from."""
    found = guess.encoding()
    # Decoding as UTF-32 is its own evidence: no other text of some length is accepted.
    if found is None or name.startswith("utf-32"):
        return
    is_same = name.startswith(found[:6])
    if is_same and name.startswith("utf-16"):
        is_same = _byte_order(name, guess.start) == _byte_order(found, guess.start)
    if not is_same:
        how = advice.format(encoding=found)
        raise CharlmError(f"{source} looks like {found} and is read as {encoding}: {how}")


def _byte_order(name: str, start: bytes) -> str:
    """Return the byte order of UTF-16, `le` or `be`, as its name or its mark says."""
    if _marked(name, start) == "utf-16":
        return "le" if start.startswith(codecs.BOM_UTF16_LE) else "be"
    return _marked(name, start)[-2:]


def _refusal(
    error: UnicodeError, encoding: str, source: str, advice: str, received: int
) -> CharlmError:
    """Return the error for bytes that are not text; `received` of them were given so far."""
    if not isinstance(error, UnicodeDecodeError):  # punycode and similar encodings give no offset
        return CharlmError(f"{source} is not {encoding}: {error}")
    offset = received - len(error.object) + error.start
    return CharlmError(
        f"{source} is not {encoding}: byte 0x{error.object[error.start]:02x} at offset {offset}; "
        f"{advice}"
    )
