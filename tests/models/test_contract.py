"""The contract of every model.

A mixer takes part by its line in `MIXERS`: `pytest tests/models/test_contract.py -k NAME` is the
contract of that one. The properties are in `charlm_jax.models.testing`; further down they are shown
to fail on mixers that break them.
"""

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from charlm_jax.config.schema import ModelConfig
from charlm_jax.core.errors import CharlmError
from charlm_jax.models import build_model, convolution, matrix_memory
from charlm_jax.models.convolution import causal_convolution
from charlm_jax.models.mixers import MIXERS
from charlm_jax.models.testing import (
    _PROPERTIES,
    BARE,
    BLOCK,
    FEW,
    B,
    Subject,
    T,
    V,
    check_causality,
    check_compilation,
    check_drawing,
    check_form,
    check_gradients,
    check_inspection,
    check_long_text,
    check_mixer,
    check_pieces,
    check_projection,
    check_reading_on,
    check_rows,
    draw_ids,
)
from tests.conftest import make_model_config, quick_jit
from tests.models.contract import (
    ALONE,
    ATTENTION,
    CARRYING,
    CASES,
    EVERY,
    IS_BARE,
    OTHERS,
    READING,
    make_subject,
    share,
    subject_of,
)


@pytest.fixture(autouse=True)
def _strict_dtypes() -> Any:
    with jax.numpy_dtype_promotion("strict"):
        yield


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


@pytest.mark.parametrize("name", ALONE)
def test_a_long_text_equals_its_pieces(name: str) -> None:
    check_long_text(subject_of(name))


@pytest.mark.parametrize("name", EVERY)
def test_reading_on(name: str) -> None:
    check_reading_on(subject_of(name))


@pytest.mark.parametrize("name", EVERY)
def test_inspect_equals_apply(name: str) -> None:
    check_inspection(subject_of(name))


@pytest.mark.parametrize("name", EVERY)
def test_gradients_are_finite_and_reach_every_parameter(name: str) -> None:
    check_gradients(subject_of(name))


@pytest.mark.parametrize(
    "name", [case for case in EVERY if IS_BARE[case.values[0]] or "+" in case.values[0]]
)
def test_jit_equals_eager(name: str) -> None:
    check_compilation(subject_of(name))


@pytest.mark.parametrize("name", [n for n in CASES if IS_BARE[n] or "gpt2" in n])
def test_the_same_key_gives_the_same_parameters(name: str) -> None:
    check_drawing(subject_of(name))


@pytest.mark.parametrize("name", [n for n in CASES if IS_BARE[n]])
def test_few_ids_and_many_ids_read_the_embedding_alike(name: str) -> None:
    assert T < V < B * T
    check_projection(subject_of(name))


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
    subject, plain = make_subject(dataclasses.replace(config, dropout=0.5)), share(config)
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
        ("lstm", {"mogrifier_rounds": 1}),
        ("rglru", {"heads": 1}),
        ("mamba2", {"heads": 1}),
        ("mamba2", {"state_size": 3}),
        ("mamba2", {"conv_width": 2}),
        ("mlstm", {"heads": 1}),
        ("slstm", {"heads": 1}),
        ("mlstm", {"conv_width": 2}),
        ("gated_deltanet", {"heads": 1}),
        ("gated_deltanet", {"conv_width": 2}),
        ("rglru", {"conv_width": 2}),
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


