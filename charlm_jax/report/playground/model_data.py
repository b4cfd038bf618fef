"""Data of the playground: weights as one block of bytes, and a description of the model."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from charlm_jax.config.schema import ModelConfig
from charlm_jax.core.errors import CharlmError, lookup
from charlm_jax.core.trees import leaves_by_path
from charlm_jax.core.types import Params
from charlm_jax.inference.trained_model import TrainedModel

_FORMAT = 1
_ALIGNMENT = 4  # bytes; a Float32Array begins at a multiple of it

LAYERS: Sequence[str] = (
    "lstm",
    "gru",
    "rnn",
    "mingru",
    "minlstm",
    "rglru",
    "gated_deltanet",
    "mamba2",
    "mlstm",
    "slstm",
    "attention",
    "self_attention",
)
"""Layers that `engine/mixers.js` computes."""


class ModelData(NamedTuple):
    """A model as the playground reads it.

    Attributes:
      description: format, config of the model, symbols as code points, sampling mode and context,
        and name, shape, precision and offset in bytes of each array; plain values.
      weights: all arrays one after another, little-endian.
    """

    description: Mapping[str, Any]
    weights: bytes


class Stored(NamedTuple):
    """An array as the page stores it.

    Attributes:
      values: numbers in the precision: float32, int8, or the upper halves of float32's bits.
      scales: numbers by which the columns of int8 values are multiplied; None in other precisions.
    """

    values: np.ndarray
    scales: np.ndarray | None


def _store_float32(array: np.ndarray) -> Stored:
    return Stored(array.astype("<f4"), None)


def _store_bfloat16(array: np.ndarray) -> Stored:
    return Stored(array.astype(jnp.bfloat16).view(np.uint16).astype("<u2"), None)


def _store_int8(array: np.ndarray) -> Stored:
    """Round every column of matrices to multiples of its largest magnitude / 127."""
    scales = np.abs(array).max(axis=tuple(range(array.ndim - 1))) / np.float32(127)
    scales = np.where(scales > 0, scales, np.float32(1)).astype("<f4")
    return Stored(np.rint(array / scales).astype(np.int8), scales)


_STORE: Mapping[str, Callable[[np.ndarray], Stored]] = {
    "float32": _store_float32,
    "bfloat16": _store_bfloat16,
    "int8": _store_int8,
}
PRECISIONS: Sequence[str] = tuple(_STORE)
"""Precisions in which the page can store matrices; vectors are always float32."""


def _restore(stored: Stored) -> np.ndarray:
    """Return the float32 numbers that the page computes with."""
    values = stored.values
    if stored.scales is not None:
        return values.astype(np.float32) * stored.scales
    if values.dtype == np.uint16:
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values


def _store(array: np.ndarray, precision: str) -> Stored:
    return _STORE[precision if array.ndim > 1 else "float32"](array)


def rounded_params(params: Params, precision: str) -> Params:
    """Return the weights as a page of this precision has them, float32."""
    check_precision(precision)
    return jax.tree.map(lambda leaf: _restore(_store(np.asarray(leaf), precision)), params)


def check_precision(precision: str) -> None:
    """Raise `CharlmError` if there is no such precision."""
    lookup(_STORE, precision, "precision")


def check_model(model: ModelConfig) -> None:
    """Raise `CharlmError` if the model has a part that the JavaScript does not compute."""
    for name in model.layers:
        if name not in LAYERS:
            raise CharlmError(
                f"the playground cannot run the layer {name!r}: it has only {', '.join(LAYERS)}"
            )
    if model.cell_norm:
        raise CharlmError(
            "the playground cannot run config.model.cell_norm=True: its LSTM and GRU have no norms"
        )
    if model.precision != "float32":
        raise CharlmError(
            f"the playground cannot run config.model.precision={model.precision!r}: it computes in "
            f"float32 alone"
        )


def model_data(trained: TrainedModel, *, precision: str = "float32") -> ModelData:
    """Return the data of a model.

    Args:
      trained: model to describe.
      precision: precision of its matrices: float32, bfloat16 or int8.

    Raises:
      CharlmError: the model has a part that the JavaScript does not compute.
    """
    check_precision(precision)
    check_model(trained.config.model)
    block = bytearray()

    def append(array: np.ndarray) -> int:
        offset = len(block)
        block.extend(array.tobytes())
        block.extend(bytes(-len(block) % _ALIGNMENT))
        return offset

    tensors = []
    for name, leaf in leaves_by_path(trained.params, separator=".").items():
        array = np.asarray(leaf)
        values, scales = _store(array, precision)
        tensor = {
            "name": name,
            "shape": list(array.shape),
            "precision": precision if array.ndim > 1 else "float32",
            "offset": append(values),
        }
        tensors.append(tensor if scales is None else {**tensor, "scales": append(scales)})
    context = trained.config.data.sequence_length
    if trained.model.max_length is not None:
        context = min(context, trained.model.max_length)
    description = {
        "format": _FORMAT,
        "model": trained.config.to_dict()["model"],
        "symbols": [ord(symbol) for symbol in trained.vocabulary.symbols],
        "unit": trained.vocabulary.unit,
        "mode": trained.default_mode,
        "context": context,
        "tensors": tensors,
    }
    return ModelData(description, bytes(block))
