"""The attention layers: against PyTorch, Flax, the equations, and masks made by hand."""

import functools
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from charlm_jax.models.attention import (
    Attention,
    AttentionState,
    SelfAttention,
    attend_causally,
    empty_state,
)
from charlm_jax.models.initializers import init_scheme
from charlm_jax.models.positions import POSITIONS
from experiments.tutorial.attention import basic_self_attention, self_attention
from tests.conftest import draw, quick_jit

GOLDENS = Path(__file__).parent.parent / "goldens" / "attention.npz"
B, D, K = 2, 6, 2
# Few unlike lengths: where nothing is compiled as a whole, every shape costs its own compilation.
T, PIECE, CONTEXT = 8, 4, 3
# Attributes of the layer in every golden case of a layer.
CASES: dict[str, dict[str, Any]] = {
    "one_head": {"heads": 1, "kv_heads": 1},
    "four_heads": {},
    "grouped": {"kv_heads": 2},
    "one_key_head": {"kv_heads": 1},
    "qk_norm": {"qk_norm": True},
    "window": {"window": 3},
    "alibi": {"position": POSITIONS["alibi"]},
    "alibi_window_grouped": {"kv_heads": 2, "window": 4, "position": POSITIONS["alibi"]},
}


@pytest.fixture(autouse=True)
def _strict_dtypes() -> Iterator[None]:
    with jax.numpy_dtype_promotion("strict"):
        yield


def build(heads: int = 4, kv_heads: int = 4, dtype: Any = jnp.float32, **changes: Any) -> Attention:
    """A layer whose heads are K wide."""
    scheme = init_scheme("keras")
    plain = {"qk_norm": False, "position": POSITIONS["none"], "window": 0} | changes
    return Attention(
        size=heads * K,
        heads=heads,
        kv_heads=kv_heads,
        scheme=scheme,
        output_init=scheme.kernel,
        operand_dtype=dtype,
        **plain,
    )


def draw_params(layer: Attention, seed: int = 1) -> dict[str, Any]:
    size, kv_size = layer.heads * K, layer.kv_heads * K
    shapes = {
        "query": (D, size),
        "key": (D, kv_size),
        "value": (D, kv_size),
        "output": (size, size),
    }
    return {
        name: {"kernel": draw(seed + i, *shape)} for i, (name, shape) in enumerate(shapes.items())
    }


def weights_of(layer: nn.Module, params: Any, x_BTD: jax.Array, state: AttentionState) -> Any:
    """Output, state and captured weights of one reading."""
    apply = quick_jit(functools.partial(layer.apply, mutable=["captured"]))
    (output_BTD, state), seen = apply({"params": params}, x_BTD, state)
    return output_BTD, state, seen["captured"]["weights"][0]


# Against PyTorch. tests/goldens/make_attention_goldens.py made the values.


def _unflatten(case: str, group: str) -> dict[str, Any]:
    """Arrays of a golden layer in the layout of our parameters."""
    with np.load(GOLDENS) as goldens:
        assert json.loads(str(goldens["about"]))["torch"]
        return {
            (name := key.removeprefix(f"{case}/{group}/")): {
                "scale" if name.endswith("_norm") else "kernel": goldens[key]
            }
            for key in goldens.files
            if key.startswith(f"{case}/{group}/") and not key.endswith("/x")
        }


@pytest.mark.parametrize("case", CASES)
@pytest.mark.core
def test_values_and_gradients_equal_pytorchs(case: str) -> None:
    layer = build(**CASES[case])
    with np.load(GOLDENS) as goldens:
        x_BTD, probe_BTD = goldens[f"{case}/x"], goldens[f"{case}/probe"]
        output, gradient_of_x = goldens[f"{case}/output"], goldens[f"{case}/grads/x"]
    params, expected = _unflatten(case, "params"), _unflatten(case, "grads")

    def loss(params: Any, x_BTD: jax.Array) -> tuple[jax.Array, jax.Array]:
        output_BTD, _ = layer.apply({"params": params}, x_BTD, layer.initial_state(B, 0))
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


# Against Flax.


def test_heads_equal_those_of_flax() -> None:
    layer, x_BTD = build(), draw(0, B, T, D)
    params = draw_params(layer)
    theirs = {
        name: {"kernel": params[name]["kernel"].reshape(D, 4, K)}
        for name in ("query", "key", "value")
    }
    theirs["out"] = {"kernel": params["output"]["kernel"].reshape(4, K, 4 * K)}
    module = nn.MultiHeadDotProductAttention(
        num_heads=4, qkv_features=4 * K, out_features=4 * K, use_bias=False
    )
    causal_B1TT = nn.make_causal_mask(jnp.zeros((B, T)))
    expected = module.apply({"params": theirs}, x_BTD, mask=causal_B1TT)
    output_BTD, _ = layer.apply({"params": params}, x_BTD, layer.initial_state(B, 0))
    np.testing.assert_allclose(output_BTD, expected, rtol=1e-5, atol=1e-5)


