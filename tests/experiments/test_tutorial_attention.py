"""Self-attention: against plain loops, and by its properties."""

import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.tutorial.attention import basic_self_attention, self_attention

T, D, K = 6, 5, 3


@pytest.fixture(autouse=True)
def _strict_dtypes() -> Iterator[None]:
    with jax.numpy_dtype_promotion("strict"):
        yield


@pytest.fixture
def x_TD() -> jax.Array:
    return jax.random.normal(jax.random.key(0), (T, D))


@pytest.fixture
def matrices() -> tuple[jax.Array, jax.Array, jax.Array]:
    query_DK, key_DK, value_DK = jax.random.normal(jax.random.key(1), (3, D, K))
    return query_DK, key_DK, value_DK


def softmax(scores: np.ndarray) -> np.ndarray:
    exponentials = np.exp(scores - scores.max())
    return exponentials / exponentials.sum()


def loop(
    queries: np.ndarray, keys: np.ndarray, values: np.ndarray, scale: float
) -> tuple[np.ndarray, np.ndarray]:
    """The chapter's three steps for one position after another, in float64."""
    outputs, weights = [], []
    for query in queries:
        row = softmax(np.array([scale * float(query @ key) for key in keys]))
        weights.append(row)
        outputs.append(sum(w * value for w, value in zip(row, values, strict=True)))
    return np.array(outputs), np.array(weights)


def test_basic_form_is_the_plain_loop(x_TD: jax.Array) -> None:
    x = np.asarray(x_TD, np.float64)
    o_TD, weights_TS = basic_self_attention(x_TD)
    expected_o, expected_weights = loop(x, x, x, scale=1.0)
    np.testing.assert_allclose(o_TD, expected_o, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(weights_TS, expected_weights, rtol=1e-4, atol=1e-6)
    assert o_TD.dtype == weights_TS.dtype == jnp.float32


@pytest.mark.parametrize("scale", [None, 0.3])
def test_parameterised_form_is_the_plain_loop(
    x_TD: jax.Array, matrices: tuple[jax.Array, ...], scale: float | None
) -> None:
    o_TK, weights_TS = self_attention(x_TD, *matrices, scale=scale)
    x = np.asarray(x_TD, np.float64)
    # U acts on column vectors in the chapter, so it is the transpose of what is handed in.
    q, k, v = ([U @ x_i for x_i in x] for U in (np.asarray(m, np.float64).T for m in matrices))
    factor = 1 / math.sqrt(K) if scale is None else scale
    expected_o, expected_weights = loop(np.array(q), np.array(k), np.array(v), factor)
    assert o_TK.shape == (T, K)
    np.testing.assert_allclose(o_TK, expected_o, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(weights_TS, expected_weights, rtol=1e-4, atol=1e-6)


def test_rows_of_the_weights_are_probabilities(
    x_TD: jax.Array, matrices: tuple[jax.Array, ...]
) -> None:
    for _, weights_TS in (basic_self_attention(x_TD), self_attention(x_TD, *matrices)):
        assert weights_TS.shape == (T, T)
        assert (weights_TS > 0).all()
        np.testing.assert_allclose(weights_TS.sum(axis=1), 1.0, rtol=1e-5)


def test_reordered_inputs_give_reordered_outputs(
    x_TD: jax.Array, matrices: tuple[jax.Array, ...]
) -> None:
    order_T = np.array([3, 0, 5, 1, 4, 2])
    for attention in (basic_self_attention, lambda x: self_attention(x, *matrices)):
        o_TD, weights_TS = attention(x_TD)
        o_there_TD, weights_there_TS = attention(x_TD[order_T])
        np.testing.assert_allclose(o_there_TD, o_TD[order_T], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(
            weights_there_TS, weights_TS[order_T][:, order_T], rtol=1e-4, atol=1e-6
        )


def test_identity_matrices_without_scaling_give_the_basic_form(x_TD: jax.Array) -> None:
    eye_DD = jnp.eye(D)
    plain = self_attention(x_TD, eye_DD, eye_DD, eye_DD, scale=1.0)
    for here, basic in zip(plain, basic_self_attention(x_TD), strict=True):
        np.testing.assert_allclose(here, basic, rtol=1e-5, atol=1e-6)
    _, scaled_TS = self_attention(x_TD, eye_DD, eye_DD, eye_DD)
    assert not np.allclose(scaled_TS, plain[1], atol=1e-2)


def test_the_softmax_runs_over_the_attended_positions() -> None:
    # The long vector draws all attention, its own and the short one's. Normalised over the wrong
    # axis, its row would hold everything and the short one's nothing.
    x_TD = jnp.array([[20.0, 0.0], [1.0, 0.0]])
    o_TD, weights_TS = basic_self_attention(x_TD)
    np.testing.assert_allclose(weights_TS, [[1.0, 0.0], [1.0, 0.0]], atol=1e-6)
    np.testing.assert_allclose(o_TD, [[20.0, 0.0], [20.0, 0.0]], rtol=1e-5)


def test_the_value_matrix_may_have_a_width_of_its_own(
    x_TD: jax.Array, matrices: tuple[jax.Array, ...]
) -> None:
    query_DK, key_DK, _ = matrices
    o_TK, weights_TS = self_attention(x_TD, query_DK, key_DK, jnp.eye(D))
    assert o_TK.shape == (T, D)
    np.testing.assert_allclose(o_TK, weights_TS @ x_TD, rtol=1e-5, atol=1e-6)
