"""Negative log-likelihood of every character of a part, each scored exactly once.

A figure is only as good as its rule, so the rule has a name. Character n of a part is predicted
from the characters before it, as far as the rule lets the model see them:

  window  the part is cut into consecutive windows of `context` targets; the model starts each
          from its initial state, at the character before the first target. The target at place p
          of a window is predicted from p characters (p = 1 .. context).
  sliding the model reads exactly `context` characters before a target, from its initial state.
          That is `context` times the work of a window, so the rule also says how many targets are
          scored; they are spread evenly over the part. What is read may lie before the part.
  stream  the model reads the whole part once, its state carried from the first character of a
          stretch to the last.

Under window and stream a part of several stretches is scored stretch by stretch; the text before
one gives a single character, the predictor of its first. Only the very first character of a text
has no predictor, and is not scored; under sliding, none that fewer than `context` precede.
"""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from charlm_jax.core.errors import CharlmError
from charlm_jax.core.types import ModelState, Params, bits
from charlm_jax.data.splits import Part, target_positions
from charlm_jax.models import LanguageModel
from charlm_jax.models.losses import negative_log_likelihood

Measure = Callable[[jax.Array, jax.Array], jax.Array]
"""(logits_BTV, targets_BT) -> what is noted of every target: a number, or an array of them."""

Scorer = Callable[[Params, jax.Array, Part], np.ndarray]
PositionScorer = Callable[[Params, jax.Array, np.ndarray], np.ndarray]

MODES = ("window", "sliding", "stream")
SLIDING_TARGETS = 10_000
"""Characters that `sliding` scores unless told: its cost grows with their number."""

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


def rule_in_words(mode: str, context: int | None) -> str:
    """A rule as a result names it.

    >>> print(rule_in_words("window", 40), rule_in_words("stream", None), sep=", ")
    window of 40, stream
    """
    match mode:
        case "window":
            return f"window of {context:,}"
        case "sliding":
            return f"sliding, {context:,} read before each"
        case _:
            return "stream" + (f" with attention to the last {context:,}" if context else "")


def build_scorer(
    model: LanguageModel,
    *,
    mode: str,
    context: int,
    batch_size: int,
    targets: int = 0,
    measure: Measure = negative_log_likelihood,
) -> Scorer:
    """The scorer of a rule by its name.

    Args:
      model: what is scored.
      mode: `window`, `sliding` or `stream`.
      context: as the rule has it.
      batch_size: as the rule has it.
      targets: what `make_sliding_scorer` calls `most`.
      measure: what is noted of every target, beside the loss that it is by default.
    """
    if mode == "window":
        return make_window_scorer(model, context=context, batch_size=batch_size, measure=measure)
    if mode == "sliding":
        return make_sliding_scorer(
            model, context=context, batch_size=batch_size, most=targets, measure=measure
        )
    if mode == "stream":
        return make_stream_scorer(model, context=context, measure=measure)
    known = f"{', '.join(MODES[:-1])} or {MODES[-1]}"
    raise CharlmError(f"mode={mode!r} is not known: it must be {known}")


def make_window_scorer(
    model: LanguageModel,
    *,
    context: int,
    batch_size: int,
    measure: Measure = negative_log_likelihood,
) -> Scorer:
    """The `window` rule.

    Args:
      model: what is scored.
      context: targets in a window.
      batch_size: most windows scored at once; it does not change the figure.
      measure: as in `build_scorer`.

    Returns:
      (params, ids_N, part) -> nll_N in nats, float32, one entry a target in the text's order.
    """
    score_batch = _make_batch_scorer(model, measure)

    def score(params: Params, ids_N: jax.Array, part: Part) -> np.ndarray:
        stretches = [target_positions(stretch) for stretch in part]
        length = min(context, max(map(len, stretches)))
        starts = np.concatenate([np.asarray(x[::length], np.int32) - 1 for x in stretches])
        ends = np.concatenate([[x.stop - 1] * len(x[::length]) for x in stretches])
        offsets_T = np.arange(length + 1, dtype=np.int32)
        pieces = [
            score_batch(params, ids_N, starts_B, offsets_T)
            for starts_B in _batches(starts, length=length, most=batch_size)
        ]
        nll_RT = np.concatenate([np.asarray(nll_BT) for nll_BT in pieces])[: len(starts)]
        return nll_RT[offsets_T[None, :-1] < (ends - starts)[:, None]]

    return score


def _make_batch_scorer(model: LanguageModel, measure: Measure) -> Callable[..., jax.Array]:
    @jax.jit
    def score_batch(
        params: Params, ids_N: jax.Array, starts_B: jax.Array, offsets_T: jax.Array
    ) -> jax.Array:
        # The last window may reach past the text: what it reads there is cut off by the caller.
        places_BT = jnp.minimum(starts_B[:, None] + offsets_T[None, :], len(ids_N) - 1)
        rows_BT = ids_N[places_BT].astype(jnp.int32)
        state = model.initial_state(len(starts_B), 0)
        logits_BTV, _ = model.apply(params, rows_BT[:, :-1], state)
        return measure(logits_BTV, rows_BT[:, 1:])

    return score_batch


