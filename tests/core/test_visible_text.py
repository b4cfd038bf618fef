"""What a reader cannot see is escaped, and letters and spaces of every script are not."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charlm_jax.core.errors import CharlmError
from charlm_jax.core.visible_text import visible_line, visible_text
from tests.conftest import examples

# Words that need characters which Python calls not printable, or a mark on a letter.
WORDS = {
    "French": "Quoi\u202f?\xa0Oui",
    "Chinese": "\u3000一夜北风紧",
    "Persian": "می\u200cخواهم",
    "Sinhala": "ශ\u0dca\u200dරී",
    "Hebrew": "בְּרֵאשִׁית",
    "Vietnamese": "tie\u0302\u0301ng",
    "Arabic": "\u06dd١",
    "emoji": "👩\u200d🚀❤\ufe0f",
}

HARMFUL = "\x00\x07\x08\r\x1b\x7f\x85\x9b\xad\u200b\u200e\u202e\u2028\u2029\u2066\ufeff\ue000\ud800"


@pytest.mark.core
@given(st.text(st.characters() | st.sampled_from("\n\t" + HARMFUL)))
@examples(5)
def test_only_invisible_characters_are_replaced(text: str) -> None:
    for show, kept in ((visible_text, "\n\t"), (visible_line, "")):
        shown = show(text)
        assert show(shown) == shown
        shown.encode("utf-8")
        categories = {unicodedata.category(c) for c in shown if c not in kept}
        assert not categories & {"Cc", "Cs", "Zl", "Zp", "Co"}
        assert not set(HARMFUL) & set(shown)
        letters = iter(shown)
        assert all(c in letters for c in text if c.isprintable() or c in kept)  # in their order
        # What was escaped can be told: the escapes are Python's.
        if "\\" not in text:
            source = shown.encode("latin-1", "backslashreplace").decode("unicode_escape")
            assert source == text


@pytest.mark.parametrize("language", WORDS)
def test_words_of_every_script_are_shown_unchanged(language: str) -> None:
    word = WORDS[language]
    assert visible_line(word) == visible_text(word) == word
    assert str(CharlmError(f"no {word}")) == f"no {word}"


@pytest.mark.parametrize("character", HARMFUL)
def test_what_could_act_upon_a_terminal_or_hide_is_escaped(character: str) -> None:
    for show in (visible_line, visible_text):
        assert show(f"a{character}b") == f"a{ascii(character)[1:-1]}b"
    assert visible_line("a\n\tb") == r"a\n\tb" and visible_text("a\n\tb") == "a\n\tb"
