"""Characters to ids and back."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charlm_jax.core.errors import CharlmError
from charlm_jax.data.vocabulary import Vocabulary

characters = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


@given(characters, st.text())
def test_drop_and_replace_do_what_a_loop_does(known: str, text: str) -> None:
    vocabulary = Vocabulary.from_text(known)
    dropped = vocabulary.decode(vocabulary.encode(text, unknown="drop"))
    assert dropped == "".join(c for c in text if c in vocabulary.symbols)
    mark = known[0]
    replaced = vocabulary.decode(vocabulary.encode(text, unknown="replace", replacement=mark))
    assert replaced == "".join(c if c in vocabulary.symbols else mark for c in text)


def test_ids_are_ranks_of_code_points() -> None:
    vocabulary = Vocabulary.from_text("b\na𝄞é")
    assert vocabulary.symbols == "\nabé𝄞"
    assert vocabulary.encode("𝄞a\n").tolist() == [4, 1, 0]


def test_unknown_characters_are_named() -> None:
    vocabulary = Vocabulary.from_text("abc")
    with pytest.raises(CharlmError, match=r"the prompt has the characters '#' \(U\+0023\), 'é'"):
        vocabulary.encode("a#é#", what="the prompt")
    with pytest.raises(CharlmError, match=r"U\+D800"):
        vocabulary.encode("a\ud800")


@pytest.mark.parametrize("unit", ["characters", "bytes"])
@pytest.mark.parametrize("text", [b"ab", 5, None, ["a", "b"]])
def test_only_strings_are_texts(unit: str, text: object) -> None:
    vocabulary = Vocabulary("ab", unit)
    for read in (vocabulary.to_symbols, vocabulary.encode):
        with pytest.raises(CharlmError, match="a text must be a string, not of type"):
            read(text)  # type: ignore[arg-type]


@pytest.mark.parametrize("replacement", ["", "ab", "z", None, 3])
def test_a_replacement_is_one_known_character(replacement: str) -> None:
    with pytest.raises(CharlmError, match="replacement"):
        Vocabulary.from_text("abc").encode("?", unknown="replace", replacement=replacement)


@pytest.mark.parametrize("ids", [[-1], [3]])
def test_an_id_outside_is_refused(ids: list[int]) -> None:
    with pytest.raises(CharlmError, match=r"\[0, 3\)"):
        Vocabulary.from_text("abc").decode(np.array(ids))


@pytest.mark.core
@given(st.binary(min_size=1))
def test_bytes_and_texts_correspond_exactly(data: bytes) -> None:
    symbols = data.decode("latin-1")
    vocabulary = Vocabulary.from_text(symbols).with_unit("bytes")
    text = vocabulary.to_text(symbols)
    assert text.encode("utf-8", "surrogateescape") == data
    assert vocabulary.to_symbols(text) == symbols
    ids_N = vocabulary.encode(text)
    assert bytes(map(ord, vocabulary.decode_symbols(ids_N))) == data
    assert vocabulary.decode(ids_N) == text
    vocabulary.shown(text).encode()  # may be printed anywhere


@given(characters)
def test_a_text_of_bytes_has_the_bytes_of_utf8(text: str) -> None:
    of_bytes = Vocabulary("".join(map(chr, range(256))), "bytes")
    assert bytes(of_bytes.encode(text).tolist()) == text.encode()
    assert of_bytes.shown(text) == text and of_bytes.decode(of_bytes.encode(text)) == text
    assert of_bytes.utf8_lengths_V.tolist() == [1] * 256
    of_characters = Vocabulary.from_text(text)
    lengths_N = of_characters.utf8_lengths_V[of_characters.encode(text)]
    assert lengths_N.tolist() == [len(symbol.encode()) for symbol in text]


def test_unknown_bytes_are_named_dropped_and_replaced() -> None:
    vocabulary = Vocabulary("\n acf", "bytes")
    with pytest.raises(CharlmError, match=r"the prompt has the bytes 0x7E \('~'\), 0xA9, 0xC3 out"):
        vocabulary.encode("café~", what="the prompt")
    assert vocabulary.decode(vocabulary.encode("café~", unknown="drop")) == "caf"
    assert vocabulary.decode(vocabulary.encode("café", unknown="replace")) == "caf  "
    with pytest.raises(CharlmError, match="replacement 'é' is not one"):
        vocabulary.encode("é", unknown="replace", replacement="é")
    with pytest.raises(CharlmError, match=r"lone surrogate U\+D800"):
        vocabulary.encode("a\ud800")


def test_the_unit_is_one_of_two() -> None:
    with pytest.raises(CharlmError, match="characters, bytes"):
        Vocabulary("ab", "words")
    with pytest.raises(CharlmError, match=r"U\+0000 to U\+00FF"):
        Vocabulary.from_text("aĀ").with_unit("bytes")


def test_a_byte_above_127_is_no_character_by_itself() -> None:
    symbols = "\n a\xaa\xd0"
    assert Vocabulary(symbols).whole_characters == symbols
    assert Vocabulary(symbols, "bytes").whole_characters == "\n a"
    assert Vocabulary("\xaa\xd0", "bytes").whole_characters == ""
