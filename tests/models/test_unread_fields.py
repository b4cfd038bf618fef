"""Fields that a model does not read change neither its weights nor its outputs."""

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest

from charlm_jax.config.schema import LAYERS_WITHOUT_CELL_NORM, ModelConfig
from charlm_jax.core.errors import CharlmError
from charlm_jax.models import build_model
from charlm_jax.models.gru import GRU
from charlm_jax.models.lstm import LSTM
from charlm_jax.models.mixers import MIXERS
from charlm_jax.models.testing import BARE, BLOCK
from charlm_jax.models.unread_fields import unread_fields
from tests.conftest import make_model_config

# Another allowed value of every field that some model does not read.
OTHER: dict[str, Any] = {
    "hidden_size": 16,
    "norm": "layer_norm",
    "zero_init": True,
    "mlp_ratio": 3.0,
    "max_length": 99,
    "position": "alibi",
    "window": 2,
    "kv_heads": 1,
    "qk_norm": True,
    "heads": 4,
    "conv_width": 2,
    "state_size": 3,
    "chunk_size": 2,
    "mogrifier_rounds": 1,
    "scan": "associative",
    "dropout_mask": "sequence",
}
IDS = np.random.default_rng(0).integers(0, 9, (2, 7))
KEY = jax.random.key(0)


def program(model: ModelConfig) -> str:
    """The traced computation of a model with its dropout, and the shapes of its weights."""
    built = build_model(model, 9)
    params = jax.eval_shape(built.init, jax.random.key(0))
    apply = jax.make_jaxpr(built.apply)(params, IDS, built.initial_state(2, 0), key=KEY)
    constants = [np.asarray(x).tolist() for x in apply.consts]
    return str((apply, constants, jax.make_jaxpr(built.init)(jax.random.key(0))))


@pytest.mark.parametrize(
    ("layer", "fields"),
    [
        *((name, BLOCK) for name in MIXERS),
        ("lstm", BARE),
        ("attention", BARE),
        ("self_attention", BARE),
        ("lstm", {**BARE, "dropout": 0.5}),
    ],
)
def test_only_fields_that_are_read_change_the_program(layer: str, fields: dict[str, Any]) -> None:
    model = make_model_config(layer, **{**fields, "heads": 2})
    unread = unread_fields(model)
    before = program(model)
    for field, value in OTHER.items():
        if field == "hidden_size" and model.block != "bare":  # it is that of the embedding
            continue
        changed = dataclasses.replace(model, **{field: value})
        assert getattr(model, field) != value, field
        is_read = f"model.{field}" not in unread_fields(changed)
        assert (program(changed) != before) == is_read, field
    assert unread <= {f"model.{field}" for field in OTHER}


@pytest.mark.parametrize("layer", MIXERS)
def test_zeros_at_first_are_for_layers_with_an_output_projection(layer: str) -> None:
    """Without an MLP, whose own projection is one."""
    plain = make_model_config(layer, **{**BLOCK, "mlp": "none"})
    changed = dataclasses.replace(plain, zero_init=True)
    is_read = "model.zero_init" not in unread_fields(changed)
    assert (program(changed) != program(plain)) == is_read


@pytest.mark.parametrize("layer", MIXERS)
def test_norms_in_a_cell_change_the_program_or_are_refused(layer: str) -> None:
    plain = make_model_config(layer, **BARE)
    if layer in LAYERS_WITHOUT_CELL_NORM:
        with pytest.raises(CharlmError, match=r"config\.model\.cell_norm=True is not allowed"):
            dataclasses.replace(plain, cell_norm=True)
    else:
        assert program(dataclasses.replace(plain, cell_norm=True)) != program(plain)


@pytest.mark.parametrize(("layer", "mixer"), [("lstm", LSTM), ("gru", GRU)])
def test_a_cell_without_norms_is_that_of_the_plain_layer(layer: str, mixer: type) -> None:
    built = (MIXERS[layer](make_model_config(layer, cell_norm=x), 5) for x in (False, True))
    assert [type(x) is mixer for x in built] == [True, False]


def test_layers_of_ones_own_may_read_every_field() -> None:
    for layers in (("lstm", "mine:Layer"), ("mine:Layer",), ("rnn", "mine")):
        model = dataclasses.replace(make_model_config("lstm"), layers=layers, cell_norm=True)
        assert unread_fields(model) == frozenset()
