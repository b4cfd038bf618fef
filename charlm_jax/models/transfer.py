"""Transfer of weights to a model whose symbols may differ."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from charlm_jax.core.errors import CharlmError
from charlm_jax.core.trees import describe_leaf, leaves_by_path, tree_mismatch
from charlm_jax.core.types import Params


def transfer_params(there: Params, symbols_there: str, here: Params, symbols_here: str) -> Params:
    """Transfer the weights of a trained model to a model of another text.

    A symbol that both models know keeps its row of the embedding and its column of the output
    layer, whatever its id in either model. A new symbol keeps its fresh initial values; a symbol
    that the new model lacks is dropped. All other weights are copied unchanged.

    Args:
      there: weights of the trained model.
      symbols_there: symbols of the trained model.
      here: freshly initialized weights of the new model.
      symbols_here: symbols of the new model.

    Raises:
      CharlmError: the models differ in more than their symbols; the message names the first array
        that differs.
    """
    # The axis of symbols is left out of the comparison.
    if mismatch := tree_mismatch(_describe_leaves(there), _describe_leaves(here)):
        raise CharlmError(f"it is a different model: {mismatch}")
    both = sorted(set(symbols_there) & set(symbols_here))
    from_V = np.array([symbols_there.index(symbol) for symbol in both], np.int32)
    to_V = np.array([symbols_here.index(symbol) for symbol in both], np.int32)

    def merge(name: str, old: jax.Array, new: jax.Array) -> jax.Array:
        axis = _SYMBOL_AXIS.get(name)
        if axis is None:
            return jnp.asarray(old)
        merged = jnp.moveaxis(new, axis, 0).at[to_V].set(jnp.moveaxis(old, axis, 0)[from_V])
        return jnp.moveaxis(merged, 0, axis)

    old, new = leaves_by_path(there), leaves_by_path(here)
    merged = [merge(name, old[name], leaf) for name, leaf in new.items()]
    return jax.tree.unflatten(jax.tree.structure(here), merged)


_SYMBOL_AXIS: Mapping[str, int] = {"embedding": 0, "output/kernel": 1, "output/bias": 0}


def _describe_leaves(params: Params) -> dict[str, str]:
    """Return dtypes and shapes by path, with V for the number of symbols."""
    leaves = {}
    for name, x in leaves_by_path(params).items():
        shape = [*map(str, x.shape)]
        if (axis := _SYMBOL_AXIS.get(name)) is not None:
            shape[axis] = "V"
        leaves[name] = describe_leaf(x.dtype, shape)
    return leaves
