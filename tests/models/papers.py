"""Recurrences written from the equations of papers: float64, one position after the other.

Nothing here comes from the package. Arrays of weights have the package's names, as a nested dict.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Array = np.ndarray
Recurrence = Callable[
    [Mapping[str, Any], Array, tuple[Array, ...]], tuple[Array, tuple[Array, ...]]
]
"""(weights, x_BTD, state) -> outputs and the last state."""


def sigmoid(x: Array) -> Array:
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1.0, small) / (1 + small)


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


def convolution(weights: Mapping[str, Any], x_BD: Array, past_BSD: Array) -> tuple[Array, Array]:
    """The outputs of a depthwise convolution at one position, and the inputs that it keeps."""
    seen_BWD = np.concatenate([past_BSD, x_BD[:, None]], axis=1)
    y_BD = np.einsum("bwd,wd->bd", seen_BWD, weights["kernel"]) + weights["bias"]
    return y_BD, seen_BWD[:, 1:]


def gelu(x: Array) -> Array:
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / np.sqrt(2)))


def block_linear(kernel_MKG: Array, x_BH: Array) -> Array:
    """Products of the parts of a vector with the diagonal blocks of a matrix: (B, M, G)."""
    return np.stack(
        [
            part @ block
            for part, block in zip(np.split(x_BH, len(kernel_MKG), axis=1), kernel_MKG, strict=True)
        ],
        axis=1,
    )


def rglru(weights: Mapping[str, Any], x_BTD: Array, state: tuple[Array, ...]) -> Any:
    """Equations (1) to (4) of arXiv 2402.19427, and the block of its section 2.3."""
    (past, h), outputs = state, []
    for t in range(x_BTD.shape[1]):
        u, g = np.split(linear(weights["input"], x_BTD[:, t]), 2, axis=1)
        if "convolution" in weights:
            u, past = convolution(weights["convolution"], u, past)
        r, i = np.split(block_linear(weights["gate_kernel"], u), 2, axis=2)
        r = sigmoid(r.reshape(h.shape) + weights["gate_bias"][0])
        i = sigmoid(i.reshape(h.shape) + weights["gate_bias"][1])
        a = sigmoid(weights["decay_bias"]) ** (8 * r)
        h = a * h + np.sqrt(1 - a**2) * (i * u)
        outputs.append(linear(weights["output"], gelu(g) * h))
    return np.stack(outputs, axis=1), (past, h)


def mogrifier(weights: Mapping[str, Any], x_BTD: Array, state: tuple[Array, ...]) -> Any:
    """Equations (1) and (2) of arXiv 1909.01792 before an LSTM's."""
    (c, h), outputs = state, []
    for t in range(x_BTD.shape[1]):
        x = x_BTD[:, t]
        rounds = sum(name.startswith("round_") for name in weights)
        for i in range(1, rounds + 1):
            if i % 2 == 1:
                x = 2 * sigmoid(h @ weights[f"round_{i}_kernel"]) * x
            else:
                h = 2 * sigmoid(x @ weights[f"round_{i}_kernel"]) * h
        gates = x @ weights["input_kernel"] + h @ weights["recurrent_kernel"] + weights["bias"]
        i, f, g, o = np.split(gates, 4, axis=1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        outputs.append(h)
    return np.stack(outputs, axis=1), (c, h)


def silu(x: Array) -> Array:
    return x * sigmoid(x)


def softplus(x: Array) -> Array:
    return np.logaddexp(x, 0.0)


def in_heads(x_BG: Array, heads: int) -> Array:
    return x_BG.reshape(len(x_BG), heads, -1)


def rms_norm(x: Array, scale: Array) -> Array:
    return scale * x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + 1e-6)


