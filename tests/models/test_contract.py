"""The contract of every model.

A mixer takes part by its line in `MIXERS`: `pytest tests/models/test_contract.py -k NAME` is the
contract of that one. The properties are plain functions of a `Subject`; further down they are
shown to fail on mixers that break them.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from charlm_jax.config.schema import ModelConfig
from charlm_jax.core.errors import CharlmError
from charlm_jax.models import build_model
from charlm_jax.models.losses import negative_log_likelihood
from charlm_jax.models.mixers import MIXERS
from tests.conftest import make_model_config, quick_jit

V, B, T = 11, 8, 7
# Positions that an attention layer keeps: fewer than are read at once, or more.
FEW, MANY = 2, T + 2
MAX_LENGTH = 3 * T - 2

BARE = {"embedding_size": 6, "hidden_size": 8, "heads": 2}
BLOCK = {
    "embedding_size": 8,
    "hidden_size": 8,
    "heads": 2,
    "block": "pre_norm",
    "mlp": "gelu",
    "mlp_ratio": 1.5,
    "max_length": MAX_LENGTH,
}
ATTENTION, SELF_ATTENTION = ("attention",), ("self_attention",)

# Every mixer, whatever it is, in a bare stack and in a block.
CASES: dict[str, ModelConfig] = {}
for _name in MIXERS:
    CASES[f"{_name}-bare"] = make_model_config(_name, **BARE)
    CASES[f"{_name}-pre_norm-bfloat16"] = make_model_config(_name, **BLOCK, precision="bfloat16")

# What else can be said of a model, in pairs: each name has its turn, and not with every other.
# fmt: off
_FURTHER: list[tuple[tuple[str, ...], dict[str, Any]]] = [
    (ATTENTION, BLOCK),
    (ATTENTION, BLOCK | {"position": "learned", "heads": 1, "norm": "layer_norm", "mlp": "relu2"}),
    (ATTENTION, BLOCK | {"position": "sinusoidal", "heads": 4, "block": "post_norm"}),
    (ATTENTION, BLOCK | {"position": "rotary", "heads": 4, "kv_heads": 2, "qk_norm": True,
                         "mlp": "swiglu"}),
    (ATTENTION, BLOCK | {"position": "alibi", "heads": 4, "kv_heads": 2, "mlp": "none"}),
    (ATTENTION, BLOCK | {"position": "rotary", "precision": "bfloat16", "mlp": "swiglu"}),
    (ATTENTION * 2, BARE | {"position": "rotary", "window": 3, "init": "flax"}),
    (ATTENTION * 2, BLOCK | {"tied_embedding": True, "zero_init": True, "init": "gpt2"}),
    (SELF_ATTENTION, BLOCK | {"position": "rotary", "norm": "layer_norm"}),
    (SELF_ATTENTION, BARE | {"position": "learned", "max_length": MAX_LENGTH, "window": 4}),
    (("mingru",), BARE | {"scan": "sequential"}),
    (("mingru",), BLOCK | {"scan": "associative", "init": "gpt2"}),
    (("gru",), BARE | {"embedding_size": 8, "position": "sinusoidal", "tied_embedding": True}),
    (("lstm",), BLOCK | {"block": "post_norm", "norm": "layer_norm", "init": "flax"}),
    (("lstm", "attention"), BLOCK | {"position": "alibi"}),
    (("mingru", "attention", "gru"), BARE),
]
# fmt: on
for _layers, _changes in _FURTHER:
    _common = BLOCK if "block" in _changes else BARE
    _own = [f"{k}={v}" for k, v in _changes.items() if k == "block" or _common.get(k) != v]
    CASES["-".join(["+".join(_layers), *_own])] = make_model_config(*_layers, **_changes)

_IS_BARE = {name: name.endswith("-bare") for name in CASES}
# Bare models are tried with few positions kept and with many, the others with one of the two.
CARRYING = [
    (name, context)
    for i, name in enumerate(CASES)
    for context in ([FEW, MANY] if _IS_BARE[name] else [(FEW, MANY)[i // 2 % 2]])
]
READING = [*((name, 0) for name in CASES), *CARRYING]


def draw_ids(seed: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).integers(0, V, (B, T), dtype=np.int32))


class Subject:
    """A model whose every number is drawn, biases and scales too, so that all of them matter.

    Attributes:
      model: its functions.
      apply: `model.apply`, compiled.
      params: its weights.
      tolerance: how far two ways to the same logits, around 1, may lie apart.
    """

    def __init__(self, config: ModelConfig) -> None:
        self.config, self.model = config, build_model(config, V)
        self.apply = quick_jit(self.model.apply)
        generator = np.random.default_rng(0)
        self.params = jax.tree.map(
            lambda x: jnp.asarray(generator.normal(0, 0.6, x.shape).astype(np.float32)),
            jax.eval_shape(self.model.init, jax.random.key(0)),
        )
        # Where a last bit tips the rounding of an operand, a product moves by 2^-9 of it.
        self.tolerance = 1e-5 if config.precision == "float32" else 0.05

    def read(self, ids_BT: jax.Array, state: Any) -> tuple[jax.Array, Any]:
        """Logits, and the state after them."""
        return self.apply(self.params, ids_BT, state)

    def start(self, context: int) -> Any:
        """A state that has read a text, if there is room to remember it."""
        state = self.model.initial_state(B, context)
        return self.read(draw_ids(1), state)[1] if context else state


share = functools.cache(Subject)  # what is compiled for one test serves the next


def subject_of(name: str) -> Subject:
    return share(CASES[name])


@pytest.fixture(autouse=True)
def _strict_dtypes() -> Any:
    with jax.numpy_dtype_promotion("strict"):
        yield


# The properties.


def check_form(subject: Subject, context: int) -> None:
    """Logits are float32, and a state keeps its form, with the rows first."""
    state = subject.model.initial_state(B, context)
    form = jax.tree.map(lambda x: (x.shape, x.dtype), state)
    assert all(x.shape[0] == B for x in jax.tree.leaves(state))
    for seed in (0, 1):
        logits_BTV, state = subject.read(draw_ids(seed), state)
        assert logits_BTV.shape == (B, T, V) and logits_BTV.dtype == jnp.float32
        assert np.isfinite(logits_BTV).all()
        assert jax.tree.map(lambda x: (x.shape, x.dtype), state) == form


def check_causality(subject: Subject, context: int) -> None:
    """Row t changes at place t: what lies before comes out the same to the bit."""
    ids_BT, start = draw_ids(0), subject.start(context)
    places_T = np.arange(T)
    changed_BT = ids_BT.at[places_T, places_T].set((ids_BT[places_T, places_T] + 1) % V)
    first_BTV, _ = subject.read(ids_BT, start)
    second_BTV, _ = subject.read(changed_BT, start)
    for t in places_T:
        np.testing.assert_array_equal(first_BTV[t, :t], second_BTV[t, :t])
        assert np.abs(first_BTV[t, t] - second_BTV[t, t]).max() > 1e-5


def check_rows(subject: Subject, context: int) -> None:
    """Another text in one row, and another and shorter past of it, leave the others as they are."""
    ids_BT, start = draw_ids(0), subject.start(context)
    another_BT, past = draw_ids(2), subject.model.initial_state(B, context)
    if context:
        _, past = subject.read(draw_ids(3)[:, :1], past)
    changed_BT = jnp.concatenate([another_BT[:1], ids_BT[1:]])
    changed_start = jax.tree.map(lambda a, b: jnp.concatenate([a[:1], b[1:]]), past, start)
    first, second = (
        subject.read(*arguments) for arguments in ((ids_BT, start), (changed_BT, changed_start))
    )
    assert np.abs(first[0][0] - second[0][0]).max() > 1e-5
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[1:], b[1:]), first, second)


def check_pieces(subject: Subject, context: int) -> None:
    """A text comes out the same however it is cut, be there room for all of it or not."""
    ids_BT = jnp.concatenate([draw_ids(0), draw_ids(1)], axis=1)
    results = []
    # Pieces of two lengths only, so that little is compiled.
    for lengths in ([T, T], [1] * 2 * T, [1] * 3 + [T] + [1] * (T - 3)):
        state, pieces = subject.model.initial_state(B, context), []
        for piece in jnp.split(ids_BT, np.cumsum(lengths)[:-1].tolist(), axis=1):
            logits_BTV, state = subject.read(piece, state)
            pieces.append(logits_BTV)
        results.append((np.concatenate(pieces, axis=1), state))
    for other in results[1:]:
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=subject.tolerance, rtol=1e-5),
            other,
            results[0],
        )
    if context >= T:  # room that is not needed is as good as none
        alone_BTV, _ = subject.read(ids_BT[:, :T], subject.model.initial_state(B, 0))
        first_BTV = results[0][0][:, :T]
        np.testing.assert_allclose(alone_BTV, first_BTV, atol=subject.tolerance, rtol=1e-5)


def check_reading_on(subject: Subject) -> None:
    """Models read on for ever, but for one that learns places: NaN stands beyond them."""
    most, state = subject.model.max_length, subject.model.initial_state(B, FEW)
    assert most == (MAX_LENGTH if subject.config.position == "learned" else None)
    for piece in range(8):
        logits_BTV, state = subject.read(draw_ids(piece), state)
        is_known_T = np.arange(piece * T, (piece + 1) * T) < (most or 8 * T)
        assert np.isfinite(logits_BTV[:, is_known_T]).all(), piece
        assert np.isnan(logits_BTV[:, ~is_known_T]).all(), piece
    if most is None and not isinstance(state.read_B, tuple):  # as if it had been a million more
        far = state._replace(read_B=state.read_B + 10**6)
        assert np.isfinite(subject.read(draw_ids(0), far)[0]).all()


def check_compilation(subject: Subject) -> None:
    """Compiled or not, and looked at or not, the numbers are the same."""
    ids_BT, start = draw_ids(0), subject.model.initial_state(B, 0)
    eager_BTV, _ = subject.model.apply(subject.params, ids_BT, start)
    compiled_BTV, _ = subject.read(ids_BT, start)
    np.testing.assert_allclose(compiled_BTV, eager_BTV, atol=subject.tolerance, rtol=1e-5)
    captured = subject.model.inspect(subject.params, ids_BT, start)
    np.testing.assert_allclose(captured["logits"], eager_BTV, atol=subject.tolerance, rtol=1e-5)


def check_inspection(subject: Subject) -> None:
    """What is shown is what is computed: arrays (B, T, ...), and weights that are causal."""
    ids_BT, start = draw_ids(0), subject.model.initial_state(B, 0)
    captured = quick_jit(subject.model.inspect)(subject.params, ids_BT, start)
    expected_BTV, _ = subject.read(ids_BT, start)
    np.testing.assert_allclose(captured["logits"], expected_BTV, atol=subject.tolerance, rtol=1e-5)
    layers = {name: dict(values) for name, values in captured.items() if name != "logits"}
    assert set(layers) == {f"layer_{i}" for i in range(len(subject.config.layers))}
    assert all(layers.values())
    for value in jax.tree.leaves(layers):
        assert value.shape[:2] == (B, T)
    for weights_BTHS in (values["weights"] for values in layers.values() if "weights" in values):
        np.testing.assert_allclose(weights_BTHS.sum(axis=-1), 1.0, atol=1e-6)
        assert not np.triu(np.swapaxes(weights_BTHS, 1, 2), 1).any()


def check_gradients(subject: Subject) -> None:
    """They are finite, and reach every parameter."""
    ids_BT, start = draw_ids(0), subject.model.initial_state(B, 0)

    def loss(params: Any) -> jax.Array:
        logits_BTV, _ = subject.model.apply(params, ids_BT, start)
        return jnp.mean(negative_log_likelihood(logits_BTV, jnp.roll(ids_BT, -1, axis=1)))

    gradient = quick_jit(jax.grad(loss))(subject.params)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert np.isfinite(leaf).all(), path
        assert np.abs(leaf).max() > 0, path


def check_drawing(subject: Subject) -> None:
    """A key says what is drawn, and no two arrays come from the same random numbers."""
    init = quick_jit(subject.model.init)
    params, again, other = (init(jax.random.key(seed)) for seed in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, params, again)
    drawn = [x for x in jax.tree.leaves((params, other)) if np.unique(x).size > 2]
    assert len(drawn) >= 2
    for i, x in enumerate(drawn):
        assert not any(np.array_equal(x, y) for y in drawn[:i])


@pytest.mark.parametrize(("name", "context"), READING)
def test_the_state_keeps_its_form(name: str, context: int) -> None:
    check_form(subject_of(name), context)


@pytest.mark.parametrize(("name", "context"), READING)
def test_nothing_before_a_changed_character_moves(name: str, context: int) -> None:
    check_causality(subject_of(name), context)


@pytest.mark.parametrize(("name", "context"), READING)
def test_rows_do_not_see_one_another(name: str, context: int) -> None:
    check_rows(subject_of(name), context)


@pytest.mark.parametrize(("name", "context"), CARRYING)
def test_pieces_equal_the_whole(name: str, context: int) -> None:
    check_pieces(subject_of(name), context)


@pytest.mark.parametrize("name", CASES)
def test_reading_on(name: str) -> None:
    check_reading_on(subject_of(name))


@pytest.mark.parametrize("name", CASES)
def test_inspect_equals_apply(name: str) -> None:
    check_inspection(subject_of(name))


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_finite_and_reach_every_parameter(name: str) -> None:
    check_gradients(subject_of(name))


@pytest.mark.parametrize("name", [n for n in CASES if _IS_BARE[n] or "+" in n])
def test_jit_equals_eager(name: str) -> None:
    check_compilation(subject_of(name))


@pytest.mark.parametrize("name", [n for n in CASES if _IS_BARE[n] or "gpt2" in n])
def test_the_same_key_gives_the_same_parameters(name: str) -> None:
    check_drawing(subject_of(name))


@pytest.mark.parametrize("name", [n for n in CASES if _IS_BARE[n]])
def test_few_ids_and_many_ids_read_the_embedding_alike(name: str) -> None:
    """Below V ids the rows are embedded, above V the projected table is: the same function."""
    subject, ids_BT = subject_of(name), draw_ids(0)
    assert T < V < ids_BT.size
    whole_BTV, _ = subject.read(ids_BT, subject.model.initial_state(B, 0))
    row_BTV, _ = subject.read(ids_BT[:1], subject.model.initial_state(1, 0))
    np.testing.assert_allclose(row_BTV, whole_BTV[:1], atol=subject.tolerance, rtol=1e-5)


@pytest.mark.parametrize(
    "config",
    [
        make_model_config("rnn", "rnn", **BARE),
        make_model_config("attention", **BLOCK),
        make_model_config("attention", **BLOCK | {"block": "post_norm", "mlp": "none"}),
    ],
    ids=lambda config: "-".join([*config.layers, config.block]),
)
def test_dropout_needs_a_key_and_depends_on_it(config: ModelConfig) -> None:
    subject, plain = Subject(dataclasses.replace(config, dropout=0.5)), share(config)
    ids_BT, start = draw_ids(0), subject.model.initial_state(B, 0)

    def logits(key: jax.Array | None) -> np.ndarray:
        return np.asarray(subject.apply(subject.params, ids_BT, start, key=key)[0])

    without = plain.read(ids_BT, start)[0]
    np.testing.assert_array_equal(logits(None), without)
    one, other = logits(jax.random.key(1)), logits(jax.random.key(2))
    np.testing.assert_array_equal(one, logits(jax.random.key(1)))
    assert np.abs(one - other).max() > 1e-3 and np.abs(one - without).max() > 1e-3


@pytest.mark.parametrize(
    ("config", "module"),
    [
        (make_model_config("rnn", **BARE, dropout=0.5), "input"),
        (make_model_config("attention", **BLOCK | {"mlp": "none"}, dropout=0.5), "output"),
    ],
    ids=["before the output of bare layers", "on the embedding of a stream"],
)
def test_dropout_acts_around_the_layers_too(config: ModelConfig, module: str) -> None:
    """A kernel of zeros lets nothing of the dropout within the layer through."""
    subject = share(config)
    layer = subject.params["layer_0"]["mixer"]
    zeros = jax.tree.map(jnp.zeros_like, layer[module]["kernel"])
    layer = {**layer, module: {**layer[module], "kernel": zeros}}
    params = {**subject.params, "layer_0": {**subject.params["layer_0"], "mixer": layer}}
    arguments = (params, draw_ids(0), subject.model.initial_state(B, 0))
    (with_key_BTV, _), (without_BTV, _) = (
        subject.apply(*arguments, key=key) for key in (jax.random.key(0), None)
    )
    assert np.abs(with_key_BTV - without_BTV).max() > 1e-3


def test_dropout_acts_on_what_the_first_bare_layer_reads() -> None:
    """With many ids too, where the projected table would know nothing of it."""
    subject, ids_BT = share(make_model_config("rnn", **BARE, dropout=0.5)), draw_ids(0)
    assert ids_BT.size > V
    start, inspect = subject.model.initial_state(B, 0), quick_jit(subject.model.inspect)
    one_BTH, other_BTH = (
        inspect(subject.params, ids_BT, start, key=key)["layer_0"]["hidden"]
        for key in (jax.random.key(0), None)
    )
    assert np.abs(one_BTH - other_BTH).max() > 1e-3


def test_a_key_without_dropout_changes_nothing() -> None:
    subject, ids_BT = subject_of("lstm-bare"), draw_ids(0)
    start = subject.model.initial_state(B, 0)
    with_key_BTV, _ = subject.apply(subject.params, ids_BT, start, key=jax.random.key(0))
    np.testing.assert_array_equal(with_key_BTV, subject.read(ids_BT, start)[0])


def test_zero_init_adds_nothing_at_first() -> None:
    """The stream leaves every block as it came in."""
    (name,) = (name for name in CASES if "zero_init" in name)
    subject = subject_of(name)
    params = quick_jit(subject.model.init)(jax.random.key(0))
    start = subject.model.initial_state(B, 0)
    captured = quick_jit(subject.model.inspect)(params, draw_ids(0), start)
    stream_BTD = params["embedding"][draw_ids(0)]
    for layer in ("layer_0", "layer_1"):
        for stage in ("stream_after_mixer", "stream_after_mlp"):
            np.testing.assert_array_equal(captured[layer][stage], stream_BTD)


# What a config says.


@pytest.mark.parametrize(
    ("layer", "change"),
    [
        ("attention", {"block": "post_norm"}),
        ("attention", {"norm": "layer_norm"}),
        ("attention", {"mlp": "relu2"}),
        ("attention", {"mlp_ratio": 2.0}),
        ("attention", {"position": "sinusoidal"}),
        ("attention", {"position": "rotary"}),
        ("attention", {"position": "alibi"}),
        ("attention", {"position": "learned"}),
        ("attention", {"heads": 4}),
        ("attention", {"kv_heads": 1}),
        ("attention", {"qk_norm": True}),
        ("attention", {"window": 2}),
        ("attention", {"tied_embedding": True}),
        ("attention", {"precision": "bfloat16"}),
        ("self_attention", {"position": "alibi"}),
        ("self_attention", {"window": 2}),
        ("self_attention", {"precision": "bfloat16"}),
        ("mingru", {"precision": "bfloat16"}),
    ],
    ids=str,
)
def test_what_a_config_says_makes_a_difference(layer: str, change: dict[str, Any]) -> None:
    config = make_model_config(layer, **BLOCK)
    before, after = share(config), share(dataclasses.replace(config, **change))
    if jax.tree.map(jnp.shape, before.params) == jax.tree.map(jnp.shape, after.params):
        (one_BTV, _), (other_BTV, _) = (
            subject.read(draw_ids(0), subject.model.initial_state(B, 0))
            for subject in (before, after)
        )
        assert np.abs(one_BTV - other_BTV).max() > 1e-4


def products(jaxpr: Any) -> Iterator[Any]:
    """Every matrix product in a program, and in the programs within it."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield equation
        for value in jax.tree.leaves(equation.params, is_leaf=lambda x: hasattr(x, "eqns")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from products(inner)


@pytest.mark.parametrize("name", [n for n, c in CASES.items() if c.precision == "bfloat16"])
def test_bfloat16_is_what_products_read_and_not_what_they_add_up(name: str) -> None:
    subject = subject_of(name)
    start = subject.model.initial_state(B, FEW)
    program = jax.make_jaxpr(subject.model.apply)(subject.params, draw_ids(0), start)
    found = list(products(program.jaxpr))
    assert len(found) >= 2
    for equation in found:
        assert {x.aval.dtype for x in equation.invars} == {jnp.dtype(jnp.bfloat16)}, equation
        assert equation.outvars[0].aval.dtype == jnp.float32, equation


def test_scans_differ_in_nothing_but_the_way() -> None:
    ways, logits = set(), []
    for scan in ("sequential", "associative"):
        subject = Subject(make_model_config("mingru", **BLOCK, scan=scan))
        arguments = (draw_ids(0), subject.model.initial_state(B, 0))
        logits.append(subject.read(*arguments)[0])
        ways.add(" scan[" in str(jax.make_jaxpr(subject.model.apply)(subject.params, *arguments)))
    assert ways == {True, False}
    np.testing.assert_allclose(*logits, atol=1e-5, rtol=1e-5)


# The cases.


def known_names(field: str) -> set[str]:
    """What a field may be called, as its error message says."""
    config = make_model_config("mingru", **BLOCK)
    wrong = ("?",) if field == "layers" else "?"
    with pytest.raises(CharlmError, match=rf"config\.model\.{field}='\?'") as caught:
        build_model(dataclasses.replace(config, **{field: wrong}), V)
    return set(str(caught.value).partition("one of ")[2].split(", "))


@pytest.mark.parametrize(
    "field", ["layers", "position", "block", "norm", "mlp", "scan", "init", "precision"]
)
def test_the_cases_name_everything_that_has_a_name(field: str) -> None:
    in_use = [
        config
        for config in CASES.values()
        if not (field in ("norm", "mlp") and config.block == "bare")
        and not (field == "scan" and "mingru" not in config.layers)
    ]
    values = [getattr(config, field) for config in in_use]
    names = {name for layers in values for name in layers} if field == "layers" else set(values)
    assert names == known_names(field)


def test_attention_meets_every_position() -> None:
    met = {config.position for config in CASES.values() if config.layers == ATTENTION}
    assert met == known_names("position")


@pytest.mark.parametrize(
    ("name", "keeps"),
    [
        ("lstm-bare", False),
        ("mingru-bare", False),
        ("attention-bare", True),
        ("self_attention-bare", True),
        ("mingru+attention+gru", True),
    ],
)
def test_a_context_matters_where_positions_are_kept(name: str, keeps: bool) -> None:
    assert subject_of(name).model.keeps_positions == keeps


# That a mixer which breaks the contract is caught.


class ToyState(NamedTuple):
    """What `Toy` carries."""

    total_BH: jax.Array


class Toy(nn.Module):
    """A running sum: y_t = tanh of the sum of W x up to t. With a flaw, it breaks the contract."""

    flaw: str

    @nn.compact
    def __call__(self, x_BTD: jax.Array, state: ToyState) -> tuple[jax.Array, ToyState]:
        z_BTH = nn.Dense(8, use_bias=False)(x_BTD)
        if self.flaw == "reads the next character":
            next_BTH = jnp.roll(z_BTH, -1, axis=1)
            z_BTH = z_BTH + next_BTH.at[:, -1].set(0.0)
        if self.flaw == "reads another row":
            z_BTH = z_BTH + jnp.roll(z_BTH, 1, axis=0)
        if self.flaw == "is another under jit" and isinstance(z_BTH, jax.core.Tracer):
            z_BTH = z_BTH + 0.1
        if self.flaw == "is another when looked at" and self.is_mutable_collection("captured"):
            z_BTH = z_BTH + 0.1
        if self.flaw == "blows up":
            z_BTH = z_BTH + jnp.sqrt(z_BTH - z_BTH)
        if self.flaw == "has an idle parameter":
            self.param("idle", nn.initializers.ones, (8,))
        if self.flaw == "draws twice from a key":
            kernel = self.param("again", lambda key: self.variables["params"]["Dense_0"]["kernel"])
            z_BTH = z_BTH + x_BTD @ kernel
        total_BTH = state.total_BH[:, None] + jnp.cumsum(z_BTH, axis=1)
        self.sow("captured", "total", total_BTH)
        last_BH = total_BTH[:, -1]
        if self.flaw == "forgets":
            last_BH = jnp.zeros_like(last_BH)
        if self.flaw == "reads one row's past":
            last_BH = last_BH + last_BH[:1]
        if self.flaw == "grows":
            last_BH = jnp.concatenate([last_BH, last_BH], axis=1)
        if self.flaw == "gives up in time":
            total_BTH = jnp.where(jnp.abs(total_BTH) > 30.0, jnp.nan, total_BTH)
        return jnp.tanh(total_BTH), ToyState(last_BH)

    def initial_state(self, batch_size: int, context: int) -> ToyState:
        return ToyState(jnp.zeros((batch_size, 8)))


def make_toy(monkeypatch: pytest.MonkeyPatch, flaw: str) -> Subject:
    """The toy in a bare stack, from a line in the table like any other."""
    monkeypatch.setitem(MIXERS, "toy", lambda model, width: Toy(flaw))
    return Subject(make_model_config("toy", **BARE))


READINGS, CARRYINGS = [(0,), (FEW,)], [(FEW,)]
FLAWS: Mapping[str, tuple[Callable[..., None], Sequence[tuple[int, ...]]]] = {
    "reads the next character": (check_causality, READINGS),
    "reads another row": (check_rows, READINGS),
    "reads one row's past": (check_rows, READINGS),
    "forgets": (check_pieces, CARRYINGS),
    "grows": (check_form, READINGS),
    "is another under jit": (check_compilation, [()]),
    "is another when looked at": (check_inspection, [()]),
    "blows up": (check_gradients, [()]),
    "has an idle parameter": (check_gradients, [()]),
    "draws twice from a key": (check_drawing, [()]),
    "gives up in time": (check_reading_on, [()]),
}


@pytest.mark.parametrize("flaw", FLAWS)
def test_a_mixer_with_a_flaw_is_caught(monkeypatch: pytest.MonkeyPatch, flaw: str) -> None:
    check, calls = FLAWS[flaw]
    subject = make_toy(monkeypatch, flaw)
    for arguments in calls:
        with pytest.raises(AssertionError):
            check(subject, *arguments)


def test_a_mixer_without_a_flaw_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = make_toy(monkeypatch, "none")
    for check, calls in FLAWS.values():
        for arguments in calls:
            check(subject, *arguments)
