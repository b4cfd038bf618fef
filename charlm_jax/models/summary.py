"""Model summary: the parts, their output shapes and their numbers of parameters."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from charlm_jax.config.schema import ModelConfig
from charlm_jax.core.numerics import fixed_numerics
from charlm_jax.core.prng import root_key
from charlm_jax.core.trees import count_parameters
from charlm_jax.models.blocks import build_blocks
from charlm_jax.models.language_model import build_model, layer_name


class LayerSummary(NamedTuple):
    """One part of a model.

    Attributes:
      name: key among the parameters.
      kind: embedding, a position policy, a mixer's name, a norm, or dense.
      output_shape: shape with "B" and "T" for the axes of any size.
      parameters: number of learned values.
    """

    name: str
    kind: str
    output_shape: tuple[str | int, ...]
    parameters: int


@fixed_numerics()
def summarize(model: ModelConfig, vocab_size: int) -> tuple[LayerSummary, ...]:
    """Summarise the modules of a model from the input up; only shapes are computed."""
    language_model = build_model(model, vocab_size)
    params = jax.eval_shape(lambda: language_model.init(root_key(0)))
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
