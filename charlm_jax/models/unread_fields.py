"""Fields of a model's config that no part of the model reads."""

from collections.abc import Callable, Mapping

from charlm_jax.config.schema import LAYERS_WITH_HEADS, ModelConfig
from charlm_jax.models.mixers import MIXERS

_ATTENTION = ("attention", "self_attention")
_CONVOLUTIONS = ("rglru", "gated_deltanet", "mamba2", "mlstm")
_WITH_OUTPUT_PROJECTION = ("attention", *_CONVOLUTIONS)


def _has(*layers: str) -> Callable[[ModelConfig], bool]:
    return lambda model: not {*layers}.isdisjoint(model.layers)


# Whether a model reads a field; every model reads the others.
_IS_READ: Mapping[str, Callable[[ModelConfig], bool]] = {
    "hidden_size": lambda model: (
        {*model.layers} != {"self_attention"} or model.block != "bare" or model.tied_embedding
    ),
    "norm": lambda model: model.block != "bare",
    "zero_init": lambda model: (
        model.block != "bare" and (model.mlp != "none" or _has(*_WITH_OUTPUT_PROJECTION)(model))
    ),
    "mlp_ratio": lambda model: model.mlp != "none",
    "max_length": lambda model: model.position == "learned",
    "position": lambda model: model.position not in ("rotary", "alibi") or _has(*_ATTENTION)(model),
    "window": _has(*_ATTENTION),
    "kv_heads": _has("attention"),
    "qk_norm": _has("attention"),
    "heads": _has(*LAYERS_WITH_HEADS),
    "conv_width": _has(*_CONVOLUTIONS),
    "state_size": _has("mamba2"),
    "chunk_size": _has("gated_deltanet", "mamba2", "mlstm"),
    "mogrifier_rounds": _has("lstm"),
    "scan": _has("mingru", "minlstm", "rglru"),
    "dropout_mask": lambda model: model.dropout > 0.0,
}


def unread_fields(model: ModelConfig) -> frozenset[str]:
    """Return the fields, such as `model.window`, that have no effect on a model.

    Layers from outside this package may read any field.
    """
    if not {*model.layers} <= {*MIXERS}:
        return frozenset()
    return frozenset(f"model.{field}" for field, is_read in _IS_READ.items() if not is_read(model))
