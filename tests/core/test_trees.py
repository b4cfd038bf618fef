"""Leaves have the paths of their tree, and the first difference of two trees is named."""

import jax
import jax.numpy as jnp
import pytest

from charlm_jax.core.trees import count_parameters, describe_leaf, leaves_by_path, tree_mismatch

TREE = {"output": {"bias": jnp.ones(3, jnp.bfloat16)}, "embedding": jnp.zeros((2, 3)), "none": ()}


def _words(tree: object) -> dict[str, str]:
    return {path: describe_leaf(x.dtype, x.shape) for path, x in leaves_by_path(tree).items()}


def test_leaves_come_in_the_order_of_the_tree() -> None:
    leaves = leaves_by_path(TREE)
    assert list(leaves) == ["embedding", "output/bias"]
    assert list(leaves_by_path(TREE, separator=".")) == ["embedding", "output.bias"]
    assert [*leaves.values()] == jax.tree.leaves(TREE)
    assert list(leaves_by_path(jnp.zeros(2))) == [""]
    assert count_parameters(TREE) == 9 and count_parameters({}) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"embedding": jnp.zeros((2, 4))}, r"embedding is float32 of shape (2, 4) there"),
        ({"embedding": jnp.zeros((2, 3), jnp.int32)}, "int32 of shape (2, 3) there and float32"),
        ({"output": {}}, "output/bias is missing there and bfloat16 of shape (3,) here"),
        ({"another": jnp.zeros(())}, "another is float32 of shape () there and missing here"),
    ],
)
def test_the_first_difference_is_named(change: dict, message: str) -> None:
    assert tree_mismatch(_words(TREE), _words(TREE)) is None
    found = tree_mismatch(_words(TREE | change), _words(TREE))
    assert found is not None and message in found
