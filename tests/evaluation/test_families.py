"""The best of many is claimed only where all differences show it at once."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm, t

from charlm_jax.core.errors import CharlmError
from charlm_jax.evaluation.block_sums import BlockSums, block_sums, subtract_runs
from charlm_jax.evaluation.bootstrap import Difference, difference, mean_interval
from charlm_jax.evaluation.families import BestComparison, compare_with_best
from tests.conftest import examples
from tests.evaluation.family_rates import CASES, rates

INDEPENDENT = {"is_choice_independent": True, "is_paired_by_run": False}


def _groups(runs: int, seed: int = 0, groups: int = 4, blocks: int = 30) -> list[BlockSums]:
    """Groups of growing loss, with hard blocks, noise of their own and lucky seeds."""
    generator = np.random.default_rng(seed)
    means_ASK = 0.03 * np.arange(groups)[:, None, None] + generator.normal(size=blocks)
    means_ASK = means_ASK + 0.02 * generator.normal(size=(groups, 1, blocks))
    means_ASK = means_ASK + 0.03 * generator.normal(size=(groups, runs, 1))
    return [BlockSums(50 * means_SK, np.full(blocks, 50)) for means_SK in means_ASK]


ways = st.tuples(st.booleans(), st.booleans())


@pytest.mark.core
@given(runs=st.integers(1, 3), way=ways, best=st.integers(0, 3), seed=st.integers(0, 99))
def test_no_interval_is_narrower_than_that_of_its_difference_alone(
    runs: int, way: tuple[bool, bool], best: int, seed: int
) -> None:
    groups, (is_independent, is_paired) = _groups(runs, seed), way
    found = compare_with_best(
        groups,
        best=best,
        is_choice_independent=is_independent,
        is_paired_by_run=is_paired,
        draws=200,
        seed=seed,
    )
    assert found.looked_at == (3 if is_independent else 6)
    for index, together in enumerate(found.differences):
        if index == best:
            assert together is None and found.p_values[index] is None
            continue
        assert together is not None
        if is_paired:
            subtracted = subtract_runs(groups[index], groups[best])
            alone = Difference(*mean_interval(subtracted, draws=200, seed=seed))
        else:
            alone = difference(groups[index], groups[best], draws=200, seed=seed)
        assert together.mean == pytest.approx(alone.mean, abs=1e-12)
        assert together.low <= alone.low + 1e-12 and together.high >= alone.high - 1e-12
        p = found.p_values[index]
        assert p is not None and (alone.is_significant or p > 0.05 - 1e-9)


@given(runs=st.integers(1, 3), way=ways, order=st.permutations(range(4)), seed=st.integers(0, 99))
def test_groups_may_come_in_any_order(
    runs: int, way: tuple[bool, bool], order: list[int], seed: int
) -> None:
    groups = _groups(runs, seed)
    options = {"is_choice_independent": way[0], "is_paired_by_run": way[1], "draws": 200}
    found = compare_with_best(groups, best=1, **options)
    moved = compare_with_best([groups[k] for k in order], best=order.index(1), **options)
    assert [moved.differences[order.index(k)] for k in range(4)] == list(found.differences)
    assert [moved.p_values[order.index(k)] for k in range(4)] == list(found.p_values)
    assert moved.is_best == found.is_best
    assert sorted(order[k] for k in moved.as_good) == sorted(found.as_good)


@examples(0.3)
@given(runs=st.integers(1, 3), way=ways, seed=st.integers(0, 99))
def test_losses_and_their_sums_are_compared_alike(
    runs: int, way: tuple[bool, bool], seed: int
) -> None:
    generator = np.random.default_rng(seed)
    nll_ASN = generator.gamma(2.0, size=(3, runs, 190)).astype(np.float32)
    mask_N = np.repeat(generator.random(19) < 0.7, 10) & (generator.random(190) < 0.8)
    mask_N[:50] = True
    options = {"is_choice_independent": way[0], "is_paired_by_run": way[1], "draws": 100}
    by_loss = compare_with_best(list(nll_ASN), best=0, mask_N=mask_N, block=10, **options)
    sums = [block_sums(nll_SN, mask_N=mask_N, block=10) for nll_SN in nll_ASN]
    assert compare_with_best(sums, best=0, **options) == by_loss


def test_blocks_without_a_character_are_left_out() -> None:
    groups = _groups(2)
    places = np.delete(np.arange(40), slice(3, 40, 4))
    spread = [BlockSums(np.zeros((2, 40)), np.zeros(40, int)) for _ in groups]
    for wide, narrow in zip(spread, groups, strict=True):
        wide.sums_SK[:, places], wide.counts_K[places] = narrow
    for is_paired in (False, True):
        options = {"best": 0, "is_choice_independent": False, "is_paired_by_run": is_paired}
        assert compare_with_best(spread, **options) == compare_with_best(groups, **options)


def test_a_family_of_one_has_the_interval_of_its_difference() -> None:
    first, second = _groups(3, groups=2, blocks=100)
    found = compare_with_best([first, second], best=0, draws=20_000, **INDEPENDENT).differences[1]
    alone = difference(second, first, draws=20_000)
    assert found is not None and found.high == pytest.approx(alone.high, rel=0.03)


def _half_widths(found: BestComparison) -> list[float]:
    return [x.high - x.mean for x in found.differences if x is not None]


@pytest.mark.parametrize(
    ("is_independent", "quantile"), [(True, 2.65), (False, 3.03)], ids=["dunnett", "tukey"]
)
def test_the_critical_value_of_many_blocks_is_that_of_normal_groups(
    is_independent: bool, quantile: float
) -> None:
    """Tables: 2.65 for seven differences from one of eight, 4.29 / sqrt(2) for all pairs."""
    generator, blocks = np.random.default_rng(0), 400
    groups = [BlockSums(generator.normal(size=(1, blocks)), np.ones(blocks, int)) for _ in "8" * 8]
    found = compare_with_best(
        groups,
        best=0,
        is_choice_independent=is_independent,
        is_paired_by_run=False,
        draws=20_000,
    )
    alone = [difference(group, groups[0], draws=20_000) for group in groups[1:]]
    for half, one in zip(_half_widths(found), alone, strict=True):
        assert half / (one.high - one.mean) == pytest.approx(quantile / norm.ppf(0.975), rel=0.025)


def test_few_blocks_make_the_variance_of_each_difference_uncertain() -> None:
    generator = np.random.default_rng(0)
    groups = [BlockSums(generator.normal(size=(1, 8)), np.ones(8, int)) for _ in range(8)]
    found = compare_with_best(groups, best=0, draws=20_000, **INDEPENDENT)
    alone = [difference(group, groups[0], draws=20_000) for group in groups[1:]]
    bonferroni = t.ppf(1 - 0.025 / 7, 7) / t.ppf(0.975, 7)
    for half, one in zip(_half_widths(found), alone, strict=True):
        assert 0.9 * bonferroni < half / (one.high - one.mean) < 1.02 * bonferroni


@pytest.mark.parametrize("is_paired", [False, True], ids=["unpaired", "paired"])
def test_the_variance_of_seeds_is_that_of_all_runs(is_paired: bool) -> None:
    """Only seeds vary. Those of the first two groups do not, which is taken for chance."""
    generator = np.random.default_rng(3)
    luck_AS = generator.normal(size=(6, 3))
    luck_AS[:2] = [[0.0], [0.1]]
    groups = [BlockSums(np.tile(luck_S[:, None], 20), np.ones(20, int)) for luck_S in luck_AS]
    found = compare_with_best(
        groups,
        best=0,
        is_choice_independent=True,
        is_paired_by_run=is_paired,
        draws=20_000,
    )
    residual_AS = luck_AS - luck_AS.mean(axis=1, keepdims=True)
    freedom = 12
    if is_paired:
        residual_AS -= residual_AS.mean(axis=0)
        freedom = 10
    error = math.sqrt(np.sum(residual_AS**2) / freedom * 2 / 3)
    times = _half_widths(found)[0] / error
    # Dunnett's table for five differences from one of six: 2.90 with 12 degrees, 3.00 with 10.
    assert times == pytest.approx({12: 2.90, 10: 3.00}[freedom], rel=0.03)
    assert times > 1.2 * t.ppf(0.975, freedom)
    assert found.p_values[1] == 1.0  # alone, it is 0


def test_the_best_is_claimed_only_if_all_others_are_worse() -> None:
    sums_SK = np.random.default_rng(0).normal(size=(1, 40))
    noise_AK = 0.01 * np.random.default_rng(1).normal(size=(3, 40))
    chosen = "a was chosen as the best of 3 groups. Not worse: c (2 comparisons)"
    for shifts, is_best, as_good, says in [
        ((0.0, 0.1, 0.2), True, (0,), "a is the best of 3 groups (2 comparisons)"),
        ((0.0, 0.1, 0.0), False, (0, 2), chosen),
        ((0.0, 0.1, -0.1), False, (0, 2), chosen),  # c is better, and not only equal
    ]:
        groups = [
            BlockSums(sums_SK + noise_K + shift, np.ones(40, int))
            for noise_K, shift in zip(noise_AK, shifts, strict=True)
        ]
        found = compare_with_best(groups, best=0, **INDEPENDENT)
        assert (found.is_best, found.as_good) == (is_best, as_good)
        assert found.describe("abc") == says
        assert all(
            (p < 0.05) == x.is_significant
            for x, p in zip(found.differences, found.p_values, strict=True)
            if x is not None and p is not None
        )


def test_p_values_are_adjusted_by_holm() -> None:
    """Every group has a run and the same variance, so that each p-value is Student's."""
    pattern_K = np.resize([1.0, -1.0], 40)
    others = [BlockSums((0.3 * k + pattern_K)[None], np.ones(40, int)) for k in (3, 1, 2, 0)]
    groups = [BlockSums(np.zeros((1, 40)), np.ones(40, int)), *others]
    found = compare_with_best(groups, best=0, draws=20_000, **INDEPENDENT)
    raw = [2 * t.sf(0.3 * k * math.sqrt(39), 39) for k in (3, 2, 1, 0)]
    three, two, one, none = (min(1.0, p * n) for p, n in zip(raw, (4, 3, 2, 1), strict=True))
    for p, expected in zip(found.p_values[1:], (three, one, two, none), strict=True):
        assert p == pytest.approx(expected, rel=0.2, abs=1e-6)
    twins = compare_with_best([groups[0], others[2], others[2]], best=0, **INDEPENDENT)
    assert twins.p_values[1] == twins.p_values[2]


