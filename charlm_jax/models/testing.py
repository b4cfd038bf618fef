"""The contract of every model: properties as plain functions of a `Subject`.

`check_mixer("my_module:MyMixer")` checks a mixer alone in float32, and in a block with norms and an
MLP in bfloat16. This needs neither pytest nor a clone.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from charlm_jax.config.loading import load_config, shipped_configs
from charlm_jax.config.schema import ModelConfig
from charlm_jax.models.language_model import build_model, layer_name
from charlm_jax.models.losses import negative_log_likelihood
from charlm_jax.models.mixers import build_mixer

V, B, T = 11, 8, 7
# Positions that an attention layer keeps: fewer than are read at once, or more.
FEW, MANY = 2, T + 2
MAX_LENGTH = 3 * T - 2

# T positions are several chunks, of which the last is not full.
BARE: Mapping[str, Any] = {"embedding_size": 6, "hidden_size": 8, "heads": 2, "chunk_size": 3}
BLOCK: Mapping[str, Any] = {
    "embedding_size": 8,
    "hidden_size": 8,
    "heads": 2,
    "chunk_size": 3,
    "block": "pre_norm",
    "mlp": "gelu",
    "mlp_ratio": 1.5,
    "max_length": MAX_LENGTH,
}


def draw_ids(seed: int) -> jax.Array:
    """Return random ids_BT."""
    return jnp.asarray(np.random.default_rng(seed).integers(0, V, (B, T), dtype=np.int32))


class Subject:
    """A model whose weights are all random, biases and scales too, so that each of them matters.

    Attributes:
      config: config of the model.
      model: functions of the model.
      jit: compiler of functions.
      apply: `model.apply`, compiled.
      params: weights of the model.
      tolerance: allowed difference between two ways to compute the same logits, around 1.
    """

    def __init__(self, config: ModelConfig, *, jit: Callable[..., Any] = jax.jit) -> None:
        self.config, self.model, self.jit = config, build_model(config, V), jit
        self.apply = jit(self.model.apply)
        generator = np.random.default_rng(0)
        self.params = jax.tree.map(
            lambda x: jnp.asarray(generator.normal(0, 0.6, x.shape).astype(np.float32)),
            jax.eval_shape(self.model.init, jax.random.key(0)),
        )
        # If an operand changes by its last bit, a product changes by up to 2^-7 of it.
        self.tolerance = 1e-5 if config.precision == "float32" else 0.05

    def read(self, ids_BT: jax.Array, state: Any) -> tuple[jax.Array, Any]:
        """Return the logits, and the state after them."""
        logits_BTV, state = self.apply(self.params, ids_BT, state)
        return logits_BTV, state

    def start(self, context: int) -> Any:
        """Return a state that has read a text, if there is room to remember it."""
        state = self.model.initial_state(B, context)
        return self.read(draw_ids(1), state)[1] if context else state


def check_form(subject: Subject, context: int) -> None:
    """Logits are float32 and finite, outputs have their width, a state keeps its rows and form."""
    state = subject.model.initial_state(B, context)
    form = jax.tree.map(lambda x: (x.shape, x.dtype), state)
    rows = [x.shape[:1] for x in jax.tree.leaves(state)]
    _require(all(row == (B,) for row in rows), f"the state has first axes {rows}, not {B} rows")
    for seed in (0, 1):
        logits_BTV, state = subject.read(draw_ids(seed), state)
        seen = (logits_BTV.shape, str(logits_BTV.dtype))
        _require(seen == ((B, T, V), "float32"), f"the logits are {seen}")
        _require(bool(np.isfinite(logits_BTV).all()), "a logit is not finite")
        now = jax.tree.map(lambda x: (x.shape, x.dtype), state)
        _require(now == form, f"the state was {form} and is {now}")
    _check_widths(subject.config)


def _check_widths(config: ModelConfig) -> None:
    """Each layer's output is `hidden_size` wide, or as wide as its mixer's `output_size`."""
    width = config.embedding_size
    for name in config.layers:
        mixer = build_mixer(name, config, width)
        inputs = (jnp.zeros((B, T, width)), mixer.initial_state(B, 0))
        (y_BTD, _), _ = jax.eval_shape(mixer.init_with_output, jax.random.key(0), *inputs)
        width = getattr(mixer, "output_size", config.hidden_size)
        stated = "output_size" if hasattr(mixer, "output_size") else "config.model.hidden_size"
        fault = f"the output of {name} has the shape {y_BTD.shape}, and {stated} is {width}"
        _require(y_BTD.shape == (B, T, width), fault)


def check_causality(subject: Subject, context: int) -> None:
    """A changed character leaves all earlier logits bitwise equal, and changes its own."""
    ids_BT, start = draw_ids(0), subject.start(context)
    places_T = np.arange(T)
    changed_BT = ids_BT.at[places_T, places_T].set((ids_BT[places_T, places_T] + 1) % V)
    first_BTV, _ = subject.read(ids_BT, start)
    second_BTV, _ = subject.read(changed_BT, start)
    for t in places_T:
        is_causal = np.array_equal(first_BTV[t, :t], second_BTV[t, :t])
        _require(is_causal, f"logits before position {t} depend on its character")
    for t in places_T:
        moved = np.abs(first_BTV[t, t] - second_BTV[t, t]).max()
        _require(moved > 1e-5, f"the logits of position {t} do not depend on its character")


def check_rows(subject: Subject, context: int) -> None:
    """The text and the state of one row leave the other rows bitwise equal."""
    past = subject.model.initial_state(B, context)
    if context:
        _, past = subject.read(draw_ids(3)[:, :1], past)
    # On the host, where indexing compiles nothing.
    arguments, others = _on_host(((draw_ids(0), subject.start(context)), (draw_ids(2), past)))
    first = _on_host(subject.read(*arguments))
    for row in range(B):
        second = _on_host(subject.read(*jax.tree.map(partial(_replace, row), arguments, others)))
        moved = np.abs(first[0][row] - second[0][row]).max()
        _require(moved > 1e-5, "the logits of a row do not depend on its text")
        rest = (jax.tree.map(partial(np.delete, obj=row, axis=0), x) for x in (first, second))
        jax.tree.map(np.testing.assert_array_equal, *rest)


def _on_host(tree: Any) -> Any:
    return jax.tree.map(np.asarray, tree)


def _replace(row: int, x: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return x with one row of another array."""
    return np.concatenate([x[:row], other[row : row + 1], x[row + 1 :]])


