"""A copy is found with its place and its length, and nothing is taken for one that is none."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charlm_jax.analysis.memorization import CopiedSpan, build_copy_index
from charlm_jax.core.errors import CharlmError
from charlm_jax.data.splits import Part

# Few symbols, so that texts share long runs; from all planes of Unicode.
SYMBOLS = "a\néé語😀\U0010ffff"
# Texts that repeat what they said for longer than the characters of a packed word.
LOOPS = st.lists(
    st.builds(lambda piece, times: piece * times, st.text("ab", max_size=4), st.integers(1, 20)),
    min_size=1,
    max_size=4,
).map("".join)


def _whole(text: str) -> Part:
    return (range(len(text)),)


def _stretches(lengths: list[tuple[int, int]], text: str) -> Part:
    part, place = [], 0
    for gap, length in lengths:
        part.append(range(min(place + gap, len(text)), min(place + gap + length, len(text))))
        place = part[-1].stop + 1
    return tuple(part)


def _brute_force(text: str, part: Part, asked: str) -> list[int]:
    """The longest substring from each place on that a stretch contains."""
    stretches = [text[r.start : r.stop] for r in part]
    lengths, length = [], 0
    for start in range(len(asked)):
        length = max(length - 1, 0)  # what is left of the last one is contained too
        while start + length < len(asked) and any(
            asked[start : start + length + 1] in stretch for stretch in stretches
        ):
            length += 1
        lengths.append(length)
    return lengths


@pytest.mark.core
@given(
    text=st.text(SYMBOLS, min_size=1, max_size=60) | LOOPS.filter(len),
    cut=st.lists(st.tuples(st.integers(0, 4), st.integers(1, 60)), min_size=1, max_size=4),
    texts=st.lists(st.text(SYMBOLS + "z\U0001f601", max_size=25) | LOOPS, max_size=3),
)
def test_common_lengths_are_their_definition(
    text: str, cut: list[tuple[int, int]], texts: list[str]
) -> None:
    part = _stretches([(0, 1), *cut], text)
    index = build_copy_index(text, part)
    texts = [*texts, text]
    lengths = index.common_lengths(texts)
    expected = [_brute_force(text, part, asked) for asked in texts]
    assert [x.tolist() for x in lengths] == expected
    copy = index.longest_copy(texts)
    assert copy is not None and copy == index.longest_of(texts, lengths)
    assert copy.length == max(max(x, default=0) for x in expected)
    run = texts[copy.sample][copy.start : copy.start + copy.length]
    assert text[copy.position :].startswith(run)
    assert any(r.start <= copy.position and copy.position + copy.length <= r.stop for r in part)
    assert copy.position == min(
        place
        for r in part
        for place in range(r.start, r.stop - copy.length + 1)
        if text.startswith(run, place)
    )


@given(LOOPS.filter(len) | st.text(min_size=1, max_size=40))
def test_places_are_sorted_by_the_text_that_begins_there(text: str) -> None:
    index = build_copy_index(text, _whole(text))
    points = list(map(ord, text))
    assert index.order_N.tolist() == sorted(range(len(text)), key=lambda i: points[i:])


def test_a_planted_copy_is_found_with_its_place_and_length() -> None:
    noise = np.random.default_rng(0)
    symbols = list("abcdefghij")
    text = "".join(noise.choice(symbols, 5000))
    for length, place in [(40, 1234), (7, 0), (1000, 4000), (63, 4937)]:
        before, after = noise.choice(["xy", "zxy", ""], 2)
        sample = before + text[place : place + length] + "x" + after
        copy = build_copy_index(text, _whole(text)).longest_copy(["yx", sample, sample])
        assert copy == CopiedSpan(sample=1, start=len(before), length=length, position=place)


@pytest.mark.core
def test_shuffled_characters_are_no_copy() -> None:
    noise = np.random.default_rng(0)
    words = ["".join(noise.choice(list("etaoinsh"), 5)) for _ in range(100)]
    text = " ".join(noise.choice(words, 4000))
    samples = [text[start : start + 300] for start in (0, 5000, 20_000)]
    shuffled = ["".join(noise.permutation(list(sample))) for sample in samples]
    index = build_copy_index(text, _whole(text))
    assert all(max(x) == 300 for x in index.common_lengths(samples))
    assert all(max(x) < 24 for x in index.common_lengths(shuffled))


def test_a_text_that_a_rolling_hash_confuses_with_its_opposite() -> None:
    # Of a Thue-Morse word of 2^11 symbols and its complement, every polynomial hash modulo 2^64 is
    # the same.
    word = "a"
    for _ in range(11):
        word += word.translate({97: "b", 98: "a"})
    opposite = word.translate({97: "b", 98: "a"})
    index = build_copy_index("c" + word, _whole("c" + word))
    assert index.longest_copy([word]) == CopiedSpan(0, 0, 2048, 1)
    (lengths_N,) = index.common_lengths([opposite])
    for start in range(0, 2048, 64):
        length = int(lengths_N[start])
        assert opposite[start : start + length] in word
        assert start + length == 2048 or opposite[start : start + length + 1] not in word
    assert lengths_N.max() < 2048


def test_long_repeats_in_the_training_text() -> None:
    text = "b" + "a" * 3000 + "c"
    index = build_copy_index(text, _whole(text))
    lengths, cut_off = index.common_lengths(["a" * 3001 + "c", "b" + "a" * 10])
    assert lengths.tolist() == [3000, *range(3001, 0, -1)]
    assert cut_off.tolist() == list(range(11, 0, -1))
    assert index.longest_copy(["aac"]) == CopiedSpan(0, 0, 3, 2999)


def test_a_run_does_not_cross_from_a_stretch_to_the_next() -> None:
    index = build_copy_index("one two three", (range(0, 4), range(4, 8), range(8, 8), range(8, 13)))
    assert index.longest_copy(["one two three"]) == CopiedSpan(0, 8, 5, 8)
    assert index.longest_copy(["e two"]) == CopiedSpan(0, 2, 3, 4)


def test_nothing_in_common() -> None:
    index = build_copy_index("abc", _whole("abc"))
    assert index.longest_copy([]) is None
    assert index.longest_copy(["", "xyz"]) is None
    assert [x.tolist() for x in index.common_lengths(["", "x\ud800", ""])] == [[], [0, 0], []]


def test_one_string_in_place_of_a_list_is_refused() -> None:
    index = build_copy_index("abc", _whole("abc"))
    for search in (index.common_lengths, index.longest_copy):
        with pytest.raises(CharlmError, match="texts is a string, not a list of strings"):
            search("abc")


@pytest.mark.parametrize("part", [(), (range(2, 2),)])
def test_an_empty_training_part_is_refused(part: Part) -> None:
    with pytest.raises(CharlmError, match="the training part is empty"):
        build_copy_index("abc", part)
