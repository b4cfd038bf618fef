"""The recurrent layers and the textbook's model: against PyTorch, against Flax, as they start."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from charlm_jax.models import build_model
from charlm_jax.models.gru import GRU, GRUState
from charlm_jax.models.initializers import init_scheme
from charlm_jax.models.losses import negative_log_likelihood
from charlm_jax.models.lstm import LSTM, LSTMState
from charlm_jax.models.ops import embed
from charlm_jax.models.rnn import RNN, RNNState
from tests.conftest import draw, make_model_config, quick_jit

GOLDENS = Path(__file__).parent.parent / "goldens" / "recurrent.npz"
V, B, T = 11, 8, 7


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
@pytest.mark.optimised
def test_values_and_gradients_equal_pytorchs(case: str, layers: tuple[str, ...]) -> None:
    kinds = {"lstm": LSTMState, "gru": GRUState, "rnn": RNNState}
    model = build_model(make_model_config(*layers, embedding_size=5, hidden_size=6), V)
    with np.load(GOLDENS) as goldens:
        ids_BT, targets_BT = goldens[f"{case}/ids"], goldens[f"{case}/targets"]
        logits, loss_nats = goldens[f"{case}/logits"], goldens[f"{case}/loss_nats"]
        assert json.loads(str(goldens["about"]))["torch"]
    states = tuple(
        kinds[layer](**{k: jnp.asarray(v) for k, v in _golden_state(case, "initial", i).items()})
        for i, layer in enumerate(layers)
    )
    start = model.initial_state(len(ids_BT), 0)._replace(layers=states)
    params = jax.tree.map(jnp.asarray, _unflatten(case, "params"))

    def loss(params: Any) -> tuple[jax.Array, Any]:
        logits_BTV, state = model.apply(params, jnp.asarray(ids_BT), start)
        nll_BT = negative_log_likelihood(logits_BTV, jnp.asarray(targets_BT))
        return jnp.mean(nll_BT), (logits_BTV, state)

    compute = quick_jit(jax.value_and_grad(loss, has_aux=True))
    (value, (logits_BTV, state)), gradient = compute(params)
    np.testing.assert_allclose(logits_BTV, logits, atol=2e-6)
    np.testing.assert_allclose(value, loss_nats, rtol=1e-6)
    for i in range(len(layers)):
        for name, expected in _golden_state(case, "final", i).items():
            np.testing.assert_allclose(getattr(state.layers[i], name), expected, atol=2e-6)
    expected = _unflatten(case, "grads")
    assert jax.tree.structure(gradient) == jax.tree.structure(expected)
    jax.tree.map(
        lambda ours, theirs: np.testing.assert_allclose(ours, theirs, atol=2e-6), gradient, expected
    )


# Against Flax's own cells, which keep a kernel per gate.


def draw_like(cell: nn.Module, carry: Any) -> Any:
    """Parameters for a cell that reads vectors of 5."""
    shapes = jax.eval_shape(cell.init, jax.random.key(0), carry, jnp.zeros((B, 5)))["params"]
    leaves, form = jax.tree.flatten(shapes)
    return jax.tree.unflatten(form, [draw(i, *leaf.shape) for i, leaf in enumerate(leaves)])


@pytest.mark.core
@pytest.mark.optimised
def test_lstm_equals_flax_optimized_lstm_cell() -> None:
    cell, x_BTD = nn.OptimizedLSTMCell(6), draw(0, B, T, 5)
    theirs = draw_like(cell, (jnp.zeros((B, 6)), jnp.zeros((B, 6))))
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
    cell, x_BTD = nn.GRUCell(6), draw(0, B, T, 5)
    theirs = draw_like(cell, jnp.zeros((B, 6)))
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
    layer, x_BTD = RNN(hidden_size=6, scheme=init_scheme("keras")), draw(0, B, T, 5)
    params = {
        "input": {"kernel": draw(1, 5, 6), "bias": draw(2, 6)},
        "recurrent_kernel": 0.4 * draw(3, 6, 6),  # so that rounding does not grow over time
    }
    hidden_BTH, _ = layer.apply({"params": params}, x_BTD, layer.initial_state(B, 0))
    x_BTD, params = jax.tree.map(lambda x: np.asarray(x, np.float64), (x_BTD, params))
    hidden_BH = np.zeros((B, 6))
    for t in range(T):
        inputs = x_BTD[:, t] @ params["input"]["kernel"] + params["input"]["bias"]
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
    model = build_model(make_model_config("lstm", embedding_size=256, hidden_size=512), 80)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0)))
    count = {name: sum(x.size for x in jax.tree.leaves(part)) for name, part in shapes.items()}
    assert count == {"embedding": 20_480, "layer_0": 1_574_912, "output": 41_040}


@pytest.mark.parametrize("symbols", [11, 2000], ids=["one-hot", "scatter"])
def test_embedding_gradient_is_a_sum_over_uses(symbols: int) -> None:
    ids_BT = jnp.array([[0, 3, 3], [3, 9, 0]])
    weights_BTD = draw(0, 2, 3, 4)
    table = jnp.ones((symbols, 4))
    gradient = jax.grad(lambda t: jnp.sum(embed(t, ids_BT) * weights_BTD))(table)
    expected = np.zeros((symbols, 4))
    np.add.at(expected, np.asarray(ids_BT), np.asarray(weights_BTD))
    np.testing.assert_allclose(gradient, expected, atol=1e-6)
