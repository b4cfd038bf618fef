"""Negative log-likelihood of the characters of a part, under an evaluation protocol.

`charlm_jax.evaluation.protocol` defines which characters are scored and what is read before each.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from charlm_jax.core.errors import CharlmError
from charlm_jax.core.types import ModelState, Params, bits
from charlm_jax.data.splits import Part, target_positions
from charlm_jax.evaluation.protocol import EvalProtocol, Sliding, Stream, Window
from charlm_jax.models import LanguageModel
from charlm_jax.models.losses import negative_log_likelihood

Measure = Callable[[jax.Array, jax.Array], Any]
"""(logits_BTV, targets_BT) -> a tree of arrays (B, T, ...), such as the loss of every target."""

Scorer = Callable[[Params, jax.Array, Part], Any]
"""(params, ids_N, part) -> the measure's tree: NumPy arrays with one entry per scored character."""


class WindowScorer(Protocol):
    """A `Scorer` that can be watched, and left off by an exception of `between`.

    `between` is called with the share that is done after every batch but the last.
    """

    def __call__(
        self,
        params: Params,
        ids_N: jax.Array,
        part: Part,
        between: Callable[[float], None] | None = None,
    ) -> Any: ...


PositionScorer = Callable[[Params, jax.Array, np.ndarray], Any]
"""(params, ids_N, positions_P) -> the measure's tree, with one entry per position."""

# Characters per dispatch: of a stream, and at most in a batch of windows. Memory grows with them.
_STREAM_PIECE = 512
_CHARACTERS_AT_ONCE = 2**14


class Score(NamedTuple):
    """A mean over characters."""

    loss_nats: float
    bits_per_char: float
    characters: int


def mean_score(nll_N: np.ndarray) -> Score:
    """Return the mean of per-character negative log-likelihoods, summed in float64."""
    loss_nats = float(np.mean(nll_N, dtype=np.float64))
    return Score(loss_nats, bits(loss_nats), len(nll_N))


def build_scorer(
    model: LanguageModel,
    protocol: EvalProtocol,
    *,
    batch_size: int,
    measure: Measure = negative_log_likelihood,
) -> Scorer:
    """Return the scorer of an evaluation protocol.

    Args:
      model: model to score.
      protocol: evaluation protocol; `Stream` needs a context if the model has attention.
      batch_size: largest number of windows, or of targets of `Sliding`, scored at once; it does not
        change the result.
      measure: quantity to compute for every target; its loss by default.

    Raises:
      CharlmError: `Stream` has no context and the model keeps past positions.
    """
    match protocol:
        case Window(context):
            return make_window_scorer(
                model, context=context, batch_size=batch_size, measure=measure
            )
        case Sliding():
            return make_sliding_scorer(model, protocol, batch_size=batch_size, measure=measure)
        case Stream(None) if model.keeps_positions:
            raise CharlmError(
                "Stream() needs a context for attention: give the number of positions to keep"
            )
        case Stream():
            return make_stream_scorer(model, context=protocol.context or 0, measure=measure)


def make_window_scorer(
    model: LanguageModel,
    *,
    context: int,
    batch_size: int,
    measure: Measure = negative_log_likelihood,
) -> WindowScorer:
    """Return the scorer of `Window`.

    Args:
      model: model to score.
      context: number of targets in a window.
      batch_size: largest number of windows scored at once; it does not change the result.
      measure: quantity to compute for every target; its loss by default.

    Returns:
      (params, ids_N, part) -> nll_N in nats, float32, one entry per target in the text's order.
    """
    score_batch = _make_batch_scorer(model, measure)

    def score(
        params: Params,
        ids_N: jax.Array,
        part: Part,
        between: Callable[[float], None] | None = None,
    ) -> Any:
        stretches = [target_positions(stretch) for stretch in part]
        length = min(context, max(map(len, stretches)))
        starts = np.concatenate([np.asarray(x[::length], np.int32) - 1 for x in stretches])
        ends = np.concatenate([[x.stop - 1] * len(x[::length]) for x in stretches])
        offsets_T = np.arange(length + 1, dtype=np.int32)
        batches = _batches(starts, length=length, most=batch_size)
        values = (score_batch(params, ids_N, starts_B, offsets_T) for starts_B in batches)
        pieces = (
            list(values) if between is None else list(_one_ahead(values, len(batches), between))
        )
        is_target_RT = offsets_T[None, :-1] < (ends - starts)[:, None]
        return jax.tree.map(lambda x_RT: x_RT[: len(starts)][is_target_RT], _concatenate(pieces))

    return score


def _make_batch_scorer(model: LanguageModel, measure: Measure) -> Callable[..., Any]:
    @jax.jit
    def score_batch(
        params: Params, ids_N: jax.Array, starts_B: jax.Array, offsets_T: jax.Array
    ) -> Any:
        # The last window may extend past the text: the caller cuts off what it reads there.
        positions_BT = jnp.minimum(starts_B[:, None] + offsets_T[None, :], len(ids_N) - 1)
        rows_BT = ids_N[positions_BT].astype(jnp.int32)
        state = model.initial_state(len(starts_B), 0)
        logits_BTV, _ = model.apply(params, rows_BT[:, :-1], state)
        return measure(logits_BTV, rows_BT[:, 1:])

    return score_batch


