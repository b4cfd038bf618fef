"""The fast recurrence against the plain one."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from charlm_jax.core.types import Params
from charlm_jax.models import build_model
from charlm_jax.models.lstm import lstm_scan
from charlm_jax.models.lstm_fused import LSTMState, lstm_recurrence
from tests.conftest import make_model_config

pytestmark = pytest.mark.optimised

T, B, H, R, V = 9, 8, 12, 5, 11
TOLERANCES = {jnp.float32: 1e-5, jnp.bfloat16: 3e-2}  # bfloat16 keeps 8 bits of an operand


def draw(seed: int, *shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape)


def arguments(state: LSTMState | None = None) -> tuple[jax.Array, LSTMState, jax.Array]:
    state = LSTMState(draw(1, B, H), draw(2, B, H)) if state is None else state
    return draw(0, T, R, B), state, 0.4 * draw(3, H + R, 4 * H)


def plain(
    inputs_TRB: jax.Array, state: LSTMState, kernel_XG: jax.Array, dtype: Any
) -> tuple[jax.Array, LSTMState]:
    inputs_BTR = jnp.transpose(inputs_TRB, (2, 0, 1)).astype(dtype).astype(jnp.float32)
    z_BTG = inputs_BTR @ kernel_XG[H:].astype(dtype).astype(jnp.float32)
    return lstm_scan(z_BTG, state, kernel_XG[:H], operand_dtype=dtype)[:2]


def weighted_sum(function: Any, dtype: Any, *inputs: Any) -> tuple[jax.Array, Any]:
    """A number that every output counts in, each with a weight of its own; and the outputs."""
    outputs = function(*inputs, dtype)
    leaves = enumerate(jax.tree.leaves(outputs))
    return sum(jnp.vdot(draw(7 + i, *x.shape), x) for i, x in leaves), outputs


def assert_close(got: Any, wanted: Any, tolerance: float) -> None:
    """Every array to within `tolerance` of its own largest number."""
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * float(jnp.abs(b).max()))


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("jit", [True, False])
def test_values_and_gradients_are_those_of_the_plain_scan(dtype: Any, jit: bool) -> None:
    inputs = arguments()
    results = []
    for function in (lstm_recurrence, plain):
        weighted = partial(weighted_sum, function, dtype)
        gradient = jax.grad(weighted, argnums=(0, 1, 2), has_aux=True)
        results.append((jax.jit(gradient) if jit else gradient)(*inputs))
    (gradients, values), (plain_gradients, plain_values) = results
    assert_close(values, plain_values, TOLERANCES[dtype])
    assert_close(gradients, plain_gradients, TOLERANCES[dtype])


def test_two_pieces_are_the_whole() -> None:
    inputs_TRB, state, kernel_XG = arguments()
    whole_BTH, end = lstm_recurrence(inputs_TRB, state, kernel_XG, jnp.float32)
    first_BTH, middle = lstm_recurrence(inputs_TRB[:4], state, kernel_XG, jnp.float32)
    second_BTH, last = lstm_recurrence(inputs_TRB[4:], middle, kernel_XG, jnp.float32)
    np.testing.assert_allclose(jnp.concatenate([first_BTH, second_BTH], 1), whole_BTH, atol=1e-6)
    assert_close(last, end, 1e-6)


@pytest.mark.parametrize(
    ("layers", "precision"),
    [
        (("lstm", "lstm"), "float32"),
        (("rnn", "lstm"), "float32"),
        pytest.param(("rnn", "lstm"), "bfloat16", marks=pytest.mark.exhaustive),
    ],
)
def test_a_model_is_the_same_function_with_it_and_without(
    layers: tuple[str, ...], precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over symbols, over a layer's output, and from a carried state."""
    config = make_model_config(*layers, hidden_size=16, precision=precision, init="keras")
    model = build_model(config, V)
    params = jax.jit(model.init)(jax.random.key(0))
    ids_BT = jax.random.randint(jax.random.key(1), (B, T), 0, V)
    _, carried = jax.jit(model.apply)(params, ids_BT[:, ::-1], model.initial_state(B, 0))
    calls = []
    monkeypatch.setattr(
        "charlm_jax.models.lstm.lstm_recurrence",
        lambda *inputs: calls.append(len(inputs)) or lstm_recurrence(*inputs),
    )

    def value(params: Params, carried: Any) -> tuple[jax.Array, Any]:
        logits_BTV, state = model.apply(params, ids_BT, carried)
        return jnp.vdot(draw(5, *logits_BTV.shape), logits_BTV), (logits_BTV, state)

    gradient = jax.value_and_grad(value, argnums=(0, 1), has_aux=True)
    fast = jax.jit(gradient)(params, carried)
    assert len(calls) == layers.count("lstm")
    monkeypatch.setattr("charlm_jax.models.lstm._FAST_ROWS", B + 1)
    slow = jax.jit(lambda *inputs: gradient(*inputs))(params, carried)  # traced anew
    assert len(calls) == layers.count("lstm")
    assert_close(fast[0][1], slow[0][1], TOLERANCES[jnp.dtype(precision).type])
    assert_close(fast[1], slow[1], TOLERANCES[jnp.dtype(precision).type])


@pytest.mark.parametrize(
    ("rows", "length", "is_fast"),
    [(1, 64, False), (2, 63, False), (2, 64, True), (7, 2, False), (8, 1, False), (8, 2, True)],
)
def test_few_rows_are_fast_in_long_sequences_only(
    rows: int, length: int, is_fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    monkeypatch.setattr(
        "charlm_jax.models.lstm.lstm_recurrence",
        lambda *inputs: calls.append(inputs) or lstm_recurrence(*inputs),
    )
    model = build_model(make_model_config("lstm"), V)
    params = jax.eval_shape(model.init, jax.random.key(0))
    ids_BT = jax.ShapeDtypeStruct((rows, length), jnp.int32)
    jax.eval_shape(model.apply, params, ids_BT, model.initial_state(rows, 0))
    assert bool(calls) == is_fast


def test_many_symbols_are_not_made_one_hot(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("the fast recurrence was called")

    model = build_model(make_model_config("lstm"), 300)
    params = jax.jit(model.init)(jax.random.key(0))
    ids_BT = jax.random.randint(jax.random.key(1), (B, 40), 0, 300)
    state = model.initial_state(B, 0)
    wanted, _ = jax.jit(model.apply)(params, ids_BT[:, :20], state)
    monkeypatch.setattr("charlm_jax.models.lstm.lstm_recurrence", refuse)
    got, _ = jax.jit(model.apply)(params, ids_BT, state)  # more positions than symbols: a table
    np.testing.assert_allclose(got[:, :20], wanted, atol=1e-5)