def gated_deltanet(weights: Mapping[str, Any], x_BTD: Array, state: tuple[Array, ...]) -> Any:
    """Equation (10) of arXiv 2412.06464, and the layer of its figure 1; its S is transposed here.

    Squared lengths of queries and keys have 1e-6 added.
    """
    past, memory = state
    heads, size = memory.shape[1], len(weights["output"]["kernel"])
    s, outputs = np.swapaxes(memory, 2, 3), []
    for t in range(x_BTD.shape[1]):
        parts = np.split(
            linear(weights["input"], x_BTD[:, t]),
            [3 * size, 4 * size, 4 * size + heads],
            axis=1,
        )
        qkv, z, a, b = parts
        if "convolution" in weights:
            qkv, past = convolution(weights["convolution"], qkv, past)
        q, k, v = (in_heads(part, heads) for part in np.split(silu(qkv), 3, axis=1))
        q = q / np.sqrt(np.sum(q**2, axis=2, keepdims=True) + 1e-6)
        k = k / np.sqrt(np.sum(k**2, axis=2, keepdims=True) + 1e-6)
        step = softplus(a + weights["decay"]["step_bias"])
        alpha = np.exp(-np.exp(weights["decay"]["rate_bias"]) * step)[:, :, None, None]
        beta = sigmoid(b)[:, :, None, None]
        kk = k[:, :, :, None] * k[:, :, None, :]
        vk = v[:, :, :, None] * k[:, :, None, :]
        s = s @ (alpha * (np.eye(k.shape[2]) - beta * kk)) + beta * vk
        o = (s @ q[:, :, :, None])[:, :, :, 0]
        o = rms_norm(o, weights["norm"]["scale"]).reshape(len(o), -1)
        outputs.append(linear(weights["output"], o * silu(z)))
    return np.stack(outputs, axis=1), (past, np.swapaxes(s, 2, 3))


def mamba2(weights: Mapping[str, Any], x_BTD: Array, state: tuple[Array, ...]) -> Any:
    """The selective state space (2) of arXiv 2405.21060, and the layer of its figure 6."""
    past, memory = state
    heads, n = memory.shape[1], memory.shape[2]
    inner, outputs = len(weights["output"]["kernel"]), []
    hs = np.swapaxes(memory, 2, 3)  # (B, H, P, N)
    for t in range(x_BTD.shape[1]):
        z, xbc, dt = np.split(
            linear(weights["input"], x_BTD[:, t]), [inner, 2 * inner + 2 * n], axis=1
        )
        if "convolution" in weights:
            xbc, past = convolution(weights["convolution"], xbc, past)
        x, b, c = np.split(silu(xbc), [inner, inner + n], axis=1)
        x = in_heads(x, heads)
        delta = softplus(dt + weights["decay"]["step_bias"])
        a = np.exp(-delta * np.exp(weights["decay"]["rate_bias"]))
        added = np.einsum("bh,bhp,bn->bhpn", delta, x, b)
        hs = a[:, :, None, None] * hs + added
        y = np.einsum("bhpn,bn->bhp", hs, c) + weights["skip_scale"][None, :, None] * x
        y = rms_norm(y.reshape(z.shape) * silu(z), weights["norm"]["scale"])
        outputs.append(linear(weights["output"], y))
    return np.stack(outputs, axis=1), (past, np.swapaxes(hs, 2, 3))


def layer_norm(x: Array, scale: Array) -> Array:
    centred = x - np.mean(x, axis=-1, keepdims=True)
    return scale * centred / np.sqrt(np.mean(centred**2, axis=-1, keepdims=True) + 1e-5)


