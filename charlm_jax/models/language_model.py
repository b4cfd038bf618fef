"""A character-level language model as four pure functions."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from flax import linen as nn

from charlm_jax.config import ModelConfig
from charlm_jax.models.blocks import Block
from charlm_jax.models.initializers import init_scheme
from charlm_jax.models.mixers import MIXERS
from charlm_jax.models.ops import dropout, embed
from charlm_jax.types import ModelState, Params, look_up


class Init(Protocol):
    """key -> params; the same key gives the same parameters."""

    def __call__(self, key: jax.Array) -> Params: ...


class Apply(Protocol):
    """Read ids_BT (integers in [0, V)) from `state`: logits_BTV and the state after the last.

    Row b, position t holds the scores of the character that follows ids[b, :t + 1]. With a key,
    dropout is on.
    """

    def __call__(
        self, params: Params, ids_BT: jax.Array, state: ModelState, *, key: jax.Array | None = None
    ) -> tuple[jax.Array, ModelState]: ...


class InitialState(Protocol):
    """State before the first character, for so many rows: a tree of arrays with the rows first.

    `context` is how many past positions an attention layer is to keep; a recurrent layer ignores
    it.
    """

    def __call__(self, batch_size: int, context: int) -> ModelState: ...


class Inspect(Protocol):
    """The computation of `apply`, with what happened inside kept.

    Returns `logits` (B, T, V) and, for every layer, its captured arrays (B, T, ...) by name.
    """

    def __call__(
        self, params: Params, ids_BT: jax.Array, state: ModelState, *, key: jax.Array | None = None
    ) -> Mapping[str, Any]: ...


class LanguageModel(NamedTuple):
    """Everything that training, evaluation and generation know of a model."""

    init: Init
    apply: Apply
    initial_state: InitialState
    inspect: Inspect


def layer_name(index: int) -> str:
    """The key of a layer's parameters, counted from 0 at the embedding."""
    return f"layer_{index}"


def build_blocks(model: ModelConfig) -> tuple[Block, ...]:
    """The stack between embedding and output; an unknown layer is a `CharlmError`."""
    mixers = [look_up(MIXERS, layer, "model.layers")(model) for layer in model.layers]
    return tuple(Block(mixer=mixer, dropout=model.dropout) for mixer in mixers)


def build_model(model: ModelConfig, vocab_size: int) -> LanguageModel:
    """Embedding, a stack of blocks, and a linear output layer.

    Args:
      model: layers, widths, dropout and initialisation.
      vocab_size: V.

    Returns:
      The model's functions. They are pure and not jitted.

    Raises:
      CharlmError: an unknown layer or initialisation.
    """
    blocks = build_blocks(model)
    output = nn.Dense(vocab_size, kernel_init=init_scheme(model.init).kernel)

    def init(key: jax.Array) -> Params:
        embedding_key, output_key, *layer_keys = jax.random.split(key, 2 + len(blocks))
        shape = (vocab_size, model.embedding_size)
        params = {"embedding": init_scheme(model.init).embedding(embedding_key, shape)}
        x_BTD = jnp.zeros((1, 1, model.embedding_size))
        for index, (block, layer_key) in enumerate(zip(blocks, layer_keys, strict=True)):
            state = block.mixer.initial_state(1, 0)
            (x_BTD, _), variables = block.init_with_output(layer_key, x_BTD, state)
            params[layer_name(index)] = variables["params"]
        return params | {"output": output.init(output_key, x_BTD)["params"]}

    def run(
        params: Params,
        ids_BT: jax.Array,
        states: ModelState,
        key: jax.Array | None,
        capture: bool,
    ) -> tuple[jax.Array, ModelState, dict[str, Any]]:
        key = key if model.dropout > 0.0 else None
        keys = [None] * (len(blocks) + 1) if key is None else jax.random.split(key, len(blocks) + 1)
        mutable = ["captured"] if capture else False
        x = params["embedding"]
        new_states, captured = [], {}
        for index, (block, state) in enumerate(zip(blocks, states, strict=True)):
            variables = {"params": params[layer_name(index)]}
            if index > 0:
                result = block.apply(variables, x, state, keys[index], mutable=mutable)
            elif key is None and block.is_projectable and ids_BT.size >= vocab_size:
                # Nothing lies between the embedding and this projection, so the V rows of the
                # table are projected in place of the B x T positions: the same function.
                table_VG: Any = block.apply(variables, x, method="project")
                z_BTG = embed(table_VG, ids_BT)
                result = block.apply(variables, z_BTG, state, method="mix", mutable=mutable)
            else:
                x_BTD = embed(x, ids_BT)
                result = block.apply(variables, x_BTD, state, keys[0], mutable=mutable)
            (x, new_state), seen = result if capture else (result, {})
            new_states.append(new_state)
            captured[layer_name(index)] = _unwrap(seen)
        x_BTD = dropout(x, rate=model.dropout, key=keys[-1])
        logits_BTV: Any = output.apply({"params": params["output"]}, x_BTD)
        return logits_BTV, tuple(new_states), captured

    def apply(
        params: Params, ids_BT: jax.Array, state: ModelState, *, key: jax.Array | None = None
    ) -> tuple[jax.Array, ModelState]:
        logits_BTV, state, _ = run(params, ids_BT, state, key, capture=False)
        return logits_BTV, state

    def initial_state(batch_size: int, context: int) -> ModelState:
        return tuple(block.mixer.initial_state(batch_size, context) for block in blocks)

    def inspect(
        params: Params, ids_BT: jax.Array, state: ModelState, *, key: jax.Array | None = None
    ) -> Mapping[str, Any]:
        logits_BTV, _, captured = run(params, ids_BT, state, key, capture=True)
        return {"logits": logits_BTV, **captured}

    return LanguageModel(init, apply, initial_state, inspect)


def _unwrap(seen: Mapping[str, Any]) -> dict[str, jax.Array]:
    """Linen sows every value into a tuple, below the name of the module that sowed it."""
    sown = seen.get("captured", {}).get("mixer", {})
    return {name: values[0] for name, values in sown.items()}
