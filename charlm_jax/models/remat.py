"""Rematerialization: training on long sequences in less memory."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from charlm_jax.core.types import ModelState, Params
from charlm_jax.models.dropout import DropoutKey, PieceKeys, split_into_pieces
from charlm_jax.models.language_model import LanguageModel


def rematerialize(model: LanguageModel, *, segment_length: int) -> LanguageModel:
    """Return the model with a gradient that needs less memory and more time.

    A sequence is read in segments. Only the states between them are kept for the backward pass,
    which recomputes the inside of each segment. Gradients still flow through the whole sequence
    (Chen et al. 2016; Gruslys et al. 2016). The logits still grow with the sequence. With dropout,
    every segment has a key of its own, split from the one that is given; masks of a whole sequence
    are common to its segments.

    Args:
      model: model whose state holds all information about the past, such as a recurrent one.
      segment_length: characters in a segment. A sequence that is no longer, or not a multiple of
        it, is read at once.
    """

    def inspect(
        params: Params, ids_BT: jax.Array, state: ModelState, *, key: DropoutKey | None = None
    ) -> Mapping[str, Any]:
        count, rest = divmod(ids_BT.shape[1], segment_length)
        if rest or count < 2:
            return model.inspect(params, ids_BT, state, key=key)
        keys: Any = [None] * count
        if key is not None:
            keys = map(PieceKeys, *split_into_pieces(key, count))
        captured = []
        for piece_BT, piece_key in zip(jnp.split(ids_BT, count, axis=1), keys, strict=True):
            captured.append(model.inspect(params, piece_BT, state, key=piece_key))
            _, state = model.apply(params, piece_BT, state, key=piece_key)
        return _concatenate(captured)

    apply = in_segments(model.apply, segment_length=segment_length)
    return model._replace(apply=apply, inspect=inspect)


def in_segments(
    read: Callable[..., tuple[Any, ModelState]], *, segment_length: int
) -> Callable[..., Any]:
    """Return a forward pass that reads a sequence in segments, as in `rematerialize`.

    Args:
      read: forward pass of a model, with outputs (B, T, ...).
      segment_length: characters in a segment.
    """

    def read_segments(
        params: Params, ids_BT: jax.Array, state: ModelState, *, key: DropoutKey | None = None
    ) -> tuple[Any, ModelState]:
        rows, length = ids_BT.shape
        count, rest = divmod(length, segment_length)
        if rest or count < 2:
            return read(params, ids_BT, state, key=key)
        keys = None if key is None else split_into_pieces(key, count)
        ids_CBT = jnp.swapaxes(ids_BT.reshape(rows, count, segment_length), 0, 1)

        @jax.checkpoint
        def read_segment(
            state: ModelState, segment: tuple[jax.Array, PieceKeys | None]
        ) -> tuple[ModelState, Any]:
            outputs, state = read(params, segment[0], state, key=segment[1])
            return state, outputs

        state, outputs = jax.lax.scan(read_segment, state, (ids_CBT, keys))

        def join(x_CBTD: jax.Array) -> jax.Array:
            return jnp.swapaxes(x_CBTD, 0, 1).reshape(rows, length, -1)

        return jax.tree.map(join, outputs), state

    return read_segments


def _concatenate(pieces: Sequence[Any]) -> Any:
    """Join captured arrays along their positions; mappings keep their order, unlike in a pytree."""
    if isinstance(pieces[0], Mapping):
        return {name: _concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
    return jnp.concatenate(pieces, axis=1)
