"""Small pure operations shared by the layers."""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.experimental.layout import Layout, with_layout_constraint

from charlm_jax.core.errors import lookup
from charlm_jax.models.initializers import Initializer

Seen = OrderedDict[str, jax.Array]
"""Arrays (B, T, ...) that a mixer exposes to `inspect`, by name, in the order of computation. (JAX
sorts the keys of a plain dict.)"""

Dtype = Any
"""Any value that JAX accepts as a dtype."""


def capture(module: nn.Module, seen: Seen) -> None:
    """Sow the arrays that a mixer exposes to `inspect`; no effect in other calls."""
    for name, value in seen.items():
        module.sow("captured", name, value)


def spread(gate_BTM: jax.Array, size: int) -> jax.Array:
    """Repeat the gates of M heads for each of the `size` units, so that they can be captured."""
    return jnp.repeat(gate_BTM, size // gate_BTM.shape[-1], axis=-1)


# Above this number of symbols a one-hot matrix costs more than the scatter that it replaces.
_ONE_HOT_SYMBOLS = 1024


def embed(table_VD: jax.Array, ids_BT: jax.Array) -> jax.Array:
    """Look up rows of a table: x_BTD = table_VD[ids_BT].

    The gradient of a gather is a scatter-add, which a CPU computes row by row. For the small
    vocabularies of character models it is a product with a one-hot matrix instead: the same sum,
    many times faster.
    """
    if table_VD.shape[0] > _ONE_HOT_SYMBOLS:
        return table_VD[ids_BT]
    return _embed(table_VD, ids_BT)


@jax.custom_vjp
def _embed(table_VD: jax.Array, ids_BT: jax.Array) -> jax.Array:
    return table_VD[ids_BT]


def _embed_forward(
    table_VD: jax.Array, ids_BT: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    symbols_V = jnp.arange(table_VD.shape[0])
    return table_VD[ids_BT], (ids_BT, symbols_V)


def _embed_backward(
    residuals: tuple[jax.Array, jax.Array], gradient_BTD: jax.Array
) -> tuple[jax.Array, None]:
    ids_BT, symbols_V = residuals
    one_hot_VN = (symbols_V[:, None] == ids_BT.reshape(1, -1)).astype(gradient_BTD.dtype)
    return one_hot_VN @ gradient_BTD.reshape(-1, gradient_BTD.shape[-1]), None


_embed.defvjp(_embed_forward, _embed_backward)


def scan_time(
    step: Callable[[Any, Any], tuple[Any, Any]], state: Any, inputs: Any
) -> tuple[Any, Any]:
    """Run `lax.scan` over the second axis: inputs and stacked outputs keep the batch first.

    Args:
      step: (state, inputs of one position) -> (state, outputs), all with the batch first.
      state: state before the first step.
      inputs: an array (B, T, ...), or a tree of them.

    Returns:
      The last state, and the outputs with a time axis inserted after the batch.
    """
    state, outputs = jax.lax.scan(step, state, _swap_time(inputs))
    return state, _swap_time(outputs)


def _swap_time(tree: Any) -> Any:
    return jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), tree)


_OPERAND_DTYPES: Mapping[str, Dtype] = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def operand_dtype(precision: str) -> Dtype:
    """Return the dtype to which operands of products are rounded; sums are always float32."""
    return lookup(_OPERAND_DTYPES, precision, "config.model.precision")


def matmul(x: jax.Array, kernel: jax.Array, *, operand_dtype: Dtype) -> jax.Array:
    """Return x @ kernel for x of any rank, with rounded operands, forward and backward.

    Rows and positions are merged into one axis, N: the gradient of the kernel (I, O) is then one
    matrix product, which XLA computes several times faster on a CPU than a sum over two axes.
    """
    rows_NI = jnp.reshape(x, (-1, x.shape[-1]))
    return jnp.reshape(_matmul(rows_NI, kernel, operand_dtype), (*x.shape[:-1], kernel.shape[-1]))


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _matmul(rows_NI: jax.Array, kernel_IO: jax.Array, operand_dtype: Dtype) -> jax.Array:
    return product(rows_NI, kernel_IO, operand_dtype)


