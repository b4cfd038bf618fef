"""Sequence mixers by name. A new one takes a class, a line here, and lines in unread_fields.py.

`external.py` finds mixers that are defined outside the package, as `module:Class`.

A mixer is a Linen module with `__call__(x_BTD, state) -> (y_BTD, state)` and
`initial_state(batch_size, context)`, which uses no parameters. It sows at least one array
(B, T, ...) into the collection `captured`, for `inspect`. A mixer that begins with a linear
projection may offer it as `project(x)`, and the rest as `mix(z, state)`. If symbols' projections
need not be looked up in their table, it may also offer `mix_ids(table_VG, ids_BT, state)`, as LSTM
does. These three names have no other use.

`build_mixer` passes each builder the model's config and the layer's input width. The output is
`hidden_size` wide, unless the class has an attribute `output_size`.
"""

from collections.abc import Callable, Mapping

from flax import linen as nn

from charlm_jax.config.schema import ModelConfig
from charlm_jax.core.errors import CharlmError
from charlm_jax.models.attention import Attention, SelfAttention
from charlm_jax.models.external import (
    MixerSource,
    build_external,
    find_class,
    installed_mixers,
    mixer_source,
)
from charlm_jax.models.gated_deltanet import GatedDeltaNet
from charlm_jax.models.gru import GRU
from charlm_jax.models.initializers import init_scheme, residual_kernel
from charlm_jax.models.layer_norm_gru import LayerNormGRU
from charlm_jax.models.layer_norm_lstm import LayerNormLSTM
from charlm_jax.models.linear_scan import linear_scan
from charlm_jax.models.lstm import LSTM
from charlm_jax.models.mamba2 import Mamba2
from charlm_jax.models.mingru import MinGRU
from charlm_jax.models.minlstm import MinLSTM
from charlm_jax.models.mlstm import MLSTM
from charlm_jax.models.mogrifier import MogrifierLSTM
from charlm_jax.models.ops import operand_dtype
from charlm_jax.models.positions import build_position
from charlm_jax.models.rglru import RGLRU
from charlm_jax.models.rnn import RNN
from charlm_jax.models.slstm import SLSTM


def _lstm(model: ModelConfig, width: int) -> nn.Module:
    scheme, dtype = init_scheme(model.init), operand_dtype(model.precision)
    if model.mogrifier_rounds:
        return MogrifierLSTM(model.hidden_size, model.mogrifier_rounds, scheme, dtype)
    mixer = LayerNormLSTM if model.cell_norm else LSTM
    return mixer(model.hidden_size, scheme, dtype)


def _gru(model: ModelConfig, width: int) -> nn.Module:
    mixer = LayerNormGRU if model.cell_norm else GRU
    return mixer(model.hidden_size, init_scheme(model.init), operand_dtype(model.precision))


def _rnn(model: ModelConfig, width: int) -> nn.Module:
    return RNN(model.hidden_size, init_scheme(model.init), operand_dtype(model.precision))


def _mingru(model: ModelConfig, width: int) -> nn.Module:
    scan, dtype = linear_scan(model.scan), operand_dtype(model.precision)
    return MinGRU(model.hidden_size, scan, init_scheme(model.init), dtype)


def _minlstm(model: ModelConfig, width: int) -> nn.Module:
    scan, dtype = linear_scan(model.scan), operand_dtype(model.precision)
    return MinLSTM(model.hidden_size, scan, init_scheme(model.init), dtype)


def _rglru(model: ModelConfig, width: int) -> nn.Module:
    return RGLRU(
        size=model.hidden_size,
        heads=model.heads,
        conv_width=model.conv_width,
        scan=linear_scan(model.scan),
        scheme=init_scheme(model.init),
        output_init=residual_kernel(model),
        operand_dtype=operand_dtype(model.precision),
    )