def _batches(starts: np.ndarray, *, length: int, most: int) -> np.ndarray:
    """Windows in batches of one size: the last is filled up with the first windows again."""
    rows = max(1, min(most, len(starts), _CHARACTERS_AT_ONCE // length))
    return np.resize(starts, math.ceil(len(starts) / rows) * rows).reshape(-1, rows)


def make_position_scorer(
    model: LanguageModel,
    *,
    context: int,
    batch_size: int,
    measure: Measure = negative_log_likelihood,
) -> PositionScorer:
    """Characters at given places, each predicted from exactly `context` before it.

    Args:
      model: what is scored.
      context: characters that the model reads, from its initial state.
      batch_size: most places scored at once; it does not change the figure.
      measure: as in `build_scorer`.

    Returns:
      (params, ids_N, places_P) -> nll_P in nats, float32; every place is at least `context`.
    """
    score_batch = _make_batch_scorer(model, measure)
    offsets_T = np.arange(context + 1, dtype=np.int32)

    def score(params: Params, ids_N: jax.Array, places_P: np.ndarray) -> np.ndarray:
        starts = places_P.astype(np.int32) - context
        pieces = [
            score_batch(params, ids_N, starts_B, offsets_T)[:, -1]
            for starts_B in _batches(starts, length=context, most=batch_size)
        ]
        return np.concatenate([np.asarray(nll_B) for nll_B in pieces])[: len(starts)]

    return score


def sliding_targets(part: Part, *, context: int, most: int) -> np.ndarray:
    """The places that `sliding` scores: the middle of each of `most` equal shares of a part.

    Args:
      part: what they are chosen from.
      context: targets that fewer characters precede are left out.
      most: how many; 0 is all of them.

    Returns:
      places_P in the text's order. Where enough text precedes the part, they depend on part and
      number alone: models and contexts are compared on the same characters.

    Raises:
      CharlmError: so many characters precede no target.
    """
    places_N = np.concatenate([np.arange(r.start, r.stop) for r in map(target_positions, part)])
    places_N = places_N[places_N >= context]
    if not places_N.size:
        raise CharlmError(f"context={context} is too long: no character has so many before it")
    count = min(most or len(places_N), len(places_N))
    return places_N[(2 * np.arange(count) + 1) * len(places_N) // (2 * count)]


def make_sliding_scorer(
    model: LanguageModel,
    *,
    context: int,
    batch_size: int,
    most: int,
    measure: Measure = negative_log_likelihood,
) -> Scorer:
    """The `sliding` rule.

    Args:
      model: what is scored.
      context: characters read before each target, from 1.
      batch_size: most targets scored at once; it does not change the figure.
      most: targets, as in `sliding_targets`.
      measure: as in `build_scorer`.

    Returns:
      (params, ids_N, part) -> nll_P in nats, float32, one entry for each of `sliding_targets`.
    """
    score_places = make_position_scorer(
        model, context=context, batch_size=batch_size, measure=measure
    )

    def score(params: Params, ids_N: jax.Array, part: Part) -> np.ndarray:
        return score_places(params, ids_N, sliding_targets(part, context=context, most=most))

    return score


def make_stream_scorer(
    model: LanguageModel, *, context: int, measure: Measure = negative_log_likelihood
) -> Scorer:
    """The `stream` rule.

    Args:
      model: what is scored.
      context: past positions that an attention layer keeps; a recurrent layer keeps its state
        whatever the number.
      measure: as in `build_scorer`.

    Returns:
      (params, ids_N, part) -> nll_N in nats, float32, one entry a target in the text's order.
    """

    @jax.jit
    def score_piece(
        params: Params, row_1T: jax.Array, state: ModelState
    ) -> tuple[jax.Array, ModelState]:
        row_1T = row_1T.astype(jnp.int32)
        logits_1TV, state = model.apply(params, row_1T[:, :-1], state)
        return measure(logits_1TV, row_1T[:, 1:])[0], state

    def pieces(params: Params, text_N: np.ndarray) -> Iterator[jax.Array]:
        state = model.initial_state(1, context)
        for start in range(0, len(text_N) - 1, _STREAM_PIECE):
            row_T = text_N[start : start + _STREAM_PIECE + 1]
            # Only the last piece is short, and nothing is read after it.
            row_T = np.pad(row_T, (0, _STREAM_PIECE + 1 - len(row_T)))
            nll_T, state = score_piece(params, row_T[None, :], state)
            yield nll_T

    def stretch(params: Params, ids_N: jax.Array, positions: range) -> np.ndarray:
        predicted = target_positions(positions)
        text_N = np.asarray(ids_N[predicted.start - 1 : predicted.stop])
        nll_N = np.concatenate([np.asarray(nll_T) for nll_T in pieces(params, text_N)])
        return nll_N[: len(predicted)]

    def score(params: Params, ids_N: jax.Array, part: Part) -> np.ndarray:
        read = [positions for positions in part if target_positions(positions)]
        return np.concatenate([stretch(params, ids_N, positions) for positions in read])

    return score