def check_pieces(subject: Subject, context: int) -> None:
    """A text read in pieces gives the same logits and state as one read at once."""
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
        jax.tree.map(lambda a, b: _require_close(subject, a, b), other, results[0])
    if context >= T:  # an oversized cache gives the same result as none
        alone_BTV, _ = subject.read(ids_BT[:, :T], subject.model.initial_state(B, 0))
        _require_close(subject, alone_BTV, results[0][0][:, :T])


def check_long_text(subject: Subject) -> None:
    """A text of ten pieces read at once gives the same logits and state as read in pieces."""
    pieces, logits = [draw_ids(seed) for seed in range(10)], []
    start = state = subject.model.initial_state(B, MANY)
    for piece in pieces:
        logits_BTV, state = subject.read(piece, state)
        logits.append(logits_BTV)
    whole = subject.read(jnp.concatenate(pieces, axis=1), start)
    in_pieces = (np.concatenate(logits, axis=1), state)
    # Rounding adds up over the text. Logits beyond the learned positions are NaN in both.
    jax.tree.map(lambda a, b: _require_close(subject, a, b, factor=4.0), in_pieces, whole)


def check_reading_on(subject: Subject) -> None:
    """Only learned positions limit the length; logits beyond it are NaN."""
    most, state = subject.model.max_length, subject.model.initial_state(B, FEW)
    limit = subject.config.max_length if subject.config.position == "learned" else None
    _require(most == limit, f"max_length is {most}, not {limit}")
    for piece in range(8):
        logits_BTV, state = subject.read(draw_ids(piece), state)
        is_known_T = np.arange(piece * T, (piece + 1) * T) < (most or 8 * T)
        finite = bool(np.isfinite(logits_BTV[:, is_known_T]).all())
        _require(finite, f"a logit of piece {piece} is not finite")
        unknown = bool(np.isnan(logits_BTV[:, ~is_known_T]).all())
        _require(unknown, f"a logit of piece {piece} has no position and is not NaN")
    if most is None and not isinstance(state.read_B, tuple):  # as if it had been a million more
        far = state._replace(read_B=state.read_B + 10**6)
        _require(
            bool(np.isfinite(subject.read(draw_ids(0), far)[0]).all()),
            "a logit is not finite after a million characters",
        )


def check_compilation(subject: Subject) -> None:
    """The compiled function, the eager one and `inspect` give the same logits."""
    ids_BT, start = draw_ids(0), subject.model.initial_state(B, 0)
    eager_BTV, _ = subject.model.apply(subject.params, ids_BT, start)
    compiled_BTV, _ = subject.read(ids_BT, start)
    _require_close(subject, compiled_BTV, eager_BTV)
    captured = subject.model.inspect(subject.params, ids_BT, start)
    _require_close(subject, captured["logits"], eager_BTV)


def check_inspection(subject: Subject) -> None:
    """`inspect` computes what `apply` does; its arrays are (B, T, ...), attention is causal."""
    ids_BT, start = draw_ids(0), subject.model.initial_state(B, 0)
    captured = subject.jit(subject.model.inspect)(subject.params, ids_BT, start)
    expected_BTV, _ = subject.read(ids_BT, start)
    _require_close(subject, captured["logits"], expected_BTV)
    layers = {name: dict(values) for name, values in captured.items() if name != "logits"}
    names = {layer_name(index) for index in range(len(subject.config.layers))}
    _require(set(layers) == names, f"it captures {set(layers)}, not {names}")
    for name, values in layers.items():
        _require(bool(values), f"{name} captures nothing: sow an array into 'captured'")
    for value in jax.tree.leaves(layers):
        _require(value.shape[:2] == (B, T), f"a captured array has the shape {value.shape}")
    for weights_BTHS in (values["weights"] for values in layers.values() if "weights" in values):
        if weights_BTHS.ndim != 4:  # something else of that name
            continue
        np.testing.assert_allclose(weights_BTHS.sum(axis=-1), 1.0, atol=1e-6)
        future = np.triu(np.swapaxes(weights_BTHS, 1, 2), 1)
        _require(not future.any(), "an attention weight is on a later position")


