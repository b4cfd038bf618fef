"""A hash of a whole state: equal for equal bits, different for any other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charlm_jax.core.tree_hash import content_hash, format_hash, hash_tree
from tests.conftest import examples

pytestmark = pytest.mark.optimised

TREE = {
    "a": np.linspace(-1, 1, 60, dtype=np.float32).reshape(3, 20),
    "b": (np.arange(7, dtype=np.int32), np.array([True, False]), np.float32(0.5)),
    "c": np.arange(9, dtype=np.uint8),
    "d": jnp.linspace(0, 1, 5, dtype=jnp.bfloat16),
}
HASH = jax.jit(hash_tree)


def _hash(tree: object) -> str:
    return format_hash(np.asarray(HASH(tree)))


@pytest.mark.core
def test_equal_trees_have_equal_hashes_jitted_or_not() -> None:
    copy = jax.tree.map(np.copy, TREE)
    assert _hash(TREE) == _hash(copy) == format_hash(np.asarray(hash_tree(TREE)))
    assert len(_hash(TREE)) == 16 and int(_hash(TREE), 16) >= 0


@pytest.mark.core
def test_leaves_add_up_to_the_hash() -> None:
    tree = {**TREE, "e": np.arange(24, dtype=np.float32).reshape(2, 3, 4), "f": np.zeros((3, 0))}
    tree["f"] = tree["f"].astype(np.float32)
    by_leaf = jax.jit(lambda tree: hash_tree(tree, by_leaf=True))(tree)
    assert format_hash(np.asarray(by_leaf)) == _hash(tree)


@examples(0.6)
@given(st.data())
def test_any_flipped_bit_changes_the_hash(data: st.DataObject) -> None:
    leaves, structure = jax.tree.flatten(jax.tree.map(np.array, TREE))
    index = data.draw(st.integers(0, len(leaves) - 1))
    leaf = leaves[index]
    is_bool = leaf.dtype == bool
    raw = bytearray(leaf.tobytes())
    place = data.draw(st.integers(0, len(raw) - 1))
    raw[place] ^= 1 if is_bool else 1 << data.draw(st.integers(0, 7))
    leaves[index] = np.frombuffer(bytes(raw), leaf.dtype).reshape(leaf.shape)
    flipped = jax.tree.unflatten(structure, leaves)
    assert _hash(flipped) != _hash(TREE)
    assert content_hash(flipped) != content_hash(TREE)


def test_where_a_value_stands_counts() -> None:
    hashes = [
        _hash({"a": np.array([1.0, 2.0], np.float32), "b": np.zeros(2, np.float32)}),
        _hash({"a": np.array([2.0, 1.0], np.float32), "b": np.zeros(2, np.float32)}),
        _hash({"a": np.zeros(2, np.float32), "b": np.array([1.0, 2.0], np.float32)}),
        _hash({"a": np.array([1.0, 2.0], np.float32), "b": -np.zeros(2, np.float32)}),
        _hash({"a": np.array([1.0, 2.0], np.float32)}),
    ]
    assert len(set(hashes)) == len(hashes)


def test_the_content_hash_tells_names_types_and_shapes_apart() -> None:
    zeros = np.zeros(4, np.float32)
    trees = [
        {"a": zeros},
        {"b": zeros},
        {"a": zeros.astype(np.int32)},
        {"a": zeros.reshape(2, 2)},
        {"a": zeros[:2], "b": zeros[:2]},
    ]
    assert len({content_hash(tree) for tree in trees}) == len(trees)
    assert content_hash({"a": jnp.zeros(4)}) == content_hash({"a": zeros})
    assert content_hash({"a": np.eye(3)[:, ::2]}) == content_hash({"a": np.eye(3)[:, ::2].copy()})
