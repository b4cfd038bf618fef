"""Muon, schedule-free AdamW and the average of weights, against their definitions."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from charlm_jax.config.loading import load_config
from charlm_jax.core.errors import CharlmError
from charlm_jax.core.trees import leaves_by_path
from charlm_jax.core.types import Params
from charlm_jax.inference.run import load_run
from charlm_jax.models import build_model
from charlm_jax.storage.metrics_log import MetricsLog
from charlm_jax.storage.workdir import Workdir
from charlm_jax.training.loop import train_and_evaluate
from charlm_jax.training.optimizer import build_adam, make_schedule
from charlm_jax.training.update_rules import (
    build_muon,
    build_schedule_free,
    next_average,
    update_average,
)
from tests.conftest import make_model_config, make_tiny_config

RATE, UNITS = 0.1, 6
ADAM: Mapping[str, Any] = {"beta1": 0.9, "beta2": 0.99, "epsilon": 1e-8}
RULES = ("muon", "schedule_free")


def _params(seed: int) -> Params:
    """Weights as those of an LSTM with an MLP, or a gradient of them."""
    noise = np.random.default_rng(seed)

    def normal(*shape: int) -> jax.Array:
        return jnp.asarray(noise.normal(size=shape), jnp.float32)

    gates = {"kernel": normal(5, 4 * UNITS), "bias": normal(4 * UNITS)}
    return {
        "embedding": normal(9, 5),
        "layer_0": {
            "mixer": {"input": gates, "recurrent_kernel": normal(UNITS, 4 * UNITS)},
            "mlp": {"input": {"kernel": normal(UNITS, 2 * UNITS)}},
        },
        "layer_1": {
            "mixer": {
                "recurrent_kernel": normal(2, 3, 4 * 3),  # two blocks, four gates
                "input": {"kernel": normal(UNITS, 2 * UNITS + 1)},  # parts of unequal width
                "convolution": {"kernel": normal(4, UNITS)},
            }
        },
        "output": {"kernel": normal(UNITS, 9), "bias": normal(9)},
    }


def _muon(**changes: Any) -> optax.GradientTransformation:
    fields = {**ADAM, "weight_decay": 0.0, **changes}
    layers = ("lstm", "slstm")
    return build_muon(optax.constant_schedule(RATE), width=UNITS, layers=layers, **fields)


def _first_update(optimizer: optax.GradientTransformation, gradient: Params) -> Params:
    params = _params(0)
    update: Params = optimizer.update(gradient, optimizer.init(params), params)[0]
    return update


def _gates(kernel: jax.Array) -> list[np.ndarray]:
    return np.split(np.asarray(kernel), kernel.shape[1] // UNITS, axis=1)


def test_muon_moves_every_gate_equally_in_all_directions() -> None:
    update = _first_update(_muon(), _params(1))
    mixer = update["layer_0"]["mixer"]
    other = update["layer_1"]["mixer"]
    whole = (update["layer_0"]["mlp"], other)
    blocks = np.asarray(other["recurrent_kernel"]).reshape(2, 3, 4, 3).transpose(0, 2, 1, 3)
    matrices = [
        *_gates(mixer["recurrent_kernel"]),
        *_gates(mixer["input"]["kernel"]),
        *(np.asarray(x["input"]["kernel"]) for x in whole),
        *blocks.reshape(8, 3, 3),
    ]
    for matrix in matrices:
        singular = np.linalg.svd(matrix, compute_uv=False)
        # Five Newton-Schulz iterations leave singular values around 1.
        usual = 0.2 * RATE * np.sqrt(max(matrix.shape))
        assert 0.6 * usual < singular.min() <= singular.max() < 1.3 * usual


def _momentum_shape(name: str, layer: str, **fields: Any) -> tuple[int, ...]:
    """Shape of a kernel's momentum: that of the separate matrices, side by side."""
    config = make_model_config(layer, **fields)
    build = partial(build_muon, optax.constant_schedule(RATE), **ADAM, weight_decay=0.0)
    muon = build(width=config.hidden_size, layers=config.layers)
    init = build_model(config, 5).init
    states = leaves_by_path(jax.eval_shape(lambda: muon.init(init(jax.random.key(0)))))
    (found,) = {x.shape for path, x in states.items() if path.endswith(f"layer_0/mixer/{name}")}
    return found


