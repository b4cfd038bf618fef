"""Permutations that are computed in part: exact, and even."""

import jax
import numpy as np
import pytest
from scipy import stats

from charlm_jax.data.permutation import permute


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 15, 16, 17, 63, 64, 65, 1000, 70_001])
def test_every_number_is_at_one_place(size: int) -> None:
    for seed in range(3):
        found = permute(jax.random.key(seed), np.arange(size), size=size)
        np.testing.assert_array_equal(np.sort(found), np.arange(size))


@pytest.mark.parametrize("size", [5_000_000, 2**31 - 1, 2**32])
def test_a_part_is_that_of_the_whole(size: int) -> None:
    key, first = jax.random.key(7), size - 5000
    stretch = permute(key, np.arange(first, size), size=size)
    some = np.array([4999, 0, 77])
    np.testing.assert_array_equal(stretch[some], permute(key, first + some, size=size))
    assert len(set(stretch.tolist())) == 5000 and stretch.min() >= 0 and stretch.max() < size


def test_numbers_and_their_neighbours_are_anywhere() -> None:
    """By chi-square tests over keys, and over the places of one permutation."""
    orders = np.array([permute(jax.random.key(n), np.arange(6), size=6) for n in range(600)])
    for place in range(6):
        assert stats.chisquare(np.bincount(orders[:, place], minlength=6)).pvalue > 1e-3
    steps = (orders[:, 1] - orders[:, 0]) % 6
    assert stats.chisquare(np.bincount(steps, minlength=6)[1:]).pvalue > 1e-3
    size = 1_000_003
    order = permute(jax.random.key(0), np.arange(size), size=size)
    counts, _, _ = np.histogram2d(np.arange(size), order, bins=20)
    assert stats.chisquare(counts.ravel()).pvalue > 1e-3
    assert abs(np.corrcoef(order[1:], order[:-1])[0, 1]) < 0.005
