"""Segments whose inside is computed twice."""

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from charlm_jax.core.errors import CharlmError
from charlm_jax.core.types import Params
from charlm_jax.models import build_model, rematerialize
from charlm_jax.training.loop import train_and_evaluate
from tests.conftest import compiled_model, make_model_config, make_tiny_config, quick_jit
from tests.training.test_loop import _rows

B, T, V = 8, 36, 7


def gradients(model: Any, params: Params, ids_BT: jax.Array) -> Any:
    def loss(params: Params, state: Any) -> jax.Array:
        logits_BTV, end = model.apply(params, ids_BT, state)
        return jnp.sum(jax.nn.log_softmax(logits_BTV)[..., 0]) + sum(map(jnp.sum, _leaves(end)))

    state = jax.tree.map(lambda x: x + 0.1, model.initial_state(ids_BT.shape[0], 0))
    return jax.value_and_grad(loss, argnums=(0, 1))(params, state)


def _leaves(tree: Any) -> list[jax.Array]:
    return [x.astype(jnp.float32) for x in jax.tree.leaves(tree)]


@pytest.mark.parametrize(
    "layers",
    [
        ("lstm",),
        *(
            pytest.param(layers, marks=pytest.mark.exhaustive)
            for layers in (
                ("gru", "mingru"),
                ("minlstm", "rglru"),
                ("gated_deltanet", "slstm"),
                ("mamba2", "mlstm"),
            )
        ),
    ],
)
def test_the_gradient_goes_through_the_whole_sequence(layers: tuple[str, ...]) -> None:
    model = compiled_model(make_model_config(*layers), V)
    params = model.init(jax.random.key(0))
    ids_BT = jax.random.randint(jax.random.key(1), (B, T), 0, V)
    wanted = quick_jit(functools.partial(gradients, model))(params, ids_BT)
    for segment_length in (12, 24, 100):
        segmented = rematerialize(model, segment_length=segment_length)
        got = quick_jit(functools.partial(gradients, segmented))(params, ids_BT)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * float(jnp.abs(b).max())),
            got,
            wanted,
        )


def test_dropout_differs_between_segments() -> None:
    model = compiled_model(make_model_config("rnn", dropout=0.5), V)
    segmented = rematerialize(model, segment_length=12)
    apply_segments = jax.jit(segmented.apply)
    ids_BT = jnp.zeros((1, 24), jnp.int32)
    params, state = model.init(jax.random.key(0)), model.initial_state(1, 0)
    seen = [
        np.asarray(apply_segments(params, ids_BT, state, key=jax.random.key(seed))[0])
        for seed in (1, 1, 2)
    ]
    np.testing.assert_array_equal(seen[0], seen[1])
    assert np.abs(seen[0] - seen[2]).max() > 0.01
    # Without a recurrence, the same character is read alike but for what is dropped.
    mixer = params["layer_0"]["mixer"]
    still = {**mixer, "recurrent_kernel": jnp.zeros_like(mixer["recurrent_kernel"])}
    params = {**params, "layer_0": {**params["layer_0"], "mixer": still}}
    logits_1TV, _ = apply_segments(params, ids_BT, state, key=jax.random.key(1))
    assert jnp.abs(logits_1TV[:, :12] - logits_1TV[:, 12:]).max() > 0.01
    captured = segmented.inspect(params, ids_BT, state, key=jax.random.key(1))
    np.testing.assert_allclose(captured["logits"], logits_1TV, atol=1e-5)
    whole, found = model.inspect(params, ids_BT, state), segmented.inspect(params, ids_BT, state)
    assert [*found] == [*whole] and [*found["layer_0"]] == [*whole["layer_0"]]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), dict(found), dict(whole))
    alone = apply_segments(params, ids_BT, state)[0]
    np.testing.assert_allclose(alone, model.apply(params, ids_BT, state)[0], atol=1e-5)


def _memory(layer: str, length: int, segment_length: int = 0) -> int:
    """Bytes that a gradient's program wants beside its arguments."""
    model = build_model(make_model_config(layer, embedding_size=8, hidden_size=64), V)
    if segment_length:
        model = rematerialize(model, segment_length=segment_length)
    params = jax.eval_shape(model.init, jax.random.key(0))
    ids_BT = jnp.zeros((B, length), jnp.int32)
    program = quick_jit(lambda params: gradients(model, params, ids_BT)).lower(params).compile()
    return int(program.memory_analysis().temp_size_in_bytes)


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    "layer", ["minlstm", "rglru", "gated_deltanet", "mamba2", "mlstm", "slstm"]
)
def test_memory_of_other_layers_is_linear_in_the_length_too(layer: str) -> None:
    """By the square it would grow four times as much, not twice; XLA shares some buffers."""
    whole = [_memory(layer, length) for length in (128, 256, 512)]
    assert (whole[2] - whole[1]) == pytest.approx(2 * (whole[1] - whole[0]), rel=0.25)


def test_memory_is_linear_in_the_length_and_segments_take_most_of_it_away() -> None:
    whole = [_memory("lstm", length) for length in (128, 256, 512)]
    assert (whole[2] - whole[1]) == pytest.approx(2 * (whole[1] - whole[0]), rel=0.1)
    segmented = [_memory("lstm", length, 32) for length in (128, 256, 512)]
    growth = (segmented[2] - segmented[0]) / (whole[2] - whole[0])
    assert growth < 0.2  # logits and states


@pytest.mark.exhaustive
def test_a_run_in_segments_is_the_same_run(tmp_path: Path) -> None:
    changes: dict[str, object] = {"train.max_steps": 6, "data.sequence_length": 8}
    losses = []
    for segment_length in (0, 4):
        place = tmp_path / str(segment_length)
        config = make_tiny_config(**(changes | {"train.segment_length": segment_length}))
        train_and_evaluate(config, place)
        losses.append([row["loss_nats"] for row in _rows(place)])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train.segment_length": 3}, "must divide config.data.sequence_length=8"),
        ({"train.segment_length": 4, "model.layers": ("attention",)}, "is for recurrent layers"),
    ],
)
def test_what_cannot_be_cut_is_refused(
    changes: dict[str, object], message: str, tmp_path: Path
) -> None:
    config = make_tiny_config(**({"data.sequence_length": 8} | changes))
    with pytest.raises(CharlmError, match=message):
        train_and_evaluate(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
