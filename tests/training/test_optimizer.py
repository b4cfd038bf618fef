"""Learning rates over time, clipping, Adam, and weight decay."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from charlm_jax.models import build_model
from charlm_jax.training.optimizer import build_adam, make_schedule, weight_decay_mask
from charlm_jax.training.trainer import build_optimizer
from tests.conftest import make_model_config, make_tiny_config


def _rates(schedule: str, **changes: float) -> list[float]:
    values = {
        "learning_rate": 1.0,
        "warmup_steps": 0,
        "final_learning_rate": 0.0,
        "decay_fraction": 0.2,
        "total_steps": 10,
    }
    rate = make_schedule(schedule=schedule, **(values | changes))  # type: ignore[arg-type]
    return [float(rate(step)) for step in range(11)]


def test_schedules() -> None:
    assert _rates("constant") == [1.0] * 11
    np.testing.assert_allclose(_rates("constant", warmup_steps=4)[:6], [0.25, 0.5, 0.75, 1, 1, 1])
    cosine = _rates("cosine", final_learning_rate=0.2)
    expected = [0.2 + 0.8 * (1 + np.cos(np.pi * step / 10)) / 2 for step in range(11)]
    np.testing.assert_allclose(cosine, expected, atol=1e-6)
    warm = _rates("cosine", warmup_steps=2)
    np.testing.assert_allclose([warm[0], warm[1], warm[2], warm[10]], [0.5, 1, 1, 0], atol=1e-6)


def test_wsd_warms_up_stays_and_goes_straight_down() -> None:
    rates = _rates("wsd", warmup_steps=2, decay_fraction=0.4, final_learning_rate=0.2)
    expected = [0.5, 1, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2]
    np.testing.assert_allclose(rates, expected, atol=1e-6)
    np.testing.assert_allclose(_rates("wsd", decay_fraction=0.0)[:10], 1.0)
    np.testing.assert_allclose(_rates("wsd", decay_fraction=1.0), np.linspace(1, 0, 11), atol=1e-6)
    rates = _rates("wsd", warmup_steps=4, decay_fraction=0.9)  # no room for 9 steps of decay
    expected = [0.25, 0.5, 0.75, *np.linspace(1, 0, 7)]
    np.testing.assert_allclose(rates, [*expected[:3], 1, *expected[3:]], atol=1e-6)
    longer = _rates("wsd", warmup_steps=2, total_steps=20)
    assert longer[:9] == _rates("wsd", warmup_steps=2)[:9]  # the stable part knows no end


def _is_adam(node: object) -> bool:
    return isinstance(node, optax.ScaleByAdamState)


def test_clipping_bounds_what_adam_sees() -> None:
    gradient = {"w": jnp.array([3.0, 4.0])}
    first_moments = []
    for clip_norm in (0.0, 1.0, 100.0):
        config = make_tiny_config(**{"optimizer.clip_norm": clip_norm})
        _, optimizer = build_optimizer(config, total_steps=1)
        _, opt_state = optimizer.update(gradient, optimizer.init(gradient))
        (mu,) = (s.mu for s in jax.tree.leaves(opt_state, is_leaf=_is_adam) if _is_adam(s))
        first_moments.append(float(jnp.linalg.norm(mu["w"])))
    np.testing.assert_allclose(first_moments, [0.5, 0.1, 0.5], rtol=1e-5)


@pytest.mark.core
@pytest.mark.parametrize("epsilon_hat", [True, False], ids=["keras", "optax"])
def test_adam_adds_its_epsilon_where_it_was_told_to(epsilon_hat: bool) -> None:
    beta1, beta2, epsilon, rate = 0.9, 0.999, 1e-3, 0.1
    optimizer = build_adam(
        optax.constant_schedule(rate),
        beta1=beta1,
        beta2=beta2,
        epsilon=epsilon,
        epsilon_hat=epsilon_hat,
        weight_decay=0.0,
    )
    params = {"w": jnp.zeros(3)}
    state, m, v = optimizer.init(params), np.zeros(3), np.zeros(3)
    for step in range(1, 6):
        gradient = np.array([1e-3, -1e-2, 1.0]) * step
        update, state = optimizer.update({"w": jnp.asarray(gradient, jnp.float32)}, state, params)
        m, v = beta1 * m + (1 - beta1) * gradient, beta2 * v + (1 - beta2) * gradient**2
        if epsilon_hat:  # as Keras writes it
            scale = rate * np.sqrt(1 - beta2**step) / (1 - beta1**step)
            expected = -scale * m / (np.sqrt(v) + epsilon)
        else:  # as optax and PyTorch do
            corrected = np.sqrt(v / (1 - beta2**step)) + epsilon
            expected = -rate * m / (1 - beta1**step) / corrected
        np.testing.assert_allclose(update["w"], expected, rtol=1e-4)


@pytest.mark.parametrize("epsilon_hat", [True, False], ids=["keras", "optax"])
def test_decay_takes_a_share_of_the_kernels_and_of_nothing_else(epsilon_hat: bool) -> None:
    rate, weight_decay = 0.1, 0.5
    params = {"embedding": jnp.ones((2, 2)), "layer": {"kernel": jnp.ones(2), "bias": jnp.ones(2)}}
    gradient = jax.tree.map(lambda w: 0.3 * w, params)

    def update(weight_decay: float) -> dict:
        optimizer = build_adam(
            optax.constant_schedule(rate),
            beta1=0.9,
            beta2=0.99,
            epsilon=1e-8,
            epsilon_hat=epsilon_hat,
            weight_decay=weight_decay,
        )
        return optimizer.update(gradient, optimizer.init(params), params)[0]

    plain, decayed = update(0.0), update(weight_decay)
    difference = jax.tree.map(lambda a, b: np.asarray(a - b), decayed, plain)
    # The share is taken of the weight, whatever Adam makes of the gradient.
    np.testing.assert_allclose(difference["layer"]["kernel"], -rate * weight_decay, atol=1e-6)
    assert not difference["embedding"].any() and not difference["layer"]["bias"].any()


def test_every_model_decays_its_matrices_alone() -> None:
    model = build_model(
        make_model_config(
            *(
                "lstm",
                "gru",
                "rnn",
                "mingru",
                "minlstm",
                "rglru",
                "gated_deltanet",
                "mamba2",
                "mlstm",
                "slstm",
                "attention",
            ),
            embedding_size=8,
            hidden_size=8,
            block="pre_norm",
            mlp="swiglu",
            position="learned",
            heads=2,
            qk_norm=True,
        ),
        6,
    )
    params = jax.eval_shape(lambda: model.init(jax.random.key(0)))
    for path, is_decayed in jax.tree_util.tree_leaves_with_path(weight_decay_mask(params)):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        assert is_decayed != name.endswith(("embedding", "position", "bias", "scale")), name