def _one_ahead(
    values: Iterator[Any], count: int, between: Callable[[float], None]
) -> Iterator[Any]:
    """Yield the values of batches, each fetched while the device computes the next."""
    pending = next(values)
    for done, following in enumerate(values, start=1):
        yield jax.tree.map(np.asarray, pending)
        between(done / count)
        pending = following
    yield pending


def _concatenate(pieces: Sequence[Any]) -> Any:
    """Return trees of arrays joined along their first axis, as NumPy arrays."""
    return jax.tree.map(lambda *arrays: np.concatenate([np.asarray(x) for x in arrays]), *pieces)


def _batches(starts: np.ndarray, *, length: int, most: int) -> np.ndarray:
    """Arrange windows in batches of one size, repeating the first windows to fill the last."""
    rows = max(1, min(most, len(starts), _CHARACTERS_AT_ONCE // length))
    return np.resize(starts, math.ceil(len(starts) / rows) * rows).reshape(-1, rows)


def make_position_scorer(
    model: LanguageModel,
    *,
    context: int,
    batch_size: int,
    measure: Measure = negative_log_likelihood,
) -> PositionScorer:
    """Return a scorer of given positions, each predicted from exactly `context` characters.

    Args:
      model: model to score.
      context: number of characters that the model reads, from its initial state.
      batch_size: largest number of positions scored at once; it does not change the result.
      measure: quantity to compute for every target; its loss by default.

    Returns:
      (params, ids_N, positions_P) -> nll_P in nats, float32; every position is at least `context`.
    """
    score_batch = _make_batch_scorer(model, measure)
    offsets_T = np.arange(context + 1, dtype=np.int32)

    def score(params: Params, ids_N: jax.Array, positions_P: np.ndarray) -> Any:
        starts = positions_P.astype(np.int32) - context
        pieces = [
            jax.tree.map(lambda x_BT: x_BT[:, -1], score_batch(params, ids_N, starts_B, offsets_T))
            for starts_B in _batches(starts, length=context, most=batch_size)
        ]
        return jax.tree.map(lambda x_P: x_P[: len(starts)], _concatenate(pieces))

    return score


def make_sliding_scorer(
    model: LanguageModel,
    protocol: Sliding,
    *,
    batch_size: int,
    measure: Measure = negative_log_likelihood,
) -> Scorer:
    """Return the scorer of `Sliding`.

    Args:
      model: model to score.
      protocol: number of characters read before each target, and number of targets.
      batch_size: largest number of targets scored at once; it does not change the result.
      measure: quantity to compute for every target; its loss by default.

    Returns:
      (params, ids_N, part) -> nll_P in nats, float32, one entry for each of `protocol.positions`.
    """
    score_positions = make_position_scorer(
        model, context=protocol.context, batch_size=batch_size, measure=measure
    )

    def score(params: Params, ids_N: jax.Array, part: Part) -> Any:
        return score_positions(params, ids_N, protocol.positions(part))

    return score


def make_stream_scorer(
    model: LanguageModel, *, context: int, measure: Measure = negative_log_likelihood
) -> Scorer:
    """Return the scorer of `Stream`.

    Args:
      model: model to score.
      context: number of past positions that an attention layer keeps; a recurrent layer ignores it.
      measure: quantity to compute for every target; its loss by default.

    Returns:
      (params, ids_N, part) -> nll_N in nats, float32, one entry per target in the text's order.
    """

    @jax.jit
    def score_piece(params: Params, row_1T: jax.Array, state: ModelState) -> tuple[Any, ModelState]:
        row_1T = row_1T.astype(jnp.int32)
        logits_1TV, state = model.apply(params, row_1T[:, :-1], state)
        return jax.tree.map(lambda x_1T: x_1T[0], measure(logits_1TV, row_1T[:, 1:])), state

    def pieces(params: Params, text_N: np.ndarray) -> Iterator[Any]:
        state = model.initial_state(1, context)
        for start in range(0, len(text_N) - 1, _STREAM_PIECE):
            row_T = text_N[start : start + _STREAM_PIECE + 1]
            # Only the last piece is short, so padding never reaches the state of another.
            row_T = np.pad(row_T, (0, _STREAM_PIECE + 1 - len(row_T)))
            values_T, state = score_piece(params, row_T[None, :], state)
            yield jax.tree.map(np.asarray, values_T)

    def score_stretch(params: Params, ids_N: jax.Array, targets: range) -> Any:
        text_N = np.asarray(ids_N[targets.start - 1 : targets.stop])
        values_N = _concatenate(list(pieces(params, text_N)))
        return jax.tree.map(lambda x_N: x_N[: len(targets)], values_N)

    def score(params: Params, ids_N: jax.Array, part: Part) -> Any:
        stretches = filter(len, map(target_positions, part))
        return _concatenate([score_stretch(params, ids_N, targets) for targets in stretches])

    return score
