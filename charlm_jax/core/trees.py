"""Trees of arrays: leaves by path, their descriptions, and sizes.

JAX is imported when a tree is there: a list of runs needs none.
"""

from collections.abc import Mapping, Sequence
from typing import Any


def leaves_by_path(tree: Any, *, separator: str = "/") -> dict[str, Any]:
    """Return the leaves of a tree by path, in the tree's order.

    >>> leaves_by_path({"layer_0": {"kernel": 1.0, "bias": 2.0}, "norm": (3.0,)})
    {'layer_0/bias': 2.0, 'layer_0/kernel': 1.0, 'norm/0': 3.0}
    """
    import jax

    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator=separator): x for path, x in leaves}


def describe_leaf(dtype: Any, shape: Sequence[Any]) -> str:
    """Return an array's dtype and shape in words.

    >>> describe_leaf("float32", (2, 3)), describe_leaf("float32", ["V"])
    ('float32 of shape (2, 3)', 'float32 of shape (V,)')
    """
    sizes = ", ".join(map(str, shape)) + ("," if len(shape) == 1 else "")
    return f"{dtype} of shape ({sizes})"


def tree_mismatch(there: Mapping[str, str], here: Mapping[str, str]) -> str | None:
    """Return a description of the first difference between two trees; None if they match.

    Args:
      there: leaves of a saved tree, path -> `describe_leaf`.
      here: leaves of the required tree, in the same form.

    >>> tree_mismatch({"a": "float32 of shape (2,)"}, {})
    'a is float32 of shape (2,) there and missing here'
    """
    for path in sorted(there.keys() | here.keys()):
        if there.get(path) != here.get(path):
            found, needed = there.get(path, "missing"), here.get(path, "missing")
            return f"{path} is {found} there and {needed} here"
    return None


def count_parameters(params: Any) -> int:
    """Return the number of values in a tree of arrays."""
    import jax

    return sum(leaf.size for leaf in jax.tree.leaves(params))