def layer_norm_lstm(weights: Mapping[str, Any], x_BTD: Array, state: tuple[Array, ...]) -> Any:
    """Equations (20) to (22) of arXiv 1607.06450."""
    (c, h), outputs = state, []
    for t in range(x_BTD.shape[1]):
        gates = (
            layer_norm(h @ weights["recurrent_kernel"], weights["recurrent_scale"])
            + layer_norm(x_BTD[:, t] @ weights["input"]["kernel"], weights["input_scale"])
            + weights["bias"]
        )
        i, f, g, o = np.split(gates, 4, axis=1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(layer_norm(c, weights["cell_scale"]) + weights["cell_bias"])
        outputs.append(h)
    return np.stack(outputs, axis=1), (c, h)


def layer_norm_gru(weights: Mapping[str, Any], x_BTD: Array, state: tuple[Array, ...]) -> Any:
    """The layer-normalized GRU of arXiv 1607.06450, whose z is 1 - u here."""
    (h,), outputs = state, []
    size = h.shape[1]
    w, w_n = np.split(weights["input"]["kernel"], [2 * size], axis=1)
    u, u_n = np.split(weights["recurrent_kernel"], [2 * size], axis=1)
    a_1, a_4 = np.split(weights["recurrent_scale"], [2 * size])
    a_2, a_3 = np.split(weights["input_scale"], [2 * size])
    b, b_3 = np.split(weights["bias"], [2 * size])
    for t in range(x_BTD.shape[1]):
        x = x_BTD[:, t]
        r, one_less_z = np.split(layer_norm(h @ u, a_1) + layer_norm(x @ w, a_2) + b, 2, axis=1)
        z = 1 - sigmoid(one_less_z)
        n = layer_norm(h @ u_n, a_4) + weights["candidate_bias"]
        n = np.tanh(layer_norm(x @ w_n, a_3) + b_3 + sigmoid(r) * n)
        h = (1 - z) * h + z * n
        outputs.append(h)
    return np.stack(outputs, axis=1), (h,)


def mlstm(weights: Mapping[str, Any], x_BTD: Array, state: tuple[Array, ...]) -> Any:
    """The outputs and the last state of `mlstm_cells`."""
    (y_BTH, _), state = mlstm_cells(weights, x_BTD, state)
    return y_BTH, state


def mlstm_cells(weights: Mapping[str, Any], x_BTD: Array, state: tuple[Array, ...]) -> Any:
    """Equations (19) to (27) of arXiv 2405.04517 as they are, without a stabilizer.

    Returns the outputs with the h of (21) before their norm, and the last state. A state is scaled
    by exp(-m) where it comes in and goes out, with m by (15), but at least 0.
    """
    past, memory, m = state
    size, heads = len(weights["output"]["kernel"]), m.shape[1]
    scale = np.exp(m)[:, :, None, None]
    c, n = np.swapaxes(scale * memory[..., :-1], 2, 3), (scale * memory)[..., -1]
    cells, outputs = [], []
    for t in range(x_BTD.shape[1]):
        parts = linear(weights["input"], x_BTD[:, t])
        qk, v, o, i, f = np.split(parts, [2 * size, 3 * size, 4 * size, 4 * size + heads], axis=1)
        if "convolution" in weights:
            qk, past = convolution(weights["convolution"], qk, past)
            qk = silu(qk)
        q, k, v = (in_heads(part, heads) for part in (*np.split(qk, 2, axis=1), v))
        k = k / np.sqrt(k.shape[2])
        m = np.maximum(np.maximum(np.log(sigmoid(f)) + m, i), 0)
        i, f = np.exp(i)[:, :, None], sigmoid(f)[:, :, None]
        c = f[..., None] * c + i[..., None] * v[:, :, :, None] * k[:, :, None, :]
        n = f * n + i * k
        nq = np.sum(n * q, axis=2, keepdims=True)
        h = np.einsum("bhpk,bhk->bhp", c, q) / np.maximum(np.abs(nq), 1)
        cells.append(h.reshape(o.shape))
        h = layer_norm(h, weights["norm"]["scale"]).reshape(o.shape)
        outputs.append(linear(weights["output"], sigmoid(o) * h))
    memory = np.concatenate([np.swapaxes(c, 2, 3), n[..., None]], axis=3)
    state = (past, memory / np.exp(m)[:, :, None, None], m)
    return (np.stack(outputs, axis=1), np.stack(cells, axis=1)), state


def slstm(weights: Mapping[str, Any], x_BTD: Array, state: tuple[Array, ...]) -> Any:
    """Equations (8) to (14) of arXiv 2405.04517 as they are, without a stabilizer.

    A state is scaled by exp(-m) where it comes in and goes out, with m by (15); the first m is that
    of the first input gate.
    """
    c, n, h, m = state
    is_empty = n == 0
    c, n, m = c * np.exp(m), n * np.exp(m), np.where(is_empty, -np.inf, m)
    kernel, outputs = weights["recurrent_kernel"], []
    for t in range(x_BTD.shape[1]):
        recurrent = np.split(block_linear(kernel, h), 4, axis=2)
        inputs = np.split(linear(weights["input"], x_BTD[:, t]), 4, axis=1)
        i, f, z, o = (a + b.reshape(a.shape) for a, b in zip(inputs, recurrent, strict=True))
        m = np.maximum(np.log(sigmoid(f)) + m, i)
        c = sigmoid(f) * c + np.exp(i) * np.tanh(z)
        n = sigmoid(f) * n + np.exp(i)
        h = sigmoid(o) * c / n
        outputs.append(h)
    return np.stack(outputs, axis=1), (c * np.exp(-m), n * np.exp(-m), h, m)