def _matmul_forward(
    rows_NI: jax.Array, kernel_IO: jax.Array, operand_dtype: Dtype
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    rows_NI, kernel_IO = rows_NI.astype(operand_dtype), kernel_IO.astype(operand_dtype)
    return product(rows_NI, kernel_IO, operand_dtype), (rows_NI, kernel_IO)


def _matmul_backward(
    operand_dtype: Dtype, operands: tuple[jax.Array, jax.Array], gradient_NO: jax.Array
) -> tuple[jax.Array, jax.Array]:
    rows_NI, kernel_IO = operands
    drows_NI = product(gradient_NO, kernel_IO.T, operand_dtype)
    # On a CPU, a bfloat16 product over the first axis of both operands is several times slower; a
    # float32 product is not slow enough to justify a copy.
    rows_IN = rows_NI.T if operand_dtype == jnp.float32 else as_written(rows_NI.T)
    return drows_NI, product(rows_IN, gradient_NO, operand_dtype)


_matmul.defvjp(_matmul_forward, _matmul_backward)


def batch_matmul(a: jax.Array, b: jax.Array, *, operand_dtype: Dtype) -> jax.Array:
    """Return a @ b for stacks of matrices, with rounded operands, forward and backward.

    Args:
      a: stack of matrices (..., N, I).
      b: stack of as many matrices (..., I, O).
      operand_dtype: dtype to which operands are rounded; sums are float32.
    """
    return _batch_matmul(a, b, operand_dtype)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _batch_matmul(a: jax.Array, b: jax.Array, operand_dtype: Dtype) -> jax.Array:
    return product(a, b, operand_dtype)


def _batch_matmul_forward(
    a: jax.Array, b: jax.Array, operand_dtype: Dtype
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    a, b = a.astype(operand_dtype), b.astype(operand_dtype)
    return product(a, b, operand_dtype), (a, b)


def _batch_matmul_backward(
    operand_dtype: Dtype, operands: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    a, b = operands
    return (
        product(gradient, jnp.swapaxes(b, -1, -2), operand_dtype),
        product(jnp.swapaxes(a, -1, -2), gradient, operand_dtype),
    )


_batch_matmul.defvjp(_batch_matmul_forward, _batch_matmul_backward)


def product(a: jax.Array, b: jax.Array, operand_dtype: Dtype) -> jax.Array:
    """Return the matrix product a @ b of rounded operands, with float32 sums."""
    a, b = a.astype(operand_dtype), b.astype(operand_dtype)
    return jnp.matmul(a, b, preferred_element_type=jnp.float32)


def as_written(x: jax.Array) -> jax.Array:
    """Materialise a transpose; XLA would fold it into the next product, which slows that down."""
    layout = Layout(major_to_minor=tuple(range(x.ndim)))
    return with_layout_constraint(x, layout)  # type: ignore[no-untyped-call]


def layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    """Return scale * (x - mean) / sqrt(variance + 1e-5) + bias, over the last axis.

    No gradient flows through a vector of zeros, such as that of a state that is still 0. The
    formula's would be 300 times larger than what flows in, at each of the first positions.

    Source: Ba et al. 2016 (arXiv 1607.06450), equations (15) and (16), which have no 1e-5.
    """
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
    scale, bias = (jnp.expand_dims(y, range(x.ndim - 1)) for y in (scale, bias))
    factor = jnp.where(variance > 0.0, jax.lax.rsqrt(variance + 1e-5), 0.0)
    return scale * centred * factor + bias


def dense(
    size: int,
    *,
    init: Initializer,
    operand_dtype: Dtype,
    bias: bool = False,
    bias_init: Initializer = nn.initializers.zeros,
) -> nn.Dense:
    """Build a linear layer, x W (+ b)."""

    def dot_general(
        x: jax.Array, kernel: jax.Array, dimensions: Any, precision: Any = None
    ) -> jax.Array:
        return matmul(x, kernel, operand_dtype=operand_dtype)

    return nn.Dense(
        size, use_bias=bias, kernel_init=init, bias_init=bias_init, dot_general=dot_general
    )