def check_gradients(subject: Subject) -> None:
    """Gradients are finite and reach every parameter."""
    ids_BT, start = draw_ids(0), subject.model.initial_state(B, 0)

    def loss(params: Any) -> jax.Array:
        logits_BTV, _ = subject.model.apply(params, ids_BT, start)
        return jnp.mean(negative_log_likelihood(logits_BTV, jnp.roll(ids_BT, -1, axis=1)))

    gradient = subject.jit(jax.grad(loss))(subject.params)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        name = jax.tree_util.keystr(path)
        _require(bool(np.isfinite(leaf).all()), f"the gradient of {name} is not finite")
        _require(bool(np.abs(leaf).max() > 0), f"the gradient of {name} is zero")


def check_drawing(subject: Subject) -> None:
    """A key determines the weights, and no two arrays come from the same random numbers."""
    init = subject.jit(subject.model.init)
    params, again, other = (jax.tree.leaves(init(jax.random.key(seed))) for seed in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, params, again)
    pairs = [pair for pair in zip(params, other, strict=True) if not np.array_equal(*pair)]
    _require(bool(pairs), "no weight is random")
    drawn = [x for pair in pairs for x in pair]
    for i, x in enumerate(drawn):
        same = any(np.array_equal(x, y) for y in drawn[:i])
        _require(not same, f"two arrays of the shape {x.shape} are equal")


def check_projection(subject: Subject) -> None:
    """Few ids and many give the same logits, whether `project` is applied to them or to a table."""
    ids_BT = draw_ids(0)
    whole_BTV, _ = subject.read(ids_BT, subject.model.initial_state(B, 0))
    row_BTV, _ = subject.read(ids_BT[:1], subject.model.initial_state(1, 0))
    _require_close(subject, row_BTV, whole_BTV[:1])


# A property, and the contexts with which it is checked; () for one that takes none.
_PROPERTIES: Sequence[tuple[Callable[..., None], Sequence[tuple[int, ...]]]] = (
    (check_form, ((0,), (FEW,), (MANY,))),
    (check_causality, ((0,), (FEW,), (MANY,))),
    (check_rows, ((0,), (FEW,), (MANY,))),
    (check_pieces, ((FEW,), (MANY,))),
    (check_long_text, ((),)),
    (check_reading_on, ((),)),
    (check_projection, ((),)),
    (check_compilation, ((),)),
    (check_inspection, ((),)),
    (check_gradients, ((),)),
    (check_drawing, ((),)),
)


def check_mixer(layer: str, **fields: Any) -> list[str]:
    """Check that a mixer keeps the contract of every model.

    It is built twice: alone in float32, and in a block with norms and an MLP in bfloat16.

    Args:
      layer: name in `config.model.layers`, such as `my_module:MyMixer`. Its module must be
        imported.
      **fields: fields of `config.model` to change, such as `heads=4`.

    Returns:
      The checked properties, a line each.

    Raises:
      AssertionError: the mixer does not keep the contract; the message names the property. Another
        error of the mixer is raised as it is, with a note that names the property, or says that
        the model could not be built and initialized.
      CharlmError: the mixer cannot be found or built.
    """
    cases = {
        "alone in float32": BARE,
        "in a pre_norm block in bfloat16": {**BLOCK, "precision": "bfloat16"},
    }
    return [
        line
        for case, sizes in cases.items()
        for line in _check_case(layer, case, {**sizes, **fields})
    ]


def _check_case(layer: str, case: str, fields: Mapping[str, Any]) -> list[str]:
    changes = {"layers": (layer,), **fields}
    base = str(shipped_configs() / "base.py")
    config = load_config(base, {f"model.{name}": value for name, value in changes.items()})
    try:
        subject = Subject(config.model)
    except Exception as error:
        error.add_note(f"{layer}, {case}, failed while the model was built and initialized")
        raise
    lines = []
    for check, calls in _PROPERTIES:
        property_ = (check.__doc__ or "").splitlines()[0]
        lines.append(f"{case}: {property_}")
        for context in calls:
            try:
                check(subject, *context)
            except AssertionError as error:
                what = " ".join(str(error).split())
                raise AssertionError(
                    f"{layer}, {case}, breaks the contract: {property_} Found: {what}"
                ) from error
            except Exception as error:
                error.add_note(f"{layer}, {case}, failed in the check: {property_}")
                raise
    return lines


def _require(ok: bool, fault: str) -> None:
    """Raise an AssertionError; an `assert` would do nothing under `python -O`."""
    if not ok:
        raise AssertionError(fault)


def _require_close(subject: Subject, found: Any, expected: Any, *, factor: float = 1.0) -> None:
    np.testing.assert_allclose(found, expected, atol=factor * subject.tolerance, rtol=1e-5)
