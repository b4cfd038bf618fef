"""Rematerialisation: training on long sequences in less memory."""

import jax
import jax.numpy as jnp

from charlm_jax.core.types import ModelState, Params
from charlm_jax.models.language_model import LanguageModel


def rematerialize(model: LanguageModel, *, segment_length: int) -> LanguageModel:
    """Return the same model with a gradient that needs less memory and more time.

    A sequence is read in segments. Only the states between them are kept for the backward pass,
    which recomputes the inside of each segment. Gradients still flow through the whole sequence
    (Chen et al. 2016; Gruslys et al. 2016). The logits still grow with the sequence.

    Args:
      model: model whose state holds all information about the past, such as a recurrent one.
      segment_length: characters in a segment. A sequence that is no longer, or not a multiple of
        it, is read at once.
    """

    def apply(
        params: Params, ids_BT: jax.Array, state: ModelState, *, key: jax.Array | None = None
    ) -> tuple[jax.Array, ModelState]:
        rows, length = ids_BT.shape
        count, rest = divmod(length, segment_length)
        if rest or count < 2:
            return model.apply(params, ids_BT, state, key=key)
        keys = None if key is None else jax.random.split(key, count)
        ids_CBT = jnp.swapaxes(ids_BT.reshape(rows, count, segment_length), 0, 1)

        @jax.checkpoint
        def read(
            state: ModelState, segment: tuple[jax.Array, jax.Array | None]
        ) -> tuple[ModelState, jax.Array]:
            logits_BTV, state = model.apply(params, segment[0], state, key=segment[1])
            return state, logits_BTV

        state, logits_CBTV = jax.lax.scan(read, state, (ids_CBT, keys))
        return jnp.swapaxes(logits_CBTV, 0, 1).reshape(rows, length, -1), state

    return model._replace(apply=apply)