def test_one_block_one_group_and_no_variance() -> None:
    one_block = [BlockSums(np.array([[x]]), np.array([9])) for x in (1.0, 2.0)]
    found = compare_with_best(one_block, best=0, **INDEPENDENT)
    assert found.differences[1] == (pytest.approx(1 / 9), -math.inf, math.inf)
    assert found.p_values == [None, 1.0] and not found.is_best
    alone = compare_with_best(one_block[:1], best=0, **INDEPENDENT)
    assert alone == (0, [None], [None], 0) and not alone.is_best and alone.as_good == (0,)
    group = _groups(1)[0]
    equal = compare_with_best([group, group, group], best=1, **INDEPENDENT)
    assert equal.differences == [(0.0, 0.0, 0.0), None, (0.0, 0.0, 0.0)]
    assert equal.p_values == [1.0, None, 1.0] and not equal.is_best
    flat = [BlockSums(np.full((2, 5), x), np.ones(5, int)) for x in (1.0, 2.0, 2.0)]
    for is_independent in (True, False):
        for is_paired in (True, False):
            found = compare_with_best(
                flat,
                best=0,
                is_choice_independent=is_independent,
                is_paired_by_run=is_paired,
            )
            assert found.is_best and found.p_values == [None, 0.0, 0.0]
            assert found.differences[1:] == [(1.0, 1.0, 1.0)] * 2


