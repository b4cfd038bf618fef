"""Norms, MLPs and blocks: against formulas and against PyTorch's values."""

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from charlm_jax.config.schema import ModelConfig
from charlm_jax.models.blocks import ACTIVATIONS, NORMS, build_blocks
from charlm_jax.models.initializers import residual_kernel
from tests.conftest import draw, make_model_config, quick_jit

GOLDENS = Path(__file__).parent.parent / "goldens" / "attention.npz"
B, T, D = 2, 7, 8

BLOCK = make_model_config(
    "attention",
    embedding_size=D,
    hidden_size=D,
    heads=4,
    block="pre_norm",
    norm="layer_norm",
    mlp="gelu",
    mlp_ratio=1.5,
)


@pytest.fixture(autouse=True)
def _strict_dtypes() -> Iterator[None]:
    with jax.numpy_dtype_promotion("strict"):
        yield


def init(config: ModelConfig, seed: int = 0) -> tuple[Any, Any]:
    """The first block of a stack, and its parameters as a config draws them."""
    block, x_BTD = build_blocks(config)[0], jnp.zeros((1, 1, config.embedding_size))
    state = block.mixer.initial_state(1, 0)
    return block, quick_jit(block.init)(jax.random.key(seed), x_BTD, state)["params"]


# Norms.


def norm_by_hand(name: str, x: np.ndarray, scale: np.ndarray) -> np.ndarray:
    if name == "layer_norm":
        x = x - x.mean(axis=-1, keepdims=True)
        return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-5) * scale
    return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-6) * scale


@pytest.mark.parametrize("name", list(NORMS))
def test_a_norm_is_its_formula(name: str) -> None:
    scale_D = draw(1, D)
    for x_BTD in (draw(0, B, T, D), 1e-3 * draw(0, B, T, D), jnp.zeros((B, T, D))):
        ours = NORMS[name]().apply({"params": {"scale": scale_D}}, x_BTD)
        theirs = norm_by_hand(name, np.asarray(x_BTD, np.float64), np.asarray(scale_D))
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_a_layer_norm_survives_a_mean_far_from_0() -> None:
    """The variance as the mean of squares less the square of the mean would be all rounding."""
    x_BTD, scale_D = draw(0, B, T, D) + 3000.0, jnp.ones(D)
    ours = NORMS["layer_norm"]().apply({"params": {"scale": scale_D}}, x_BTD)
    theirs = norm_by_hand("layer_norm", np.asarray(x_BTD, np.float64), np.ones(D))
    np.testing.assert_allclose(ours, theirs, atol=2e-3)


@pytest.mark.parametrize("name", list(NORMS))
def test_a_norm_starts_with_scale_1_and_has_no_bias(name: str) -> None:
    params = NORMS[name]().init(jax.random.key(0), jnp.zeros((1, 1, D)))["params"]
    assert list(params) == ["scale"]
    np.testing.assert_array_equal(params["scale"], np.ones(D))


# MLPs.


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def mlp_by_hand(kind: str, params: Any, x: np.ndarray) -> np.ndarray:
    kernels = {k: np.asarray(v["kernel"], np.float64) for k, v in params.items()}
    hidden = x @ kernels["input"]
    if kind == "gelu":  # x times the normal distribution function, not its tanh approximation
        hidden = hidden * 0.5 * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2)))
    elif kind == "relu2":
        hidden = np.where(hidden > 0, hidden, 0) ** 2
    else:
        gate = x @ kernels["gate"]
        hidden = gate * sigmoid(gate) * hidden
    return hidden @ kernels["output"]


