"""Stop strings: where a text ends depends on its characters, not on how they arrive."""

import itertools
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from charlm_jax.core.errors import CharlmError
from charlm_jax.data.vocabulary import Vocabulary
from charlm_jax.sampling.stop_strings import Chunk, apply_stop_strings, check_stops, join_bytes
from tests.conftest import examples

usual = examples(3)
few = st.text("ab", max_size=12)  # of two symbols, so that beginnings overlap
stop_lists = st.lists(st.text("ab", min_size=1, max_size=4), max_size=3)


def _reference(text: str, stops: Sequence[str]) -> tuple[str, str | None]:
    """Character by character: the text ends when its end is a stop string, the longest of them."""
    for end in range(1, len(text) + 1):
        complete = [stop for stop in stops if text[:end].endswith(stop)]
        if complete:
            longest = max(complete, key=len)
            return text[: end - len(longest)], longest
    return text, None


def _cut_at(text: str, places: Sequence[int]) -> list[str]:
    bounds = [0, *sorted(min(place, len(text)) for place in places), len(text)]
    return [text[first:last] for first, last in itertools.pairwise(bounds)]


def _joined(lists: Sequence[list[Chunk]]) -> list[tuple[str, str | None]]:
    return [
        ("".join(piece.text for piece in row), row[-1].stopped_by)
        for row in zip(*lists, strict=True)
    ]


@pytest.mark.core
@given(few, stop_lists, st.lists(st.integers(0, 12), max_size=6))
@example("xaab", ["aab"], [1, 2, 3])
@example("abab", ["bab", "ab"], [2])
@example("aaab", ["aab"], [3])
@usual
def test_no_cut_of_the_pieces_moves_the_end(text: str, stops: list[str], places: list[int]) -> None:
    lists = list(apply_stop_strings(([piece] for piece in _cut_at(text, places)), stops, 1))
    assert _joined(lists) == [_reference(text, stops)]
    assert [row[0].has_ended for row in lists] == [False] * (len(lists) - 1) + [True]


@pytest.mark.core
@given(few, stop_lists)
@usual
def test_a_longer_text_begins_with_what_was_certain_of_the_shorter(
    text: str, stops: list[str]
) -> None:
    certain = ""
    for (piece,) in apply_stop_strings(([character] for character in text), stops, 1):
        if not piece.has_ended:
            certain += piece.text
            for longer in ("", "a", "b", "ab", "bba"):
                assert _reference(text + longer, stops)[0].startswith(certain)


@given(st.lists(st.tuples(few, few), min_size=1, max_size=3), stop_lists)
@usual
def test_a_text_does_not_see_its_neighbours(
    halves: list[tuple[str, str]], stops: list[str]
) -> None:
    lists = list(apply_stop_strings(zip(*halves, strict=True), stops, len(halves)))
    assert _joined(lists) == [_reference("".join(text), stops) for text in halves]
    ended = [[piece.has_ended for piece in row] for row in zip(*lists, strict=True)]
    assert all(sorted(row) == row for row in ended)  # what has ended stays so, and adds nothing
    for row in zip(*lists, strict=True):
        first = [piece.has_ended for piece in row].index(True)
        assert not any(piece.text for piece in row[first + 1 :])


@pytest.mark.core
def test_nothing_is_drawn_when_every_text_has_ended() -> None:
    taken = 0

    def endless() -> Iterator[list[str]]:
        nonlocal taken
        while True:
            taken += 1
            yield ["a" * taken, "b"]

    lists = list(apply_stop_strings(endless(), ["aaa", "bbbb"], 2))
    assert taken == 4
    assert _joined(lists) == [("", "aaa"), ("", "bbbb")]


def test_without_stop_strings_every_piece_is_passed_on_as_it_comes() -> None:
    lists = list(apply_stop_strings([["ab", "c"], ["d", ""]], [], 2))
    assert [[piece.text for piece in row] for row in lists] == [["ab", "c"], ["d", ""], ["", ""]]
    assert list(apply_stop_strings([], ["a"], 1)) == [[Chunk("", has_ended=True)]]


def test_a_text_cut_short_keeps_the_beginning_of_a_stop_string() -> None:
    short, long = (list(apply_stop_strings([[text]], ["bc"], 1)) for text in ("ab", "abc"))
    assert _joined(short) == [("ab", None)] and _joined(long) == [("a", "bc")]


def test_a_stop_string_that_cannot_work_is_refused() -> None:
    vocabulary = Vocabulary("ab")
    check_stops(["ab", "b"], vocabulary)
    with pytest.raises(CharlmError, match=r"stop='a\\n' has the character .* it is never sampled"):
        check_stops(["a\n"], vocabulary)


BYTES = Vocabulary("".join(map(chr, range(256))), "bytes")


@pytest.mark.core
@given(
    data=st.one_of(st.binary(), st.text().map(str.encode)),
    cuts=st.lists(st.integers(0, 40), max_size=6),
    stop=st.sampled_from(["é", "a", "日本", "\udcff"]),
)
@example(data="日é".encode(), cuts=[1, 4], stop="a")
def test_bytes_become_text_whatever_the_pieces(data: bytes, cuts: list[int], stop: str) -> None:
    ends = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
    symbols = data.decode("latin-1")
    drawn = [[symbols[a:b]] for a, b in itertools.pairwise(ends)]
    pieces = apply_stop_strings(drawn, [BYTES.to_symbols(stop)], 1)
    rows = list(join_bytes(pieces, [stop], BYTES))
    before, found, _ = data.partition(stop.encode("utf-8", "surrogateescape"))
    assert "".join(chunk.text for (chunk,) in rows) == before.decode("utf-8", "surrogateescape")
    assert rows[-1][0].has_ended and rows[-1][0].stopped_by == (stop if found else None)


def test_a_character_is_held_back_until_its_last_byte() -> None:
    drawn = [["a\xc3"], ["\xa9b\xe6\x97"]]
    texts = [chunk.text for (chunk,) in join_bytes(apply_stop_strings(drawn, [], 1), [], BYTES)]
    assert texts == ["a", "éb", "\udce6\udc97"]
