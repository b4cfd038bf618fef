"""Floating-point operations of a model, counted in its traced computation."""

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr

from charlm_jax.config.schema import ModelConfig
from charlm_jax.core.numerics import fixed_numerics
from charlm_jax.core.prng import root_key
from charlm_jax.models.blocks import build_blocks


def product_flops(function: Callable[..., Any], *arguments: Any) -> int:
    """Count the operations of all matrix products in one call; a multiply-add counts as two.

    The function is only traced, on the shapes of its arguments. The body of a loop is counted once
    per iteration; of several branches, the most expensive one is counted.

    Raises:
      ValueError: a matrix product is inside a loop of unknown length.

    >>> product_flops(lambda x: x @ x.T, jnp.ones((3, 5)))
    90
    """
    return _count(jax.make_jaxpr(function)(*arguments).jaxpr)


@fixed_numerics()
def forward_flops(model: ModelConfig, *, symbols: int, sequence_length: int) -> int:
    """Count the matrix-product operations of one character in the forward pass.

    An LSTM of input width D with H units takes 2 (D + H) 4H operations, the output layer 2 H V.

    The count follows the model's definition: an embedding is a look-up, every layer reads vectors
    (not a table of projected symbols), and attention also computes the masked half of its scores.
    Layers with a matrix memory are counted in their chunks. Only matrix products are counted, as
    in float32: the exact operands of bfloat16 take two. With `mogrifier_rounds` the gates' bias
    is a row of their kernel, and is counted: 8 H.

    Args:
      model: layers and sizes.
      symbols: V, vocabulary size.
      sequence_length: T; the cost of attention grows with it.
    """
    model = dataclasses.replace(model, precision="float32")
    flops = 0
    x_1TD = jax.eval_shape(lambda: jnp.zeros((1, sequence_length, model.embedding_size)))
    for block in build_blocks(model):
        state = block.mixer.initial_state(1, 0)
        params = jax.eval_shape(block.init, root_key(0), x_1TD, state)
        flops += product_flops(block.apply, params, x_1TD, state)
        x_1TD, _ = jax.eval_shape(block.apply, params, x_1TD, state)
    return flops // sequence_length + 2 * x_1TD.shape[-1] * symbols


def train_flops(model: ModelConfig, *, symbols: int, sequence_length: int) -> int:
    """Count the operations of one character in training; backward costs twice the forward pass."""
    return 3 * forward_flops(model, symbols=symbols, sequence_length=sequence_length)


def _count(jaxpr: Jaxpr) -> int:
    flops = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left, output = equation.invars[0].aval, equation.outvars[0].aval
            assert isinstance(left, jax.core.ShapedArray)
            assert isinstance(output, jax.core.ShapedArray)
            flops += 2 * output.size * math.prod(left.shape[axis] for axis in contracted)
            continue
        inner = [_count(part) for part in _parts(equation.params)]
        match equation.primitive.name:
            case "scan":
                flops += equation.params["length"] * sum(inner)
            case "cond":
                flops += max(inner)
            case "while" if any(inner):
                raise ValueError("products in a loop of unknown length cannot be counted")
            case _:
                flops += sum(inner)
    return flops


def _parts(params: dict[str, Any]) -> Iterator[Jaxpr]:
    """Yield the computations nested in one equation."""
    for value in params.values():
        for item in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(item, ClosedJaxpr):
                yield item.jaxpr
            elif isinstance(item, Jaxpr):
                yield item
