"""Recurrences written from the equations of papers: float64, one position after the other.

Nothing here comes from the package. Arrays of weights have the package's names, as a nested dict.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Array = np.ndarray
Recurrence = Callable[
    [Mapping[str, Any], Array, tuple[Array, ...]], tuple[Array, tuple[Array, ...]]
]
"""(weights, x_BTD, state) -> outputs and the last state."""


def sigmoid(x: Array) -> Array:
    return np.where(x >= 0, 1 / (1 + np.exp(-np.abs(x))), 1 - 1 / (1 + np.exp(-np.abs(x))))


def linear(layer: Mapping[str, Array], x: Array) -> Array:
    return x @ layer["kernel"] + layer.get("bias", 0.0)


def minlstm(weights: Mapping[str, Any], x_BTD: Array, state: tuple[Array, ...]) -> Any:
    """Section 3.2 of arXiv 2410.01201, with the g of appendix B."""
    (h,), outputs = state, []
    for t in range(x_BTD.shape[1]):
        f, i, n = np.split(linear(weights["input"], x_BTD[:, t]), 3, axis=1)
        f, i, n = sigmoid(f), sigmoid(i), np.where(n >= 0, n + 0.5, sigmoid(n))
        h = f / (f + i) * h + i / (f + i) * n
        outputs.append(h)
    return np.stack(outputs, axis=1), (h,)
