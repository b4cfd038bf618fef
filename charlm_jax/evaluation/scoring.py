"""Negative log-likelihood of the characters of a part, under an evaluation protocol.

`charlm_jax.evaluation.protocol` defines which characters are scored and what is read before each.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from charlm_jax.core.errors import CharlmError
from charlm_jax.core.limits import require_within
from charlm_jax.core.numerics import fixed_numerics
from charlm_jax.core.powers import next_power_of_two
from charlm_jax.core.prng import root_key
from charlm_jax.core.types import ModelState, Params, bits
from charlm_jax.data.splits import Part, target_positions
from charlm_jax.evaluation.protocol import EvalProtocol, Sliding, Stream, Window, check_protocol
from charlm_jax.models import LanguageModel
from charlm_jax.models.losses import negative_log_likelihood

Measure = Callable[[jax.Array, jax.Array], Any]
"""(logits_BTV, targets_BT) -> a tree of arrays (B, T, ...), such as the loss of every target."""

Ids = jax.Array | np.ndarray

Advance = Callable[[float], None]
"""Callback between batches with the share that is done.

An exception that it raises stops scoring.
"""


class Scorer(Protocol):
    """(params, ids_N, part) -> the measure's tree: NumPy arrays, one entry per scored character."""

    def __call__(
        self, params: Params, ids_N: Ids, part: Part, *, advance: Advance | None = None
    ) -> Any: ...


PositionScorer = Callable[..., Any]
"""(params, ids_N, positions_P) -> the measure's tree, with one entry per position."""

