"""One update, and several in one dispatch."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from charlm_jax.data.loaders import EpochPlan
from charlm_jax.models import LanguageModel
from charlm_jax.models.losses import negative_log_likelihood
from charlm_jax.training.batch_gradient import make_gradient_of_batch
from charlm_jax.training.train_step import (
    TrainState,
    TrainSteps,
    checkpointed_params,
    make_batch,
    make_train_step,
    make_train_steps,
    with_weights,
)
from charlm_jax.training.update_rules import update_average
from tests.conftest import compiled_model, make_model_config

pytestmark = pytest.mark.optimised

V, T = 6, 5
CONFIG = make_model_config("lstm")
IDS = jnp.asarray(np.random.default_rng(0).integers(0, V, 80).astype(np.uint8))
PLAN = EpochPlan(
    starts_EB=jnp.array([[0, 6, 12], [18, 24, 30], [36, 42, 48], [54, 60, 0]], jnp.int32),
    mask_EB=jnp.array([[True] * 3] * 3 + [[True, True, False]]),
    fresh_EB=jnp.ones((4, 3), bool),
)


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return compiled_model(CONFIG, V)


@pytest.fixture(scope="module")
def optimizer() -> optax.GradientTransformation:
    return optax.adam(1e-2)


@pytest.fixture
def state(model: LanguageModel, optimizer: optax.GradientTransformation) -> TrainState:
    return TrainState.create(model.init(jax.random.key(0)), optimizer)


@functools.cache
def _train_steps(
    model: LanguageModel, optimizer: optax.GradientTransformation, key: int
) -> TrainSteps:
    return make_train_steps(
        make_train_step(make_gradient_of_batch(model), optimizer),
        sequence_length=T,
        most_steps=4,
        dropout_key=jax.random.key(key),
    )


def _run(
    model: LanguageModel,
    optimizer: optax.GradientTransformation,
    state: TrainState,
    cuts: list[tuple[int, int]],
    key: int = 0,
) -> tuple[TrainState, list[float]]:
    steps = _train_steps(model, optimizer, key)
    state, losses = jax.tree.map(jnp.copy, state), []
    for place, count in cuts:
        state, dispatch = steps(state, IDS, PLAN, place, int(state.step), count)
        losses += np.asarray(dispatch.steps.loss_nats)[:count].tolist()
    return state, losses


def _assert_close(found: jax.Array, expected: jax.Array) -> None:
    """One program and two round alike but for a last bit."""
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-8)


def _assert_equal(first: TrainState, second: TrainState) -> None:
    jax.tree.map(np.testing.assert_array_equal, first, second)


@pytest.mark.core
def test_a_step_is_adam_on_the_mean_cross_entropy(
    model: LanguageModel, optimizer: optax.GradientTransformation, state: TrainState
) -> None:
    batch = make_batch(
        IDS, PLAN, jnp.int32(3), state.step, sequence_length=T, dropout_key=jax.random.key(0)
    )

    def loss(params: dict) -> jax.Array:  # the first two rows are those that count
        logits_BTV, _ = model.apply(params, batch.inputs_BT[:2], model.initial_state(2, 0))
        return jnp.mean(negative_log_likelihood(logits_BTV, batch.targets_BT[:2]))

    expected_loss, gradient = jax.jit(jax.value_and_grad(loss))(state.params)
    update, _ = optimizer.update(gradient, state.opt_state)
    expected = optax.apply_updates(state.params, update)
    found, metrics = jax.jit(make_train_step(make_gradient_of_batch(model), optimizer))(
        state, batch
    )
    assert int(found.step) == 1 and int(metrics.characters) == 2 * T
    np.testing.assert_allclose(metrics.loss_nats, expected_loss, rtol=1e-6)
    np.testing.assert_allclose(metrics.gradient_norm, optax.tree.norm(gradient), rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), found.params, expected)


@pytest.mark.core
@pytest.mark.parametrize("cuts", [[(0, 1), (1, 1), (2, 1), (3, 1)], [(0, 3), (3, 1)]])
def test_where_dispatches_are_cut_does_not_show(
    model: LanguageModel,
    optimizer: optax.GradientTransformation,
    state: TrainState,
    cuts: list[tuple[int, int]],
) -> None:
    whole, losses = _run(model, optimizer, state, [(0, 4)])
    cut, cut_losses = _run(model, optimizer, state, cuts)
    _assert_equal(whole, cut)
    assert losses == cut_losses and int(whole.step) == 4


def test_dropout_depends_on_the_key_and_the_step(state: TrainState) -> None:
    model = compiled_model(dataclasses.replace(CONFIG, dropout=0.5), V)
    still = optax.sgd(0.0)
    frozen = TrainState.create(model.init(jax.random.key(0)), still)
    twice = [(0, 1), (0, 1)]  # the same batch, at steps 0 and 1
    _, first = _run(model, still, frozen, twice)
    _, again = _run(model, still, frozen, twice)
    _, other = _run(model, still, frozen, twice, key=1)
    assert first == again and first[0] != first[1] and first[0] != other[0]


STREAMS = EpochPlan(
    starts_EB=jnp.array([[0, 30], [5, 35], [10, 40], [15, 45]], jnp.int32),
    mask_EB=jnp.ones((4, 2), bool),
    fresh_EB=jnp.array([[True, True], [False, False], [False, True], [False, False]]),
)


@pytest.mark.parametrize("layers", [("lstm",), ("gru", "rnn")])
def test_rows_of_streams_read_on_as_if_they_had_never_stopped(layers: tuple[str, ...]) -> None:
    """Without learning, the loss of a piece is that of reading all since the last reset."""
    model = compiled_model(dataclasses.replace(CONFIG, layers=layers), V)
    params = jax.tree.map(lambda w: 3.0 * w, model.init(jax.random.key(0)))
    still = optax.sgd(0.0)
    state = jax.tree.map(jnp.copy, TrainState.create(params, still, model.initial_state(2, 0)))
    steps = _train_steps(model, still, key=0)
    state, dispatch = steps(state, IDS, STREAMS, 0, 0, 4)

    def read(start: int, stop: int) -> tuple[np.ndarray, object]:
        row = IDS[start : stop + 1].astype(jnp.int32)[None]
        logits_BTV, end = model.apply(params, row[:, :-1], model.initial_state(1, 0))
        return np.asarray(negative_log_likelihood(logits_BTV, row[:, 1:]))[0], end

    (first, first_end), (second, _), (third, third_end) = read(0, 20), read(30, 40), read(40, 50)
    rows = np.stack([first, np.concatenate([second, third])])
    expected = rows.reshape(2, 4, T).mean(axis=(0, 2))
    np.testing.assert_allclose(dispatch.steps.loss_nats, expected, rtol=1e-5)
    ends = jax.tree.map(lambda a, b: np.concatenate([a, b]), first_end, third_end)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), state.carried, ends)


def test_training_learns_a_text_by_heart(model: LanguageModel, state: TrainState) -> None:
    optimizer = optax.adam(3e-2)
    start = TrainState.create(model.init(jax.random.key(0)), optimizer)
    _, losses = _run(model, optimizer, start, [(0, 4)] * 60)
    assert losses[0] > 1.5 and losses[-1] < 0.5 * losses[0]


def test_an_average_of_the_weights_follows_them(model: LanguageModel) -> None:
    optimizer, params = optax.adam(1e-2), model.init(jax.random.key(0))
    step = jax.jit(make_train_step(make_gradient_of_batch(model), optimizer, average_decay=0.9))
    plain_step = jax.jit(make_train_step(make_gradient_of_batch(model), optimizer))
    state = TrainState.create(params, optimizer, averages=True)
    plain, average = TrainState.create(params, optimizer), params
    for number in range(4):
        batch = make_batch(
            IDS,
            PLAN,
            jnp.int32(number),
            jnp.int32(number),
            sequence_length=T,
            dropout_key=jax.random.key(0),
        )
        plain, _ = plain_step(plain, batch)
        average = update_average(average, plain.params, jnp.int32(number), average_decay=0.9)
        state, _ = step(state, batch)
        # It changes nothing in the weights that are trained.
        jax.tree.map(np.testing.assert_array_equal, state.params, plain.params)
        jax.tree.map(_assert_close, state.average, average)
    assert not np.array_equal(state.average["embedding"], state.params["embedding"])
    assert set(checkpointed_params(state)) == {"raw", "average"}
    assert checkpointed_params(plain) is plain.params
    again = with_weights(state._replace(params={}), checkpointed_params(state))
    assert again.params is state.params and again.average is state.average
