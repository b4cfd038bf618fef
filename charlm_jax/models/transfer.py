"""One model's weights as the start of another's, whose symbols may be others."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from charlm_jax.core.errors import CharlmError
from charlm_jax.core.types import Params


def transfer_params(there: Params, symbols_there: str, here: Params, symbols_here: str) -> Params:
    """The weights of a trained model, for another text.

    A symbol that both models know keeps its row of the embedding and its column of the output
    layer, wherever it stands in either alphabet; one that is new keeps what it was drawn with; one
    that is no longer needed goes. Everything else is taken over as it is.

    Args:
      there: weights of the trained model.
      symbols_there: its symbols.
      here: freshly drawn weights of the new model.
      symbols_here: its symbols.

    Raises:
      CharlmError: the models differ in more than their symbols; the message names the first array.
    """
    # The axis that counts symbols is left out of the comparison.
    shapes_there, shapes_here = _shapes(there), _shapes(here)
    for name in sorted(shapes_there.keys() | shapes_here.keys()):
        if shapes_there.get(name) != shapes_here.get(name):
            raise CharlmError(
                f"it is another model: {name} is {shapes_there.get(name, 'missing')} there and "
                f"{shapes_here.get(name, 'missing')} here"
            )
    both = sorted(set(symbols_there) & set(symbols_here))
    from_V = np.array([symbols_there.index(symbol) for symbol in both], np.int32)
    to_V = np.array([symbols_here.index(symbol) for symbol in both], np.int32)

    def merge(path: Any, new: jax.Array, old: jax.Array) -> jax.Array:
        axis = _SYMBOL_AXIS.get(_name(path))
        if axis is None:
            return jnp.asarray(old)
        merged = jnp.moveaxis(new, axis, 0).at[to_V].set(jnp.moveaxis(old, axis, 0)[from_V])
        return jnp.moveaxis(merged, 0, axis)

    return jax.tree_util.tree_map_with_path(merge, here, there)


_SYMBOL_AXIS: Mapping[str, int] = {"embedding": 0, "output/kernel": 1, "output/bias": 0}


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _shapes(params: Params) -> dict[str, str]:
    """Every array's type and shape in words, with V for the number of symbols."""
    shapes = {}
    for path, x in jax.tree_util.tree_leaves_with_path(params):
        sizes = [str(size) for size in x.shape]
        if (axis := _SYMBOL_AXIS.get(_name(path))) is not None:
            sizes[axis] = "V"
        shapes[_name(path)] = f"{x.dtype} of shape ({', '.join(sizes)})"
    return shapes
