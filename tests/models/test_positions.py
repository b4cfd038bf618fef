"""The position policies: against formulas, and by their properties."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from charlm_jax.models.positions import (
    POSITIONS,
    add_learned,
    add_sinusoids,
    linear_bias,
    rotate_pairs,
)
from tests.conftest import draw

B, T, H, K = 2, 6, 3, 8


@pytest.fixture(autouse=True)
def _strict_dtypes() -> Iterator[None]:
    with jax.numpy_dtype_promotion("strict"):
        yield


def test_policies_say_the_order_in_one_place_each() -> None:
    x_BTD, x_BTHK, places_T = draw(0, B, T, K), draw(1, B, T, H, K), np.arange(T)
    places_BT = jnp.broadcast_to(jnp.arange(T)[None], (B, T))
    acts = {}
    for name, position in POSITIONS.items():
        embedded_BTD = position.embed(x_BTD, places_BT, draw(2, T, K))
        rotated_BTHK = position.rotate(x_BTHK, places_T)
        assert embedded_BTD.shape == x_BTD.shape and rotated_BTHK.shape == x_BTHK.shape
        bias_HTS = position.bias(places_T[:, None] - places_T[None, :], H)
        acts[name] = (
            not np.array_equal(embedded_BTD, x_BTD),
            not np.array_equal(rotated_BTHK, x_BTHK),
            bias_HTS is not None,
        )
        # Where `embed` acts, it is handed the places; nothing else is.
        assert acts[name][0] == position.counts
        assert position.counts or not position.learns
    assert acts.pop("none") == (False, False, False)
    assert all(sum(places) == 1 for places in acts.values()), acts


# Learned.


def test_learned_adds_the_row_of_the_place() -> None:
    x_BTD, table_LD = draw(0, B, 3, K), draw(1, 9, K)
    places_BT = jnp.array([[0, 1, 2], [6, 7, 8]])
    expected = np.asarray(x_BTD) + np.asarray(table_LD)[np.asarray(places_BT)]
    np.testing.assert_array_equal(add_learned(x_BTD, places_BT, table_LD), expected)


def test_learned_adds_nothing_beyond_the_table() -> None:
    places_BT, x_BTD = jnp.array([[7, 8, 9, 10], [0, 8, 2**30, 3]]), draw(0, B, 4, K)
    added_BTD = np.asarray(add_learned(x_BTD, places_BT, draw(1, 9, K))) != np.asarray(x_BTD)
    np.testing.assert_array_equal(added_BTD.all(axis=-1), np.asarray(places_BT) < 9)
    np.testing.assert_array_equal(added_BTD.any(axis=-1), np.asarray(places_BT) < 9)


# Sinusoidal.


@pytest.mark.parametrize("width", [8, 5])
def test_sinusoids_are_the_papers_in_halves(width: int) -> None:
    places_BT = jnp.array([[0, 1, 2], [99, 100, 4000]])
    zeros_BTD = jnp.zeros((B, 3, width))
    ours_BTD = np.asarray(add_sinusoids(zeros_BTD, places_BT, None))
    pairs = (width + 1) // 2
    for b, t in np.ndindex(B, 3):
        # The paper's equations, entry by entry: sines at the even ones, cosines at the odd ones.
        place, paper = int(places_BT[b, t]), np.zeros(2 * pairs)
        for i in range(pairs):
            paper[2 * i] = np.sin(place / 10_000 ** (2 * i / width))
            paper[2 * i + 1] = np.cos(place / 10_000 ** (2 * i / width))
        halves = np.concatenate([paper[0::2], paper[1::2]])[:width]
        np.testing.assert_allclose(ours_BTD[b, t], halves, atol=2e-4)  # float32 angles of 4000


def test_sinusoids_are_added_to_an_embedding_times_the_root_of_its_width() -> None:
    x_BTD, places_BT = draw(0, 1, 3, K), jnp.array([[0, 1, 2]])
    waves_BTD = add_sinusoids(jnp.zeros((1, 3, K)), places_BT, None)
    expected = np.sqrt(K) * np.asarray(x_BTD) + np.asarray(waves_BTD)
    np.testing.assert_allclose(add_sinusoids(x_BTD, places_BT, None), expected, rtol=1e-6)


# Rotary.


def test_rotation_is_that_of_complex_numbers() -> None:
    x_BTHK, places_T = draw(0, B, T, H, K), np.array([0, 1, -1, 7, -300, 5000])
    x = np.asarray(x_BTHK, np.float64)
    pairs = x[..., : K // 2] + 1j * x[..., K // 2 :]
    frequencies = 10_000.0 ** (-2 * np.arange(K // 2) / K)
    turned = pairs * np.exp(1j * places_T[:, None] * frequencies)[None, :, None, :]
    expected = np.concatenate([turned.real, turned.imag], axis=-1)
    # A float32 frequency is off by 6e-8 of itself, and so the angle at place 5000 by 3e-4.
    np.testing.assert_allclose(rotate_pairs(x_BTHK, places_T), expected, atol=1e-3)
    near = np.abs(places_T) < 10
    np.testing.assert_allclose(
        rotate_pairs(x_BTHK[:, near], places_T[near]), expected[:, near], atol=2e-6
    )


def test_rotation_keeps_lengths_and_place_0() -> None:
    x_BTHK, places_T = draw(0, B, T, H, K), np.arange(-2, T - 2)
    turned_BTHK = rotate_pairs(x_BTHK, places_T)
    lengths = np.linalg.norm(x_BTHK, axis=-1)
    np.testing.assert_allclose(np.linalg.norm(turned_BTHK, axis=-1), lengths, rtol=1e-5)
    np.testing.assert_array_equal(turned_BTHK[:, 2], x_BTHK[:, 2])


def scores(
    query_BTHK: jax.Array, key_BTHK: jax.Array, query_places: np.ndarray, key_places: np.ndarray
) -> jax.Array:
    query_BTHK = rotate_pairs(query_BTHK, query_places)
    return jnp.einsum("bthk,bshk->bhts", query_BTHK, rotate_pairs(key_BTHK, key_places))


@pytest.mark.parametrize("shift", [1, -1, 40, -1000])
def test_rotated_scores_depend_on_distances_only(shift: int) -> None:
    query_BTHK, key_BTHK, places_T = draw(0, B, T, H, K), draw(1, B, T, H, K), np.arange(T)
    here = scores(query_BTHK, key_BTHK, places_T, places_T)
    there = scores(query_BTHK, key_BTHK, places_T + shift, places_T + shift)
    np.testing.assert_allclose(there, here, atol=1e-3 if abs(shift) > 100 else 5e-5)
    moved = scores(query_BTHK, key_BTHK, places_T + shift, places_T)
    assert np.abs(moved - here).max() > 0.1


# ALiBi.


def test_slopes_of_8_heads_are_powers_of_a_half() -> None:
    bias_HTS = linear_bias(np.array([[1]]), 8)
    np.testing.assert_array_equal(-bias_HTS[:, 0, 0], [2.0**-h for h in range(1, 9)])


def test_slopes_of_2_heads_are_those_of_the_papers_rule() -> None:
    """A geometric sequence that starts at 2^(-8/H), with that as its ratio."""
    np.testing.assert_array_equal(-linear_bias(np.array([[1]]), 2)[:, 0, 0], [1 / 16, 1 / 256])


def test_a_bias_is_minus_the_slope_times_the_distance() -> None:
    distance_TS = np.arange(T)[:, None] - np.arange(-2, T)[None, :]
    bias_HTS = linear_bias(distance_TS, 4)
    assert bias_HTS.dtype == np.float32 and bias_HTS.shape == (4, T, T + 2)
    for h, t, s in np.ndindex(bias_HTS.shape):
        assert bias_HTS[h, t, s] == -(4.0 ** -(h + 1)) * (t - (s - 2))