def equations(jaxpr: Any, *names: str) -> Iterator[Any]:
    """Every operation of these names in a program, and in the programs within it."""
    for equation in jaxpr.eqns:
        if equation.primitive.name in names:
            yield equation
        for value in jax.tree.leaves(equation.params, is_leaf=lambda x: hasattr(x, "eqns")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from equations(inner, *names)


BFLOAT16 = [name for name, config in CASES.items() if config.precision == "bfloat16"]


@pytest.mark.parametrize("name", BFLOAT16)
def test_bfloat16_is_what_products_read_and_not_what_they_add_up(name: str) -> None:
    """Forwards and backwards. The gradient of the embedding is a sum, and not traced."""
    subject, bfloat16 = subject_of(name), jnp.dtype(jnp.bfloat16)
    start = subject.model.initial_state(B, FEW)
    fixed = {"embedding": subject.params["embedding"]}

    def total(params: Any) -> jax.Array:
        return jnp.sum(subject.model.apply({**params, **fixed}, draw_ids(0), start)[0])

    params = {name: x for name, x in subject.params.items() if name not in fixed}
    forwards, both = (jax.make_jaxpr(f)(params).jaxpr for f in (total, jax.grad(total)))
    for program in (forwards, both):
        for equation in equations(program, "dot_general"):
            assert {x.aval.dtype for x in equation.invars} == {bfloat16}, equation
            assert equation.outvars[0].aval.dtype == jnp.float32, equation
        for equation in equations(program, "add", "add_any", "reduce_sum", "cumsum"):
            assert equation.outvars[0].aval.dtype != bfloat16, equation
    counts = [len(list(equations(program, "dot_general"))) for program in (forwards, both)]
    assert 2 <= counts[0] < counts[1]


@pytest.mark.parametrize("name", BFLOAT16)  # every layer is among them
def test_forward_mode_goes_over_reverse_mode(name: str) -> None:
    """Lowered, as JAX also traces what it cannot differentiate."""
    subject = subject_of(name)
    ids_BT, start = draw_ids(0), subject.model.initial_state(B, 0)

    def total(params: Any) -> jax.Array:
        return jnp.sum(jnp.sin(subject.model.apply(params, ids_BT, start)[0]))

    def slope(params: Any) -> Any:
        return jax.jvp(jax.grad(total), (params,), (params,))[1]

    jax.jit(slope).lower(subject.params)


def test_scans_differ_in_nothing_but_the_way() -> None:
    ways, logits = set(), []
    for scan in ("sequential", "associative"):
        subject = make_subject(make_model_config("mingru", **BLOCK, scan=scan))
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
        if self.flaw == "reads the last row":
            z_BTH = z_BTH + z_BTH[-1:]
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
        sum_BTH = jnp.cumsum(z_BTH, axis=1)
        if self.flaw == "forgets between chunks":
            begin_T = np.arange(z_BTH.shape[1]) // 8 * 8
            before_BTH = jnp.where(begin_T[None, :, None] > 0, sum_BTH[:, begin_T - 1], 0.0)
            sum_BTH = sum_BTH - before_BTH
        total_BTH = state.total_BH[:, None] + sum_BTH
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
        if self.flaw == "has another width":
            total_BTH = total_BTH[..., : x_BTD.shape[-1]]
        return jnp.tanh(total_BTH), ToyState(last_BH)

    def initial_state(self, batch_size: int, context: int) -> ToyState:
        return ToyState(jnp.zeros((batch_size, 8)))


class ProjectingToy(nn.Module):
    """The same sum, with a projection of its own that `project` offers."""

    flaw: str

    def setup(self) -> None:
        self.input = nn.Dense(8, use_bias=False)

    def project(self, x: jax.Array) -> jax.Array:
        return self.input(x) + (0.1 if self.flaw == "projects otherwise" else 0.0)

    def mix(self, z_BTH: jax.Array, state: ToyState) -> tuple[jax.Array, ToyState]:
        total_BTH = state.total_BH[:, None] + jnp.cumsum(z_BTH, axis=1)
        self.sow("captured", "total", total_BTH)
        return jnp.tanh(total_BTH), ToyState(total_BTH[:, -1])

    def __call__(self, x_BTD: jax.Array, state: ToyState) -> tuple[jax.Array, ToyState]:
        return self.mix(self.input(x_BTD), state)

    def initial_state(self, batch_size: int, context: int) -> ToyState:
        return ToyState(jnp.zeros((batch_size, 8)))


def make_toy(
    monkeypatch: pytest.MonkeyPatch, flaw: str, toy: Callable[[str], nn.Module] = Toy
) -> Subject:
    """The toy in a bare stack, from a line in the table like any other."""
    monkeypatch.setitem(MIXERS, "toy", lambda model, width: toy(flaw))
    return make_subject(make_model_config("toy", **BARE))


READINGS, CARRYINGS = [(0,), (FEW,)], [(FEW,)]
FLAWS: Mapping[str, tuple[Callable[..., None], Sequence[tuple[int, ...]]]] = {
    "reads the next character": (check_causality, READINGS),
    "reads another row": (check_rows, READINGS),
    "reads the last row": (check_rows, READINGS),
    "reads one row's past": (check_rows, READINGS),
    "forgets": (check_pieces, CARRYINGS),
    "forgets between chunks": (check_long_text, [()]),
    "projects otherwise": (check_projection, [()]),
    "grows": (check_form, READINGS),
    "has another width": (check_form, READINGS),
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
    toy = ProjectingToy if check is check_projection else Toy
    subject = make_toy(monkeypatch, flaw, toy)
    for arguments in calls:
        with pytest.raises(AssertionError):
            check(subject, *arguments)


def test_every_property_has_a_mixer_that_breaks_it() -> None:
    assert {check for check, _ in FLAWS.values()} == {check for check, _ in _PROPERTIES}


@pytest.mark.parametrize("toy", [Toy, ProjectingToy])
def test_a_mixer_without_a_flaw_passes(
    monkeypatch: pytest.MonkeyPatch, toy: type[nn.Module]
) -> None:
    subject = make_toy(monkeypatch, "none", toy)
    for check, calls in FLAWS.values():
        for arguments in calls:
            check(subject, *arguments)


def test_weights_may_start_from_fixed_numbers_and_not_be_attention(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Fixed(Toy):
        @nn.compact
        def __call__(self, x_BTD: jax.Array, state: ToyState) -> tuple[jax.Array, ToyState]:
            rates_H = self.param("rates", lambda key: jnp.arange(8.0))
            y_BTH, state = Toy("none")(x_BTD, state)
            self.sow("captured", "weights", y_BTH)
            return y_BTH * rates_H[None, None, :], state

    subject = make_toy(monkeypatch, "none", Fixed)
    check_drawing(subject)
    check_inspection(subject)


@pytest.mark.exhaustive
@pytest.mark.parametrize(("layer", "fields"), OTHERS, ids=str)
def test_blocks_and_precisions_that_no_case_combines(layer: str, fields: dict[str, Any]) -> None:
    subject = make_subject(make_model_config(layer, **fields))
    for check, calls in FLAWS.values():
        for arguments in calls if check is not check_compilation else []:  # eager calls are slow
            check(subject, *arguments)


def test_chunks_and_convolutions_that_read_ahead_are_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def uncausal_decay(total: jax.Array) -> jax.Array:
        return jnp.exp(-jnp.abs(total - jnp.swapaxes(total, -1, -2)))

    def centred_convolution(*inputs: jax.Array) -> tuple[jax.Array, jax.Array]:
        y_BTD, past_BSD = causal_convolution(*inputs)
        return jnp.concatenate([y_BTD[:, 1:], y_BTD[:, :1]], axis=1), past_BSD

    flaws = {
        "gated_deltanet-bare": (matrix_memory, "_decay", uncausal_decay),
        "rglru-bare": (convolution, "causal_convolution", centred_convolution),
    }
    for name, flaw in flaws.items():
        with monkeypatch.context() as patch:
            patch.setattr(*flaw)
            with pytest.raises(AssertionError, match=r"before position \d depend"):
                check_causality(make_subject(CASES[name]), 0)


@pytest.mark.parametrize("flaw", ["reads the next character", "forgets", "has an idle parameter"])
def test_check_mixer_names_the_property_that_is_broken(
    monkeypatch: pytest.MonkeyPatch, flaw: str
) -> None:
    make_toy(monkeypatch, flaw)
    check, _ = FLAWS[flaw]
    assert check.__doc__ is not None
    with pytest.raises(AssertionError, match=re.escape(check.__doc__)) as caught:
        check_mixer("toy")
    assert str(caught.value).startswith("toy, alone in float32, breaks the contract: ")
    assert "\n" not in str(caught.value)


def test_check_mixer_tries_it_alone_and_in_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    make_toy(monkeypatch, "none")
    lines = check_mixer("toy")
    assert len(lines) == len(set(lines)) == 2 * 11
    for check, _ in FLAWS.values():
        assert sum(str(check.__doc__) in line for line in lines) == 2

    class Crashing(Toy):
        @nn.compact
        def __call__(self, x_BTD: jax.Array, state: ToyState) -> tuple[jax.Array, ToyState]:
            assert x_BTD.shape[-1] == 6, "only alone"  # 8 in a block
            return Toy(self.flaw)(x_BTD, state)

    monkeypatch.setitem(MIXERS, "toy", lambda model, width: Crashing("none"))
    with pytest.raises(AssertionError, match="only alone") as caught:
        check_mixer("toy")
    assert caught.value.__notes__[-1] == (
        "toy, in a pre_norm block in bfloat16, failed while the model was built and initialized"
    )


def test_an_error_of_a_mixer_says_which_property_was_checked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Crashing(Toy):
        def initial_state(self, batch_size: int, context: int) -> ToyState:
            if batch_size == 1:
                return super().initial_state(batch_size, context)
            raise KeyError("rows")

    monkeypatch.setitem(MIXERS, "toy", lambda model, width: Crashing("none"))
    with pytest.raises(KeyError, match="rows") as caught:
        check_mixer("toy")
    assert caught.value.__notes__ == [
        f"toy, alone in float32, failed in the check: {check_form.__doc__}"
    ]
