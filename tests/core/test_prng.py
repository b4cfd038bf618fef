"""Keys of rows draw the bits of the whole batch."""

import jax
import numpy as np
import pytest

from charlm_jax.core.numerics import fixed_numerics
from charlm_jax.core.prng import _product, key_from_row, root_key

B, ROW = 6, 2


@pytest.mark.core
@pytest.mark.parametrize("shape", [(), (5,), (3, 4)])
@fixed_numerics()
def test_rows_are_drawn_as_in_the_whole_batch(shape: tuple[int, ...]) -> None:
    key = root_key(3)
    for step in (
        lambda key: key,
        lambda key: jax.random.fold_in(key, 7),
        lambda key: jax.random.split(key, 3)[1],
        lambda key: jax.random.split(jax.random.split(key, (2, 2))[1, 0])[1],
    ):
        whole = jax.random.bernoulli(step(key), 0.4, (B, *shape))
        later = jax.random.bernoulli(step(key_from_row(key, ROW)), 0.4, (B - ROW, *shape))
        np.testing.assert_array_equal(whole[ROW:], later)
        twice = key_from_row(key_from_row(key, 1), ROW - 1)
        np.testing.assert_array_equal(
            later, jax.random.bernoulli(step(twice), 0.4, (B - ROW, *shape))
        )


@fixed_numerics()
def test_rows_of_a_scan_are_drawn_as_outside() -> None:
    def draw(carry: None, key: jax.Array) -> tuple[None, jax.Array]:
        return carry, jax.random.uniform(key, (B, 3))

    keys = jax.random.split(key_from_row(root_key(1), ROW), 2)
    _, found = jax.jit(lambda keys: jax.lax.scan(draw, None, keys))(keys)
    wanted = [jax.random.uniform(key, (B + ROW, 3))[ROW:] for key in jax.random.split(root_key(1))]
    np.testing.assert_array_equal(found, np.stack(wanted))


@pytest.mark.parametrize("factor", [1, 40 * 512, 2**31 + 12345, 2**32 - 1])
def test_products_have_sixty_four_bits(factor: int) -> None:
    x = np.array([0, 1, 2, 65_535, 65_536, 123_456_789, 2**31, 2**32 - 1], np.uint32)
    high, low = (np.asarray(word, np.uint64) for word in _product(jax.numpy.asarray(x), factor))
    np.testing.assert_array_equal((high << 32) | low, x.astype(np.uint64) * np.uint64(factor))


def test_arrays_without_rows_are_refused() -> None:
    with pytest.raises(TypeError, match="draws rows"):
        jax.random.uniform(key_from_row(root_key(0), 1), ())