def _gated_deltanet(model: ModelConfig, width: int) -> nn.Module:
    return GatedDeltaNet(
        size=model.hidden_size,
        heads=model.heads,
        conv_width=model.conv_width,
        chunk_size=model.chunk_size,
        scheme=init_scheme(model.init),
        output_init=residual_kernel(model),
        operand_dtype=operand_dtype(model.precision),
    )


def _mamba2(model: ModelConfig, width: int) -> nn.Module:
    return Mamba2(
        size=model.hidden_size,
        heads=model.heads,
        state_size=model.state_size,
        conv_width=model.conv_width,
        chunk_size=model.chunk_size,
        scheme=init_scheme(model.init),
        output_init=residual_kernel(model),
        operand_dtype=operand_dtype(model.precision),
    )


def _mlstm(model: ModelConfig, width: int) -> nn.Module:
    return MLSTM(
        size=model.hidden_size,
        heads=model.heads,
        conv_width=model.conv_width,
        chunk_size=model.chunk_size,
        scheme=init_scheme(model.init),
        output_init=residual_kernel(model),
        operand_dtype=operand_dtype(model.precision),
    )


def _slstm(model: ModelConfig, width: int) -> nn.Module:
    scheme, dtype = init_scheme(model.init), operand_dtype(model.precision)
    return SLSTM(model.hidden_size, model.heads, scheme, dtype)


def _attention(model: ModelConfig, width: int) -> nn.Module:
    return Attention(
        size=model.hidden_size,
        heads=model.heads,
        kv_heads=model.kv_heads or model.heads,
        qk_norm=model.qk_norm,
        position=build_position(model),
        window=model.window,
        scheme=init_scheme(model.init),
        output_init=residual_kernel(model),
        operand_dtype=operand_dtype(model.precision),
    )


def _self_attention(model: ModelConfig, width: int) -> nn.Module:
    dtype = operand_dtype(model.precision)
    return SelfAttention(width, build_position(model), model.window, dtype)


MIXERS: Mapping[str, Callable[[ModelConfig, int], nn.Module]] = {
    "lstm": _lstm,
    "gru": _gru,
    "rnn": _rnn,
    "mingru": _mingru,
    "minlstm": _minlstm,
    "rglru": _rglru,
    "gated_deltanet": _gated_deltanet,
    "mamba2": _mamba2,
    "mlstm": _mlstm,
    "slstm": _slstm,
    "attention": _attention,
    "self_attention": _self_attention,
}


def build_mixer(name: str, model: ModelConfig, width: int) -> nn.Module:
    """Build the named mixer, unbound.

    Args:
      name: name in `MIXERS`, `module:Class`, or the short name of an installed mixer.
      model: config of the model.
      width: width of the layer's input.

    Raises:
      CharlmError: the name is unknown, or its module may not be used (see `external.py`).
    """
    if name in MIXERS:
        return MIXERS[name](model, width)
    return build_external(name, find_external(name), model, width)


def external_layers(model: ModelConfig) -> tuple[str, ...]:
    """Return the names in `config.model.layers` that are not in `MIXERS`, each once."""
    return tuple(dict.fromkeys(name for name in model.layers if name not in MIXERS))


def find_external(name: str) -> type[nn.Module]:
    """Find the class of a mixer outside the package.

    Args:
      name: `module:Class`, or the short name of an installed mixer.

    Raises:
      CharlmError: the name is unknown, or its module may not be used (see `external.py`).
    """
    if ":" in name:
        return find_class(name)
    installed = installed_mixers()
    if name not in installed:
        known = ", ".join([*MIXERS, *installed])
        raise CharlmError(
            f"config.model.layers={name!r} is not known: it must be a module:Class of your own, or "
            f"one of {known}"
        )
    return find_class(installed[name])


def external_sources(model: ModelConfig) -> tuple[MixerSource, ...]:
    """Return the origins of a model's mixers outside the package, all of which can be found."""
    return tuple(mixer_source(name, find_external(name)) for name in external_layers(model))
