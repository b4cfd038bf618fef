"""Autoregressive decoding: sampling text from a model, one character at a time.

Two modes:

  carried  the model's state is carried from character to character, from the start of the prompt.
  window   the textbook's sampler: for every new character the last `context` characters are read
           again from the initial state. (For the first character only, the book reads a prompt
           longer than the window in full; here the window applies from the start.)

As long as prompt and text together fit into the window, both give the same text.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from charlm_jax.core.errors import CharlmError, lookup
from charlm_jax.core.numerics import fixed_numerics_per_item
from charlm_jax.core.types import ModelState, Params
from charlm_jax.models import LanguageModel
from charlm_jax.sampling.categorical import gumbel_noise
from charlm_jax.sampling.policies import Policy

# Maximum number of characters sampled in one dispatch, by mode, and read in one piece of a prompt.
_CARRIED_PIECE = 100
_WINDOW_PIECE = 25
_READ_PIECE = 256

# Bounds on the rows that are sampled at once: bytes of their states, characters that they read in
# one piece, and logits of these.
_STATE_BYTES_AT_ONCE = 2**28
_CHARACTERS_AT_ONCE = 2**17
_LOGITS_AT_ONCE = 2**26


class SampleBatch(NamedTuple):
    """Rows to sample: one for every pair of a sample and a setting of the policy.

    Attributes:
      keys_B: key of each row's sample, the same at every setting.
      policy: sampling policy, with separate numbers for each row.
    """

    keys_B: jax.Array
    policy: Policy


class Decoder(Protocol):
    """Function that samples continuations of a prompt, piece by piece."""

    def __call__(
        self,
        params: Params,
        prompt_N: np.ndarray,
        rows: SampleBatch,
        characters: int,
        *,
        sampled: int = 0,
    ) -> Iterator[np.ndarray]:
        """Sample texts.

        Args:
          params: the model's weights.
          prompt_N: ids, at least one.
          rows: rows to sample.
          characters: number of characters to sample in each row.
          sampled: number of the prompt's last characters that were sampled with the same keys; the
            noise continues after theirs.

        Returns:
          An iterator over ids_BT, whose pieces together have `characters` columns.

        Raises:
          CharlmError: logits that are not finite; from the iterator, before their piece.
        """


def make_carried_decoder(model: LanguageModel, *, context: int) -> Decoder:
    """Return a decoder that carries the model's state.

    Args:
      model: model to sample from.
      context: past positions that an attention layer caches; a recurrent layer ignores it.

    Returns:
      A decoder. Once it has seen each power of two, no prompt length makes it compile again;
      neither do `characters` or the numbers of a policy.
    """

    @jax.jit
    def read(
        params: Params, piece_BT: jax.Array, state: ModelState
    ) -> tuple[jax.Array, ModelState]:
        logits_BTV, state = model.apply(params, piece_BT, state)
        return logits_BTV[:, -1], state

    @jax.jit
    def draw(
        params: Params,
        logits_BV: jax.Array,
        state: ModelState,
        rows: SampleBatch,
        first: jax.Array,
        count: jax.Array,
    ) -> tuple[jax.Array, jax.Array, ModelState]:
        Carry = tuple[jax.Array, jax.Array, ModelState]

        def step(index: jax.Array, carry: Carry) -> Carry:
            ids_TB, logits_BV, state = carry
            noise_BV = gumbel_noise(rows.keys_B, first + index, logits_BV.shape[-1])
            ids_B = rows.policy.sample(logits_BV, noise_BV)
            ids_TB = ids_TB.at[index].set(_marked(ids_B, logits_BV))
            logits_BTV, state = model.apply(params, ids_B[:, None], state)
            return ids_TB, logits_BTV[:, 0], state

        nothing_TB = jnp.zeros((_CARRIED_PIECE, len(logits_BV)), jnp.int32)
        ids_TB, *rest = jax.lax.fori_loop(0, count, step, (nothing_TB, logits_BV, state))
        return ids_TB.T, *rest

    @fixed_numerics_per_item
    def decode(
        params: Params,
        prompt_N: np.ndarray,
        rows: SampleBatch,
        characters: int,
        *,
        sampled: int = 0,
    ) -> Iterator[np.ndarray]:
        state = model.initial_state(len(rows.keys_B), context)
        for piece_N in _powers_of_two(prompt_N):
            piece_BT = np.tile(piece_N.astype(np.int32), (len(rows.keys_B), 1))
            logits_BV, state = read(params, piece_BT, state)
        for first in range(sampled, sampled + characters, _CARRIED_PIECE):
            count = min(_CARRIED_PIECE, sampled + characters - first)
            ids_BT, logits_BV, state = draw(params, logits_BV, state, rows, first, count)
            yield _sound(np.asarray(ids_BT)[:, :count])

    return decode


def make_window_decoder(model: LanguageModel, *, context: int) -> Decoder:
    """Return a decoder that works like the textbook's sampler.

    Args:
      model: model to sample from.
      context: number of characters that are read again for every new one.

    Returns:
      A decoder, as `make_carried_decoder` returns.
    """

    @jax.jit
    def draw(
        params: Params, window_BT: jax.Array, length: jax.Array, rows: SampleBatch, first: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        def step(
            carry: tuple[jax.Array, jax.Array], number: jax.Array
        ) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
            # The window is filled from the left. Ids right of `length` are read too, but do not
            # affect the positions before them.
            window_BT, length = carry
            state = model.initial_state(window_BT.shape[0], 0)
            logits_BTV, _ = model.apply(params, window_BT, state)
            logits_BV = jnp.take(logits_BTV, length - 1, axis=1)
            noise_BV = gumbel_noise(rows.keys_B, number, logits_BV.shape[-1])
            ids_B = rows.policy.sample(logits_BV, noise_BV)
            is_full = length == context
            window_BT = jnp.where(is_full, jnp.roll(window_BT, -1, axis=1), window_BT)
            length = jnp.where(is_full, length, length + 1)
            window_BT = window_BT.at[:, length - 1].set(ids_B)
            return (window_BT, length), _marked(ids_B, logits_BV)

        numbers = first + jnp.arange(_WINDOW_PIECE)
        (window_BT, length), ids_TB = jax.lax.scan(step, (window_BT, length), numbers)
        return ids_TB.T, window_BT, length

    @fixed_numerics_per_item
    def decode(
        params: Params,
        prompt_N: np.ndarray,
        rows: SampleBatch,
        characters: int,
        *,
        sampled: int = 0,
    ) -> Iterator[np.ndarray]:
        seen_N = prompt_N[-context:].astype(np.int32)
        row_T = np.pad(seen_N, (0, context - len(seen_N)))
        window_BT = jnp.asarray(np.tile(row_T, (len(rows.keys_B), 1)))
        length = jnp.asarray(len(seen_N), jnp.int32)
        for first in range(sampled, sampled + characters, _WINDOW_PIECE):
            ids_BT, window_BT, length = draw(params, window_BT, length, rows, first)
            yield _sound(np.asarray(ids_BT)[:, : sampled + characters - first])

    return decode


_DECODERS: Mapping[str, Callable[..., Decoder]] = {
    "carried": make_carried_decoder,
    "window": make_window_decoder,
}


def make_decoder(model: LanguageModel, *, mode: str, context: int) -> Decoder:
    """Return the decoder of a mode, `carried` or `window`.

    Raises:
      CharlmError: the mode is unknown.
    """
    return lookup(_DECODERS, mode, "mode")(model, context=context)


def rows_at_once(model: LanguageModel, *, mode: str, context: int, symbols: int) -> int:
    """Return the number of rows that fit into the memory set aside for sampling; at least 1.

    Args:
      model: model to sample from.
      mode: `carried` or `window`.
      context: context of the decoder.
      symbols: V, the size of the vocabulary.
    """
    state = jax.eval_shape(lambda: model.initial_state(1, context if mode == "carried" else 0))
    state_bytes = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
    read = _READ_PIECE if mode == "carried" else max(1, context)
    return max(
        1,
        min(
            _STATE_BYTES_AT_ONCE // max(1, state_bytes),
            _CHARACTERS_AT_ONCE // read,
            _LOGITS_AT_ONCE // (read * symbols),
        ),
    )


def split_rows(rows: SampleBatch, most: int) -> list[SampleBatch]:
    """Split rows into as few batches as possible, of one size; the last row fills the last batch.

    Args:
      rows: rows to sample.
      most: largest size of a batch.

    Returns:
      The batches, in the order of the rows.
    """
    count = len(rows.keys_B)
    most = -(-count // -(-count // most))
    indices = [np.minimum(np.arange(x, x + most), count - 1) for x in range(0, count, most)]
    if len(indices) == 1:
        return [rows]
    return [jax.tree.map(lambda x, index_B=index_B: x[index_B], rows) for index_B in indices]


def _marked(ids_B: jax.Array, logits_BV: jax.Array) -> jax.Array:
    """Return ids with -1 in place of those that were not sampled from a distribution."""
    return jnp.where(jnp.isfinite(jnp.max(logits_BV, axis=-1)), ids_B, -1)


def _sound(ids_BT: np.ndarray) -> np.ndarray:
    """Return ids of which none is -1.

    Raises:
      CharlmError: one is.
    """
    if ids_BT.min() < 0:
        raise CharlmError("the model computes numbers that are not finite on this text")
    return ids_BT


def _powers_of_two(ids_N: np.ndarray) -> Iterator[np.ndarray]:
    """Cut ids into pieces whose lengths are powers of two, longest first."""
    while ids_N.size:
        length = min(_READ_PIECE, 2 ** int(math.log2(ids_N.size)))
        yield ids_N[:length]
        ids_N = ids_N[length:]
