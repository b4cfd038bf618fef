"""Weight initialization as in Keras, Flax and GPT-2.

The gates of a recurrent layer are stacked in one kernel of shape (in, gates x H). Keras samples
that kernel as one matrix, so its Glorot limit counts all gates as outputs, and the recurrent
kernel is orthogonal as a whole, but a single gate's square block is not. Flax samples every gate
separately. The difference is large enough to see in a loss curve.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import linen as nn

from charlm_jax.config.schema import ModelConfig
from charlm_jax.core.errors import lookup


class Initializer(Protocol):
    """(key, shape, dtype) -> array; float32 by default."""

    def __call__(
        self, key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32
    ) -> jax.Array: ...


def _per_gate(draw: Initializer, gates: int) -> Initializer:
    """Sample the block of each gate, square or not, with its own key, and stack the columns."""

    def init(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
        rows, columns = shape
        keys = jax.random.split(key, gates)
        return jnp.concatenate([draw(k, (rows, columns // gates), dtype) for k in keys], axis=1)

    return init


@dataclasses.dataclass(frozen=True)
class InitScheme:
    """Initializers for each kind of parameter.

    Attributes:
      embedding: initializer of the (V, D) table.
      kernel: initializer of a dense (in, out) matrix.
      recurrent: initializer of one gate's (H, H) matrix, or of all gates' if `joint`.
      forget_bias: initial bias of an LSTM's forget gate. Layers whose papers start a bias elsewhere
        do so; every other bias starts from 0.
      joint: whether stacked gates are sampled as one matrix.
      scales_residuals: whether kernels that add to the residual stream are smaller in a deeper
        stack.
    """

    embedding: Initializer
    kernel: Initializer
    recurrent: Initializer
    forget_bias: float
    joint: bool
    scales_residuals: bool = False

    def gate_kernel(self, gates: int) -> Initializer:
        """Return the initializer of the stacked input kernel (D, gates x H)."""
        return self.kernel if self.joint else _per_gate(self.kernel, gates)

    def recurrent_kernel(self, gates: int) -> Initializer:
        """Return the initializer of the stacked recurrent kernel (H, gates x H)."""
        return self.recurrent if self.joint else _per_gate(self.recurrent, gates)


def _uniform(limit: float) -> Initializer:
    def init(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -limit, limit)

    return init


_SCHEMES: Mapping[str, InitScheme] = {
    "keras": InitScheme(
        embedding=_uniform(0.05),
        kernel=nn.initializers.glorot_uniform(),
        recurrent=nn.initializers.orthogonal(),
        forget_bias=1.0,
        joint=True,
    ),
    "flax": InitScheme(
        embedding=nn.initializers.variance_scaling(1.0, "fan_in", "normal", out_axis=0),
        kernel=nn.initializers.lecun_normal(),
        recurrent=nn.initializers.orthogonal(),
        forget_bias=0.0,
        joint=False,
    ),
    "gpt2": InitScheme(
        embedding=nn.initializers.normal(0.02),
        kernel=nn.initializers.normal(0.02),
        recurrent=nn.initializers.orthogonal(),
        forget_bias=1.0,
        joint=True,
        scales_residuals=True,
    ),
}


def init_scheme(name: str) -> InitScheme:
    """Return the scheme with the given name.

    `keras` follows Keras 3 (`keras.layers.LSTM`), `flax` follows Flax 0.12 (Linen), and `gpt2`
    follows Radford et al. 2018, section 4.1, and 2019, section 2.3. Their models have no recurrent
    kernels or forget gates; `gpt2` initializes those as in Keras. Recurrent layers without an
    output projection add to the residual stream unscaled.
    """
    return lookup(_SCHEMES, name, "config.model.init")


def residual_kernel(model: ModelConfig) -> Initializer:
    """Return the initializer of a kernel whose output is added to the residual stream.

    Attention, the MLP and layers with an output projection end in such a kernel. With `gpt2` it is
    divided by sqrt(2 x layers), as two branches of each layer add to the stream; by the same with
    `mlp=none`, where it is one branch. With `zero_init` it is 0, so that each branch adds 0 at
    first (Goyal et al. 2017, section 5.1, for the last scale of a block; Zhang et al. 2019, section
    3, for the last kernel). Bare blocks have no stream: zeros would block the signal there, and two
    such layers would never learn.
    """
    scheme = init_scheme(model.init)
    if model.block == "bare":
        return scheme.kernel
    if model.zero_init:
        return nn.initializers.zeros
    if not scheme.scales_residuals:
        return scheme.kernel
    factor = (2 * len(model.layers)) ** -0.5

    def init(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
        return factor * scheme.kernel(key, shape, dtype)

    return init


def forget_gate_bias(value: float, *, gates: int = 4, index: int = 1) -> Initializer:
    """Return the initializer of an LSTM's bias: zeros, and `value` at the forget gate.

    Args:
      value: bias of the forget gate.
      gates: number of stacked gates; the default is an LSTM's, in the order i, f, g, o.
      index: place of the forget gate among them.
    """

    def init(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
        del key
        stacked = jnp.zeros(gates, dtype).at[index].set(value)
        return jnp.repeat(stacked, shape[0] // gates)

    return init


def stacked_blocks(draw: Initializer) -> Initializer:
    """Return the initializer of a stack of matrices (M, in, out), each drawn with its own key."""

    def init(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
        return jnp.stack([draw(k, shape[1:], dtype) for k in jax.random.split(key, shape[0])])

    return init