# Against the equations, which see every position: the last one of a causal layer does too.


def test_one_head_is_the_equation() -> None:
    layer, x_BTD = build(heads=1, kv_heads=1), draw(0, B, T, D)
    params = draw_params(layer)
    matrices = [params[name]["kernel"] for name in ("query", "key", "value")]
    output_BTD, _ = layer.apply({"params": params}, x_BTD, layer.initial_state(B, 0))
    for b in range(B):
        for t in (PIECE - 1, T - 1):
            o_TK, _ = self_attention(x_BTD[b, : t + 1], *matrices)
            expected = o_TK[-1] @ params["output"]["kernel"]
            np.testing.assert_allclose(output_BTD[b, t], expected, rtol=1e-5, atol=1e-5)


def parameter_free(position: str = "none", window: int = 0) -> SelfAttention:
    return SelfAttention(D, POSITIONS[position], window, jnp.float32)


def test_the_parameter_free_layer_is_the_chapters_formula_made_causal() -> None:
    layer, x_BTD = parameter_free(), draw(0, B, T, D)
    output_BTD, _, weights_BTHS = weights_of(layer, {}, x_BTD, layer.initial_state(B, 0))
    x = np.asarray(x_BTD, np.float64)
    for b, i in np.ndindex(B, T):
        exponentials = np.exp([x[b, i] @ x[b, j] for j in range(i + 1)])
        weights = exponentials / exponentials.sum()
        o = sum(w * x[b, j] for j, w in enumerate(weights))
        np.testing.assert_allclose(output_BTD[b, i], o, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(weights_BTHS[b, i, 0, : i + 1], weights, atol=1e-6)
    for b in range(B):
        o_TD, weights_TS = basic_self_attention(x_BTD[b])
        np.testing.assert_allclose(output_BTD[b, -1], o_TD[-1], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(weights_BTHS[b, -1, 0], weights_TS[-1], atol=1e-6)


# Against masks made by hand.


def by_hand(layer: Attention, params: Any, x_TD: np.ndarray, reach: int) -> np.ndarray:
    """Attention of a whole text in float64, to the `reach` positions before one's own."""
    query, key, value = (
        (x_TD @ np.asarray(params[name]["kernel"], np.float64)).reshape(len(x_TD), -1, K)
        for name in ("query", "key", "value")
    )
    places = np.arange(len(x_TD))
    output = np.zeros_like(query)
    for h, t in np.ndindex(layer.heads, len(x_TD)):
        m = h * layer.kv_heads // layer.heads
        seen = places[max(0, t - reach) : t + 1]
        q, keys = query[t, h], key[seen, m]
        if layer.position is POSITIONS["rotary"]:  # K is 2: one pair, which turns by 1 a place
            q = np.array([[np.cos(t), -np.sin(t)], [np.sin(t), np.cos(t)]]) @ q
            turned = (keys[:, 0] + 1j * keys[:, 1]) * np.exp(1j * seen)
            keys = np.stack([turned.real, turned.imag], axis=1)
        scores = keys @ q / math.sqrt(K)
        if layer.position is POSITIONS["alibi"]:
            scores = scores - 2.0 ** (-8 * (h + 1) / layer.heads) * (t - seen)
        weights = np.exp(scores)
        output[t, h] = weights / weights.sum() @ value[seen, m]
    return output.reshape(len(x_TD), -1) @ np.asarray(params["output"]["kernel"], np.float64)


@pytest.mark.parametrize(
    ("position", "context", "window", "pieces"),
    [
        ("none", CONTEXT, 0, [PIECE, 1, PIECE]),
        ("rotary", CONTEXT, 0, [PIECE, 1, 1, 1, 1, 1]),
        ("alibi", CONTEXT, 0, [1, PIECE, PIECE]),
        ("rotary", 20, 4, [PIECE, PIECE, 1]),
        ("alibi", CONTEXT, 3, [1, PIECE, PIECE]),
        ("none", 0, 2, [T]),
    ],
)
def test_a_position_sees_what_capacity_and_window_leave_it(
    position: str, context: int, window: int, pieces: list[int]
) -> None:
    layer = build(kv_heads=2, position=POSITIONS[position], window=window)
    params, x_BTD = {"params": draw_params(layer)}, draw(0, B, sum(pieces), D)
    apply = quick_jit(layer.apply)
    reach = min(context or len(x_BTD[0]), (window or len(x_BTD[0]) + 1) - 1)
    state, outputs = layer.initial_state(B, context), []
    for piece_BTD in jnp.split(x_BTD, np.cumsum(pieces)[:-1].tolist(), axis=1):
        output_BTD, state = apply(params, piece_BTD, state)
        outputs.append(output_BTD)
    for b in range(B):
        expected = by_hand(layer, params["params"], np.asarray(x_BTD[b], np.float64), reach)
        ours = np.concatenate([output_BTD[b] for output_BTD in outputs])
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("position", ["none", "rotary", "alibi"])
def test_what_lies_further_back_than_the_capacity_leaves_no_trace(position: str) -> None:
    """Two texts of unlike length and content, the same in the end: not a bit of difference."""
    layer = build(kv_heads=2, position=POSITIONS[position])
    params, end_BTD = {"params": draw_params(layer)}, draw(0, B, CONTEXT + PIECE, D)
    apply = quick_jit(layer.apply)

    def last_piece(before_BTD: jax.Array, shared: int) -> jax.Array:
        """What follows `before` and as many shared positions."""
        text_BTD = jnp.concatenate([before_BTD, end_BTD[:, CONTEXT - shared :]], axis=1)
        state = layer.initial_state(B, CONTEXT)
        for t in range(text_BTD.shape[1] - PIECE):
            _, state = apply(params, text_BTD[:, t : t + 1], state)
        return apply(params, end_BTD[:, CONTEXT:], state)[0]

    long_BTD, short_BTD = draw(1, B, 40, D), draw(2, B, 1, D)
    expected_BTD = last_piece(short_BTD, CONTEXT)
    np.testing.assert_array_equal(last_piece(long_BTD, CONTEXT), expected_BTD)
    # One shared place less is one too few, for the first of the piece.
    moved_BT = np.abs(last_piece(long_BTD, CONTEXT - 1) - expected_BTD).max(axis=2)
    assert (moved_BT[:, 0] > 1e-3).all() and not moved_BT[:, 1:].any()


# The state.


def test_the_state_keeps_the_latest_keys_and_values_of_few_heads() -> None:
    layer, x_BTD = build(kv_heads=2, position=POSITIONS["rotary"]), draw(0, B, 1 + PIECE, D)
    params, state = draw_params(layer), layer.initial_state(B, CONTEXT)
    apply = quick_jit(layer.apply)
    assert state.key_BSMK.shape == state.value_BSMK.shape == (B, CONTEXT, 2, K)
    np.testing.assert_array_equal(state.filled_B, [0, 0])
    keys_BTMK, values_BTMK = (
        (np.asarray(x_BTD) @ np.asarray(params[name]["kernel"])).reshape(B, -1, 2, K)
        for name in ("key", "value")
    )
    _, state = apply({"params": params}, x_BTD[:, :1], state)
    np.testing.assert_array_equal(state.filled_B, [1, 1])
    np.testing.assert_allclose(state.key_BSMK[:, -1], keys_BTMK[:, 0], atol=1e-5)
    _, state = apply({"params": params}, x_BTD[:, 1:], state)
    np.testing.assert_array_equal(state.filled_B, [CONTEXT, CONTEXT])
    np.testing.assert_allclose(state.key_BSMK, keys_BTMK[:, -CONTEXT:], atol=1e-5)
    np.testing.assert_allclose(state.value_BSMK, values_BTMK[:, -CONTEXT:], atol=1e-5)


def test_places_that_are_not_filled_take_no_part() -> None:
    """Rows that were begun at different times stand side by side in a batch."""
    layer, x_BTD = build(kv_heads=2), draw(0, B, PIECE, D)
    params, fresh = draw_params(layer), layer.initial_state(B, CONTEXT)
    garbage = draw(9, *fresh.key_BSMK.shape)
    state = AttentionState(garbage, 2.0 * garbage, jnp.array([0, 2]))
    output_BTD, _, weights_BTHS = weights_of(layer, params, x_BTD, state)
    expected_BTD, _, _ = weights_of(layer, params, x_BTD, fresh)
    np.testing.assert_allclose(output_BTD[0], expected_BTD[0], rtol=1e-5, atol=1e-5)
    assert not weights_BTHS[0, :, :, :CONTEXT].any() and not weights_BTHS[1, :, :, 0].any()
    assert (weights_BTHS[1, 0, :, 1:CONTEXT] > 0).all()


# The weights.


def test_shown_weights_are_probabilities_of_what_may_be_seen() -> None:
    window = 3
    layer, x_BTD = build(kv_heads=2, window=window), draw(0, B, 2 * PIECE, D)
    params, state = draw_params(layer), layer.initial_state(B, CONTEXT)
    _, state = layer.apply({"params": params}, x_BTD[:, :PIECE], state)
    _, _, weights_BTHS = weights_of(layer, params, x_BTD[:, PIECE:], state)
    assert weights_BTHS.shape == (B, PIECE, 4, CONTEXT + PIECE)
    np.testing.assert_allclose(weights_BTHS.sum(axis=-1), 1.0, atol=1e-6)
    distance_TS = np.arange(CONTEXT, CONTEXT + PIECE)[:, None] - np.arange(CONTEXT + PIECE)[None]
    may_TS = (distance_TS >= 0) & (distance_TS < window)
    np.testing.assert_array_equal((np.asarray(weights_BTHS) > 0).all(axis=(0, 2)), may_TS)
    np.testing.assert_array_equal((np.asarray(weights_BTHS) > 0).any(axis=(0, 2)), may_TS)


def test_a_window_of_one_sees_itself_only() -> None:
    layer, x_BTD = parameter_free(window=1), draw(0, B, T, D)
    output_BTD, _ = layer.apply({}, x_BTD, layer.initial_state(B, 0))
    np.testing.assert_allclose(output_BTD, x_BTD, rtol=1e-6)


@pytest.mark.parametrize("size", [1e-30, 1e4])
def test_tiny_and_huge_scores_stay_finite(size: float) -> None:
    layer, x_BTD = parameter_free("alibi"), size * draw(0, B, T, D)

    def loss(x_BTD: jax.Array) -> jax.Array:
        return jnp.sum(layer.apply({}, x_BTD, layer.initial_state(B, CONTEXT))[0])

    value, gradient = quick_jit(jax.value_and_grad(loss))(x_BTD)
    assert np.isfinite(value) and np.isfinite(gradient).all()
    _, _, weights_BTHS = weights_of(layer, {}, x_BTD, layer.initial_state(B, CONTEXT))
    np.testing.assert_allclose(weights_BTHS.sum(axis=-1), 1.0, atol=1e-6)


def test_normalised_queries_and_keys_do_not_feel_the_size_of_the_input() -> None:
    layer, x_BTD = build(qk_norm=True), draw(0, B, T, D)
    scales = {"query_norm": {"scale": draw(7, K)}, "key_norm": {"scale": draw(8, K)}}
    params, state = draw_params(layer) | scales, layer.initial_state(B, 0)
    once, _ = layer.apply({"params": params}, x_BTD, state)
    _, _, weights = weights_of(layer, params, x_BTD, state)
    tenfold, _ = layer.apply({"params": params}, 10.0 * x_BTD, state)
    np.testing.assert_allclose(tenfold, 10.0 * once, rtol=1e-3, atol=1e-3)  # epsilon is not 0
    assert np.abs(np.asarray(weights) - 1 / np.arange(1, T + 1)[None, :, None, None]).max() > 0.05


def test_bfloat16_rounds_operands_and_gives_float32() -> None:
    x_BTD = draw(0, B, T, D)
    exact, rounded = build(), build(dtype=jnp.bfloat16)
    params = draw_params(exact)
    results = [
        quick_jit(layer.apply)({"params": params}, x_BTD, layer.initial_state(B, CONTEXT))[0]
        for layer in (exact, rounded)
    ]
    assert results[1].dtype == jnp.float32
    np.testing.assert_allclose(results[1], results[0], atol=0.25)  # of outputs around 5
    assert np.abs(results[1] - results[0]).max() > 1e-3


def test_bfloat16_rounds_operands_backwards_but_no_sum() -> None:
    """Equal scores: the gradient of a value is known, a sum over the heads that read it."""
    heads, query_BTHK = 4, jnp.zeros((B, T, 4, K))
    value_BTMK, gradient_BTHK = draw(1, B, T, 1, K), draw(2, B, T, heads, K)

    def output(value_BTMK: jax.Array) -> jax.Array:
        return attend_causally(
            query_BTHK,
            jnp.zeros_like(value_BTMK),
            value_BTMK,
            empty_state(B, 0, heads=1, width=K),
            position=POSITIONS["none"],
            window=0,
            scale=1.0,
            operand_dtype=jnp.bfloat16,
        )[0]

    weights_T1 = _round(1 / np.arange(1, T + 1))[:, None]
    sums_BTK = np.sum(_round(gradient_BTHK), axis=2) * weights_T1
    wanted_BTK = np.flip(np.cumsum(np.flip(sums_BTK, 1), axis=1), 1)
    (found_BTMK,) = quick_jit(lambda v, g: jax.vjp(output, v)[1](g))(value_BTMK, gradient_BTHK)
    np.testing.assert_allclose(found_BTMK[:, :, 0], wanted_BTK, rtol=1e-5, atol=1e-5)


def _round(x: Any) -> Any:
    return np.asarray(jnp.asarray(x, jnp.float32).astype(jnp.bfloat16).astype(jnp.float32))
