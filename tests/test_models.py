"""The contract of every mixer, and the layers against PyTorch's values."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from charlm_jax.config import ModelConfig
from charlm_jax.losses import negative_log_likelihood
from charlm_jax.models import LanguageModel, build_model
from charlm_jax.models.gru import GRU, GRUState
from charlm_jax.models.initializers import init_scheme
from charlm_jax.models.lstm import LSTM, LSTMState
from charlm_jax.models.mixers import MIXERS
from charlm_jax.models.ops import embed
from charlm_jax.models.rnn import RNN, RNNState
from charlm_jax.types import CharlmError

GOLDENS = Path(__file__).parent / "goldens" / "recurrent.npz"
V, B, T = 11, 3, 7

TINY = ModelConfig(("lstm",), embedding_size=5, hidden_size=6, dropout=0.0, init="keras")
STACKS = [(name,) for name in MIXERS] + [("lstm", "gru", "rnn")]


@pytest.fixture(params=STACKS, ids="+".join)
def model(request: pytest.FixtureRequest) -> LanguageModel:
    return build_model(dataclasses.replace(TINY, layers=request.param), V)


@pytest.fixture
def params(model: LanguageModel) -> Any:
    return model.init(jax.random.key(0))


@pytest.fixture
def ids_BT() -> jax.Array:
    return jax.random.randint(jax.random.key(1), (B, T), 0, V)


@pytest.fixture(autouse=True)
def _strict_dtypes() -> Any:
    with jax.numpy_dtype_promotion("strict"):
        yield


def test_shapes_and_dtypes(model: LanguageModel, params: Any, ids_BT: jax.Array) -> None:
    logits_BTV, state = model.apply(params, ids_BT, model.initial_state(B, 0))
    assert logits_BTV.shape == (B, T, V) and logits_BTV.dtype == jnp.float32
    before = jax.tree.map(jnp.shape, model.initial_state(B, 0))
    assert jax.tree.map(jnp.shape, state) == before


def test_nothing_before_a_changed_character_moves(
    model: LanguageModel, params: Any, ids_BT: jax.Array
) -> None:
    place = 4
    changed_BT = ids_BT.at[:, place].set((ids_BT[:, place] + 1) % V)
    first, _ = model.apply(params, ids_BT, model.initial_state(B, 0))
    second, _ = model.apply(params, changed_BT, model.initial_state(B, 0))
    np.testing.assert_array_equal(first[:, :place], second[:, :place])
    assert np.abs(first[:, place:] - second[:, place:]).max(axis=(0, 2)).min() > 1e-7


def test_rows_do_not_see_one_another(model: LanguageModel, params: Any, ids_BT: jax.Array) -> None:
    changed_BT = ids_BT.at[0].set((ids_BT[0] + 1) % V)
    first, _ = model.apply(params, ids_BT, model.initial_state(B, 0))
    second, _ = model.apply(params, changed_BT, model.initial_state(B, 0))
    np.testing.assert_array_equal(first[1:], second[1:])
    assert np.abs(first[0] - second[0]).max() > 1e-6


@pytest.mark.parametrize("cuts", [[3], [1, 2, 3, 4, 5, 6]], ids=["two pieces", "single steps"])
def test_pieces_equal_the_whole(
    model: LanguageModel, params: Any, ids_BT: jax.Array, cuts: list[int]
) -> None:
    whole, last = model.apply(params, ids_BT, model.initial_state(B, T))
    state, pieces = model.initial_state(B, T), []
    for piece in jnp.split(ids_BT, cuts, axis=1):
        logits_BTV, state = model.apply(params, piece, state)
        pieces.append(logits_BTV)
    np.testing.assert_allclose(jnp.concatenate(pieces, axis=1), whole, atol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), state, last)


def test_jit_equals_eager(model: LanguageModel, params: Any, ids_BT: jax.Array) -> None:
    start = model.initial_state(B, 0)
    eager, _ = model.apply(params, ids_BT, start)
    jitted, _ = jax.jit(model.apply)(params, ids_BT, start)
    np.testing.assert_allclose(eager, jitted, atol=1e-6)


def test_inspect_equals_apply(model: LanguageModel, params: Any, ids_BT: jax.Array) -> None:
    start = model.initial_state(B, 0)
    expected, _ = model.apply(params, ids_BT, start)
    captured = model.inspect(params, ids_BT, start)
    np.testing.assert_array_equal(captured["logits"], expected)
    layers = [captured[name] for name in captured if name != "logits"]
    assert layers and all(layer for layer in layers)
    for value in jax.tree.leaves(layers):
        assert value.shape[:2] == (B, T)


def test_gradients_are_finite_and_reach_every_parameter(
    model: LanguageModel, params: Any, ids_BT: jax.Array
) -> None:
    def loss(params: Any) -> jax.Array:
        logits_BTV, _ = model.apply(params, ids_BT, model.initial_state(B, 0))
        return jnp.mean(negative_log_likelihood(logits_BTV, jnp.roll(ids_BT, -1, axis=1)))

    for path, leaf in jax.tree_util.tree_leaves_with_path(jax.grad(loss)(params)):
        assert np.isfinite(leaf).all(), path
        assert np.abs(leaf).max() > 0, path


def test_the_same_key_gives_the_same_parameters(model: LanguageModel, params: Any) -> None:
    again, other = model.init(jax.random.key(0)), model.init(jax.random.key(1))
    jax.tree.map(np.testing.assert_array_equal, params, again)
    assert not np.array_equal(params["embedding"], other["embedding"])


def test_dropout_needs_a_key_and_depends_on_it(ids_BT: jax.Array) -> None:
    model = build_model(dataclasses.replace(TINY, layers=("lstm", "gru"), dropout=0.5), V)
    params, start = model.init(jax.random.key(0)), model.initial_state(B, 0)
    plain = build_model(dataclasses.replace(TINY, layers=("lstm", "gru")), V)

    def logits(key: jax.Array | None) -> jax.Array:
        return model.apply(params, ids_BT, start, key=key)[0]

    np.testing.assert_array_equal(logits(None), plain.apply(params, ids_BT, start)[0])
    np.testing.assert_array_equal(logits(jax.random.key(1)), logits(jax.random.key(1)))
    assert np.abs(logits(jax.random.key(1)) - logits(jax.random.key(2))).max() > 1e-6


def test_few_ids_and_many_ids_read_the_embedding_alike(model: LanguageModel, params: Any) -> None:
    """Below V ids the rows are embedded, above V the projected table is: the same function."""
    ids_BT = jax.random.randint(jax.random.key(3), (4, 5), 0, V)  # 20 ids, more than V
    whole, _ = model.apply(params, ids_BT, model.initial_state(4, 0))
    row, _ = model.apply(params, ids_BT[:1], model.initial_state(1, 0))  # 5 ids, fewer
    np.testing.assert_allclose(whole[:1], row, atol=1e-6)


# Against PyTorch. tests/goldens/make_recurrent_goldens.py made the values.


def _unflatten(case: str, group: str) -> dict[str, Any]:
    """The arrays below `case/group/` in the layout of our parameters."""
    tree: dict[str, Any] = {}
    with np.load(GOLDENS) as goldens:
        for key in goldens.files:
            name, *parts = key.split("/")
            if name != case or parts[0] != group:
                continue
            path = {
                "input_kernel": ["mixer", "input", "kernel"],
                "bias": ["mixer", "input", "bias"],
                "recurrent_kernel": ["mixer", "recurrent_kernel"],
                "candidate_bias": ["mixer", "candidate_bias"],
            }
            names = parts[1:-1] + (path[parts[-1]] if parts[1].startswith("layer_") else parts[-1:])
            node = tree
            for part in names[:-1]:
                node = node.setdefault(part, {})
            node[names[-1]] = goldens[key]
    return tree


def _golden_state(case: str, group: str, layer: int) -> Mapping[str, np.ndarray]:
    with np.load(GOLDENS) as goldens:
        prefix = f"{case}/{group}/{layer}/"
        return {
            f"{key.removeprefix(prefix)}_BH": goldens[key]
            for key in goldens.files
            if key.startswith(prefix)
        }


@pytest.mark.parametrize(
    ("case", "layers"),
    [
        ("lstm", ("lstm",)),
        ("lstm_two_layers", ("lstm", "lstm")),
        ("gru", ("gru",)),
        ("rnn", ("rnn",)),
    ],
)
@pytest.mark.core
def test_values_and_gradients_equal_pytorchs(case: str, layers: tuple[str, ...]) -> None:
    kinds = {"lstm": LSTMState, "gru": GRUState, "rnn": RNNState}
    model = build_model(dataclasses.replace(TINY, layers=layers), V)
    with np.load(GOLDENS) as goldens:
        ids_BT, targets_BT = goldens[f"{case}/ids"], goldens[f"{case}/targets"]
        logits, loss_nats = goldens[f"{case}/logits"], goldens[f"{case}/loss_nats"]
        assert json.loads(str(goldens["about"]))["torch"]
    start = tuple(
        kinds[layer](**{k: jnp.asarray(v) for k, v in _golden_state(case, "initial", i).items()})
        for i, layer in enumerate(layers)
    )
    params = jax.tree.map(jnp.asarray, _unflatten(case, "params"))

    def loss(params: Any) -> tuple[jax.Array, Any]:
        logits_BTV, state = model.apply(params, jnp.asarray(ids_BT), start)
        nll_BT = negative_log_likelihood(logits_BTV, jnp.asarray(targets_BT))
        return jnp.mean(nll_BT), (logits_BTV, state)

    (value, (logits_BTV, state)), gradient = jax.value_and_grad(loss, has_aux=True)(params)
    np.testing.assert_allclose(logits_BTV, logits, atol=2e-6)
    np.testing.assert_allclose(value, loss_nats, rtol=1e-6)
    for i in range(len(layers)):
        for name, expected in _golden_state(case, "final", i).items():
            np.testing.assert_allclose(getattr(state[i], name), expected, atol=2e-6)
    expected = _unflatten(case, "grads")
    assert jax.tree.structure(gradient) == jax.tree.structure(expected)
    jax.tree.map(
        lambda ours, theirs: np.testing.assert_allclose(ours, theirs, atol=2e-6), gradient, expected
    )


# Against Flax's own cells, which keep a kernel per gate.


@pytest.mark.core
def test_lstm_equals_flax_optimized_lstm_cell() -> None:
    cell, x_BTD = nn.OptimizedLSTMCell(6), jax.random.normal(jax.random.key(0), (B, T, 5))
    start = cell.initialize_carry(jax.random.key(1), (B, 5))
    theirs = cell.init(jax.random.key(2), start, x_BTD[:, 0])["params"]
    theirs = jax.tree.map(lambda w: jax.random.normal(jax.random.key(w.size), w.shape), theirs)
    (cell_BH, hidden_BH), outputs = nn.RNN(cell, return_carry=True).apply(
        {"params": {"cell": theirs}}, x_BTD
    )
    ours = {
        "input": {
            "kernel": jnp.concatenate([theirs[f"i{g}"]["kernel"] for g in "ifgo"], axis=1),
            "bias": jnp.concatenate([theirs[f"h{g}"]["bias"] for g in "ifgo"]),
        },
        "recurrent_kernel": jnp.concatenate([theirs[f"h{g}"]["kernel"] for g in "ifgo"], axis=1),
    }
    layer = LSTM(hidden_size=6, scheme=init_scheme("flax"))
    hidden_BTH, state = layer.apply({"params": ours}, x_BTD, layer.initial_state(B, 0))
    np.testing.assert_allclose(hidden_BTH, outputs, atol=2e-6)
    np.testing.assert_allclose(state.cell_BH, cell_BH, atol=2e-6)
    np.testing.assert_allclose(state.hidden_BH, hidden_BH, atol=2e-6)


def test_gru_equals_flax_gru_cell() -> None:
    x_BTD = jax.random.normal(jax.random.key(0), (B, T, 5))
    cell = nn.GRUCell(6)
    theirs = cell.init(jax.random.key(2), jnp.zeros((B, 6)), x_BTD[:, 0])["params"]
    theirs = jax.tree.map(lambda w: jax.random.normal(jax.random.key(w.size), w.shape), theirs)
    outputs = nn.RNN(cell).apply({"params": {"cell": theirs}}, x_BTD)
    ours = {
        "input": {
            "kernel": jnp.concatenate([theirs[f"i{g}"]["kernel"] for g in "rzn"], axis=1),
            "bias": jnp.concatenate([theirs[f"i{g}"]["bias"] for g in "rzn"]),
        },
        "recurrent_kernel": jnp.concatenate([theirs[f"h{g}"]["kernel"] for g in "rzn"], axis=1),
        "candidate_bias": theirs["hn"]["bias"],
    }
    layer = GRU(hidden_size=6, scheme=init_scheme("flax"))
    hidden_BTH, _ = layer.apply({"params": ours}, x_BTD, layer.initial_state(B, 0))
    np.testing.assert_allclose(hidden_BTH, outputs, atol=2e-6)


def test_rnn_is_its_formula() -> None:
    layer = RNN(hidden_size=6, scheme=init_scheme("keras"))
    x_BTD = jax.random.normal(jax.random.key(0), (B, T, 5))
    params = layer.init(jax.random.key(1), x_BTD, layer.initial_state(B, 0))["params"]
    hidden_BTH, _ = layer.apply({"params": params}, x_BTD, layer.initial_state(B, 0))
    hidden_BH = np.zeros((B, 6))
    for t in range(T):
        inputs = x_BTD[:, t] @ params["input"]["kernel"] + params["input"]["bias"][None]
        hidden_BH = np.tanh(inputs + hidden_BH @ params["recurrent_kernel"])
        np.testing.assert_allclose(hidden_BTH[:, t], hidden_BH, atol=2e-6)


# Initialisation.


def test_keras_draws_stacked_gates_as_one_matrix() -> None:
    layer = LSTM(hidden_size=32, scheme=init_scheme("keras"))
    x_BTD = jnp.zeros((1, 1, 16))
    params = layer.init(jax.random.key(0), x_BTD, layer.initial_state(1, 0))["params"]
    kernel, recurrent = params["input"]["kernel"], params["recurrent_kernel"]
    limit = np.sqrt(6 / (16 + 4 * 32))
    assert 0.95 * limit < np.abs(kernel).max() <= limit
    np.testing.assert_allclose(recurrent @ recurrent.T, np.eye(32), atol=1e-5)
    block = recurrent[:, :32]
    assert np.abs(block @ block.T - np.eye(32)).max() > 0.1
    i, f, g, o = jnp.split(params["input"]["bias"], 4)
    assert (f == 1).all() and not i.any() and not g.any() and not o.any()


def test_flax_draws_every_gate_by_itself() -> None:
    layer = LSTM(hidden_size=32, scheme=init_scheme("flax"))
    params = layer.init(jax.random.key(0), jnp.zeros((1, 1, 16)), layer.initial_state(1, 0))
    for block in jnp.split(params["params"]["recurrent_kernel"], 4, axis=1):
        np.testing.assert_allclose(block @ block.T, np.eye(32), atol=1e-5)
    assert not params["params"]["input"]["bias"].any()


def test_keras_embedding_is_uniform_in_a_twentieth() -> None:
    table = init_scheme("keras").embedding(jax.random.key(0), (80, 256))
    assert 0.049 < np.abs(table).max() <= 0.05
    assert abs(float(table.std()) - 0.1 / np.sqrt(12)) < 1e-3


# Parts.


def test_the_tutorial_model_has_the_textbooks_parameters() -> None:
    model = build_model(ModelConfig(("lstm",), 256, 512, 0.0, "keras"), 80)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0)))
    count = {name: sum(x.size for x in jax.tree.leaves(part)) for name, part in shapes.items()}
    assert count == {"embedding": 20_480, "layer_0": 1_574_912, "output": 41_040}


@pytest.mark.parametrize("symbols", [11, 2000], ids=["one-hot", "scatter"])
def test_embedding_gradient_is_a_sum_over_uses(symbols: int) -> None:
    ids_BT = jnp.array([[0, 3, 3], [3, 9, 0]])
    weights_BTD = jax.random.normal(jax.random.key(0), (2, 3, 4))
    table = jnp.ones((symbols, 4))
    gradient = jax.grad(lambda t: jnp.sum(embed(t, ids_BT) * weights_BTD))(table)
    expected = np.zeros((symbols, 4))
    np.add.at(expected, np.asarray(ids_BT), np.asarray(weights_BTD))
    np.testing.assert_allclose(gradient, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "names"),
    [({"layers": ("lstn",)}, "lstm, gru, rnn"), ({"init": "torch"}, "keras, flax")],
)
def test_an_unknown_name_is_an_error_that_lists_the_known(
    change: Mapping[str, Any], names: str
) -> None:
    with pytest.raises(CharlmError, match=names):
        build_model(dataclasses.replace(TINY, **change), V)
