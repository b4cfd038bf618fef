"""The minimal GRU: against a plain loop, and its scans against one another."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from charlm_jax.models.initializers import init_scheme
from charlm_jax.models.linear_scan import linear_scan
from charlm_jax.models.mingru import MinGRU, MinGRUState
from tests.conftest import quick_jit

SCANS = ["sequential", "associative", "auto"]
B, D, H = 3, 4, 5


@pytest.fixture(autouse=True)
def _strict_dtypes() -> Iterator[None]:
    with jax.numpy_dtype_promotion("strict"):
        yield


def build(scan: str) -> MinGRU:
    return MinGRU(H, linear_scan(scan), init_scheme("keras"), jnp.float32)


def draw(length: int) -> dict[str, np.ndarray]:
    """What goes in, and `probe`, with which the output is multiplied to have something to slope."""
    generator = np.random.default_rng(length)
    shapes = {
        "x": (B, length, D),
        "kernel": (D, 2 * H),
        "bias": (2 * H,),
        "start": (B, H),
        "probe": (B, length, H),
    }
    return {k: generator.normal(0, 1.5, s).astype(np.float32) for k, s in shapes.items()}


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def plain(values: dict[str, np.ndarray]) -> np.ndarray:
    """The equations, one position after the other, in float64."""
    x_BTD, kernel, bias, h_BH = (
        values[k].astype(np.float64) for k in ("x", "kernel", "bias", "start")
    )
    hidden = []
    for t in range(x_BTD.shape[1]):
        gate, a = np.split(x_BTD[:, t] @ kernel + bias, 2, axis=1)
        z, n = sigmoid(gate), np.where(a >= 0, a + 0.5, sigmoid(a))
        h_BH = (1 - z) * h_BH + z * n
        hidden.append(h_BH)
    return np.stack(hidden, axis=1)


def run(scan: str, values: dict[str, np.ndarray]) -> tuple[Any, Any]:
    """The layer's output with its last state, and the gradient of sum(output * probe)."""

    def loss(values: dict[str, jax.Array]) -> tuple[jax.Array, Any]:
        params = {"input": {"kernel": values["kernel"], "bias": values["bias"]}}
        start = MinGRUState(values["start"])
        hidden_BTH, state = build(scan).apply({"params": params}, values["x"], start)
        return jnp.sum(hidden_BTH * values["probe"]), (hidden_BTH, state)

    (_, results), gradient = quick_jit(jax.value_and_grad(loss, has_aux=True))(values)
    return results, gradient


@pytest.mark.parametrize("length", [1, 2, 7, 64])
@pytest.mark.core
def test_every_scan_is_the_plain_loop_and_has_its_slope(length: int) -> None:
    values = draw(length)
    expected = plain(values)
    # The slope along a random direction, by central differences of the plain loop.
    direction, step = {k: v for k, v in draw(length + 1000).items() if k != "probe"}, 1e-6
    direction["x"] = direction["x"][:, :length]
    ends = [
        (plain(values | {k: values[k] + s * v.astype(np.float64) for k, v in direction.items()}))
        for s in (step, -step)
    ]
    slope = float(np.sum((ends[0] - ends[1]) / (2 * step) * values["probe"]))
    gradients = []
    for scan in SCANS if length == 7 else SCANS[:2]:  # auto is one of the others
        (hidden_BTH, state), gradient = run(scan, values)
        np.testing.assert_allclose(hidden_BTH, expected, rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(state.hidden_BH, hidden_BTH[:, -1])
        ours = sum(float(np.sum(np.asarray(gradient[k]) * v)) for k, v in direction.items())
        np.testing.assert_allclose(ours, slope, rtol=1e-4, atol=1e-4)
        gradients.append(gradient)
    for gradient in gradients[1:]:
        for name, value in gradient.items():
            np.testing.assert_allclose(value, gradients[0][name], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("scan", SCANS)
def test_extreme_gates_and_candidates_stay_finite(scan: str) -> None:
    """A closed gate keeps the state for ever, an open one replaces it at once."""
    length, layer = 64, build(scan)
    signs = np.random.default_rng(0).choice([-100.0, 100.0], (B, length, 2 * H)).astype(np.float32)
    start = MinGRUState(jnp.full((B, H), 3.0))

    def loss(z_BTG: jax.Array) -> tuple[jax.Array, jax.Array]:
        hidden_BTH, _ = layer.apply({"params": {}}, z_BTG, start, method="mix")
        return jnp.sum(hidden_BTH), hidden_BTH

    (_, hidden_BTH), gradient = quick_jit(jax.value_and_grad(loss, has_aux=True))(signs)
    assert np.isfinite(gradient).all()
    expected = np.full((B, H), 3.0)
    for t in range(length):
        open_BH, high_BH = np.split(signs[:, t] > 0, 2, axis=1)
        expected = np.where(open_BH, np.where(high_BH, 100.5, 0.0), expected)
        np.testing.assert_allclose(hidden_BTH[:, t], expected, atol=1e-30)


def test_candidates_are_positive_and_continuous() -> None:
    """Both halves of g meet at 1/2, which a state that starts there does not notice."""
    z_BTG = jnp.asarray(np.array([[[50.0, a]] for a in (-30.0, -1e-6, 0.0, 1e-6, 2.0)], np.float32))
    layer = MinGRU(1, linear_scan("sequential"), init_scheme("keras"), jnp.float32)
    start = layer.initial_state(5, 0)
    hidden_BTH, _ = layer.apply({"params": {}}, z_BTG, start, method="mix")
    assert (hidden_BTH > 0).all()
    np.testing.assert_allclose(hidden_BTH[1:, 0, 0], [0.5, 0.5, 0.5, 2.5], atol=2e-6)


def test_auto_loops_on_a_cpu_and_not_on_a_gpu() -> None:
    values = draw(7)
    arguments = (values["probe"], values["probe"], values["start"])
    traced = jax.jit(linear_scan("auto")).trace(*arguments)
    loops = {
        platform: "stablehlo.while" in traced.lower(lowering_platforms=(platform,)).as_text()
        for platform in ("cpu", "cuda", "tpu")
    }
    assert loops == {"cpu": True, "cuda": False, "tpu": False}
