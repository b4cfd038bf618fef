"""Texts on a terminal: no character is lost, whatever the width and however they arrive."""

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rich.cells import cell_len

from charlm_jax.cli.columns import LEAST_WIDTH, Columns, Plain, column_width, lay_out, wrap
from charlm_jax.core.visible_text import visible_text
from charlm_jax.sampling.stop_strings import Chunk
from tests.conftest import examples

usual = examples(2)
PLAIN = "ab   \n"
UNUSUAL = "\t\x1b\u0301中🐍\u200d\xa0\udcff"


def _texts(alphabet: str | st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Of every length up to five lines; left to itself, hypothesis seldom fills the first."""
    return st.integers(0, 120).flatmap(lambda size: st.text(alphabet, min_size=size, max_size=size))


words = _texts(PLAIN)
anything = _texts(st.sampled_from(PLAIN + UNUSUAL) | st.characters())


@pytest.mark.core
@given(anything, st.integers(LEAST_WIDTH, 60))
@usual
def test_the_lines_of_a_column_joined_are_the_text(text: str, width: int) -> None:
    lines = list(wrap(text, width))
    assert "".join(lines) == text and all(lines)
    assert all("\n" not in line[:-1] for line in lines)


@given(words, st.integers(2, 9))
@example("aaaa bbbb", 4)
@example("aaaa    bbbb", 4)
@example("aaaa\nbbbb", 4)
@usual
def test_a_line_is_as_long_as_it_may_be_and_ends_between_words(text: str, width: int) -> None:
    lines = list(wrap(text, width))
    for line, after in itertools.pairwise(lines):
        assert len(line.rstrip(" \n")) <= width
        word = after.split(" ")[0].split("\n")[0]
        if not line.endswith("\n"):
            assert line.endswith(" ") or (len(line) == width and " " not in line)
            assert len(line + word) > width  # it would not have fitted
            assert not after.startswith(" ")
    assert all(len(line.rstrip(" \n")) <= width for line in lines)


def _pieces(text: str, cuts: Sequence[int], last: int) -> list[Chunk]:
    """A text in so many pieces and empty ones behind, of which the one numbered `last` is last."""
    bounds = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    parts = [text[first:end] for first, end in itertools.pairwise(bounds)]
    return [
        *map(Chunk, parts),
        *[Chunk("", has_ended=number >= last) for number in range(len(parts), 9)],
    ]


def _drawn(texts: Sequence[str], cuts: Sequence[Sequence[int]], ends: Sequence[int]) -> list:
    columns = [_pieces(*told) for told in zip(texts, cuts, ends, strict=True)]
    rows = [list(row) for row in zip(*columns, strict=True)]
    return [*rows, [Chunk("", has_ended=True) for _ in texts]]


three = st.tuples(anything, anything, anything)
three_cuts = st.tuples(*[st.lists(st.integers(0, 120), max_size=6)] * 3)
three_ends = st.tuples(*[st.integers(7, 9)] * 3)


def _columns(rows: Sequence[int], width: int = LEAST_WIDTH, prompt: str = "") -> Columns:
    headings = [f"scale {row}" for row in rows]
    return Columns(rows, title="--- seed 0", headings=headings, prompt=prompt, width=width)


@pytest.mark.core
@given(three, three_cuts, three_ends, st.integers(LEAST_WIDTH, 40))
@usual
def test_columns_do_not_depend_on_the_pieces(
    texts: tuple, cuts: tuple, ends: tuple, width: int
) -> None:
    whole = [[Chunk(text, has_ended=True) for text in texts]]
    expected = "".join(lay_out(whole, [_columns(range(3), width, "ab ")]))
    found = "".join(lay_out(_drawn(texts, cuts, ends), [_columns(range(3), width, "ab ")]))
    assert found == expected


@given(st.tuples(words, words, words), st.integers(LEAST_WIDTH, 30))
@usual
def test_columns_hold_every_line_of_every_text(texts: tuple, width: int) -> None:
    drawn = [[Chunk(text, has_ended=True) for text in texts]]
    title, _, rule, *rows = "".join(lay_out(drawn, [_columns(range(3), width)])).split("\n")
    assert (title, rule) == ("--- seed 0", " | ".join(["-" * width] * 3))
    assert rows[-2:] == ["", ""]  # an empty line below
    for column, text in enumerate(texts):
        start = column * (width + 3)
        cells = [row[start : start + width].rstrip() for row in rows[:-2]]
        lines = [line.rstrip() for line in wrap(text, width)]
        assert cells == lines + [""] * (len(cells) - len(lines))
    assert len(rows) - 2 == max(len(list(wrap(text, width))) for text in texts)


@given(three)
@usual
def test_nothing_moves_the_cursor_and_columns_stay_where_they_are(texts: tuple) -> None:
    drawn = [[Chunk(text, has_ended=True) for text in texts]]
    printed = "".join(lay_out(drawn, [_columns(range(3))]))
    assert printed == visible_text(printed) and "\t" not in printed
    for row in printed.split("\n")[3:-2]:
        cells, marks = 0, 0
        for character in row:
            if character == "|" and cells in (LEAST_WIDTH + 1, 2 * LEAST_WIDTH + 4):
                marks += 1
            cells += cell_len(character)
        assert marks == 2 or cells <= 2 * LEAST_WIDTH + 4
        assert cells <= 3 * LEAST_WIDTH + 6


@pytest.mark.parametrize(
    ("text", "cells"), [("abc", 3), ("中🐍", 4), ("e\u0301", 1), ("a\xa0\u3000\u200cb", 5)]
)
def test_wide_characters_and_accents_are_padded_by_their_width(text: str, cells: int) -> None:
    drawn = [[Chunk(text, has_ended=True), Chunk("|", has_ended=True)]]
    row = "".join(lay_out(drawn, [_columns(range(2))])).split("\n")[3]
    assert row == f"{text}{' ' * (LEAST_WIDTH - cells)} | |"


def test_a_line_appears_when_it_is_full_in_every_column() -> None:
    drawn = iter(
        [
            [Chunk("one line\nand"), Chunk("nothing yet")],
            [Chunk(" more\n"), Chunk("\nsecond", has_ended=True)],
            [Chunk("last", has_ended=True), Chunk("", has_ended=True)],
        ]
    )
    printed = lay_out(drawn, [_columns(range(2))])
    gap = " " * 17
    assert next(printed).startswith("--- seed 0\nscale 0" + gap + " | scale 1\n-----")
    assert next(printed) == ""
    assert next(printed) == (f"one line{' ' * 16} | nothing yet\nand more{' ' * 16} | second\n")
    assert next(printed) == f"last{' ' * 20} |\n"
    assert list(printed) == ["\n"]


@pytest.mark.core
def test_the_first_text_is_printed_as_it_comes_and_the_others_in_their_turn() -> None:
    sheets = [Plain(row, above=f"<{row}", below=">") for row in range(3)]
    drawn = iter(
        [
            [Chunk("a"), Chunk("x"), Chunk("1", has_ended=True)],
            [Chunk("b", has_ended=True), Chunk("y"), Chunk("", has_ended=True)],
            [Chunk("", has_ended=True), Chunk("z"), Chunk("", has_ended=True)],
            [Chunk("", has_ended=True), Chunk("", has_ended=True), Chunk("", has_ended=True)],
        ]
    )
    printed = list(lay_out(drawn, sheets))
    assert printed == ["<0", "a", "b", "><1", "xy", "z", "", "><2", "1", ">"]


@pytest.mark.parametrize(("columns", "terminal", "width"), [(3, 80, 24), (1, 80, 80), (4, 80, 17)])
def test_the_width_of_columns(columns: int, terminal: int, width: int) -> None:
    assert column_width(columns, terminal) == width
    assert columns * width + 3 * (columns - 1) <= terminal
