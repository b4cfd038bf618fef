"""Drawn text is judged by measures that were computed by hand, beside human text of its amount."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import stdtrit

from charlm_jax.analysis.memorization import CopiedSpan
from charlm_jax.analysis.text_metrics import compressed_bits
from charlm_jax.analysis.text_quality import (
    TextQuality,
    TextQualityEvaluator,
    build_text_quality_evaluator,
    human_samples,
)
from charlm_jax.core.errors import CharlmError
from charlm_jax.core.json_files import to_jsonable
from charlm_jax.evaluation.bootstrap import Interval

MEASURES = (
    "word_validity",
    "distinct_6grams",
    "distinct_word_bigrams",
    "compressed_bits_per_char",
    "repeated",
    "copied",
    "longest_copy_characters",
    "divergence_bits",
)


def _made_up(characters: int, seed: int = 0) -> str:
    """A text of 300 words, some of them frequent."""
    noise = np.random.default_rng(seed)
    words = ["".join(noise.choice(list("etaoinsh"), noise.integers(2, 8))) for _ in range(300)]
    weights = 1 / np.arange(1, 301)
    return " ".join(noise.choice(words, characters // 3, p=weights / sum(weights)))[:characters]


TEXT = _made_up(60_000)
TRAIN, HELD_OUT = (range(0, 40_000),), (range(40_000, 60_000),)


def _judge(samples: int, characters: int = 200) -> TextQualityEvaluator:
    human = human_samples(TEXT, HELD_OUT, samples=2 * samples, characters=characters)
    return build_text_quality_evaluator(TEXT, TRAIN, human)


def _shuffled(samples: list[str]) -> list[str]:
    noise = np.random.default_rng(0)
    return ["".join(noise.permutation(list(sample))) for sample in samples]


@pytest.mark.core
def test_a_judgement_by_hand() -> None:
    train = " The sea was calm and the boat lay still on the beach. "
    human = ["x" * 30, "y" * 30] * 2
    samples = ["s calm and the boet lay still,", " the the the the the; 012345 t"]
    judgement = build_text_quality_evaluator(train, (range(len(train)),), human).evaluate(samples)
    assert (judgement.samples, judgement.characters) == (2, 30)
    # calm and the boet lay still; the the the the the: all but boet.
    assert judgement.word_validity is not None
    assert judgement.word_validity.mean == pytest.approx(10 / 11)
    assert judgement.distinct_word_bigrams is not None
    assert judgement.distinct_word_bigrams.mean == pytest.approx((5 + 1) / (5 + 4))
    # Of 25 strings of 6, ' the t' begins at 0, 4, 8 and 12, 'the th' at 1, 5, 9 and 13, 'he the'
    # at 2, 6, 10 and 14, 'e the ' at 3, 7 and 11: 11 of them are not new.
    assert judgement.distinct_6grams.mean == pytest.approx((25 + 14) / 50)
    # ' the the the' begins at 0, 4 and 8, 'the the the ' at 1 and 5, 'he the the t' at 2 and 6,
    # 'e the the th' at 3 and 7: places 4 to 19 are repeated.
    assert judgement.repeated.mean == pytest.approx(16 / 60)
    # 's calm and the bo' stands at 11 of the training text, and no run of 24 does; of the other
    # sample only ' the ' does.
    assert judgement.copied.mean == 0
    assert judgement.longest_copy == CopiedSpan(sample=0, start=0, length=17, position=11)
    assert judgement.longest_copy_characters.mean == pytest.approx((17 + 5) / 2)
    expected = np.mean([compressed_bits(sample) for sample in samples])
    assert judgement.compressed_bits_per_char.mean == pytest.approx(expected)
    assert judgement.divergence_bits.mean == pytest.approx(1)


@pytest.mark.parametrize(("length", "runs"), [(24, 1), (23, 0), (30, 7)])
def test_copied_strings_are_of_24_characters(length: int, runs: int) -> None:
    train = "abcdefghijklmnopqrstuvwxyz0123456789"
    judge = build_text_quality_evaluator(train, (range(36),), ["." * 30] * 4)
    sample = train[3 : 3 + length] + "." * (30 - length)
    judgement = judge.evaluate([sample, "." * 30])
    assert judgement.copied.mean == pytest.approx(runs / 14)
    assert judgement.longest_copy == CopiedSpan(0, 0, length, 3)


def test_every_interval_holds_its_mean_and_shrinks_with_more_samples() -> None:
    mixed = human_samples(TEXT, TRAIN, samples=3, characters=200)
    mixed += [sample[:20] * 10 for sample in mixed[:1]] + _shuffled(mixed[1:])
    few, many = (_judge(6 * times).evaluate(mixed * times) for times in (1, 8))
    for name in MEASURES:
        found = [getattr(judgement, name) for judgement in (few, many)]
        assert all(x.low < x.mean < x.high for x in found), name
        # Where a share's interval ends at 0 or 1, the other side is as wide as it is.
        halves = [max(x.mean - x.low, x.high - x.mean) for x in found]
        # Of 6 samples 5 are drawn, of 48 of the same kind 47.
        shrunk = (5 / 47) ** 0.5 * stdtrit(47, 0.975) / stdtrit(5, 0.975)
        assert halves[1] == pytest.approx(halves[0] * shrunk, rel=0.25), name


def test_intervals_are_over_samples() -> None:
    judge = _judge(10)
    same = judge.evaluate([judge.others[0]] * 10)
    for name in MEASURES:
        found = getattr(same, name)
        assert found.low == pytest.approx(found.mean) == pytest.approx(found.high)
    train = human_samples(TEXT, TRAIN, samples=10, characters=200)
    mixed = judge.evaluate([*train[:5], *_shuffled(train[5:])])
    assert mixed.copied.mean == pytest.approx(0.5)
    half = stdtrit(9, 0.975) / 6  # five of ten are 1, the others 0: their mean's error is 1/6
    assert mixed.copied.low == pytest.approx(0.5 - half, rel=0.1)
    assert mixed.copied.high == pytest.approx(0.5 + half, rel=0.1)


@pytest.mark.core
def test_human_text_lies_nearer_to_human_text_than_shuffled_text_does() -> None:
    judge = _judge(20)
    human, shuffled = judge.human, judge.evaluate(_shuffled(list(judge.others)))
    assert human.divergence_bits.high < shuffled.divergence_bits.low
    assert human.word_validity is not None and human.word_validity.low > 0.98
    assert shuffled.word_validity is not None and shuffled.word_validity.high < 0.5
    assert human.compressed_bits_per_char.high < shuffled.compressed_bits_per_char.low
    assert shuffled.copied == Interval(0, 0, 0)
    looped = judge.evaluate([sample[:25] * 8 for sample in judge.others])
    assert looped.distinct_6grams.high < human.distinct_6grams.low
    assert looped.repeated.low > human.repeated.high
    assert looped.compressed_bits_per_char.high < human.compressed_bits_per_char.low


def test_training_text_is_copied_whole() -> None:
    judgement = _judge(5).evaluate(human_samples(TEXT, TRAIN, samples=5, characters=200))
    assert judgement.copied == Interval(1, 1, 1)
    assert judgement.longest_copy_characters == Interval(200, 200, 200)
    assert judgement.longest_copy == CopiedSpan(sample=0, start=0, length=200, position=4000)


def test_the_halves_of_the_human_text_lie_one_between_the_other() -> None:
    human = human_samples(TEXT, HELD_OUT, samples=12, characters=200)
    judge = build_text_quality_evaluator(TEXT, TRAIN, human)
    merged = itertools.chain.from_iterable(zip(judge.reference, judge.others, strict=True))
    assert list(merged) == human


def test_one_half_of_the_human_text_is_judged_by_the_other() -> None:
    judge = build_text_quality_evaluator(
        TEXT, TRAIN, ["x" * 30, "y" * 30] * 4
    )  # nothing is in both
    assert judge.human.divergence_bits.mean == pytest.approx(1)
    assert judge.human.excess_bits == pytest.approx((1, 1, 1))


def test_only_words_of_the_training_part_are_known() -> None:
    train = (range(5), range(11, 17))  # not the boat
    judge = build_text_quality_evaluator(" sea  boat  calm ", train, ["." * 30] * 4)
    judgement = judge.evaluate([" sea boat calm boat ".ljust(30)] * 2)
    assert judgement.word_validity == Interval(0.5, 0.5, 0.5)


def test_a_judgement_is_plain_data() -> None:
    judge = _judge(3)
    for judgement in (judge.human, judge.evaluate(["\n" * 200] * 3)):
        found = to_jsonable(judgement)
        assert json.loads(json.dumps(found, allow_nan=False)) == found
        assert set(found) == set(TextQuality._fields)
    assert found["word_validity"] is None and found["distinct_word_bigrams"] is None
    assert found["longest_copy"] is None
    assert set(to_jsonable(judge.human)["copied"]) == {"mean", "low", "high"}


def test_words_in_one_sample_alone_say_nothing_of_others() -> None:
    judge = _judge(3, characters=30)
    judgement = judge.evaluate(["\n" * 30, ". zzz" + "\n" * 25, "\n" * 30])
    assert judgement.word_validity == Interval(0, 0, 1)
    assert judgement.distinct_word_bigrams is None


def test_samples_without_words_do_not_count() -> None:
    judge = _judge(4, characters=30)
    known = f"\n{TEXT.split()[1]}\n".ljust(30, ".")
    judgement = judge.evaluate(["\n" * 30, known, "..zzz.. zzz z".ljust(30, "."), "\n" * 30])
    assert judgement.word_validity == Interval(1 / 4, 0, 1)


@pytest.mark.parametrize(
    ("samples", "said"),
    [
        (
            [],
            "0 samples of 0 characters cannot be evaluated: they must match the human text",
        ),
        (["a" * 200] * 2, "2 samples of 200 characters"),
        (["a" * 199] * 3, "3 samples of 199 characters"),
        (["a" * 199, "a" * 200, "a" * 201], "3 samples of 199 to 201 characters"),
        ([""] * 3, "3 samples of 0 characters"),
    ],
)
def test_unlike_amounts_are_refused(samples: list[str], said: str) -> None:
    with pytest.raises(CharlmError, match=said):
        _judge(3).evaluate(samples)


@pytest.mark.parametrize(
    ("human", "said"),
    [
        ([], "0 human samples are not allowed: use an even number, at least 4"),
        (["a" * 30] * 2, "2 human samples are not allowed"),
        (["a" * 30] * 5, "5 human samples are not allowed"),
        (["a" * 23] * 4, "4 samples of 23 characters: all must have the same length, at least 24"),
        (["a" * 30] * 3 + ["a" * 31], "4 samples of 30 to 31 characters: all must have"),
    ],
)
def test_human_text_that_does_not_do_is_refused(human: list[str], said: str) -> None:
    with pytest.raises(CharlmError, match=said):
        build_text_quality_evaluator(TEXT, TRAIN, human)


@given(
    cut=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 60)), min_size=1, max_size=5),
    samples=st.integers(1, 12),
    characters=st.integers(1, 15),
)
def test_human_samples_are_disjoint_and_spread_evenly(
    cut: list[tuple[int, int]], samples: int, characters: int
) -> None:
    part, place = [], 0
    for gap, length in cut:
        part.append(range(place + gap, place + gap + length))
        place = part[-1].stop
    text = "".join(map(chr, range(0x4E00, 0x4E00 + place)))  # every character tells its place
    room = sum(len(stretch) // characters for stretch in part)
    if room < samples:
        with pytest.raises(CharlmError, match=rf"has room for {room} samples of {characters}, not"):
            human_samples(text, tuple(part), samples=samples, characters=characters)
        return
    found = human_samples(text, tuple(part), samples=samples, characters=characters)
    starts = [ord(sample[0]) - 0x4E00 for sample in found]
    assert found == [text[start : start + characters] for start in starts]
    assert all(b - a >= characters for a, b in itertools.pairwise(starts))
    assert all(any(r.start <= s and s + characters <= r.stop for r in part) for s in starts)
    pieces = [s for r in part for s in range(r.start, r.stop - characters + 1, characters)]
    gaps = np.diff([pieces.index(start) for start in starts])
    assert not gaps.size or gaps.max() - gaps.min() <= 1
    ends = pieces.index(starts[0]), room - 1 - pieces.index(starts[-1])
    assert abs(ends[0] - ends[1]) <= 1


@pytest.mark.parametrize(("samples", "characters"), [(0, 5), (5, 0)])
def test_no_samples_of_nothing(samples: int, characters: int) -> None:
    with pytest.raises(CharlmError, match="=0 is not allowed: it must be at least 1"):
        human_samples(TEXT, HELD_OUT, samples=samples, characters=characters)
    with pytest.raises(CharlmError, match=r"=2.5 is not allowed: it must be a whole number"):
        human_samples(TEXT, HELD_OUT, samples=samples or 2.5, characters=characters or 2.5)


def test_the_book_beside_itself(book: str) -> None:
    cut = len(book) * 9 // 10
    train, held_out = (range(cut),), (range(cut, len(book)),)
    human = human_samples(book, held_out, samples=100, characters=500)
    judge = build_text_quality_evaluator(book, train, human)
    assert judge.human.word_validity is not None
    assert 0.9 < judge.human.word_validity.mean < 1
    assert judge.human.copied.mean < 0.05
    assert 0.2 < judge.human.divergence_bits.mean < 0.27
    assert judge.evaluate(_shuffled(list(judge.others))).divergence_bits.low > 0.8
    assert judge.evaluate(human_samples(book, train, samples=50, characters=500)).copied.mean == 1
