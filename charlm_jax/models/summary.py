"""What a model is made of: its parts, their output shapes and their parameters."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from charlm_jax.config.schema import ModelConfig
from charlm_jax.core.trees import count_parameters
from charlm_jax.models.blocks import build_blocks
from charlm_jax.models.language_model import build_model, layer_name


class LayerSummary(NamedTuple):
    """One part of a model.

    Attributes:
      name: its key among the parameters.
      kind: what it is: embedding, a position policy, a mixer's name, a norm, or dense.
      output_shape: with "B" and "T" where any number will do.
      parameters: how many numbers it learns.
    """

    name: str
    kind: str
    output_shape: tuple[str | int, ...]
    parameters: int


def summarize(model: ModelConfig, vocab_size: int) -> tuple[LayerSummary, ...]:
    """The modules of a model from the input up. Nothing is computed, only shapes."""
    language_model = build_model(model, vocab_size)
    params = jax.eval_shape(lambda: language_model.init(jax.random.key(0)))
    width = model.embedding_size
    modules = [LayerSummary("embedding", "embedding", ("B", "T", width), vocab_size * width)]
    if "position" in params:
        size = count_parameters(params["position"])
        modules.append(LayerSummary("position", model.position, ("B", "T", width), size))
    for index, (kind, block) in enumerate(zip(model.layers, build_blocks(model), strict=True)):
        name = layer_name(index)
        x_BTD, state = jnp.zeros((1, 1, width)), block.mixer.initial_state(1, 0)
        output, _ = jax.eval_shape(block.apply, {"params": params[name]}, x_BTD, state)
        width = output.shape[-1]
        modules.append(LayerSummary(name, kind, ("B", "T", width), count_parameters(params[name])))
    if "norm" in params:
        size = count_parameters(params["norm"])
        modules.append(LayerSummary("norm", model.norm, ("B", "T", width), size))
    size = count_parameters(params.get("output", {}))
    kind = "embedding" if model.tied_embedding else "dense"
    return (*modules, LayerSummary("output", kind, ("B", "T", vocab_size), size))
