"""Intervals hold the truth as often as they say, and only what is there is shown."""

import itertools
import math

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import t

from charlm_jax.core.errors import CharlmError
from charlm_jax.evaluation.bootstrap import Difference, difference, mean_interval, std_over_seeds

BLOCK, BLOCKS, CORRELATION = 100, 60, 0.8


def _texts(generator: np.random.Generator, texts: int, characters: int) -> np.ndarray:
    """Standard normal values, hard and easy together: each repeats part of the one before."""
    fresh_NR = generator.normal(size=(characters, texts))
    fresh_NR[1:] *= math.sqrt(1 - CORRELATION**2)
    return np.array(list(itertools.accumulate(fresh_NR, lambda a, b: CORRELATION * a + b))).T


def coverage(
    runs: int, *, seed_error: float, texts: int, blocks: int = BLOCKS, block: int = BLOCK
) -> float:
    """The share of made-up texts, of true mean 0, whose interval holds 0.

    `seed_error` is the standard error of the mean that the seeds make, in units of the text's. Each
    run also errs for itself at every character.
    """
    generator, characters = np.random.default_rng(0), blocks * BLOCK
    text_error = math.sqrt((1 + CORRELATION) / (1 - CORRELATION) / characters)
    hits = []
    for text_N in _texts(generator, texts, characters):
        seeds_S1 = generator.normal(size=(runs, 1)) * seed_error * text_error * math.sqrt(runs)
        nll_SN = text_N + seeds_S1 + generator.normal(size=(runs, characters))
        interval = mean_interval(nll_SN, block=block, draws=400, seed=len(hits))
        hits.append(interval.low <= 0 <= interval.high)
    return float(np.mean(hits))


@pytest.mark.parametrize(("runs", "seed_error"), [(1, 0.0), (2, 1.0), (3, 1.0), (3, 2.0), (5, 1.0)])
def test_an_interval_holds_the_truth_about_as_often_as_it_says(
    runs: int, seed_error: float
) -> None:
    assert 0.92 < coverage(runs, seed_error=seed_error, texts=400) < 0.975


def false_alarms(runs: int, *, texts: int) -> float:
    """The share of pairs of groups shown to differ, though only their seeds do."""
    generator, shown = np.random.default_rng(0), []
    for text_N in generator.normal(size=(texts, 600)):
        a_SN, b_SN = text_N + generator.normal(size=(2, runs, 1))
        a_SN += 0.1 * generator.normal(size=a_SN.shape)
        shown.append(difference(a_SN, b_SN, block=10, draws=400, seed=len(shown)).is_significant)
    return float(np.mean(shown))


@pytest.mark.parametrize("runs", [2, 3, 5])
def test_luck_of_the_seeds_is_seldom_shown_as_a_difference(runs: int) -> None:
    assert false_alarms(runs, texts=300) < 0.08


def test_characters_drawn_one_by_one_would_promise_too_much() -> None:
    assert coverage(1, seed_error=0.0, texts=60, blocks=10, block=1) < 0.8


@pytest.mark.core
@pytest.mark.parametrize("units", [2, 3, 5, 12])
def test_an_interval_of_one_kind_of_error_is_students(units: int) -> None:
    values = np.random.default_rng(units).normal(size=units)
    error = np.std(values, ddof=1) / math.sqrt(units)
    expected = pytest.approx(t.ppf(0.975, units - 1) * error, rel=0.05)
    only_runs_differ = mean_interval(np.tile(values[:, None], 20), block=10, draws=4000)
    only_blocks_differ = mean_interval(np.repeat(values, 10)[None], block=10, draws=4000)
    for interval in (only_runs_differ, only_blocks_differ):
        assert interval.high - interval.mean == expected
        assert interval.mean - interval.low == expected


def test_a_difference_has_the_freedom_of_all_runs() -> None:
    a_SN, b_SN = (np.random.default_rng(k).normal(size=(3, 1)) + np.zeros(200) for k in (0, 1))
    parts = [float(np.var(x[:, 0], ddof=1)) / 3 for x in (a_SN, b_SN)]
    freedom = sum(parts) ** 2 / sum(part**2 / 2 for part in parts)  # Welch's
    found = difference(a_SN, b_SN, block=10, draws=8000)
    half = t.ppf(0.975, freedom) * math.sqrt(sum(parts))
    assert found.high - found.mean == pytest.approx(half, rel=0.05)


def _losses(runs: int, characters: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).gamma(2.0, size=(runs, characters)).astype(np.float32)


