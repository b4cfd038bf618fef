"""Recurrences whose step multiplies by kernels, with a gradient that is faster on a CPU."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import linen as nn

from charlm_jax.models.ops import Dtype, Seen, batch_matmul, capture, matmul, product, scan_time


class Multiply(Protocol):
    """(name, x) -> the product of x and the kernel of that name.

    A kernel (I, O) multiplies x_BI. A stack of kernels (M, I, O) multiplies the M heads of x_BMI.
    """

    def __call__(self, name: str, x: jax.Array) -> jax.Array: ...


Step = Callable[[Any, Any, Multiply], tuple[Any, Any]]
"""(state, inputs of one position, multiply) -> (state, outputs), all with the batch first. It uses
every kernel once, and captures no array that has a gradient."""


def plain_recurrence(
    step: Step, state: Any, inputs: Any, kernels: Mapping[str, jax.Array], *, operand_dtype: Dtype
) -> tuple[Any, Any]:
    """Run a recurrence over the second axis of its inputs.

    Args:
      step: computation of one position.
      state: state before the first position.
      inputs: tree of arrays (B, T, ...).
      kernels: kernels by name.
      operand_dtype: dtype to which operands of products are rounded.

    Returns:
      The last state, and the outputs (B, T, ...).
    """
    return scan_time(
        lambda state, inputs: step(state, inputs, partial(_multiply, kernels, operand_dtype)),
        state,
        inputs,
    )


def recurrence(
    step: Step, state: Any, inputs: Any, kernels: Mapping[str, jax.Array], *, operand_dtype: Dtype
) -> tuple[Any, Any]:
    """Compute the same as `plain_recurrence`, with a faster gradient.

    The gradient of `plain_recurrence` adds T products to the gradient of each kernel, one in each
    backward step. Here the backward scan only emits the gradients of the products' results; the
    kernel's gradient is one product after it.
    """
    return _recurrence(step, operand_dtype, state, inputs, dict(kernels))


def run_layer(
    layer: nn.Module,
    step: Callable[..., tuple[Any, Seen]],
    state: Any,
    inputs: Any,
    kernels: Mapping[str, jax.Array],
    *arrays: Any,
    operand_dtype: Dtype,
) -> tuple[jax.Array, Any]:
    """Run the recurrence of a layer, and capture what its steps see if the layer is inspected.

    Args:
      layer: the layer.
      step: (state, inputs of one position, multiply, *arrays) -> (state, what it sees), where
        the state has an output `hidden_BH`.
      state: state before the first position.
      inputs: tree of arrays (B, T, ...).
      kernels: kernels by name.
      *arrays: trees of other parameters that the steps read.
      operand_dtype: dtype to which operands of products are rounded.

    Returns:
      hidden_BTH, and the last state.
    """
    is_inspected = layer.is_mutable_collection("captured")

    def step_of_all(carry: Any, inputs: Any, multiply: Multiply) -> tuple[Any, Any]:
        state, arrays = carry  # a step may not capture what has a gradient
        state, seen = step(state, inputs, multiply, *arrays)
        return (state, arrays), (state.hidden_BH, seen if is_inspected else Seen())

    run = plain_recurrence if is_inspected else recurrence
    (state, _), (hidden_BTH, seen) = run(
        step_of_all, (state, arrays), inputs, kernels, operand_dtype=operand_dtype
    )
    capture(layer, seen)
    return hidden_BTH, state


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _recurrence(
    step: Step, operand_dtype: Dtype, state: Any, inputs: Any, kernels: dict[str, jax.Array]
) -> tuple[Any, Any]:
    return plain_recurrence(step, state, inputs, kernels, operand_dtype=operand_dtype)


def _forward(
    step: Step, operand_dtype: Dtype, state: Any, inputs: Any, kernels: dict[str, jax.Array]
) -> tuple[Any, Any]:
    batch, length = jax.tree.leaves(inputs)[0].shape[:2]

    def run(state: Any, inputs: Any, offsets: dict[str, jax.Array]) -> tuple[Any, Any]:
        """Run with an offset, 0, on every product: its gradient is that of the product."""

        def step_with_offsets(state: Any, inputs_and_offsets: Any) -> tuple[Any, Any]:
            inputs, offset = inputs_and_offsets
            operands: dict[str, jax.Array] = {}

            def multiply(name: str, x: jax.Array) -> jax.Array:
                operands[name] = x
                return _multiply(kernels, operand_dtype, name, x) + offset[name]

            state, outputs = step(state, inputs, multiply)
            return state, (outputs, operands)

        state, (outputs, operands) = scan_time(step_with_offsets, state, (inputs, offsets))
        return (state, outputs), operands

    offsets = {
        name: jnp.zeros((batch, length, *kernel.shape[:-2], kernel.shape[-1]))
        for name, kernel in kernels.items()
    }
    results, backward, operands = jax.vjp(run, state, inputs, offsets, has_aux=True)
    return results, (backward, operands)


def _backward(step: Step, operand_dtype: Dtype, residuals: Any, gradients: Any) -> Any:
    backward, operands = residuals
    dstate, dinputs, dproducts = backward(gradients)
    dkernels = {
        name: _kernel_gradient(operands[name], dproduct, operand_dtype)
        for name, dproduct in dproducts.items()
    }
    return dstate, dinputs, dkernels


_recurrence.defvjp(_forward, _backward)


def _multiply(
    kernels: Mapping[str, jax.Array], operand_dtype: Dtype, name: str, x: jax.Array
) -> jax.Array:
    kernel = kernels[name]
    if kernel.ndim == 2:
        return matmul(x, kernel, operand_dtype=operand_dtype)
    x_MBI = jnp.swapaxes(x, 0, 1)
    return jnp.swapaxes(batch_matmul(x_MBI, kernel, operand_dtype=operand_dtype), 0, 1)


def _kernel_gradient(x: jax.Array, dproduct: jax.Array, operand_dtype: Dtype) -> jax.Array:
    """Return the gradient of a kernel (I, O) or (M, I, O) from all operands and gradients."""
    x, dproduct = (y.reshape(-1, *y.shape[2:]) for y in (x, dproduct))
    if x.ndim == 2:
        return product(x.T, dproduct, operand_dtype)
    x_MIN, dproduct_MNO = jnp.moveaxis(x, 0, -1), jnp.swapaxes(dproduct, 0, 1)
    return product(x_MIN, dproduct_MNO, operand_dtype)