@pytest.mark.parametrize(
    ("layer", "fields", "name", "columns"),
    [  # z, u, B, C and d are 288, 288, 64, 64 and 16 wide
        ("mamba2", {"hidden_size": 144, "heads": 16, "state_size": 64}, "input/kernel", 720),
        ("gated_deltanet", {"hidden_size": 8, "heads": 4}, "input/kernel", 40),
        ("mlstm", {"hidden_size": 8, "heads": 4}, "input/kernel", 40),
        ("lstm", {"embedding_size": 12, "mogrifier_rounds": 2}, "round_1_kernel", 12),
    ],
)
def test_a_kernel_of_unequal_parts_is_one_matrix(
    layer: str, fields: dict, name: str, columns: int
) -> None:
    *_, last = _momentum_shape(name, layer, **fields)
    assert last == columns


@pytest.mark.parametrize(
    ("layer", "gates", "name"),
    [
        ("lstm", 4, "input/kernel"),
        ("lstm", 4, "recurrent_kernel"),
        ("gru", 3, "input/kernel"),
        ("mingru", 2, "input/kernel"),
        ("minlstm", 3, "input/kernel"),
        ("rglru", 2, "gate_kernel"),
        ("slstm", 4, "recurrent_kernel"),
    ],
)
def test_gates_of_equal_width_are_matrices_of_their_own(layer: str, gates: int, name: str) -> None:
    first, *_, last = _momentum_shape(name, layer, heads=2)
    assert (first, last) == (gates, 3 if name == "gate_kernel" or layer == "slstm" else 6)


def test_gates_do_not_share_a_scale() -> None:
    gradient, larger = _params(1), _params(1)
    larger["layer_0"]["mixer"]["recurrent_kernel"] = gradient["layer_0"]["mixer"][
        "recurrent_kernel"
    ] * jnp.repeat(jnp.array([[1.0, 1e3, 1.0, 1e-2]]), UNITS, axis=1)
    kernels = (
        _first_update(_muon(), x)["layer_0"]["mixer"]["recurrent_kernel"]
        for x in (gradient, larger)
    )
    for one, other in zip(*map(_gates, kernels), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


def test_adam_updates_what_is_no_matrix_of_a_layer() -> None:
    adam = build_adam(optax.constant_schedule(RATE), epsilon_hat=False, weight_decay=0.5, **ADAM)
    found = _first_update(_muon(weight_decay=0.5), _params(1))
    wanted = _first_update(adam, _params(1))
    for name in ("embedding", "output"):
        jax.tree.map(np.testing.assert_array_equal, found[name], wanted[name])
    biases = (x["layer_0"]["mixer"]["input"]["bias"] for x in (found, wanted))
    filters = (x["layer_1"]["mixer"]["convolution"]["kernel"] for x in (found, wanted))
    np.testing.assert_array_equal(*biases)
    np.testing.assert_array_equal(*filters)


def test_muon_shrinks_the_matrices_that_it_moves() -> None:
    gradient, params = _params(1), _params(0)
    plain, decayed = (_first_update(_muon(weight_decay=x), gradient) for x in (0.0, 0.5))
    kernels = (x["layer_0"]["mixer"]["recurrent_kernel"] for x in (plain, decayed))
    difference = np.subtract(*kernels)
    weights = params["layer_0"]["mixer"]["recurrent_kernel"]
    np.testing.assert_allclose(difference, RATE * 0.5 * weights, atol=1e-5)


def test_schedule_free_follows_its_three_sequences() -> None:
    """The weights y, the fast sequence z and its average x of algorithm 1, in float64.

    The decay has the rate without the factor of the second moment, as the docstring says.
    """
    beta1, beta2, epsilon, curvature = 0.9, 0.99, 1e-8, np.array([1.0, 10.0])
    warmup_steps, weight_decay = 5, 0.5
    schedule = make_schedule(
        schedule="constant",
        learning_rate=RATE,
        warmup_steps=warmup_steps,
        final_learning_rate=0.0,
        decay_fraction=0.0,
        total_steps=20,
    )
    optimizer = build_schedule_free(
        schedule, beta1=beta1, beta2=beta2, epsilon=epsilon, weight_decay=weight_decay
    )
    start = np.array([3.0, -2.0])
    params: Params = {"kernel": jnp.asarray(start, jnp.float32)}
    state, average = optimizer.init(params), params
    x, z, v, squares = start.copy(), start.copy(), np.zeros(2), 0.0
    for step in range(1, 21):
        gradient: Params = {"kernel": jnp.asarray(curvature, jnp.float32) * params["kernel"]}
        update, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, update)
        average = next_average(average, params, state, jnp.int32(step - 1), average_decay=0.0)

        y = (1 - beta1) * z + beta1 * x
        slope = curvature * y
        v = beta2 * v + (1 - beta2) * slope**2
        rate = RATE * min(1, step / warmup_steps)
        corrected = rate * np.sqrt(1 - beta2**step)
        z = z - corrected * slope / (np.sqrt(v) + epsilon) - rate * weight_decay * y
        squares += corrected**2
        share = corrected**2 / squares
        x = (1 - share) * x + share * z
        np.testing.assert_allclose(average["kernel"], x, atol=1e-5)
        np.testing.assert_allclose(params["kernel"], (1 - beta1) * z + beta1 * x, atol=1e-5)


