"""Draws follow the softmax, at every scale, from noise that knows nothing of the scale."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from charlm_jax.core.errors import CharlmError
from charlm_jax.core.prng import KeyStream, stream_key
from charlm_jax.sampling.categorical import (
    gumbel_noise,
    sample_keys,
    scaled_categorical,
    scaled_probabilities,
    temperature,
)
from charlm_jax.sampling.params import check_scale

pytestmark = pytest.mark.optimised

LOGITS = jnp.array([1.0, 1.0, 3.0, -2.0])


def _draws(scale: float, samples: int = 4000) -> np.ndarray:
    noise = gumbel_noise(sample_keys(0, samples), jnp.int32(0), len(LOGITS))
    logits = jnp.tile(LOGITS[None], (samples, 1))
    return np.asarray(scaled_categorical(logits, noise, jnp.full(samples, scale)))


@pytest.mark.core
@pytest.mark.parametrize("scale", [0.0, 0.1, 0.5, 1.0, 2.0])
def test_frequencies_match_the_scaled_softmax(scale: float) -> None:
    draws = _draws(scale)
    probabilities = scaled_probabilities(LOGITS[None], jnp.array([scale]))[0]
    expected = np.asarray(probabilities, np.float64) * len(draws)
    counts = np.bincount(draws, minlength=len(LOGITS))
    if expected.min() < 5:  # the chi-square approximation wants five of each
        counts = np.array([*counts[:2], counts[2] + counts[3]])
        expected = np.array([*expected[:2], expected[2] + expected[3]])
    assert stats.chisquare(counts, expected * counts.sum() / expected.sum()).pvalue > 1e-3


def test_infinity_is_greedy_and_large_scales_approach_it() -> None:
    assert (_draws(float("inf")) == 2).all()
    assert (_draws(1e30) == 2).all()


def test_the_book_scaled_probabilities() -> None:
    logits = jnp.array([[1.0, 1.0, 3.0]] * 3)
    expected = [
        [0.10650698, 0.10650698, 0.78698604],
        [0.21194156, 0.21194156, 0.57611688],
        [0.31042377, 0.31042377, 0.37915245],
    ]
    found = scaled_probabilities(logits, jnp.array([1.0, 0.5, 0.1]))
    np.testing.assert_allclose(found, expected, atol=1e-7)


def test_a_key_depends_on_the_sample_and_the_seed_alone() -> None:
    few, many = jax.random.key_data(sample_keys(3, 2)), jax.random.key_data(sample_keys(3, 5))
    np.testing.assert_array_equal(few, many[:2])
    np.testing.assert_array_equal(jax.random.key_data(sample_keys(3, 2, first=3)), many[3:])
    assert len({tuple(row) for row in many.tolist()}) == 5
    other = jax.random.key_data(sample_keys(4, 5))
    assert not (many == other).all(axis=1).any()


def test_noise_differs_by_row_and_by_step() -> None:
    keys = sample_keys(0, 3)
    blocks = [gumbel_noise(keys, jnp.int32(step), 5) for step in range(4)]
    values = np.concatenate([np.asarray(block).ravel() for block in blocks])
    assert len(np.unique(values)) == len(values)


@pytest.mark.parametrize("scale", [-0.1, float("nan"), -float("inf")])
def test_a_negative_scale_is_refused(scale: float) -> None:
    with pytest.raises(CharlmError, match="scale"):
        check_scale(scale)


def test_temperature_is_the_inverse() -> None:
    assert temperature(0.5) == 2.0 and temperature(float("inf")) == 0.0
    assert temperature(0.0) == float("inf")


def test_sampling_shares_no_key_with_training_of_the_same_seed() -> None:
    def words(keys: jax.Array) -> set[tuple[int, ...]]:
        return {tuple(words) for words in jax.random.key_data(keys).reshape(-1, 2).tolist()}

    keys = sample_keys(1, 8)
    steps = jnp.arange(8)
    fold = jax.vmap(jax.random.fold_in, (None, 0))
    spent = [fold(stream_key(1, s), steps) for s in KeyStream if s != KeyStream.SAMPLING]
    roots = jnp.stack([stream_key(1, stream) for stream in KeyStream])
    assert not words(keys) & (words(roots) | set().union(*map(words, spent)))
