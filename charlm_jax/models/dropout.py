"""Dropout of activations, of symbols and of recurrent weights. Without a key there is none."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from charlm_jax.config.schema import ModelConfig
from charlm_jax.core.errors import CharlmError, lookup
from charlm_jax.core.prng import key_of_batch
from charlm_jax.core.types import Params

# Folded into a key that is also split, once for each layer: splits are those of 0 to 64.
_SYMBOLS, _WEIGHTS = 2**16, 2**16 + 1


class PieceKeys(NamedTuple):
    """Keys of one piece of a sequence that is read in pieces.

    Attributes:
      sequence: key of the whole sequence, for masks that its pieces share.
      piece: key of the piece, for masks of its positions.
    """

    sequence: jax.Array
    piece: jax.Array


DropoutKey = jax.Array | PieceKeys
"""Key of the dropout in a batch, or keys of a piece of its sequences."""


def piece_keys(key: DropoutKey) -> PieceKeys:
    """Return the keys of a piece; sequences that are read at once are one piece."""
    return key if isinstance(key, PieceKeys) else PieceKeys(key, key)


def split_into_pieces(key: DropoutKey, count: int) -> PieceKeys:
    """Return the keys of `count` pieces, stacked along a first axis."""
    sequence, piece = piece_keys(key)
    return PieceKeys(jnp.broadcast_to(sequence, (count,)), jax.random.split(piece, count))


def drop(x: jax.Array, *, rate: float, key: jax.Array, shape: Sequence[int]) -> jax.Array:
    """Zero a fraction `rate` of the values and scale up the rest.

    Source: Srivastava et al. 2014.

    Args:
      x: values.
      rate: probability that a value is zeroed.
      key: key of the mask.
      shape: shape of the mask, that of x; an axis of 1 shares the mask along it.
    """
    keep = jax.random.bernoulli(key, 1.0 - rate, shape)
    return jnp.where(keep, x / (1.0 - rate), jnp.zeros_like(x))


@dataclasses.dataclass(frozen=True)
class Dropout:
    """Dropout of activations, with a mask of every position or one of the whole sequence.

    The latter is variational dropout (Gal and Ghahramani 2016, arXiv 1512.05287, section 4): a unit
    that is dropped is dropped at all positions of a row.

    Attributes:
      rate: fraction of the activations zeroed in training.
      shares_mask: whether the positions of a sequence share a mask.
    """

    rate: float
    shares_mask: bool

    def choose_key(self, key: DropoutKey) -> jax.Array | None:
        """Return the key of the masks of a piece; None if nothing is dropped."""
        if self.rate == 0.0:
            return None
        return piece_keys(key).sequence if self.shares_mask else piece_keys(key).piece

    def __call__(self, x_BTD: jax.Array, *, key: jax.Array | None) -> jax.Array:
        if key is None or self.rate == 0.0:
            return x_BTD
        batch, length, width = x_BTD.shape
        shape = (batch, 1 if self.shares_mask else length, width)
        return drop(x_BTD, rate=self.rate, key=key, shape=shape)


_SHARES_MASK: Mapping[str, bool] = {"position": False, "sequence": True}


def build_dropout(model: ModelConfig) -> Dropout:
    """Build the dropout of activations; raise `CharlmError` for an unknown name."""
    shares_mask = lookup(_SHARES_MASK, model.dropout_mask, "config.model.dropout_mask")
    return Dropout(model.dropout, shares_mask)


def drop_symbols(table_VD: jax.Array, *, rate: float, key: jax.Array | None) -> jax.Array:
    """Zero the vectors of a fraction `rate` of the symbols and scale up the rest.

    All rows of a batch share the mask: a dropped symbol is unknown to the whole training step.

    Source: Merity et al. 2017 (arXiv 1708.02182), section 4.3.

    Args:
      table_VD: vectors of the symbols.
      rate: probability that a symbol is dropped.
      key: key of the training step, or of some of its rows; None drops nothing.
    """
    if key is None or rate == 0.0:
        return table_VD
    key = jax.random.fold_in(key_of_batch(key), _SYMBOLS)
    return drop(table_VD, rate=rate, key=key, shape=(table_VD.shape[0], 1))


def drop_recurrent_weights(params: Params, *, rate: float, key: jax.Array | None) -> Params:
    """Zero a fraction `rate` of the weights of all recurrent kernels and scale up the rest.

    The mask of a weight is that of the training step, shared by all rows and positions: DropConnect
    (Wan et al. 2013) on the products with hidden states. Recurrent kernels are the weights named
    `recurrent_kernel`.

    Source: Merity et al. 2017 (arXiv 1708.02182), section 2.

    Args:
      params: weights of a model.
      rate: probability that a weight is dropped.
      key: key of the training step, or of some of its rows; None drops nothing.
    """
    if key is None or rate == 0.0:
        return params
    leaves, form = jax.tree_util.tree_flatten_with_path(params)
    keys = jax.random.split(jax.random.fold_in(key_of_batch(key), _WEIGHTS), len(leaves))
    dropped = [
        drop(x, rate=rate, key=key, shape=x.shape) if _is_recurrent(path) else x
        for (path, x), key in zip(leaves, keys, strict=True)
    ]
    return jax.tree.unflatten(form, dropped)


def require_recurrent_weights(params: Params, model: ModelConfig) -> None:
    """Raise `CharlmError` if no weight of a model could be dropped.

    Args:
      params: weights of the model, or their shapes.
      model: its config.
    """
    leaves = jax.tree_util.tree_leaves_with_path(params)
    if not any(_is_recurrent(path) for path, _ in leaves):
        raise CharlmError(
            f"config.model.weight_dropout={model.weight_dropout} is not allowed: it must be 0, "
            f"because no layer of config.model.layers={','.join(model.layers)} multiplies its "
            f"state by a recurrent kernel, as lstm, gru, rnn and slstm do"
        )


def _is_recurrent(path: tuple[Any, ...]) -> bool:
    return bool(path[-1].key == "recurrent_kernel")
