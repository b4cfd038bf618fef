"""Surprisal of generated text under the model, and entropy of the distribution it came from.

Letters of this module: B samples, T characters of each, V symbols.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from charlm_jax.core.numerics import fixed_numerics
from charlm_jax.core.types import ModelState, Params
from charlm_jax.models import LanguageModel
from charlm_jax.models.losses import negative_log_likelihood
from charlm_jax.sampling.policies import Policy, probabilities

# Characters of each sample per dispatch, and the largest number of logits in one.
_PIECE = 100
_SCORES_AT_ONCE = 2**25


class SampleSurprisal(NamedTuple):
    """Surprisal and entropy of every character of every sample, in nats.

    Attributes:
      surprisal_BT: -log p of the character under the model at scale 1, without truncation.
      entropy_BT: entropy of the distribution that the policy sampled it from. Without truncation
        and at scale 1, the two have the same mean, except for chance.
    """

    surprisal_BT: np.ndarray
    entropy_BT: np.ndarray


SampleScorer = Callable[[Params, np.ndarray, np.ndarray, Policy], SampleSurprisal]


def make_sample_scorer(model: LanguageModel, *, context: int) -> SampleScorer:
    """Return a scorer that reads samples again, carrying the state from the start of the prompt.

    Args:
      model: model that generated the samples, with its state carried.
      context: number of past positions that an attention layer keeps, the same as in sampling.

    Returns:
      (params, prompt, ids_BT, policy) -> SampleSurprisal, for samples that continue one common
      prompt, ids_N, or one each, ids_BN.
    """

    @jax.jit
    def read(
        params: Params, ids_BT: jax.Array, state: ModelState, policy: Policy
    ) -> tuple[jax.Array, jax.Array, ModelState]:
        logits_BTV, state = model.apply(params, ids_BT[:, :-1], state)
        surprisal_BT = negative_log_likelihood(logits_BTV, ids_BT[:, 1:])
        logits_TBV = jnp.swapaxes(logits_BTV.astype(jnp.float32), 0, 1)
        entropy_TB = jax.lax.map(lambda logits_BV: _entropy(logits_BV, policy), logits_TBV)
        return surprisal_BT, entropy_TB.T, state

    @fixed_numerics()
    def score(
        params: Params, prompt: np.ndarray, ids_BT: np.ndarray, policy: Policy
    ) -> SampleSurprisal:
        rows, before = len(ids_BT), prompt.shape[-1]
        length = before + ids_BT.shape[1]
        state = model.initial_state(rows, context)
        logits_BTV, _ = jax.eval_shape(model.apply, params, jnp.asarray(ids_BT[:, :1]), state)
        piece = max(1, min(_PIECE, _SCORES_AT_ONCE // logits_BTV.size))
        ids_BT = np.concatenate([np.broadcast_to(prompt, (rows, before)), ids_BT], axis=1)
        padded_BT = np.pad(ids_BT, ((0, 0), (0, -(length - 1) % piece))).astype(np.int32)
        pieces = []
        for start in range(0, length - 1, piece):
            *both, state = read(params, padded_BT[:, start : start + piece + 1], state, policy)
            pieces.append([np.asarray(x_BT) for x_BT in both])
        whole = (np.concatenate(x, axis=1) for x in zip(*pieces, strict=True))
        return SampleSurprisal(*(x_BT[:, before - 1 : length - 1] for x_BT in whole))

    return score


def _entropy(logits_BV: jax.Array, policy: Policy) -> jax.Array:
    p_BV = probabilities(logits_BV, policy)
    return -jnp.sum(jnp.where(p_BV > 0, p_BV * jnp.log(p_BV), 0.0), axis=-1)
