"""Measures of a text against their definitions, written out."""

import math
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charlm_jax.analysis.text_metrics import (
    compressed_bits,
    divergence_pseudovalues,
    excess_pseudovalues,
    first_occurrence_mask,
    grams,
    jensen_shannon_bits,
    repetition_mask,
    words,
)
from charlm_jax.core.errors import CharlmError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # What touches an end may be cut off there, and so may what an apostrophe follows.
        ("the cat sat", ["cat"]),
        (" the cat sat.", ["the", "cat", "sat"]),
        ("’t was Jup’", ["was"]),
        ("word", []),
        ("", []),
        ("\n\n", []),
        # An apostrophe inside goes on, of either kind; round a word it is a quotation mark.
        ("(Don't, ‘don’t’ 'rock'n'roll' ' '')", ["don't", "don’t", "rock'n'roll"]),
        # Digits, underscores, hyphens and numerals of any sort part words.
        (" A1b _so_ well-known x²y Ⅷ ½ ", ["a", "b", "so", "well", "known", "x", "y"]),
        # Case: a capital sharp s and a final sigma are the same word as their small ones.
        (" STRASSE Straße ΣΟΦΟΣ σοφος ", ["strasse", "strasse", "σοφοσ", "σοφοσ"]),
        # A combining mark belongs to its letter; so do the vowel signs of Devanagari.
        (" e\u0301te\u0301 हिन्दी! ", ["e\u0301te\u0301", "हिन्दी"]),
        ("。島の人は、海を見た。", ["島の人は", "海を見た"]),
        ("😀 so 😀good😀 \U00020000\U00020001 ", ["so", "good", "\U00020000\U00020001"]),
    ],
)
def test_words(text: str, expected: list[str]) -> None:
    assert words(text) == expected


@given(st.text("aB'’ .\u0301é1語", max_size=30), st.integers(0, 30), st.integers(0, 30))
def test_the_words_of_a_piece_are_among_those_of_the_whole(
    text: str, start: int, stop: int
) -> None:
    whole = " ".join(["", *words(f" {text} "), ""])
    assert " ".join(["", *words(text[start:stop]), ""]) in whole or not words(text[start:stop])


def test_distinct_strings_by_hand() -> None:
    # abcabc, bcabca, cabcab, abcabc, bcabca: three are new, two are not.
    assert first_occurrence_mask(grams("abcabcabca", 6)) == [True, True, True, False, False]
    assert first_occurrence_mask([("a", "b"), ("b", "a"), ("a", "b")]) == [True, True, False]
    assert first_occurrence_mask([]) == [] and grams("ab", 3) == []


@given(st.text("ab😀", max_size=40), st.integers(1, 6))
def test_repeated_characters_are_their_definition(text: str, length: int) -> None:
    expected = [
        any(
            text[start : start + length] in text[: start + length - 1]
            for start in range(max(place - length + 1, 0), min(place, len(text) - length) + 1)
        )
        for place in range(len(text))
    ]
    assert repetition_mask(text, length).tolist() == expected


def test_repetition_by_hand() -> None:
    phrase = "on the beach"  # 12 characters, which stand three times
    assert repetition_mask(f"{phrase}1{phrase}2{phrase}", 12).sum() == 24
    assert repetition_mask("a" * 500, 12).sum() == 499
    assert not repetition_mask("abcdefghijklm", 12).any()
    assert not repetition_mask("aaa", 12).any()


@given(st.text(min_size=1, max_size=200))
def test_compressed_size_is_that_of_zlib_without_its_header_and_checksum(text: str) -> None:
    data = text.encode("utf-8")
    assert compressed_bits(text) == 8 * (len(zlib.compress(data, 9)) - 6) / len(text)


def test_what_repeats_is_compressed_and_noise_is_not() -> None:
    symbols = [chr(code) for code in range(64, 128)]
    noise = "".join(np.random.default_rng(0).choice(symbols, 500))
    assert compressed_bits("abcde" * 100) < 0.5
    assert compressed_bits(noise) > 6  # the entropy of 64 equally likely symbols


def test_divergence_by_hand() -> None:
    # P = (1/2, 1/2, 0), Q = (1/4, 0, 3/4), M = (3/8, 1/4, 3/8).
    kl_p = math.log2(4 / 3) / 2 + math.log2(2) / 2
    kl_q = math.log2(2 / 3) / 4 + math.log2(2) * 3 / 4
    found = jensen_shannon_bits(np.array([3, 3, 0]), np.array([1, 0, 3]))
    assert found == pytest.approx((kl_p + kl_q) / 2, rel=1e-12)


COUNTS = st.lists(st.integers(0, 5), min_size=4, max_size=4).filter(any).map(np.array)


@given(COUNTS, COUNTS, st.integers(1, 9))
def test_divergence_is_symmetric_and_lies_between_0_and_1(
    a_G: np.ndarray, b_G: np.ndarray, times: int
) -> None:
    found = jensen_shannon_bits(a_G, b_G)
    assert found == pytest.approx(jensen_shannon_bits(b_G, times * a_G), abs=1e-12)
    assert -1e-12 <= found <= 1 + 1e-12
    assert jensen_shannon_bits(a_G, times * a_G) == pytest.approx(0, abs=1e-12)
    disjoint = jensen_shannon_bits(np.append(a_G, 0 * b_G), np.append(0 * a_G, b_G))
    assert disjoint == pytest.approx(1, abs=1e-12)


