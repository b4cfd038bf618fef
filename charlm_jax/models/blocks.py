"""Blocks around a mixer: bare, or with norms, a residual stream and an MLP."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from charlm_jax.config.schema import ModelConfig
from charlm_jax.core.errors import lookup
from charlm_jax.core.types import ModelState
from charlm_jax.models.dropout import Dropout, build_dropout
from charlm_jax.models.initializers import Initializer, InitScheme, init_scheme, residual_kernel
from charlm_jax.models.linear_scan import linear_scan
from charlm_jax.models.mixers import build_mixer
from charlm_jax.models.ops import Dtype, dense, embed, operand_dtype

NORMS: Mapping[str, Callable[[], nn.Module]] = {
    # Neither has a bias. LayerNorm's variance is computed by definition, not as E[x^2] - E[x]^2.
    "layer_norm": lambda: nn.LayerNorm(epsilon=1e-5, use_bias=False, use_fast_variance=False),
    "rms_norm": lambda: nn.RMSNorm(epsilon=1e-6),
}


def build_norm(model: ModelConfig) -> nn.Module:
    """Build LayerNorm (Ba et al. 2016) or RMSNorm (Zhang and Sennrich 2019), over the width."""
    return lookup(NORMS, model.norm, "config.model.norm")()


def _squared_relu(x: jax.Array) -> jax.Array:
    return jnp.square(jax.nn.relu(x))


def _gelu(x: jax.Array) -> jax.Array:
    return jax.nn.gelu(x, approximate=False)


ACTIVATIONS: Mapping[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": _gelu,  # Hendrycks and Gimpel 2016, exact
    "relu2": _squared_relu,  # So et al. 2021
    "swiglu": jax.nn.silu,  # Shazeer 2020; applied to a second projection, the gate
}


class MLP(nn.Module):
    """Two linear layers with a non-linearity between them, applied to each position.

        y = activation(x W_i) W_o                    gelu, relu2
        y = (silu(x W_g) * (x W_i)) W_o              swiglu

    Attributes:
      size: D, width of input and output.
      hidden_size: F, width of the hidden layer.
      kind: non-linearity: `gelu`, `relu2` or `swiglu`.
      scheme: weight initialization scheme.
      output_init: initializer of W_o.
      operand_dtype: dtype to which operands of matrix products are rounded.
    """

    size: int
    hidden_size: int
    kind: str
    scheme: InitScheme
    output_init: Initializer
    operand_dtype: Dtype

    def setup(self) -> None:
        init = self.scheme.kernel
        self.input = dense(self.hidden_size, init=init, operand_dtype=self.operand_dtype)
        if self.kind == "swiglu":
            self.gate = dense(self.hidden_size, init=init, operand_dtype=self.operand_dtype)
        self.output = dense(self.size, init=self.output_init, operand_dtype=self.operand_dtype)

    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        activation = ACTIVATIONS[self.kind]
        if self.kind == "swiglu":
            return self.output(activation(self.gate(x_BTD)) * self.input(x_BTD))
        return self.output(activation(self.input(x_BTD)))


class BareBlock(nn.Module):
    """A mixer with dropout on its input, never on its recurrence (Zaremba et al. 2014).

    Attributes:
      mixer: the sequence mixer.
      dropout: dropout of the input.
    """

    mixer: Any
    dropout: Dropout

    @property
    def is_projectable(self) -> bool:
        """True if the mixer's input projection can be applied separately, to a table of inputs."""
        return hasattr(self.mixer, "project")

    def project(self, x: jax.Array) -> jax.Array:
        """Apply the mixer's input projection."""
        return self.mixer.project(x)

    def mix_ids(
        self, table_VG: jax.Array, ids_BT: jax.Array, state: ModelState
    ) -> tuple[jax.Array, ModelState]:
        """Apply the rest of the block to symbols whose projected inputs are rows of a table.

        The mixer's own `mix_ids` if it has one; otherwise a look-up, and `mix`.
        """
        if hasattr(self.mixer, "mix_ids"):
            return self.mixer.mix_ids(table_VG, ids_BT, state)
        return self.mixer.mix(embed(table_VG, ids_BT), state)

    def __call__(
        self, x_BTD: jax.Array, state: ModelState, key: jax.Array | None = None
    ) -> tuple[jax.Array, ModelState]:
        return self.mixer(self.dropout(x_BTD, key=key), state)


