"""The contract of every model: properties as plain functions of a `Subject`, and the cases."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from charlm_jax.config.schema import ModelConfig
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

# Further options, covered in pairs rather than in full combination.
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

IS_BARE = {name: name.endswith("-bare") for name in CASES}
# Bare models are tried with few positions kept and with many, the others with one of the two.
CARRYING = [
    (name, context)
    for i, name in enumerate(CASES)
    for context in ([FEW, MANY] if IS_BARE[name] else [(FEW, MANY)[i // 2 % 2]])
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
    """Changing character t leaves all earlier logits bitwise equal."""
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
    """The logits do not depend on how a text is cut, whether or not the cache holds all of it."""
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
    if context >= T:  # an oversized cache gives the same result as none
        alone_BTV, _ = subject.read(ids_BT[:, :T], subject.model.initial_state(B, 0))
        first_BTV = results[0][0][:, :T]
        np.testing.assert_allclose(alone_BTV, first_BTV, atol=subject.tolerance, rtol=1e-5)


def check_reading_on(subject: Subject) -> None:
    """Only learned positions limit the length; logits beyond it are NaN."""
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
