"""How many floating-point operations a model needs, counted from its sizes."""

from charlm_jax.config import ModelConfig
from charlm_jax.types import CharlmError


def forward_flops(model: ModelConfig, *, symbols: int, sequence_length: int) -> int:
    """Operations of the matrix products of one character, read forwards.

        lstm          2 (D + H) 4H
        attention     2 D (2D + 2 M K) + 4 T D      projections; scores and weighted values
        MLP           2 D F for each of its matrices
        output layer  2 D V

    A multiplication and an addition are two. This is the model as it is written down, whoever
    computes it: an embedding is a look-up, the first layer reads embeddings and not a table of
    projections, and attention computes the masked half of its scores too.

    Args:
      model: layers and sizes.
      symbols: V.
      sequence_length: T.

    Raises:
      CharlmError: a layer that has no formula here.
    """
    flops, width, hidden = 0, model.embedding_size, model.hidden_size
    for layer in model.layers:
        if layer == "lstm":
            flops += 2 * (width + hidden) * 4 * hidden
        elif layer == "attention":
            kv_width = hidden // model.heads * (model.kv_heads or model.heads)
            flops += 2 * width * (hidden + 2 * kv_width) + 2 * hidden * hidden
            flops += 4 * sequence_length * hidden
        else:
            raise CharlmError(f"the operations of layer {layer!r} are not counted here")
        if model.mlp != "none":
            matrices = 3 if model.mlp == "swiglu" else 2
            flops += matrices * 2 * hidden * max(1, round(model.mlp_ratio * hidden))
        width = hidden
    return flops + 2 * width * symbols


def train_flops(model: ModelConfig, *, symbols: int, sequence_length: int) -> int:
    """The same for a step of training: backwards, every product has two of its size."""
    return 3 * forward_flops(model, symbols=symbols, sequence_length=sequence_length)
