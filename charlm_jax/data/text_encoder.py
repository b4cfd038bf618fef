"""Encoding of a text that comes in pieces, when its symbols are known."""

from collections.abc import Iterable, Iterator
from typing import Protocol

import numpy as np


class Digest(Protocol):
    """A hash, as of `hashlib`."""

    def update(self, data: bytes, /) -> None:
        """Add bytes."""


def encode_pieces(
    pieces: Iterable[str], symbols: str, unit: str, digest: Digest
) -> Iterator[np.ndarray]:
    """Yield the ids of a text in pieces.

    Args:
      pieces: the text.
      symbols: every symbol once, sorted by code point; a symbol's id is its index.
      unit: `characters` or `bytes`.
      digest: hash that is given the text in UTF-8, or its bytes. Other symbols get any id: the hash
        is to be compared with that of the text that the symbols are of.
    """
    points_V = np.frombuffer(symbols.encode("utf-32-le"), "<u4")
    dtype = np.min_scalar_type(len(symbols) - 1)
    id_of_point = np.zeros(0x110000, dtype)
    id_of_point[points_V] = np.arange(len(symbols), dtype=dtype)
    is_narrow = dtype == np.uint8
    id_of_byte = id_of_point[:256].tobytes()
    for piece in pieces:
        data = piece.encode("latin-1" if unit == "bytes" else "utf-8")
        digest.update(data)
        if is_narrow and (unit == "bytes" or piece.isascii()):
            yield np.frombuffer(data.translate(id_of_byte), np.uint8)
        elif piece.isascii():
            yield id_of_point[np.frombuffer(data, np.uint8)]
        else:
            yield id_of_point[np.frombuffer(piece.encode("utf-32-le"), "<u4")]
