"""Training on long sequences in bounded memory."""

import jax
import jax.numpy as jnp

from charlm_jax.core.types import ModelState, Params
from charlm_jax.models.language_model import LanguageModel


def rematerialize(model: LanguageModel, *, segment_length: int) -> LanguageModel:
    """The same model, whose gradient needs less memory and more time.

    A sequence is read in segments. Only the states between them are kept for the backward pass,
    which computes what happened inside a segment again when it comes to it: gradients still go
    through the whole sequence (Chen et al. 2016; Gruslys et al. 2016). What is left to grow with
    the sequence are the logits.

    Args:
      model: whose state holds all that is to be known of the past, as a recurrent one's does.
      segment_length: characters of a segment. A sequence that is no longer, or is not made of whole
        segments, is read at once.
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
