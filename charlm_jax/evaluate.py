"""Negative log-likelihood of every character of a part, each scored exactly once.

A figure is only as good as its rule, so the rule has a name. Character n of a part is predicted
from the characters before it, as far as the rule lets the model see them:

  window  the part is cut into consecutive windows of `context` targets; the model starts each
          from its initial state, at the character before the first target. The target at place p
          of a window is predicted from p characters (p = 1 .. context).
  stream  the model reads the whole part once, its state carried from the first character of a
          stretch to the last.

A part of several stretches is scored stretch by stretch. The text before a stretch gives one
character, the predictor of its first. Only the very first character of a text has no predictor, and
is not scored.
"""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from charlm_jax.losses import negative_log_likelihood
from charlm_jax.models import LanguageModel
from charlm_jax.splits import Part, targets
from charlm_jax.types import ModelState, Params, bits

Scorer = Callable[[Params, jax.Array, Part], np.ndarray]

# Characters that `stream` reads in one dispatch, and the most that a batch of windows does: memory
# grows with them.
_STREAM_PIECE = 512
_CHARACTERS_AT_ONCE = 2**14


class Score(NamedTuple):
    """A mean over characters."""

    loss_nats: float
    bits_per_char: float
    characters: int


def mean_score(nll_N: np.ndarray) -> Score:
    """The mean of per-character negative log-likelihoods, summed in float64."""
    loss_nats = float(np.mean(nll_N, dtype=np.float64))
    return Score(loss_nats, bits(loss_nats), len(nll_N))


def make_window_scorer(model: LanguageModel, *, context: int, batch_size: int) -> Scorer:
    """The `window` rule.

    Args:
      model: what is scored.
      context: targets in a window.
      batch_size: most windows scored at once; it does not change the figure.

    Returns:
      (params, ids_N, part) -> nll_N in nats, float32, one entry a target in the text's order.
    """

    @jax.jit
    def score_batch(
        params: Params, ids_N: jax.Array, starts_B: jax.Array, offsets_T: jax.Array
    ) -> jax.Array:
        # The last window may reach past the text: what it reads there is cut off by the caller.
        places_BT = jnp.minimum(starts_B[:, None] + offsets_T[None, :], len(ids_N) - 1)
        rows_BT = ids_N[places_BT].astype(jnp.int32)
        state = model.initial_state(len(starts_B), 0)
        logits_BTV, _ = model.apply(params, rows_BT[:, :-1], state)
        return negative_log_likelihood(logits_BTV, rows_BT[:, 1:])

    def score(params: Params, ids_N: jax.Array, part: Part) -> np.ndarray:
        stretches = [targets(stretch) for stretch in part]
        length = min(context, max(map(len, stretches)))
        starts = np.concatenate([np.asarray(x[::length], np.int32) - 1 for x in stretches])
        ends = np.concatenate([[x.stop - 1] * len(x[::length]) for x in stretches])
        rows = max(1, min(batch_size, len(starts), _CHARACTERS_AT_ONCE // length))
        padded = np.resize(starts, math.ceil(len(starts) / rows) * rows).reshape(-1, rows)
        offsets_T = np.arange(length + 1, dtype=np.int32)
        pieces = [score_batch(params, ids_N, starts_B, offsets_T) for starts_B in padded]
        nll_RT = np.concatenate([np.asarray(nll_BT) for nll_BT in pieces])[: len(starts)]
        return nll_RT[offsets_T[None, :-1] < (ends - starts)[:, None]]

    return score


def make_stream_scorer(model: LanguageModel, *, context: int) -> Scorer:
    """The `stream` rule.

    Args:
      model: what is scored.
      context: past positions that an attention layer keeps; a recurrent layer keeps its state
        whatever the number.

    Returns:
      (params, ids_N, part) -> nll_N in nats, float32, one entry a target in the text's order.
    """

    @jax.jit
    def score_piece(
        params: Params, row_1T: jax.Array, state: ModelState
    ) -> tuple[jax.Array, ModelState]:
        row_1T = row_1T.astype(jnp.int32)
        logits_1TV, state = model.apply(params, row_1T[:, :-1], state)
        return negative_log_likelihood(logits_1TV, row_1T[:, 1:])[0], state

    def pieces(params: Params, text_N: np.ndarray) -> Iterator[jax.Array]:
        state = model.initial_state(1, context)
        for start in range(0, len(text_N) - 1, _STREAM_PIECE):
            row_T = text_N[start : start + _STREAM_PIECE + 1]
            # Only the last piece is short, and nothing is read after it.
            row_T = np.pad(row_T, (0, _STREAM_PIECE + 1 - len(row_T)))
            nll_T, state = score_piece(params, row_T[None, :], state)
            yield nll_T

    def stretch(params: Params, ids_N: jax.Array, positions: range) -> np.ndarray:
        predicted = targets(positions)
        text_N = np.asarray(ids_N[predicted.start - 1 : predicted.stop])
        nothing = np.zeros(0, np.float32)
        nll_N = np.concatenate([nothing, *map(np.asarray, pieces(params, text_N))])
        return nll_N[: len(predicted)]

    def score(params: Params, ids_N: jax.Array, part: Part) -> np.ndarray:
        return np.concatenate([stretch(params, ids_N, positions) for positions in part])

    return score