def _pooled(samples: list[str], others: list[str], length: int) -> float:
    """The divergence of the strings of all samples together."""
    ours, theirs = ([g for x in texts for g in grams(x, length)] for texts in (samples, others))
    both = sorted({*ours, *theirs})
    counts = ([pool.count(gram) for gram in both] for pool in (ours, theirs))
    return jensen_shannon_bits(*map(np.array, counts))


def test_divergence_of_texts() -> None:
    ours, theirs = ["abcd", "abcde"], ["abcdx", "abcy"]
    # abcd, abcd, bcde against abcd, bcdx, abcy.
    p, q = {"abcd": 2 / 3, "bcde": 1 / 3}, {"abcd": 1 / 3, "bcdx": 1 / 3, "abcy": 1 / 3}
    expected = (
        p["abcd"] * math.log2(p["abcd"] / (1 / 2))
        + p["bcde"] * 1
        + q["abcd"] * math.log2(q["abcd"] / (1 / 2))
        + q["bcdx"] * 1
        + q["abcy"] * 1
    ) / 2
    assert divergence_pseudovalues(ours, theirs, length=4).mean() == pytest.approx(
        expected, rel=1e-12
    )
    assert divergence_pseudovalues(ours, ours, length=4).mean() == pytest.approx(0, abs=1e-12)
    assert divergence_pseudovalues(ours, ["wxyz", "語語語語"], length=4).mean() == pytest.approx(1)


def test_shares_of_a_divergence_are_what_leaving_a_sample_out_changes() -> None:
    noise = np.random.default_rng(0)
    samples, others = (["".join(noise.choice(list("aab"), 30)) for _ in range(5)] for _ in "ab")
    shares_S = divergence_pseudovalues(samples, others, length=4)
    without_S = [_pooled([x for x in samples if x is not out], others, 4) for out in samples]
    expected_S = _pooled(samples, others, 4) - 4 * (np.array(without_S) - np.mean(without_S))
    np.testing.assert_allclose(shares_S, expected_S, atol=1e-12)


def test_shares_of_a_divergence_spread_as_it_does() -> None:
    noise = np.random.default_rng(0)
    letters = list("abcdefghijklmnopqrstuvwxyz")
    weights = 1 / np.arange(1, 27)

    def draw() -> list[str]:
        drawn = noise.choice(letters, (20, 60), p=weights / sum(weights))
        return ["".join(row) for row in drawn]

    others = draw()
    shares = [divergence_pseudovalues(draw(), others, length=2) for _ in range(100)]
    spread = np.std([shares_S.mean() for shares_S in shares], ddof=1)
    estimated = np.mean([shares_S.std(ddof=1) / math.sqrt(20) for shares_S in shares])
    assert estimated == pytest.approx(spread, rel=0.25)


def test_too_few_texts_have_no_divergence() -> None:
    with pytest.raises(CharlmError, match="1 texts are too few to compare: give at least 2"):
        divergence_pseudovalues(["abcabc"], ["abcabc"], length=2)
    for count in (2, 3):
        with pytest.raises(CharlmError, match=f"{count} texts are too few .* at least 4"):
            excess_pseudovalues(["abcabc"] * count, ["abcabc"] * 4, length=2)


def test_an_excess_by_hand() -> None:
    one, other = ["abcde"] * 4, ["vwxyz"] * 5
    assert excess_pseudovalues(one, other, length=4).mean() == pytest.approx(1)
    assert excess_pseudovalues(one, one, length=4).mean() == pytest.approx(0, abs=1e-12)
    assert len(excess_pseudovalues(other, one, length=4)) == 5  # one of them is in neither half
    # abcd and bcde against abcd alone, and no half differs from the other.
    found = excess_pseudovalues(["abcde"] * 4, ["abcd"] * 4, length=4)
    assert found.mean() == pytest.approx(1.5 - 0.75 * math.log2(3))


def _draw_texts(noise: np.random.Generator, scale: float) -> list[str]:
    """Samples of words of three letters, whose frequencies the scale makes more or less even."""
    weights = (1.0 / np.arange(1, 401)) ** scale
    drawn = noise.choice(400, (24, 60), p=weights / weights.sum())
    return ["".join(f"{word:03d}" for word in row) for row in drawn]


def test_the_excess_is_least_for_the_source_and_the_divergence_is_not() -> None:
    noise = np.random.default_rng(0)
    scales = (0.6, 1.0, 1.4)
    found = np.empty((2, 12, len(scales)))
    for number in range(12):
        others = _draw_texts(noise, 1.0)
        for place, scale in enumerate(scales):
            samples = _draw_texts(noise, scale)
            for which, measure in enumerate((excess_pseudovalues, divergence_pseudovalues)):
                found[which, number, place] = measure(samples, others, length=6).mean()
    excess, divergence = found.mean(axis=1)
    error = found[0, :, 1].std(ddof=1) / math.sqrt(12)
    assert abs(excess[1]) < 3 * error < 0.02
    assert min(excess[0], excess[2]) > 3 * error
    assert divergence.argmin() == 2 and divergence[1] > 0.2


def test_shares_of_an_excess_spread_as_it_does() -> None:
    noise = np.random.default_rng(1)
    others = _draw_texts(noise, 1.0)
    shares = [excess_pseudovalues(_draw_texts(noise, 1.3), others, length=6) for _ in range(60)]
    spread = np.std([shares_S.mean() for shares_S in shares], ddof=1)
    estimated = np.mean([shares_S.std(ddof=1) / math.sqrt(24) for shares_S in shares])
    assert estimated == pytest.approx(spread, rel=0.35)