@pytest.mark.parametrize("kind", list(ACTIVATIONS))
def test_an_mlp_is_its_formula(kind: str) -> None:
    config = dataclasses.replace(BLOCK, mlp=kind, mlp_ratio=8 / 3)
    mlp, params = build_blocks(config)[0].mlp, init(config)[1]["mlp"]
    inner = 21  # 8/3 of 8, rounded
    shapes = {"input": (D, inner), "gate": (D, inner), "output": (inner, D)}
    if kind != "swiglu":
        del shapes["gate"]
    assert {k: v["kernel"].shape for k, v in params.items()} == shapes
    assert all(list(v) == ["kernel"] for v in params.values())
    x_BTD = 2.0 * draw(0, B, T, D)
    ours = mlp.apply({"params": params}, x_BTD)
    theirs = mlp_by_hand(kind, params, np.asarray(x_BTD, np.float64))
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


# Blocks against PyTorch. tests/goldens/make_attention_goldens.py made the values.


def _unflatten(case: str, group: str) -> dict[str, Any]:
    """Arrays of a golden block in the layout of our parameters."""
    paths = {
        "mixer_norm": ("mixer_norm", "scale"),
        "mlp_norm": ("mlp_norm", "scale"),
        "mlp_input": ("mlp", "input", "kernel"),
        "mlp_output": ("mlp", "output", "kernel"),
    }
    tree: dict[str, Any] = {}
    with np.load(GOLDENS) as goldens:
        for key in goldens.files:
            name, _, last = key.rpartition("/")
            if name != f"{case}/{group}" or last == "x":
                continue
            *path, leaf = paths.get(last, ("mixer", last, "kernel"))
            node = tree
            for part in path:
                node = node.setdefault(part, {})
            node[leaf] = goldens[key]
    return tree


@pytest.mark.parametrize("case", ["pre_norm", "post_norm"])
@pytest.mark.core
def test_values_and_gradients_of_blocks_equal_pytorchs(case: str) -> None:
    block = build_blocks(dataclasses.replace(BLOCK, block=case))[0]
    with np.load(GOLDENS) as goldens:
        x_BTD, probe_BTD = goldens[f"{case}/x"], goldens[f"{case}/probe"]
        output, gradient_of_x = goldens[f"{case}/output"], goldens[f"{case}/grads/x"]
    params, expected = _unflatten(case, "params"), _unflatten(case, "grads")

    def loss(params: Any, x_BTD: jax.Array) -> tuple[jax.Array, jax.Array]:
        state = block.mixer.initial_state(x_BTD.shape[0], 0)
        output_BTD, _ = block.apply({"params": params}, x_BTD, state)
        return jnp.sum(output_BTD * probe_BTD), output_BTD

    compute = quick_jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
    (_, output_BTD), (gradient, gradient_BTD) = compute(params, x_BTD)
    np.testing.assert_allclose(output_BTD, output, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(gradient_BTD, gradient_of_x, rtol=1e-4, atol=5e-5)
    assert jax.tree.structure(gradient) == jax.tree.structure(expected)
    jax.tree.map(
        lambda ours, theirs: np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=5e-5),
        gradient,
        expected,
    )


# Initialisation.


def test_zero_init_makes_a_block_the_identity() -> None:
    block, params = init(dataclasses.replace(BLOCK, zero_init=True))
    x_BTD = draw(0, B, T, D)
    output_BTD, _ = block.apply({"params": params}, x_BTD, block.mixer.initial_state(B, 0))
    np.testing.assert_array_equal(output_BTD, x_BTD)
    block, params = init(BLOCK)
    output_BTD, _ = block.apply({"params": params}, x_BTD, block.mixer.initial_state(B, 0))
    assert np.abs(output_BTD - x_BTD).max() > 0.1


def test_zero_init_leaves_bare_layers_something_to_pass_on() -> None:
    """Two layers of zeros, one upon the other, would have no gradient at all."""
    bare = dataclasses.replace(BLOCK, block="bare", mlp="none", zero_init=True)
    assert np.abs(init(bare)[1]["mixer"]["output"]["kernel"]).max() > 0.1