# Characters per dispatch: of a stream, and at most in a batch of windows. Memory grows with them
# and with the logits, which are one number for each character and symbol.
_STREAM_PIECE = 512
_CHARACTERS_AT_ONCE = 2**14
_LOGITS_AT_ONCE = 2**24


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
      batch_size: largest number of windows, or of targets of `Sliding`, scored at once; it changes
        rounding alone.
      measure: quantity to compute for every target; its loss by default.

    Raises:
      CharlmError: the value is not a protocol, `Stream` has no context and the model keeps past
        positions, or the batch size is not a positive whole number.
    """
    check_protocol(protocol)
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
) -> Scorer:
    """Return the scorer of `Window`.

    Args:
      model: model to score.
      context: number of targets in a window.
      batch_size: largest number of windows scored at once; it changes rounding alone.
      measure: quantity to compute for every target; its loss by default.

    Returns:
      (params, ids_N, part) -> nll_N in nats, float32, one entry per target in the text's order.

    Raises:
      CharlmError: the batch size is not a positive whole number.
    """
    score_batch = _make_batch_scorer(model, batch_size, measure)

    @fixed_numerics()
    def score(params: Params, ids_N: Ids, part: Part, *, advance: Advance | None = None) -> Any:
        stretches = [target_positions(stretch) for stretch in part]
        length = min(context, next_power_of_two(max(map(len, stretches))))
        starts = np.concatenate(
            [np.arange(x.start, x.stop, length, dtype=np.int64) - 1 for x in stretches]
        )
        ends = np.concatenate([np.full(len(x[::length]), x.stop - 1) for x in stretches])
        values = score_batch(params, ids_N, starts, length, advance)
        is_target_RT = np.arange(length)[None, :] < (ends - starts)[:, None]
        return jax.tree.map(lambda x_RT: x_RT[is_target_RT], values)

    return score


def _make_batch_scorer(
    model: LanguageModel, batch_size: int, measure: Measure
) -> Callable[..., Any]:
    """Return a function that applies a measure to windows of equal length, in batches."""
    require_within("batch_size", batch_size, 1)

    @jax.jit
    def score_rows(params: Params, rows_BT: jax.Array) -> Any:
        rows_BT = rows_BT.astype(jnp.int32)
        logits_BTV, _ = model.apply(
            params, rows_BT[:, :-1], model.initial_state(rows_BT.shape[0], 0)
        )
        return measure(logits_BTV, rows_BT[:, 1:])

    def score_windows(
        params: Params,
        ids_N: Ids,
        starts: np.ndarray,
        length: int,
        advance: Advance | None,
        *,
        last_only: bool = False,
    ) -> Any:
        # Rows are cut on the host, so that no program is compiled for the length of a text.
        ids_N = np.asarray(ids_N)
        offsets_T = np.arange(length + 1)
        batches = _batches(starts, most=min(batch_size, _rows_at_once(model, length)))

        def values() -> Iterator[Any]:
            for starts_B in batches:
                # The last window may extend past the text: the caller drops what it reads there.
                positions_BT = np.minimum(starts_B[:, None] + offsets_T[None, :], len(ids_N) - 1)
                values_BT = score_rows(params, ids_N[positions_BT])
                yield jax.tree.map(lambda x_BT: x_BT[:, -1], values_BT) if last_only else values_BT

        pieces = []
        for piece in _fetched(values()):
            pieces.append(piece)
            if advance is not None and len(pieces) < len(batches):
                advance(len(pieces) / len(batches))
        return _first(_concatenate(pieces), len(starts))

    return score_windows


def _fetched(values: Iterator[Any]) -> Iterator[Any]:
    """Yield trees as NumPy arrays, each while the next is being computed."""
    before = None
    for value in values:
        if before is not None:
            yield jax.tree.map(np.asarray, before)
        before = value
    if before is not None:
        yield jax.tree.map(np.asarray, before)


def _first(tree: Any, count: int) -> Any:
    return jax.tree.map(lambda x: x[:count], tree)


def _concatenate(pieces: Sequence[Any]) -> Any:
    """Return trees of arrays joined along their first axis."""
    return jax.tree.map(lambda *arrays: np.concatenate(arrays), *pieces)


def _batches(starts: np.ndarray, *, most: int) -> np.ndarray:
    """Arrange windows in batches of one size, repeating the first windows to fill the last.

    A single batch has a power of two of rows, or `most`, so that few shapes are compiled.
    """
    rows = min(most, next_power_of_two(len(starts)))
    return np.resize(starts, -(-len(starts) // rows) * rows).reshape(-1, rows)


def _rows_at_once(model: LanguageModel, length: int) -> int:
    """Return the number of windows of which a batch fits into the memory set aside for it."""
    characters = min(_CHARACTERS_AT_ONCE, _LOGITS_AT_ONCE // _count_symbols(model))
    return max(1, characters // length)


@functools.lru_cache(maxsize=64)
def _count_symbols(model: LanguageModel) -> int:
    """Return V, the number of logits of a character; the model is only traced."""

    def logits_11V() -> jax.Array:
        params, state = model.init(root_key(0)), model.initial_state(1, 0)
        return model.apply(params, jnp.zeros((1, 1), jnp.int32), state)[0]

    return jax.eval_shape(logits_11V).shape[-1]


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
      batch_size: largest number of positions scored at once; it changes rounding alone.
      measure: quantity to compute for every target; its loss by default.

    Returns:
      (params, ids_N, positions_P) -> nll_P in nats, float32; every position is at least `context`.

    Raises:
      CharlmError: the batch size is not a positive whole number.
    """
    score_batch = _make_batch_scorer(model, batch_size, measure)

    @fixed_numerics()
    def score(
        params: Params, ids_N: Ids, positions_P: np.ndarray, *, advance: Advance | None = None
    ) -> Any:
        return score_batch(params, ids_N, positions_P - context, context, advance, last_only=True)

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
      batch_size: largest number of targets scored at once; it changes rounding alone.
      measure: quantity to compute for every target; its loss by default.

    Returns:
      (params, ids_N, part) -> nll_P in nats, float32, one entry for each of `protocol.positions`.

    Raises:
      CharlmError: the batch size is not a positive whole number.
    """
    score_positions = make_position_scorer(
        model, context=protocol.context, batch_size=batch_size, measure=measure
    )

    @fixed_numerics()
    def score(params: Params, ids_N: Ids, part: Part, *, advance: Advance | None = None) -> Any:
        return score_positions(params, ids_N, protocol.positions(part), advance=advance)

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

    def pieces(params: Params, text_N: np.ndarray, length: int) -> Iterator[Any]:
        state = model.initial_state(1, context)
        for start in range(0, len(text_N) - 1, length):
            row_T = text_N[start : start + length + 1]
            # Only the last piece is short, so padding never reaches the state of another.
            row_T = np.pad(row_T, (0, length + 1 - len(row_T)))
            values_T, state = score_piece(params, row_T[None, :], state)
            yield values_T

    @fixed_numerics()
    def score(params: Params, ids_N: Ids, part: Part, *, advance: Advance | None = None) -> Any:
        ids_N = np.asarray(ids_N)
        stretches = [stretch for stretch in map(target_positions, part) if stretch]
        length = min(_STREAM_PIECE, max(1, _LOGITS_AT_ONCE // _count_symbols(model)))
        done, total, found = 0, sum(map(len, stretches)), []
        for targets in stretches:
            text_N, left = ids_N[targets.start - 1 : targets.stop], len(targets)
            for piece in _fetched(pieces(params, text_N, length)):
                count = min(length, left)
                found.append(_first(piece, count))
                left, done = left - count, done + count
                if advance is not None and done < total:
                    advance(done / total)
        return _concatenate(found)

    return score
