"""Characters to ids and back."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charlm_jax.core.errors import CharlmError
from charlm_jax.data.vocabulary import Vocabulary

characters = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


@pytest.mark.core
@given(characters)
def test_decode_undoes_encode(text: str) -> None:
    vocabulary = Vocabulary.from_text(text)
    assert vocabulary.decode(vocabulary.encode(text)) == text
    assert list(vocabulary.symbols) == sorted(set(text))


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


@pytest.mark.parametrize(("symbols", "dtype"), [(256, np.uint8), (257, np.uint16)])
def test_ids_have_the_smallest_type(symbols: int, dtype: type) -> None:
    vocabulary = Vocabulary("".join(map(chr, range(symbols))))
    ids_N = vocabulary.encode(vocabulary.symbols)
    assert ids_N.dtype == dtype and ids_N.tolist() == list(range(symbols))


def test_unknown_characters_are_named() -> None:
    vocabulary = Vocabulary.from_text("abc")
    with pytest.raises(CharlmError, match=r"the prompt has the characters '#' \(U\+0023\), 'é'"):
        vocabulary.encode("a#é#", what="the prompt")
    with pytest.raises(CharlmError, match=r"U\+D800"):
        vocabulary.encode("a\ud800")


@pytest.mark.parametrize("replacement", ["", "ab", "z"])
def test_a_replacement_is_one_known_character(replacement: str) -> None:
    with pytest.raises(CharlmError, match="replacement"):
        Vocabulary.from_text("abc").encode("?", unknown="replace", replacement=replacement)


@pytest.mark.parametrize("symbols", ["", "ba", "aa"])
def test_symbols_are_distinct_and_sorted(symbols: str) -> None:
    with pytest.raises(CharlmError):
        Vocabulary(symbols)


@pytest.mark.parametrize("ids", [[-1], [3]])
def test_an_id_outside_is_refused(ids: list[int]) -> None:
    with pytest.raises(CharlmError, match=r"\[0, 3\)"):
        Vocabulary.from_text("abc").decode(np.array(ids))