def test_gpt2_draws_what_is_added_smaller_in_a_deeper_stack() -> None:
    deep = dataclasses.replace(BLOCK, layers=("attention",) * 8, init="gpt2")
    params = init(dataclasses.replace(deep, embedding_size=64, hidden_size=64, mlp_ratio=4.0))[1]
    deviations = {
        path[-2].key: float(x.std())
        for path, x in jax.tree_util.tree_leaves_with_path(params)
        if path[-1].key == "kernel"
    }
    assert deviations.keys() == {"query", "key", "value", "output", "input"}
    for name, deviation in deviations.items():
        expected = 0.02 / math.sqrt(2 * 8) if name == "output" else 0.02
        np.testing.assert_allclose(deviation, expected, rtol=0.1)
    both = [params["mixer"]["output"]["kernel"], params["mlp"]["output"]["kernel"]]
    assert max(float(x.std()) for x in both) < 0.0055


@pytest.mark.parametrize("change", [{"init": "keras"}, {"init": "flax"}, {"block": "bare"}])
def test_elsewhere_what_is_added_is_drawn_like_everything_else(change: dict[str, str]) -> None:
    config = dataclasses.replace(BLOCK, layers=("attention",) * 8, mlp="none", init="gpt2")
    config = dataclasses.replace(config, **change)
    kernel = residual_kernel(config)(jax.random.key(0), (64, 64))
    deviation = {"keras": 1 / 8, "flax": 1 / 8, "gpt2": 0.02}[config.init]
    np.testing.assert_allclose(float(kernel.std()), deviation, rtol=0.1)


# Dropout.


def test_dropout_acts_on_what_a_bare_layer_reads() -> None:
    bare = dataclasses.replace(BLOCK, block="bare", mlp="none", dropout=0.5)
    block, x_BTD = build_blocks(bare)[0].clone(mixer=_Pass()), jnp.ones((B, 50, D))
    output_BTD, _ = block.apply({}, x_BTD, (), jax.random.key(0))
    np.testing.assert_array_equal(np.unique(output_BTD), [0.0, 2.0])
    assert 0.9 < float(output_BTD.mean()) < 1.1
    np.testing.assert_array_equal(block.apply({}, x_BTD, ())[0], x_BTD)


def test_dropout_acts_on_what_is_added_to_the_stream() -> None:
    block, params = init(dataclasses.replace(BLOCK, mlp="none", dropout=0.5))
    x_BTD, state = draw(0, B, T, D), block.mixer.initial_state(B, 0)
    added_BTD = np.asarray(block.apply({"params": params}, x_BTD, state)[0] - x_BTD)
    output_BTD, _ = block.apply({"params": params}, x_BTD, state, jax.random.key(0))
    with_key_BTD = np.asarray(output_BTD - x_BTD)
    is_dropped = with_key_BTD == 0
    assert 0.3 < is_dropped.mean() < 0.7
    np.testing.assert_allclose(with_key_BTD[~is_dropped], 2 * added_BTD[~is_dropped], atol=1e-5)


def test_dropout_draws_anew_for_the_mlp() -> None:
    block = build_blocks(dataclasses.replace(BLOCK, dropout=0.5))[0]
    block = block.clone(mixer=_Ones(), mlp=_Double(), mixer_norm=_same, mlp_norm=_same)
    output_BTD, _ = block.apply({}, jnp.zeros((B, 50, D)), (), jax.random.key(0))
    # 0 or 2 after the mixer; as much again, times 2, or nothing after the MLP.
    values, counts = np.unique(output_BTD, return_counts=True)
    np.testing.assert_array_equal(values, [0.0, 2.0, 10.0])
    shares = counts / output_BTD.size
    np.testing.assert_allclose(shares, [0.5, 0.25, 0.25], atol=0.08)


class _Pass(nn.Module):
    def __call__(self, x_BTD: jax.Array, state: Any) -> tuple[jax.Array, Any]:
        return x_BTD, state


class _Ones(nn.Module):
    def __call__(self, x_BTD: jax.Array, state: Any) -> tuple[jax.Array, Any]:
        return jnp.ones_like(x_BTD), state


class _Double(nn.Module):
    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        return 2.0 * x_BTD


def _same(x_BTD: jax.Array) -> jax.Array:
    return x_BTD
