"""Activation regularization: penalties that training adds to the loss, and reports without."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from charlm_jax.config.schema import ModelConfig
from charlm_jax.core.prng import root_key
from charlm_jax.models import build_reader
from charlm_jax.models.losses import (
    negative_log_likelihood,
    sum_activation_penalty,
    sum_temporal_penalty,
)
from charlm_jax.storage.metrics_log import MetricsLog
from charlm_jax.storage.workdir import Workdir
from charlm_jax.training.batch_gradient import (
    Batch,
    Penalties,
    count_characters,
    loss_of_batch,
    make_gradient_of_batch,
)
from charlm_jax.training.loop import train_and_evaluate
from charlm_jax.training.trainer import build_penalties
from tests.conftest import compiled_model, draw, make_model_config, make_tiny_config, quick_jit

B, T, V = 8, 7, 5
ACTIVATION, TEMPORAL = 2.0, 3.0
MASK_B = np.arange(B) < 5

# Every way to regularize at once; `cell_norm` needs an LSTM or a GRU.
REGULARIZED: Mapping[str, object] = {
    "model.cell_norm": True,
    "model.dropout": 0.2,
    "model.dropout_mask": "sequence",
    "model.embedding_dropout": 0.1,
    "model.weight_dropout": 0.3,
    "optimizer.activation_penalty": 2.0,
    "optimizer.temporal_penalty": 1.0,
}


def _batch(length: int = T) -> Batch:
    ids_BT = jnp.asarray(np.random.default_rng(0).integers(0, V, (B, length), dtype=np.int32))
    return Batch(
        ids_BT, jnp.roll(ids_BT, -1, axis=1), jnp.asarray(MASK_B), jnp.ones(B, bool), root_key(1)
    )


def _penalties(config: ModelConfig) -> Penalties:
    return Penalties(build_reader(config, V), activation=ACTIVATION, temporal=TEMPORAL)


def _formula(output_BTD: Any, dropped_BTD: Any) -> float:
    """The terms of arXiv 1708.01009, as means of squares over the rows that count, in float64."""
    output_BTD, dropped_BTD = (np.asarray(x, np.float64)[MASK_B] for x in (output_BTD, dropped_BTD))
    activation = np.mean(dropped_BTD**2)
    temporal = np.mean((output_BTD[:, 1:] - output_BTD[:, :-1]) ** 2)
    return float(ACTIVATION * activation + TEMPORAL * temporal)


@pytest.mark.core
def test_sums_are_those_of_the_formulas() -> None:
    x_BTD, mask_BT = draw(0, B, T, 4), jnp.asarray(np.repeat(MASK_B[:, None], T, axis=1))
    x64_BTD = np.asarray(x_BTD, np.float64)[MASK_B]
    found = sum_activation_penalty(x_BTD, mask_BT)
    np.testing.assert_allclose(found, np.sum(x64_BTD**2) / 4, rtol=1e-5)
    changes_BTD = x64_BTD[:, 1:] - x64_BTD[:, :-1]
    found = sum_temporal_penalty(x_BTD, mask_BT)
    np.testing.assert_allclose(found, np.sum(changes_BTD**2) / 4, rtol=1e-5)
    assert sum_temporal_penalty(x_BTD[:, :1], mask_BT[:, :1]) == 0.0


@pytest.mark.parametrize("mask", ["position", "sequence"])
def test_the_penalty_is_that_of_outputs_that_count(mask: str) -> None:
    """The squares after dropout, the changes before; the loss is reported without them."""
    config = make_model_config("lstm", dropout=0.5, dropout_mask=mask)
    model, penalties, batch = compiled_model(config, V), _penalties(config), _batch()
    params, start = model.init(root_key(0)), model.initial_state(B, 0)
    found = quick_jit(
        lambda p: loss_of_batch(model, p, start, batch, count_characters(batch), penalties)
    )(params)
    read = quick_jit(lambda p: penalties.read(p, batch.inputs_BT, start, key=batch.key))
    reading, _ = read(params)
    nll_BT = negative_log_likelihood(reading.logits_BTV, batch.targets_BT)
    np.testing.assert_allclose(found.loss_nats, np.mean(nll_BT[MASK_B]), rtol=1e-5)
    expected = _formula(reading.output_BTD, reading.dropped_BTD)
    assert expected > 1e-4
    np.testing.assert_allclose(found.penalty, expected, rtol=1e-5)
    np.testing.assert_allclose(found.minimized, found.loss_nats + expected, rtol=1e-6)


def test_the_gradient_is_that_of_loss_and_penalty() -> None:
    """Summed over microbatches too; the loss beside it is the cross-entropy alone."""
    config = make_model_config("gru")
    model, batch = compiled_model(config, V), _batch()
    batch = batch._replace(mask_B=jnp.asarray(np.arange(B) % 3 > 0))
    params, start = model.init(root_key(0)), model.initial_state(B, 0)
    is_counted_B = np.asarray(batch.mask_B)

    def terms(params: Any) -> tuple[jax.Array, jax.Array]:
        captured = model.inspect(params, batch.inputs_BT, start)
        nll_BT = negative_log_likelihood(captured["logits"], batch.targets_BT)
        h_BTH = captured["layer_0"]["hidden"][is_counted_B]
        changes = jnp.mean((h_BTH[:, 1:] - h_BTH[:, :-1]) ** 2)
        return jnp.mean(nll_BT[is_counted_B]), ACTIVATION * jnp.mean(h_BTH**2) + TEMPORAL * changes

    loss, penalty = quick_jit(terms)(params)
    expected = quick_jit(jax.grad(lambda p: sum(terms(p))))(params)
    assert penalty > 1e-4
    for count in (1, 4):
        compute = make_gradient_of_batch(model, penalties=_penalties(config), microbatches=count)
        found = quick_jit(lambda p, b, f=compute: f(p, (), b))(params, batch)
        np.testing.assert_allclose(found.loss_nats, loss, rtol=1e-5)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * float(jnp.abs(b).max())),
            found.gradient,
            expected,
        )


def test_a_single_position_has_no_change() -> None:
    config = make_model_config("rnn")
    model, batch = compiled_model(config, V), _batch(1)
    params = model.init(root_key(0))
    compute = make_gradient_of_batch(model, penalties=_penalties(config)._replace(activation=0.0))
    plain = make_gradient_of_batch(model)
    found, expected = (quick_jit(lambda p, f=f: f(p, (), batch))(params) for f in (compute, plain))
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_weights_of_zero_build_no_penalties() -> None:
    assert build_penalties(make_tiny_config(), V) is None
    config = make_tiny_config(**{"optimizer.temporal_penalty": 0.5})
    built = build_penalties(config, V)
    assert built is not None and built[1:] == (0.0, 0.5)


def test_a_regularized_run_resumes_bit_for_bit(tmp_path: Path) -> None:
    """With carried state, resets and an average, in bfloat16; evaluation draws no mask."""
    config = make_tiny_config(
        **REGULARIZED,
        **{
            "data.loader": "streams",
            "data.reset_probability": 0.1,
            "model.layers": ("lstm",),
            "model.precision": "bfloat16",
            "optimizer.average_decay": 0.9,
            "train.evaluate_every_steps": 5,
            "train.max_steps": 10,
        },
    )
    train_and_evaluate(config, tmp_path / "once")
    short = dataclasses.replace(config, train=dataclasses.replace(config.train, max_steps=5))
    train_and_evaluate(short, tmp_path / "twice")
    train_and_evaluate(config, tmp_path / "twice")
    once, twice = (
        [
            (row["step"], row["split"], row["weights"], row["state_hash"], row["loss_nats"])
            for row in MetricsLog(Workdir(tmp_path / name).metrics_file).rows()
            if row["split"] == "valid"
        ]
        for name in ("once", "twice")
    )
    assert once == twice and len(once) == 4
