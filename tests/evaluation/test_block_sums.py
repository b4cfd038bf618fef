"""Sums over blocks give every interval of the losses, and only sums of one text go together."""

import json
import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charlm_jax.core.errors import CharlmError
from charlm_jax.evaluation.block_sums import BlockSums, block_sums, join_runs, subtract_runs
from charlm_jax.evaluation.bootstrap import difference, mean_interval, std_over_seeds

DTYPES = (np.float32, np.float64)


def _losses(runs: int, characters: int, seed: int, dtype: type = np.float32) -> np.ndarray:
    return np.random.default_rng(seed).gamma(2.0, size=(runs, characters)).astype(dtype)


def _through_json(sums: BlockSums) -> BlockSums:
    lists = json.loads(json.dumps([x.tolist() for x in sums]))
    return BlockSums(np.array(lists[0]), np.array(lists[1]))


@pytest.mark.core
@given(
    runs=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    characters=st.integers(1, 300),
    block=st.integers(1, 40),
    share=st.sampled_from([0.05, 0.5, None]),
    dtype=st.sampled_from(DTYPES),
    is_paired=st.booleans(),
    seed=st.integers(0, 99),
)
def test_sums_give_the_intervals_of_the_losses_bit_for_bit(
    runs: tuple[int, int],
    characters: int,
    block: int,
    share: float | None,
    dtype: type,
    is_paired: bool,
    seed: int,
) -> None:
    a_SN, b_RN = (_losses(n, characters, seed + k, dtype) for k, n in enumerate(runs))
    mask_N = None
    if share is not None:
        mask_N = np.random.default_rng(seed).random(characters) < share
        mask_N[characters // 2] = True
    a, b = (_through_json(block_sums(x, mask_N=mask_N, block=block)) for x in (a_SN, b_RN))
    drawn = {"draws": 100, "seed": seed}
    assert mean_interval(a, **drawn) == mean_interval(a_SN, mask_N=mask_N, block=block, **drawn)
    assert difference(a, b, is_paired=is_paired, **drawn) == difference(
        a_SN, b_RN, mask_N=mask_N, block=block, is_paired=is_paired, **drawn
    )
    assert a.mean == mean_interval(a, **drawn).mean
    if mask_N is None:
        whole = block_sums(a_SN)
        assert std_over_seeds(whole) == std_over_seeds(a_SN)


@pytest.mark.parametrize("seed", range(5))
def test_the_mean_of_sums_is_that_of_the_interval(seed: int) -> None:
    nll_SN = _losses(3, 4321, seed, np.float64)  # sums of float32 hardly round
    sums = block_sums(nll_SN, block=10)
    assert sums.mean == mean_interval(sums).mean == mean_interval(nll_SN, block=10).mean


def test_blocks_keep_their_places_under_any_mask() -> None:
    nll_SN, mask_N = _losses(2, 95, seed=0), np.arange(95) % 50 < 10
    sums = block_sums(nll_SN, mask_N=mask_N, block=10)
    np.testing.assert_array_equal(sums.counts_K, [10, 0, 0, 0, 0, 10, 0, 0, 0, 0])
    assert sums.sums_SK.dtype == np.float64 and sums.counts_K.dtype == np.int64
    np.testing.assert_allclose(sums.sums_SK[:, 5], nll_SN[:, 50:60].sum(axis=1), rtol=1e-6)
    rest = block_sums(nll_SN, mask_N=~mask_N, block=10)
    whole = block_sums(nll_SN, block=10)
    np.testing.assert_array_equal(sums.counts_K + rest.counts_K, whole.counts_K)
    np.testing.assert_allclose(sums.sums_SK + rest.sums_SK, whole.sums_SK, rtol=1e-12)


def test_a_difference_of_sums_is_that_of_the_losses() -> None:
    a_SN, b_SN = (_losses(3, 430, seed, np.float64) for seed in (0, 1))
    found = mean_interval(subtract_runs(*(block_sums(x, block=20) for x in (a_SN, b_SN))))
    np.testing.assert_allclose(found, mean_interval(a_SN - b_SN, block=20), rtol=1e-9)
    a = block_sums(a_SN, block=20)
    assert mean_interval(subtract_runs(a, a)) == (0.0, 0.0, 0.0)


def test_runs_that_were_summed_one_by_one_are_a_group() -> None:
    nll_SN = _losses(3, 95, seed=0)
    joined = join_runs([block_sums(nll_SN[:2], block=10), block_sums(nll_SN[2:], block=10)])
    for found, expected in zip(joined, block_sums(nll_SN, block=10), strict=True):
        np.testing.assert_array_equal(found, expected)


GOOD = block_sums(np.ones((2, 30)), block=10)
SHORT = block_sums(np.ones((2, 25)), block=10)
CUT = block_sums(np.ones((2, 30)), block=15)


@pytest.mark.parametrize(
    ("refused", "message"),
    [
        (lambda: subtract_runs(GOOD, SHORT), "the groups have 30 and 25 losses"),
        (lambda: subtract_runs(GOOD, CUT), "30 losses each, in different blocks"),
        (lambda: subtract_runs(GOOD, block_sums(np.ones((1, 30)), block=10)), "2 and 1 runs"),
        (lambda: join_runs([GOOD, SHORT]), "30 and 25 losses: both must be for the same text"),
        (lambda: join_runs([]), "no runs to join"),
        (lambda: difference(GOOD, CUT), "cut in the same way"),
        (lambda: mean_interval(GOOD, mask_N=np.ones(30, bool)), "cannot be masked"),
        (lambda: mean_interval(GOOD, block=10), "give mask_N and block to block_sums"),
        (lambda: block_sums(np.ones((2, 30)), block=0), "block=0 is not allowed"),
        (
            lambda: block_sums(np.ones((2, 30)), mask_N=np.arange(30)),
            "the mask has dtype int64: it must be boolean",
        ),
        (lambda: subtract_runs(np.ones((2, 30)), GOOD), "ndarray is given in place of BlockSums"),
        (lambda: join_runs([[1.0, 2.0]]), "list is given in place of BlockSums"),
        (
            lambda: mean_interval(BlockSums([[1.0, 2.0], [1.0]], [10, 10])),
            "rows of different lengths",
        ),
        (
            lambda: mean_interval(GOOD._replace(sums_SK=np.ones(3))),
            r"the sums have shape \(3,\) and the counts \(3,\)",
        ),
        (lambda: mean_interval(GOOD._replace(counts_K=np.array([10, 10]))), "a count for each"),
        (lambda: mean_interval(GOOD._replace(counts_K=np.array([10, -1, 1]))), "at least 0"),
        (lambda: mean_interval(GOOD._replace(counts_K=np.array([10, 0.5, 1]))), "integers"),
        (lambda: mean_interval(GOOD._replace(counts_K=np.zeros(3, int))), "include no character"),
        (lambda: mean_interval(GOOD._replace(counts_K=np.array([10, 0, 10]))), "0 without"),
        (
            lambda: mean_interval(GOOD._replace(sums_SK=np.array([[1, 1, 1], [1, math.nan, 1]]))),
            "run 1 has a sum of nan over the 10 characters of block 1",
        ),
    ],
)
def test_sums_that_make_no_sense_are_refused_in_one_line(
    refused: Callable[[], object], message: str
) -> None:
    with pytest.raises(CharlmError, match=message) as caught:
        refused()
    assert "\n" not in str(caught.value)
