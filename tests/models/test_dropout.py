"""Masks of dropout: what they share, what they keep on average, and which weights they act on."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from charlm_jax.config.schema import ModelConfig
from charlm_jax.core.errors import CharlmError
from charlm_jax.core.numerics import fixed_numerics
from charlm_jax.core.prng import key_from_row, root_key
from charlm_jax.models import build_model, build_reader, rematerialize
from charlm_jax.models.dropout import (
    Dropout,
    drop_recurrent_weights,
    drop_symbols,
    split_into_pieces,
)
from tests.conftest import draw, make_model_config, quick_jit

B, T, D, V = 6, 12, 40, 9
RATE, KEPT = 0.25, 1 / 0.75
KEYS = jax.random.split(root_key(1), 400)

SEQUENCE: Mapping[str, object] = {"dropout": 0.5, "dropout_mask": "sequence"}
ALL: Mapping[str, object] = {**SEQUENCE, "weight_dropout": 0.5, "embedding_dropout": 0.5}


def _ids(seed: int, length: int = T) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).integers(0, V, (B, length), dtype=np.int32))


def _apply(config: ModelConfig) -> Any:
    """(params, ids_BT, key) -> logits_BTV, and the weights of the model."""
    model = build_model(config, V)
    params = quick_jit(model.init)(root_key(0))
    start = model.initial_state(B, 0)
    apply = quick_jit(lambda params, ids_BT, key: model.apply(params, ids_BT, start, key=key)[0])
    return apply, params


# Masks.


@pytest.mark.core
def test_a_mask_of_a_sequence_is_shared_by_its_positions_alone() -> None:
    dropped_BTD = np.asarray(Dropout(RATE, shares_mask=True)(jnp.ones((B, T, D)), key=KEYS[0]))
    np.testing.assert_array_equal(dropped_BTD, np.repeat(dropped_BTD[:, :1], T, axis=1))
    np.testing.assert_allclose(np.unique(dropped_BTD), [0.0, KEPT])
    rows_BD = dropped_BTD[:, 0]
    assert len(np.unique(rows_BD, axis=0)) == B and len(np.unique(rows_BD, axis=1).T) > 10


def test_a_mask_of_positions_is_shared_by_nothing() -> None:
    dropped_BTD = np.asarray(Dropout(0.5, shares_mask=False)(jnp.ones((B, T, D)), key=KEYS[0]))
    assert len(np.unique(dropped_BTD.reshape(-1, D), axis=0)) == B * T


def test_a_symbol_is_dropped_as_a_whole() -> None:
    table_VD = draw(0, 200, D)
    dropped_VD = np.asarray(drop_symbols(table_VD, rate=RATE, key=KEYS[0]))
    ratio_VD = dropped_VD / np.asarray(table_VD)
    np.testing.assert_allclose(ratio_VD, np.repeat(ratio_VD[:, :1], D, axis=1), rtol=1e-6)
    is_kept_V = ratio_VD[:, 0] > 0
    np.testing.assert_allclose(ratio_VD[is_kept_V], KEPT, rtol=1e-6)
    assert 0.6 < is_kept_V.mean() < 0.9


def test_recurrent_kernels_alone_lose_weights() -> None:
    layer = {"recurrent_kernel": draw(1, 30, 40), "input": {"kernel": draw(2, 30, 40)}}
    blocks = {"recurrent_kernel": draw(3, 2, 15, 40)}
    params = {"embedding": draw(0, V, 30), "layer_0": {"mixer": layer}, "layer_1": blocks}
    dropped = drop_recurrent_weights(params, rate=RATE, key=KEYS[0])
    for name in ("embedding", ("layer_0", "mixer", "input", "kernel")):
        path = (name,) if isinstance(name, str) else name
        found, given = (functools.reduce(lambda x, key: x[key], path, x) for x in (dropped, params))
        np.testing.assert_array_equal(found, given)
    ratios = [
        np.asarray(dropped["layer_0"]["mixer"]["recurrent_kernel"] / layer["recurrent_kernel"]),
        np.asarray(dropped["layer_1"]["recurrent_kernel"] / blocks["recurrent_kernel"]),
    ]
    for ratio in ratios:
        assert 0.7 < np.mean(ratio > 0) < 0.8
        np.testing.assert_allclose(ratio[ratio > 0], KEPT, rtol=1e-6)
    assert np.mean(ratios[0].ravel() == ratios[1].ravel()) < 0.75  # masks of their own


@pytest.mark.parametrize("kind", ["sequence", "symbols", "weights"])
def test_the_mean_over_masks_is_what_was_there(kind: str) -> None:
    x = draw(5, 2, 3, 4)
    dropped = {
        "sequence": lambda key: Dropout(RATE, shares_mask=True)(x, key=key),
        "symbols": lambda key: drop_symbols(x[0], rate=RATE, key=key),
        "weights": lambda key: drop_recurrent_weights({"recurrent_kernel": x}, rate=RATE, key=key)[
            "recurrent_kernel"
        ],
    }[kind]
    mean = quick_jit(lambda keys: jnp.mean(jax.vmap(dropped)(keys), axis=0))(KEYS)
    deviation = np.abs(x) * np.sqrt(RATE / (1 - RATE) / len(KEYS))
    expected = x[0] if kind == "symbols" else x
    assert np.all(np.abs(mean - expected) < 4.5 * deviation.reshape(x.shape)[: len(mean)])


@fixed_numerics()
def test_rows_have_masks_of_their_own_and_share_those_of_symbols_and_weights() -> None:
    """As pieces of a batch, whose keys draw from their first row on."""
    key, row = KEYS[0], 2
    later = key_from_row(key, row)
    mask, x_BTD = Dropout(0.5, shares_mask=True), jnp.ones((B, T, D))
    np.testing.assert_array_equal(mask(x_BTD, key=key)[row:], mask(x_BTD[row:], key=later))
    table_VD, kernel = draw(0, V, D), {"recurrent_kernel": draw(1, 8, 32)}
    for drop, x in ((drop_symbols, table_VD), (drop_recurrent_weights, kernel)):
        whole, piece = (drop(x, rate=0.5, key=k) for k in (key, later))  # type: ignore[operator]
        jax.tree.map(np.testing.assert_array_equal, whole, piece)


def test_streams_of_masks_are_independent() -> None:
    """No two masks of a step are drawn from one key."""
    ones, count = jnp.ones((64, 64)), 64 * 64
    masks = [
        np.asarray(
            drop_recurrent_weights({"recurrent_kernel": ones}, rate=0.5, key=KEYS[0])[
                "recurrent_kernel"
            ]
        ),
        np.asarray(drop_symbols(jnp.ones((count, 1)), rate=0.5, key=KEYS[0])).reshape(64, 64),
        *(
            np.asarray(Dropout(0.5, shares_mask=True)(ones[:, None], key=key))[:, 0]
            for key in (KEYS[0], *jax.random.split(KEYS[0], 65))
        ),
    ]
    for index, mask in enumerate(masks):
        for other in masks[:index]:
            assert abs(np.mean(mask == other) - 0.5) < 0.06


# Models.


@pytest.mark.parametrize(
    ("layers", "change"),
    [
        (("lstm", "gru"), ALL),
        (("rnn", "slstm"), {"weight_dropout": 0.5}),
        (("lstm",), {"weight_dropout": 0.5, "mogrifier_rounds": 1}),
        (("lstm",), {"weight_dropout": 0.5, "cell_norm": True}),
        (("attention",), {"embedding_dropout": 0.5}),
        (("attention",), SEQUENCE),
    ],
    ids=lambda x: "+".join(x) if isinstance(x, tuple) else "-".join(x),
)
def test_only_a_key_drops_and_it_says_what(
    layers: tuple[str, ...], change: Mapping[str, object]
) -> None:
    config = make_model_config(*layers, embedding_size=D, hidden_size=D, heads=2, **change)
    apply, params = _apply(config)
    one, again, other = (apply(params, _ids(0), key) for key in (KEYS[0], KEYS[0], KEYS[1]))
    np.testing.assert_array_equal(one, again)
    without = apply(params, _ids(0), None)
    assert min(np.abs(x - y).max() for x, y in ((one, other), (one, without))) > 1e-3
    off = {"dropout": 0.0, "weight_dropout": 0.0, "embedding_dropout": 0.0}
    if layers[0] == "rnn":
        plain, _ = _apply(dataclasses.replace(config, **off))  # type: ignore[arg-type]
        np.testing.assert_array_equal(without, plain(params, _ids(0), None))


def test_weights_are_dropped_for_all_rows_and_positions() -> None:
    """A training step computes with one kernel: the model of the masked weights, without a key."""
    config = make_model_config("lstm", "gru", weight_dropout=0.5)
    apply, params = _apply(config)
    dropped = drop_recurrent_weights(params, rate=0.5, key=KEYS[3])
    with_key_BTV, expected_BTV = apply(params, _ids(0), KEYS[3]), apply(dropped, _ids(0), None)
    np.testing.assert_allclose(with_key_BTV, expected_BTV, atol=1e-6)


@pytest.mark.parametrize("tied", [False, True])
def test_a_dropped_symbol_is_unknown_to_the_layers_alone(tied: bool) -> None:
    config = make_model_config(
        "lstm", embedding_size=D, hidden_size=D, embedding_dropout=0.5, tied_embedding=tied
    )
    apply, params = _apply(config)
    is_kept_V = np.asarray(drop_symbols(jnp.ones((V, 1)), rate=0.5, key=KEYS[4]))[:, 0] > 0
    dropped, kept = int(np.argmin(is_kept_V)), int(np.argmax(is_kept_V))
    ids_BT = jnp.full((B, T), dropped).at[:, 0].set(kept)

    def moved(symbol: int) -> np.ndarray:
        table_VD = params["embedding"].at[symbol].add(1.0)
        changed = apply({**params, "embedding": table_VD}, ids_BT, KEYS[4])
        return np.asarray(jnp.abs(changed - apply(params, ids_BT, KEYS[4])).max(axis=(0, 1)))

    assert moved(kept).max() > 1e-3
    assert np.delete(moved(dropped), dropped).max() == 0.0  # its vector is not read
    assert (moved(dropped)[dropped] > 1e-3) == tied  # but the output layer has it


@pytest.mark.parametrize("mask", ["position", "sequence"])
def test_rates_of_zero_leave_the_program_as_it_is(mask: str) -> None:
    """A key is not used, to the letter of the traced computation."""
    model, ids_BT = build_model(make_model_config("lstm", "gru", dropout_mask=mask), V), _ids(0)
    params, start = jax.eval_shape(model.init, root_key(0)), model.initial_state(B, 0)

    def program(uses_key: bool) -> str:
        def apply(params: Any, key: jax.Array) -> Any:
            return model.apply(params, ids_BT, start, key=key if uses_key else None)

        return str(jax.make_jaxpr(apply)(params, KEYS[0]))

    assert program(True) == program(False)


def test_segments_of_a_sequence_share_its_masks() -> None:
    """Read in segments, a sequence has the masks that it has as a whole."""
    model = build_model(make_model_config("lstm", "gru", **ALL), V)
    params, start = quick_jit(model.init)(root_key(0)), model.initial_state(B, 0)
    whole, segmented = (
        quick_jit(lambda key, m=m: m.apply(params, _ids(0), start, key=key))(KEYS[5])
        for m in (model, rematerialize(model, segment_length=4))
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), whole, segmented)
    inspected = rematerialize(model, segment_length=4).inspect(params, _ids(0), start, key=KEYS[5])
    np.testing.assert_allclose(inspected["logits"], whole[0], atol=1e-5)


def test_positions_have_keys_of_their_segment() -> None:
    keys = split_into_pieces(KEYS[6], 3)
    np.testing.assert_array_equal(
        *map(jax.random.key_data, (keys.piece, jax.random.split(KEYS[6], 3)))
    )
    assert {jax.random.key_data(key).tobytes() for key in keys.sequence} == {
        jax.random.key_data(KEYS[6]).tobytes()
    }


def test_a_reading_has_the_outputs_before_and_after_dropout() -> None:
    config = make_model_config("lstm", **SEQUENCE)
    model, read = build_model(config, V), build_reader(config, V)
    params, start = quick_jit(model.init)(root_key(0)), model.initial_state(B, 0)
    arguments = (params, _ids(0), start)
    (reading, end), (logits_BTV, other_end) = (
        quick_jit(lambda f=f: f(*arguments, key=KEYS[7]))() for f in (read, model.apply)
    )
    np.testing.assert_array_equal(reading.logits_BTV, logits_BTV)
    jax.tree.map(np.testing.assert_array_equal, end, other_end)
    is_kept_BTD = np.asarray(reading.dropped_BTD) != 0
    np.testing.assert_array_equal(is_kept_BTD, np.repeat(is_kept_BTD[:, :1], T, axis=1))
    np.testing.assert_allclose(
        reading.dropped_BTD, np.where(is_kept_BTD, 2 * reading.output_BTD, 0.0), rtol=1e-6
    )
    np.testing.assert_allclose(
        reading.dropped_BTD @ params["output"]["kernel"] + params["output"]["bias"][None, None],
        logits_BTV,
        atol=1e-6,
    )


# Configs.


@pytest.mark.parametrize("layers", [("attention",), ("mingru", "rglru"), ("mamba2",)])
def test_weights_that_no_layer_has_cannot_be_dropped(layers: tuple[str, ...]) -> None:
    with pytest.raises(CharlmError) as caught:
        build_model(make_model_config(*layers, weight_dropout=0.5), V)
    assert str(caught.value) == (
        "config.model.weight_dropout=0.5 is not allowed: it must be 0, because no layer of "
        f"config.model.layers={','.join(layers)} multiplies its state by a recurrent kernel, as "
        "lstm, gru, rnn and slstm do"
    )
    build_model(make_model_config(*layers, "lstm", weight_dropout=0.5), V)
