"""Activations of a model along a text: attention weights, gates, states and top predictions."""

import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np

from charlm_jax.core.errors import CharlmError
from charlm_jax.core.numerics import fixed_numerics
from charlm_jax.core.types import Params
from charlm_jax.models import LanguageModel
from charlm_jax.models.language_model import Inspect

# Memory of attention grows with the square of the length.
MOST_CHARACTERS = 2_000

_TOP_PREDICTIONS = 3  # most probable next characters kept per position


class LayerActivations(NamedTuple):
    """Activations of one layer over T characters.

    Attributes:
      name: name of the layer's parameters; `layer_0` is next to the embedding.
      kind: name of the layer in `config.model.layers`.
      arrays: captured arrays by name, float32: `weights` (T, H, S) of attention, whose rows are
        probabilities over S = T; gates, candidate, cell or hidden (T, H) of a recurrent layer;
        `stream_after_...` (T, D) of a block with a residual stream.
    """

    name: str
    kind: str
    arrays: Mapping[str, np.ndarray]

    @property
    def distance_H(self) -> np.ndarray | None:
        """Mean attention distance of each head, in characters; None for a layer without heads.

        Only an array `weights` with three axes is attention.
        """
        weights_THS = self.arrays.get("weights")
        if weights_THS is None or weights_THS.ndim != 3:
            return None
        return mean_attention_distance(weights_THS)

    @property
    def gates(self) -> dict[str, np.ndarray]:
        """Gates of a recurrent layer (T, H), with values between 0 and 1."""
        return {
            name: x for name, x in self.arrays.items() if x.ndim == 2 and name.endswith("_gate")
        }

    @property
    def states(self) -> dict[str, np.ndarray]:
        """Other arrays (T, H) of a recurrent layer's units; the last is its state or its output."""
        return {
            name: x
            for name, x in self.arrays.items()
            if x.ndim == 2 and name not in self.gates and not name.startswith("stream_")
        }


class Activations(NamedTuple):
    """Activations of a model along a text, read from its initial state.

    Attributes:
      symbols: the T characters that were read, one per position.
      logits_TV: logits of the character after each position, float32.
      top_predictions: the most probable next characters at each position with their
        probabilities, in descending order.
      layers: activations of each layer, from the embedding upwards.
    """

    symbols: str
    logits_TV: np.ndarray
    top_predictions: Sequence[Sequence[tuple[str, float]]]
    layers: Sequence[LayerActivations]


@fixed_numerics()
def capture_activations(
    model: LanguageModel,
    params: Params,
    ids_T: np.ndarray,
    *,
    symbols: str,
    kinds: Sequence[str],
) -> Activations:
    """Run a model over a text and capture its activations.

    Args:
      model: model to inspect.
      params: weights of the model.
      ids_T: the text, integers in [0, V).
      symbols: the vocabulary, V characters in the order of their ids.
      kinds: names of the layers.

    Returns:
      Every captured array without its batch axis.

    Raises:
      CharlmError: the text is longer than the model or this function can read, or an activation is
        not finite.
    """
    length = len(ids_T)
    for most, reader in (
        (model.max_length, "this model reads"),
        (MOST_CHARACTERS, "inspect reads"),
    ):
        if most is not None and length > most:
            raise CharlmError(
                f"the text is too long to inspect: it has {length} characters, and {reader} at "
                f"most {most}"
            )
    ids_BT = jax.device_put(np.asarray(ids_T, np.int32)[None, :])
    seen = _compiled_inspect(model, length)(params, ids_BT, model.initial_state(1, 0))
    seen = jax.tree.map(lambda x: np.asarray(x)[0], seen)
    if not all(np.isfinite(x).all() for x in jax.tree.leaves(seen)):
        raise CharlmError("the model computes numbers that are not finite on this text")
    logits_TV = seen.pop("logits")
    names = sorted(seen, key=lambda name: int(name.rpartition("_")[2]))
    layers = [
        LayerActivations(name, kind, seen[name]) for name, kind in zip(names, kinds, strict=True)
    ]
    read = "".join(symbols[index] for index in ids_T)
    return Activations(read, logits_TV, _top_predictions(logits_TV, symbols), layers)


@functools.lru_cache(maxsize=8)
def _compiled_inspect(model: LanguageModel, length: int) -> Inspect:
    """Return `model.inspect`, compiled for one length; programs for the oldest are freed."""
    del length
    return jax.jit(functools.partial(model.inspect))


def mean_attention_distance(weights_THS: np.ndarray) -> np.ndarray:
    """Return the mean attention distance: the mean over positions t of sum over s of w_ts (t - s).

    Args:
      weights_THS: attention weights, probabilities over S; the last T of the S positions are the
        queries.

    Returns:
      distance_H in characters, float64. A head that attends only to its own position has 0, one
      that attends equally to everything read so far (T - 1) / 4.

    Source: Vig and Belinkov 2019 (arXiv 1906.04284), their attention distance, over one text.

    >>> last, all_equally = [[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.5, 0.5]]
    >>> mean_attention_distance(np.array([last, all_equally]).swapaxes(0, 1)).tolist()
    [0.0, 0.25]
    """
    length, _, attended = weights_THS.shape
    places_T, places_S = np.arange(attended - length, attended), np.arange(attended)
    distance_TS = (places_T[:, None] - places_S[None, :]).astype(np.float64)
    return np.einsum("ths,ts->h", weights_THS, distance_TS) / length


def _top_predictions(logits_TV: np.ndarray, symbols: str) -> list[list[tuple[str, float]]]:
    exp_TV = np.exp(logits_TV.astype(np.float64) - logits_TV.max(axis=1, keepdims=True))
    probability_TV = exp_TV / exp_TV.sum(axis=1, keepdims=True)
    order_TV = np.argsort(-probability_TV, axis=1, kind="stable")[:, :_TOP_PREDICTIONS]
    return [
        [(symbols[index], float(row_V[index])) for index in order_V]
        for row_V, order_V in zip(probability_TV, order_TV, strict=True)
    ]