def _reference(nll_SN: np.ndarray, mask_N: np.ndarray, at_once: int) -> np.ndarray:
    """100 drawn means of blocks of 10 by loops, over losses put one behind the other."""
    cut = [np.flatnonzero(mask_N[start : start + 10]) + start for start in range(0, 95, 10)]
    cut = [places for places in cut if len(places)]
    generator, means = np.random.default_rng(7), []
    while len(means) < 100:
        rows = min(at_once, 100 - len(means))
        blocks_DK = generator.integers(len(cut), size=(rows, len(cut) - 1))
        runs_DS = generator.integers(len(nll_SN), size=(rows, len(nll_SN) - 1))
        for blocks_K, runs_S in zip(blocks_DK, runs_DS, strict=True):
            losses = [nll_SN[run, cut[block]] for run in runs_S for block in blocks_K]
            means.append(np.concatenate(losses).mean(dtype=np.float64))
    return np.array(means)


def _freedom(times: float, share: float) -> float:
    """The degrees of freedom at which t is that quantile."""
    return float(brentq(lambda freedom: t.ppf(share, freedom) - times, 0.5, 1e6))


@pytest.mark.core
@pytest.mark.parametrize("at_once", [1, 3, 100])
def test_block_sums_equal_losses_put_one_behind_the_other(
    at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    nll_SN, mask_N = _losses(3, 95), np.random.default_rng(1).random(95) < 0.3
    mask_N[20:30] = False
    monkeypatch.setattr("charlm_jax.evaluation.bootstrap._COUNTS_AT_ONCE", 9 * at_once)
    interval = mean_interval(nll_SN, mask_N=mask_N, block=10, draws=100, level=0.8, seed=7)
    again = mean_interval(nll_SN, mask_N=mask_N, block=10, draws=100, level=0.9, seed=7)
    mean = nll_SN[:, mask_N].mean(dtype=np.float64)
    np.testing.assert_allclose(interval.mean, mean, rtol=1e-12)
    # Student's t falls out of the ratio of two levels; what is left is the deviation.
    error = np.std(_reference(nll_SN, mask_N, at_once))
    times, other = ((x.high - x.mean) / error for x in (interval, again))
    freedom = _freedom(times, 0.9)
    assert times == pytest.approx(t.ppf(0.9, freedom), rel=1e-6)
    assert other == pytest.approx(t.ppf(0.95, freedom), rel=1e-6)
    assert 2 < freedom < 10


def test_a_mask_of_whole_blocks_equals_leaving_the_others_out() -> None:
    nll_SN, mask_N = _losses(2, 75), np.repeat([True, False, True, True, False, True], 15)[:75]
    mask_N[45:60] = False
    chosen = nll_SN[:, mask_N]
    masked = mean_interval(nll_SN, mask_N=mask_N, block=15)
    assert masked == mean_interval(chosen, block=15)
    assert masked.mean == pytest.approx(chosen.mean(), rel=1e-6)


def test_the_short_last_block_counts_by_its_size() -> None:
    interval = mean_interval([np.array([0.0] * 10 + [1.0] * 2)], block=10, draws=4000)
    # One of the two blocks is drawn: means of 0 or 1, half of the draws each.
    assert interval.mean == pytest.approx(2 / 12)
    assert interval.high - interval.mean == pytest.approx(0.5 * t.ppf(0.975, 1), rel=0.01)


@pytest.mark.core
def test_pairing_takes_out_what_is_hard_for_both_arms() -> None:
    a_SN = _losses(3, 3000) + np.repeat(_losses(1, 30), 100)
    b_SN = a_SN + 0.05 + 0.01 * _losses(3, 3000, seed=1)
    paired = difference(a_SN[:1], b_SN[:1], block=100)
    unpaired = difference(a_SN[:1], b_SN[:1], block=100, is_paired=False)
    assert paired.mean == unpaired.mean == pytest.approx(-0.07, abs=1e-3)
    assert paired.is_significant and not unpaired.is_significant
    assert (unpaired.high - unpaired.low) > 20 * (paired.high - paired.low)
    assert unpaired.describe().endswith("], not significant")


def test_runs_of_the_arms_are_drawn_apart() -> None:
    nll_SN = np.repeat([[0.0], [1.0], [2.0]], 40, axis=1)
    same = difference(nll_SN, nll_SN, block=10)
    assert same.mean == 0 and same.low < -0.9 and same.high > 0.9


def test_equal_arms_differ_by_exactly_nothing() -> None:
    nll_1N = _losses(1, 500)
    assert difference(nll_1N, nll_1N.copy(), block=50) == (0.0, 0.0, 0.0)
    assert not difference(nll_1N, nll_1N, block=50).is_significant
    assert difference(_losses(4, 500), _losses(4, 500), block=50).mean == 0.0


def test_the_same_seed_gives_the_same_interval() -> None:
    nll_SN = _losses(2, 300)
    first, again, other = (mean_interval(nll_SN, block=20, seed=seed) for seed in (3, 3, 4))
    assert first == again and first != other and first.mean == other.mean
    a, b = difference(nll_SN, nll_SN + 1, block=20), difference(nll_SN + 1, nll_SN, block=20)
    assert a.mean == -b.mean == pytest.approx(-1)


def test_rows_may_be_a_list_and_nothing_outside_the_mask_matters() -> None:
    nll_SN, mask_N = _losses(2, 300), np.arange(300) % 3 == 0
    expected = mean_interval(nll_SN, mask_N=mask_N, block=30)
    nll_SN[:, ~mask_N] = np.nan
    assert mean_interval(list(nll_SN), mask_N=mask_N, block=30) == expected


def test_one_block_says_nothing_of_another() -> None:
    nll_SN = _losses(3, 300)
    assert mean_interval(nll_SN)[1:] == (-math.inf, math.inf)
    assert not difference(nll_SN, nll_SN + 9).is_significant
    mask_N = np.arange(300) < 20
    assert mean_interval(nll_SN, mask_N=mask_N, block=20).high == math.inf


def test_the_spread_of_seeds() -> None:
    nll_SN = _losses(4, 2300)
    expected = np.std(nll_SN.mean(axis=1, dtype=np.float64), ddof=1)
    assert std_over_seeds(nll_SN) == pytest.approx(expected, rel=1e-12)
    assert std_over_seeds(nll_SN[:1]) is None
    with pytest.raises(CharlmError, match="row of losses"):
        std_over_seeds(nll_SN[0])


@pytest.mark.parametrize(
    ("low", "high", "is_significant"), [(1, 2, True), (-2, -1, True), (0, 1, False), (-1, 1, False)]
)
def test_a_difference_is_shown_where_0_lies_outside(
    low: int, high: int, is_significant: bool
) -> None:
    assert Difference(0.5, low, high).is_significant == is_significant


GOOD = np.ones((2, 30))


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ([[np.ones(30), np.ones(29)]], {}, r"\[30, 29\] losses"),
        ([[]], {}, "at least one"),
        ([np.ones(30)], {}, "a non-empty row of losses per run"),
        ([np.ones((2, 0))], {}, "row of losses"),
        ([np.where(np.arange(30) == 17, np.nan, GOOD)], {}, "loss of nan at position 17"),
        ([[np.ones(30), np.full(30, np.inf)]], {}, "run 1 has a loss of inf at position 0"),
        ([[np.array([1.0, math.inf, -math.inf])]], {}, "run 0 has a loss of inf at position 1"),
        ([GOOD], {"mask_N": np.ones(29, bool)}, r"shape \(29,\), but the runs have 30"),
        ([GOOD], {"mask_N": np.zeros(30, bool)}, "includes no character"),
        ([GOOD], {"block": 0}, "block=0 is not allowed"),
        ([GOOD], {"draws": 99}, "draws=99 is not allowed: it must be at least 100"),
        ([GOOD], {"seed": -1}, "seed=-1 is not allowed"),
        ([GOOD], {"block": 1e3}, "block=1000.0 is not allowed: it must be a whole number"),
        ([GOOD], {"draws": 1e4}, "draws=10000.0 is not allowed: it must be a whole number"),
        ([GOOD, GOOD], {"seed": 0.5}, "seed=0.5 is not allowed: it must be a whole number"),
        ([GOOD], {"level": 1.0}, "level=1.0 is not allowed"),
        ([GOOD], {"level": math.nan}, "level=nan is not allowed"),
        ([GOOD], {"level": "0.95"}, "level='0.95' is not allowed: it must lie between 0 and 1"),
        ([GOOD, np.ones((2, 31))], {}, "the groups have 30 and 31 losses"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(
    arguments: list, options: dict, message: str
) -> None:
    judge = mean_interval if len(arguments) == 1 else difference
    with pytest.raises(CharlmError, match=message) as caught:
        judge(*arguments, **options)
    assert "\n" not in str(caught.value)
