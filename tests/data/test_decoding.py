"""Decoding in pieces: the same text and the same errors, wherever the bytes are cut."""

import codecs

import pytest

from charlm_jax.core.errors import CharlmError
from charlm_jax.data.decoding import decode, decode_pieces

TEXT = "Дом\r\nnoé \U0001f40d\r\r\n日本\r"

ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32", "utf-32-le", "utf-7", "gb18030"]

# Bytes, and the encoding that they are read as.
WRONG = [
    (b"caf\xe9 noir" * 3, "utf-8"),
    (TEXT.encode() + b"\xf0\x9f\x90", "utf-8"),  # the end of a character is missing
    (TEXT.encode("utf-16-le")[:-1], "utf-16"),
    (TEXT.encode("utf-16"), "utf-8"),
    ("éIt was the best of times".encode("utf-16-le"), "utf-8"),  # NULs after the error
    ("It was the best of times".encode("utf-16-le"), "utf-8"),  # it decodes, with many NULs
    ("It was the best of times".encode("utf-32-be"), "latin-1"),
    (codecs.BOM_UTF8 + b"times", "latin-1"),
    (b"ab\\ud800c\xff", "raw_unicode_escape"),  # a lone surrogate
    (b"ab\\ud800c\\x", "unicode_escape"),  # and then an error that comes first
    (b"a-\xff", "punycode"),
    (b"a", "hex"),
    (b"", "no such"),
]


def _in_pieces(data: bytes, size: int, encoding: str) -> str:
    pieces = (data[start : start + size] for start in range(0, len(data), size))
    return "".join(decode_pieces(pieces, encoding=encoding, source="it"))


@pytest.mark.parametrize("encoding", [*ENCODINGS, "latin-1", "punycode"])
def test_a_text_is_the_same_wherever_it_is_cut(encoding: str) -> None:
    """Within a character, between CR and LF, within a mark."""
    text = "noé\r\n\r\r\nno\r" if encoding in ("latin-1", "punycode") else TEXT
    data = text.encode(encoding)
    wanted = text.replace("\r\n", "\n").replace("\r", "\n")
    assert decode(data, encoding=encoding, source="it") == wanted
    assert [_in_pieces(data, size, encoding) for size in range(1, 9)] == [wanted] * 8


@pytest.mark.parametrize("order", ["le", "be"])
def test_text_without_a_mark_has_the_byte_order_of_the_machine(order: str) -> None:
    data = "Дом".encode(f"utf-16-{order}")  # no NUL tells
    whole = data.decode("utf-16")  # as the machine has it, right or wrong
    assert [_in_pieces(data, size, "utf-16") for size in (1, 3, 99)] == [whole] * 3


@pytest.mark.parametrize(("data", "encoding"), WRONG)
def test_an_error_is_the_same_wherever_the_text_is_cut(data: bytes, encoding: str) -> None:
    with pytest.raises(CharlmError) as whole:
        decode(data, encoding=encoding, source="it")
    for size in range(1, 9):
        with pytest.raises(CharlmError) as cut:
            _in_pieces(data, size, encoding)
        assert str(cut.value) == str(whole.value)


def test_the_offset_in_an_error_is_that_of_the_file() -> None:
    data = b"a" * 1000 + "é".encode() + b"\xff" + b"a" * 1000
    with pytest.raises(CharlmError, match="byte 0xff at offset 1002;"):
        _in_pieces(data, 7, "utf-8")
    with pytest.raises(CharlmError, match=r"lone surrogate U\+D800 at character 1002, "):
        _in_pieces(b"\r\n" * 501 + b"\\ud800", 7, "raw_unicode_escape")
