"""Gradient of a prediction's loss by distance: how far back a model's training signal reaches.

The loss of a target is differentiated with respect to the vector of every character before it. The
norm of that gradient at distance d says how much a small change of the character d places before
the target would change the loss.

Source: Pascanu, Mikolov and Bengio 2013 (On the difficulty of training recurrent neural networks),
whose gradients are those of states; vectors of characters are what all models here have in common.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from charlm_jax.analysis.effective_context import rows_before
from charlm_jax.core.errors import CharlmError
from charlm_jax.core.limits import require_within
from charlm_jax.core.numerics import fixed_numerics
from charlm_jax.core.types import Params
from charlm_jax.data.splits import Part
from charlm_jax.evaluation.context_limits import check_length
from charlm_jax.evaluation.protocol import Sliding
from charlm_jax.models import LanguageModel


@fixed_numerics()
def gradient_norms_by_distance(
    model: LanguageModel,
    params: Params,
    ids_N: np.ndarray,
    part: Part,
    *,
    reach: int,
    targets: int,
    batch_size: int = 32,
) -> np.ndarray:
    """Compute the norm of the gradient with respect to each character before a target.

    Args:
      model: model to differentiate; its output layer is not its embedding.
      params: weights of the model.
      ids_N: the text.
      part: part of the text that contains the targets.
      reach: T, the number of characters read before a target, from the initial state.
      targets: number of targets, evenly spread; 0 means all.
      batch_size: number of targets at once.

    Returns:
      norm_PT, the L2 norm for each target and distance: column d - 1 is that of the character d
      places before the target.

    Raises:
      CharlmError: the output layer is the embedding, a number is out of range, the text is too
        short, the model has learned fewer positions, or a norm is not finite.
    """
    require_within("batch_size", batch_size, 1)
    if "output" not in params:
        raise CharlmError("tied_embedding=True is not supported: a vector would be an output too")
    check_length(model, "the reach", reach, advice="choose a reach")
    rows_PT = rows_before(ids_N, Sliding(reach, targets).positions(part), reach)
    norms_of = _norms_of(model)
    short = -len(rows_PT) % batch_size  # so that all batches have one shape
    padded_PT = np.concatenate([rows_PT, rows_PT[:1].repeat(short, axis=0)])
    batches = np.split(padded_PT, len(padded_PT) // batch_size)
    norm_PT = np.concatenate([norms_of(params, batch) for batch in batches])[: len(rows_PT)]
    if not np.isfinite(norm_PT).all():
        raise CharlmError("a gradient is not finite: the model has diverged")
    return norm_PT


@functools.lru_cache(maxsize=64)
def _norms_of(model: LanguageModel) -> Callable[[Params, np.ndarray], jax.Array]:
    """Return (params, rows_BT) -> norm_BT, compiled once per model and shape."""
    return jax.jit(jax.vmap(functools.partial(_norms, model), in_axes=(None, 0)))


def _norms(model: LanguageModel, params: Params, row_T: jax.Array) -> jax.Array:
    """Return norm_T of one row, whose last character is the target; nearest first."""
    read_T, target = row_T[:-1], row_T[-1]

    def loss(vectors_TE: jax.Array) -> jax.Array:
        # Each position has a row of its own, so the gradients of equal characters stay separate.
        positions_BT = jnp.arange(len(read_T))[None]
        state = model.initial_state(1, 0)
        logits_BTV, _ = model.apply({**params, "embedding": vectors_TE}, positions_BT, state)
        return -jax.nn.log_softmax(logits_BTV[0, -1])[target]

    gradient_TE = jax.grad(loss)(params["embedding"][read_T])
    return jnp.linalg.norm(gradient_TE, axis=1)[::-1]