def test_the_average_forgets_the_start_at_first_and_little_later() -> None:
    params, average = {"w": jnp.array(1.0)}, {"w": jnp.array(0.0)}
    for step in range(3):
        average = update_average(average, params, jnp.int32(step), average_decay=0.999)
    # d = 1/10, 2/11, 3/12: what is left of the start is their product.
    np.testing.assert_allclose(average["w"], 1 - 0.1 * 2 / 11 * 3 / 12, rtol=1e-6)
    late = update_average({"w": jnp.array(0.0)}, params, jnp.int32(10**6), average_decay=0.999)
    np.testing.assert_allclose(late["w"], 0.001, rtol=1e-3)


def assert_resumes(rule: str, folder: Path, **changes: object) -> None:
    """A run of ten steps, in `once`, has the states and losses of one that ended and resumed."""
    fields = {
        "optimizer.rule": rule,
        "optimizer.weight_decay": 0.01,
        "optimizer.clip_norm": 1.0,
        "optimizer.warmup_steps": 2,
        "train.evaluate_every_steps": 5,
        **changes,
    }
    shorter, longer = (
        make_tiny_config(**fields, **{"train.max_steps": steps}) for steps in (5, 10)
    )
    train_and_evaluate(longer, folder / "once")
    train_and_evaluate(shorter, folder / "twice")
    train_and_evaluate(longer, folder / "twice")
    once, twice = (
        {
            (row["step"], row["split"], row["weights"]): (row["state_hash"], row["loss_nats"])
            for row in MetricsLog(Workdir(folder / name).metrics_file).rows()
            if row["split"] == "valid"
        }
        for name in ("once", "twice")
    )
    assert once == twice
    assert {weights for *_, weights in once} == {"raw", *["average"] * (rule == "schedule_free")}


@pytest.mark.parametrize("rule", RULES)
def test_a_longer_run_resumes_bit_for_bit(rule: str, tmp_path: Path) -> None:
    assert_resumes(rule, tmp_path)
    run = load_run(tmp_path / "once")
    assert run.weights == ("average" if rule == "schedule_free" else "raw")


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        (("optimizer.schedule=cosine",), "must be constant under config.optimizer.rule"),
        (("optimizer.average_decay=0.9",), "which keeps an average of its own"),
        (("optimizer.beta1=0",), "must be above 0 under config.optimizer.rule"),
        (("optimizer.epsilon_hat=true",), "must be False under config.optimizer.rule"),
    ],
)
def test_fields_of_another_rule_are_refused(fields: tuple[str, ...], says: str) -> None:
    overrides = ["optimizer.rule=schedule_free", "optimizer.schedule=constant", *fields]
    with pytest.raises(CharlmError, match=says):
        load_config("quickstart", overrides)
