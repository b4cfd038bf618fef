"""Operations are counted right: by formulas for the layers, and by hand for what surrounds them."""

import jax
import jax.numpy as jnp
import pytest

from charlm_jax.config.loading import load_config
from charlm_jax.models.flops import forward_flops, product_flops, train_flops
from charlm_jax.models.mixers import MIXERS
from tests.conftest import make_model_config


@pytest.mark.core
def test_the_tutorials_operations() -> None:
    model = load_config("tutorial").model
    forward = 2 * (256 + 512) * (4 * 512) + 2 * 512 * 80
    assert forward_flops(model, symbols=80, sequence_length=40) == forward == 3_227_648
    assert train_flops(model, symbols=80, sequence_length=40) == 3 * forward


@pytest.mark.parametrize("layer", MIXERS)
def test_the_operations_are_those_of_float32(layer: str) -> None:
    counts = {
        forward_flops(make_model_config(layer, precision=x), symbols=7, sequence_length=9)
        for x in ("float32", "bfloat16")
    }
    assert len(counts) == 1


def test_the_operations_of_attention() -> None:
    # D = 8, two heads of 4, one of keys and values, F = 16 with a gate, T = 5, V = 3.
    model = make_model_config(
        "attention",
        embedding_size=8,
        hidden_size=8,
        block="pre_norm",
        heads=2,
        kv_heads=1,
        mlp="swiglu",
        mlp_ratio=2.0,
    )
    projections = 2 * 8 * (8 + 4 + 4) + 2 * 8 * 8
    products = 2 * 5 * 8 + 2 * 5 * 8
    mlp = 3 * 2 * 8 * 16
    forward = projections + products + mlp + 2 * 8 * 3
    assert forward_flops(model, symbols=3, sequence_length=5) == forward


# Of one layer with D = 5 and 6 units, T = 7.
LAYERS = {
    "lstm": 2 * (5 + 6) * 24,
    "gru": 2 * (5 + 6) * 18,
    "rnn": 2 * (5 + 6) * 6,
    "mingru": 2 * 5 * 12,
    "minlstm": 2 * 5 * 18,
    # Seven positions are one chunk: two products of keys, one of values, one of both with the
    # inverse, and three with the memory.
    "gated_deltanet": 2 * 5 * 26 + 2 * 7 * (2 * 6 + 6 + 2 * 6) + 3 * 2 * 6 * 6 + 2 * 6 * 6,
    # A state of 64 x 12: one product of keys, one of values, two with the state.
    "mamba2": 2 * 5 * 153 + 2 * 7 * (64 + 12) + 2 * 2 * 64 * 12 + 2 * 12 * 6,
    # The values have one column more, of ones.
    "mlstm": 2 * 5 * 26 + 2 * 7 * (6 + 7) + 2 * 2 * 6 * 7 + 2 * 6 * 6,
    "slstm": 2 * (5 + 6) * 24,
    "rglru": 2 * 5 * 12 + 2 * 6 * 12 + 2 * 6 * 6,
    "attention": 2 * 5 * 18 + 2 * 6 * 6 + 4 * 7 * 6,
    "self_attention": 4 * 7 * 5,
}


@pytest.mark.parametrize("mixer", sorted(MIXERS))
def test_the_operations_of_every_layer(mixer: str) -> None:
    model = make_model_config(mixer, embedding_size=5, hidden_size=6)
    width = 5 if mixer == "self_attention" else 6
    expected = LAYERS[mixer] + 2 * width * 3
    assert forward_flops(model, symbols=3, sequence_length=7) == expected


def test_rounds_of_a_mogrifier_are_products_of_every_step() -> None:
    model = make_model_config("lstm", embedding_size=5, hidden_size=6, mogrifier_rounds=3)
    # The bias is a row of the gates' kernel.
    forward = 2 * (5 + 6 + 1) * 24 + 3 * 2 * 5 * 6 + 2 * 6 * 3
    assert forward_flops(model, symbols=3, sequence_length=7) == forward


@pytest.mark.parametrize("mixer", ["lstm", "gru"])
def test_norms_of_cells_are_no_products(mixer: str) -> None:
    model = make_model_config(mixer, embedding_size=5, hidden_size=6, cell_norm=True)
    assert forward_flops(model, symbols=3, sequence_length=7) == LAYERS[mixer] + 2 * 6 * 3


def test_the_second_layer_reads_the_first() -> None:
    model = make_model_config("lstm", "lstm", embedding_size=5, hidden_size=6)
    forward = 2 * (5 + 6) * 24 + 2 * (6 + 6) * 24 + 2 * 6 * 3
    assert forward_flops(model, symbols=3, sequence_length=5) == forward


def test_loops_and_branches() -> None:
    x = jnp.ones((4, 4))

    def loop(x: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, 5, lambda _, y: jax.jit(jnp.dot)(y, x), x)

    def branch(x: jax.Array) -> jax.Array:
        return jax.lax.cond(x[0, 0] > 0, lambda: x @ x @ x, lambda: x @ x)

    def endless(x: jax.Array) -> jax.Array:
        return jax.lax.while_loop(lambda y: y[0, 0] < 9, lambda y: y @ x, x)

    once = 2 * 4**3
    assert product_flops(loop, x) == 5 * once  # its length is known, so it is a scan
    assert product_flops(branch, x) == 2 * once
    with pytest.raises(ValueError, match="unknown length"):
        product_flops(endless, x)
