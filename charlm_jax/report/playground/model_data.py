"""Data of the playground: weights as one block of bytes, and a description of the model."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from charlm_jax.core.errors import CharlmError
from charlm_jax.core.trees import leaves_by_path
from charlm_jax.inference.trained_model import TrainedModel

MIXERS = ("lstm", "gru", "rnn", "mingru", "attention", "self_attention")
"""Layers that the JavaScript computes."""

_FORMAT = 1


class ModelData(NamedTuple):
    """A model as the playground reads it.

    Attributes:
      description: format, config of the model, symbols as code points, sampling mode and context,
        and name, shape and offset in bytes of each array; plain values.
      weights: all arrays one after another, float32, little-endian.
    """

    description: Mapping[str, Any]
    weights: bytes


def model_data(trained: TrainedModel) -> ModelData:
    """Return the data of a model.

    Args:
      trained: model to describe.

    Raises:
      CharlmError: the model has a part that the JavaScript does not compute.
    """
    model = trained.config.model
    for name in model.layers:
        if name not in MIXERS:
            raise CharlmError(
                f"the playground cannot run the layer {name!r}: it has only {', '.join(MIXERS)}"
            )
    if model.precision != "float32":
        raise CharlmError(
            f"the playground cannot run config.model.precision={model.precision!r}: it computes in "
            f"float32 alone"
        )
    arrays = {
        name: np.ascontiguousarray(leaf, "<f4")
        for name, leaf in leaves_by_path(trained.params, separator=".").items()
    }
    tensors, offset = [], 0
    for name, array in arrays.items():
        tensors.append({"name": name, "shape": list(array.shape), "offset": offset})
        offset += array.nbytes
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
    return ModelData(description, b"".join(array.tobytes() for array in arrays.values()))