def test_a_group_of_one_run_borrows_the_variance_of_other_seeds() -> None:
    several, single = _groups(3, groups=2)
    single = BlockSums(single.sums_SK[:1], single.counts_K)
    found = compare_with_best([several, single, single], best=1, **INDEPENDENT)
    assert _half_widths(found)[1] > 0  # though equal losses have no variance of their own


GOOD = _groups(2)


@pytest.mark.parametrize(
    ("groups", "options", "message"),
    [
        ([], {"best": 0}, "best=0 is not a group: it must be the index of one of 0 groups"),
        (GOOD, {"best": 4}, "best=4 is not a group"),
        (GOOD, {"best": -1}, "best=-1 is not allowed: it must be at least 0"),
        (GOOD, {"best": 0.0}, "best=0.0 is not allowed: it must be a whole number"),
        (GOOD, {"best": "a"}, "best='a' is not allowed: it must be a whole number"),
        (GOOD, {"best": 0, "draws": 99}, "draws=99 is not allowed: it must be at least 100"),
        (
            GOOD,
            {"best": 0, "draws": 1e4},
            "draws=10000.0 is not allowed: it must be a whole number",
        ),
        (GOOD, {"best": 0, "level": 1.0}, "level=1.0 is not allowed"),
        (GOOD, {"best": 0, "mask_N": np.ones(9, bool)}, "cannot be masked"),
        ([*GOOD, _groups(2, blocks=9)[0]], {"best": 0}, "the groups have 1500 and 450 losses"),
        (
            [*GOOD, _groups(1)[0]],
            {"best": 0, "is_paired_by_run": True},
            "the groups have 1 and 2 runs",
        ),
    ],
)
def test_families_that_make_no_sense_are_refused_in_one_line(
    groups: list[BlockSums], options: dict, message: str
) -> None:
    with pytest.raises(CharlmError, match=message) as caught:
        compare_with_best(groups, **{**INDEPENDENT, **options})
    assert "\n" not in str(caught.value)


@pytest.mark.exhaustive
def test_equal_groups_are_seldom_said_to_differ() -> None:
    """The family's rate of 5 %, and two standard errors of 120 texts."""
    found = rates(2, repetitions=120, draws=500)
    for case in CASES:
        if case != ("second part", True):
            best, any_worse, by_p = found[case]
            assert best <= 0.01 and any_worse <= 0.09 and by_p <= 0.09, case
    assert found["second part", None][1] > 0.09
    assert found["same part", None][1] > 0.3