class ResidualBlock(nn.Module):
    """A mixer and an MLP, each added to the residual stream.

        pre_norm     x = x + mixer(norm(x))       x = x + mlp(norm(x))
        post_norm    x = norm(x + mixer(x))       x = norm(x + mlp(x))

    Dropout acts on the added values. Source: Vaswani et al. 2017, section 3.1, for post_norm;
    Xiong et al. 2020 for pre_norm.

    Attributes:
      mixer: the sequence mixer, whose output is as wide as its input.
      mlp: the MLP; None for no MLP.
      mixer_norm: norm of the mixer.
      mlp_norm: norm of the MLP; None for no MLP.
      normalizes_first: True for pre_norm, False for post_norm.
      dropout: dropout of the added values.
    """

    mixer: Any
    mlp: Any
    mixer_norm: Any
    mlp_norm: Any
    normalizes_first: bool
    dropout: Dropout

    @property
    def is_projectable(self) -> bool:
        """False: the stream needs the embedding itself, and a norm may precede the mixer."""
        return False

    def __call__(
        self, x_BTD: jax.Array, state: ModelState, key: jax.Array | None = None
    ) -> tuple[jax.Array, ModelState]:
        keys = (None, None) if key is None else jax.random.split(key)
        before, after = self._around(self.mixer_norm)
        added_BTD, state = self.mixer(before(x_BTD), state)
        x_BTD = after(x_BTD + self.dropout(added_BTD, key=keys[0]))
        self.sow("captured", "stream_after_mixer", x_BTD)
        if self.mlp is not None:
            before, after = self._around(self.mlp_norm)
            added_BTD = self.mlp(before(x_BTD))
            x_BTD = after(x_BTD + self.dropout(added_BTD, key=keys[1]))
            self.sow("captured", "stream_after_mlp", x_BTD)
        return x_BTD, state

    def _around(self, norm: Any) -> tuple[Any, Any]:
        """Return the functions applied before a branch and after its sum."""
        return (norm, _identity) if self.normalizes_first else (_identity, norm)


def _identity(x: jax.Array) -> jax.Array:
    return x


Block = BareBlock | ResidualBlock


def _bare(model: ModelConfig, mixer: nn.Module) -> Block:
    return BareBlock(mixer=mixer, dropout=build_dropout(model))


def _residual(model: ModelConfig, mixer: nn.Module) -> Block:
    mlp = None
    if model.mlp != "none":
        mlp = MLP(
            size=model.hidden_size,
            hidden_size=max(1, round(model.mlp_ratio * model.hidden_size)),
            kind=model.mlp,
            scheme=init_scheme(model.init),
            output_init=residual_kernel(model),
            operand_dtype=operand_dtype(model.precision),
        )
    return ResidualBlock(
        mixer=mixer,
        mlp=mlp,
        mixer_norm=build_norm(model),
        mlp_norm=None if mlp is None else build_norm(model),
        normalizes_first=model.block == "pre_norm",
        dropout=build_dropout(model),
    )


_BLOCKS: Mapping[str, Callable[[ModelConfig, nn.Module], Block]] = {
    "bare": _bare,
    "pre_norm": _residual,
    "post_norm": _residual,
}


def build_blocks(model: ModelConfig) -> tuple[Block, ...]:
    """Build the stack between embedding and output; raise `CharlmError` for an unknown name."""
    # Every name must be known, even if this stack does not use it.
    build_block = lookup(_BLOCKS, model.block, "config.model.block")
    lookup(NORMS, model.norm, "config.model.norm")
    lookup({"none": None, **ACTIVATIONS}, model.mlp, "config.model.mlp")
    linear_scan(model.scan)
    blocks, width = [], model.embedding_size
    for name in model.layers:
        mixer = build_mixer(name, model, width)
        blocks.append(build_block(model, mixer))
        width = getattr(mixer, "output_size", model.hidden_size)
    return tuple(blocks)
