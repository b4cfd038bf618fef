"""A character-level language model as pure functions."""

import dataclasses
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple, Protocol

import flax
import jax
import jax.numpy as jnp
from flax import linen as nn

from charlm_jax.config.schema import ModelConfig
from charlm_jax.core.prng import root_key
from charlm_jax.core.types import ModelState, Params
from charlm_jax.models.blocks import Block, build_blocks, build_norm
from charlm_jax.models.dropout import (
    Dropout,
    DropoutKey,
    build_dropout,
    drop_recurrent_weights,
    drop_symbols,
    piece_keys,
    require_recurrent_weights,
)
from charlm_jax.models.initializers import InitScheme, init_scheme
from charlm_jax.models.ops import Dtype, dense, embed, matmul, operand_dtype
from charlm_jax.models.positions import Position, build_position


class Init(Protocol):
    """key -> params; the same key gives the same parameters."""

    def __call__(self, key: jax.Array) -> Params: ...


class Apply(Protocol):
    """Forward pass: ids_BT (integers in [0, V)) and a state -> logits_BTV and the final state.

    logits[b, t] are the scores of the character that follows ids[b, :t + 1]. Dropout is on if a
    key is given: that of a batch, or those of a piece of its sequences.
    """

    def __call__(
        self, params: Params, ids_BT: jax.Array, state: ModelState, *, key: DropoutKey | None = None
    ) -> tuple[jax.Array, ModelState]: ...


class Reading(NamedTuple):
    """Outputs of a model at every position.

    Attributes:
      logits_BTV: scores of the next characters.
      output_BTD: output of the last layer.
      dropped_BTD: the same after dropout, as the output layer of bare blocks reads it.
    """

    logits_BTV: jax.Array
    output_BTD: jax.Array
    dropped_BTD: jax.Array


class Read(Protocol):
    """The forward pass of `Apply` that also returns the outputs of the last layer."""

    def __call__(
        self, params: Params, ids_BT: jax.Array, state: ModelState, *, key: DropoutKey | None = None
    ) -> tuple[Reading, ModelState]: ...


class InitialState(Protocol):
    """State before the first character: a tree of arrays with `batch_size` rows first.

    `context` is the number of past positions that an attention layer caches; a recurrent layer
    ignores it.
    """

    def __call__(self, batch_size: int, context: int) -> ModelState: ...


class Inspect(Protocol):
    """Forward pass of `apply` that returns the intermediate arrays.

    Returns `logits` (B, T, V) and, for every layer, its captured arrays (B, T, ...) by name.
    """

    def __call__(
        self, params: Params, ids_BT: jax.Array, state: ModelState, *, key: DropoutKey | None = None
    ) -> Mapping[str, Any]: ...


class LanguageModel(NamedTuple):
    """Interface of a model to training, evaluation and generation.

    Attributes:
      init: function that creates the parameters.
      apply: forward pass.
      initial_state: function that creates the state before the first character.
      inspect: forward pass that returns the intermediate arrays.
      max_length: number of characters that a row may read from its initial state; None for no
        limit.
      keeps_positions: whether the state caches past positions, as attention's does, so that the
        context of `initial_state` matters.
    """

    init: Init
    apply: Apply
    initial_state: InitialState
    inspect: Inspect
    max_length: int | None
    keeps_positions: bool


class StackState(NamedTuple):
    """State of a stack of layers.

    Attributes:
      layers: state of each layer.
      read_B: number of characters read so far; () if it is not needed.
    """

    layers: tuple[ModelState, ...]
    read_B: jax.Array | tuple[()]


def layer_name(index: int) -> str:
    """Return the key of a layer's parameters; the layer after the embedding has index 0."""
    return f"layer_{index}"


def build_model(model: ModelConfig, vocab_size: int) -> LanguageModel:
    """Build a model: embedding, a stack of blocks, and a linear output layer.

    A norm follows the last block of `pre_norm`.

    Args:
      model: layers and their settings.
      vocab_size: V.

    Returns:
      The model's functions, pure and not jitted.

    Raises:
      CharlmError: a name in the config is unknown, or no layer has weights that it drops.
    """
    stack = _build_stack(model, vocab_size)
    if model.weight_dropout > 0.0:
        require_recurrent_weights(jax.eval_shape(stack.init, root_key(0)), model)
    max_length = model.max_length if stack.position.learns else None
    one, two = (jax.eval_shape(partial(stack.initial_state, 1, context)) for context in (1, 2))
    return LanguageModel(
        init=stack.init,
        apply=stack.apply,
        initial_state=stack.initial_state,
        inspect=stack.inspect,
        max_length=max_length,
        keeps_positions=bool(one != two),
    )


def build_reader(model: ModelConfig, vocab_size: int) -> Read:
    """Build the forward pass of a model that also returns the outputs of its last layer.

    Training regularizes them; see `training.batch_gradient.Penalties`.

    Args:
      model: layers and their settings.
      vocab_size: V.
    """
    return _build_stack(model, vocab_size).read


def _build_stack(model: ModelConfig, vocab_size: int) -> "_Stack":
    return _Stack(
        model=model,
        vocab_size=vocab_size,
        blocks=build_blocks(model),
        position=build_position(model),
        scheme=init_scheme(model.init),
        final_norm=build_norm(model) if model.block == "pre_norm" else None,
        dropout=build_dropout(model),
        operand_dtype=operand_dtype(model.precision),
    )


@dataclasses.dataclass(frozen=True, eq=False)
class _Stack:
    """Parts of a model, and its functions."""

    model: ModelConfig
    vocab_size: int
    blocks: tuple[Block, ...]
    position: Position
    scheme: InitScheme
    final_norm: nn.Module | None
    dropout: Dropout
    operand_dtype: Dtype

    @property
    def output(self) -> nn.Dense:
        init, dtype = self.scheme.kernel, self.operand_dtype
        return dense(self.vocab_size, init=init, bias=True, operand_dtype=dtype)

    # FLAX_FIX_RNG_SEPARATOR would derive other keys from the names of parameters.
    @flax.config.temp_flip_flag("fix_rng_separator", False)
    def init(self, key: jax.Array) -> Params:
        embedding_key, output_key, *layer_keys = jax.random.split(key, 2 + len(self.blocks))
        width = self.model.embedding_size
        params = {"embedding": self.scheme.embedding(embedding_key, (self.vocab_size, width))}
        if self.position.learns:
            position_key = jax.random.fold_in(embedding_key, 1)
            shape = (self.model.max_length, width)
            params["position"] = self.scheme.embedding(position_key, shape)
        x_BTD: Any = jnp.zeros((1, 1, width))
        for index, (block, layer_key) in enumerate(zip(self.blocks, layer_keys, strict=True)):
            state = block.mixer.initial_state(1, 0)
            (x_BTD, _), variables = block.init_with_output(layer_key, x_BTD, state)
            params[layer_name(index)] = variables.get("params", {})
        if self.final_norm is not None:
            params["norm"] = self.final_norm.init(output_key, x_BTD)["params"]
        if not self.model.tied_embedding:
            params["output"] = self.output.init(output_key, x_BTD)["params"]
        return params

    def initial_state(self, batch_size: int, context: int) -> StackState:
        layers = tuple(block.mixer.initial_state(batch_size, context) for block in self.blocks)
        return StackState(layers, jnp.zeros(batch_size, jnp.int32) if self.position.counts else ())

    def apply(
        self,
        params: Params,
        ids_BT: jax.Array,
        state: ModelState,
        *,
        key: DropoutKey | None = None,
    ) -> tuple[jax.Array, ModelState]:
        reading, state, _ = self._run(params, ids_BT, state, key, capture=False)
        return reading.logits_BTV, state

    def read(
        self,
        params: Params,
        ids_BT: jax.Array,
        state: ModelState,
        *,
        key: DropoutKey | None = None,
    ) -> tuple[Reading, ModelState]:
        reading, state, _ = self._run(params, ids_BT, state, key, capture=False)
        return reading, state

    def inspect(
        self,
        params: Params,
        ids_BT: jax.Array,
        state: ModelState,
        *,
        key: DropoutKey | None = None,
    ) -> Mapping[str, Any]:
        reading, _, captured = self._run(params, ids_BT, state, key, capture=True)
        return {"logits": reading.logits_BTV, **captured}

    def _run(
        self,
        params: Params,
        ids_BT: jax.Array,
        state: StackState,
        key: DropoutKey | None,
        capture: bool,
    ) -> tuple[Reading, StackState, dict[str, Any]]:
        table_VD, count = params["embedding"], len(self.blocks) + 1
        if key is not None:
            shared, model = piece_keys(key).sequence, self.model
            params = drop_recurrent_weights(params, rate=model.weight_dropout, key=shared)
            table_VD = drop_symbols(table_VD, rate=model.embedding_dropout, key=shared)
            key = self.dropout.choose_key(key)
        keys = [None] * count if key is None else jax.random.split(key, count)
        mutable = ["captured"] if capture else False
        places_BT = _places(state.read_B, ids_BT.shape[1])
        x_BTD: Any = self._embed(params, table_VD, ids_BT, places_BT, keys[-1])
        states, captured = [], {}
        for index, (block, layer_state) in enumerate(zip(self.blocks, state.layers, strict=True)):
            variables = {"params": params[layer_name(index)]}
            if index == 0 and self._projects(ids_BT, key):
                table_VG: Any = block.apply(variables, table_VD, method="project")
                inputs = (table_VG, ids_BT, layer_state)
                result = block.apply(variables, *inputs, method="mix_ids", mutable=mutable)
            else:
                result = block.apply(variables, x_BTD, layer_state, keys[index], mutable=mutable)
            (x_BTD, new_state), seen = result if capture else (result, {})
            states.append(new_state)
            captured[layer_name(index)] = _unwrap(seen)
        is_bare = self.model.block == "bare"
        dropped_BTD = self.dropout(x_BTD, key=keys[-1]) if is_bare else x_BTD
        reading = Reading(self._logits(params, dropped_BTD, places_BT), x_BTD, dropped_BTD)
        read_B = () if places_BT is None else places_BT[:, -1] + 1
        return reading, StackState(tuple(states), read_B), captured

    def _projects(self, ids_BT: jax.Array, key: jax.Array | None) -> bool:
        """Return whether to project the table's V rows instead of the B x T positions.

        The result is the same if nothing lies between the embedding and that projection, and it
        is less work if there are more positions than rows. A loop that samples one character at
        a time has many positions in total: the table is constant, so XLA moves its projection out
        of the loop.
        """
        is_next = self.blocks[0].is_projectable and not self.position.counts and key is None
        return is_next and (ids_BT.size >= self.vocab_size or ids_BT.shape[1] == 1)

    def _embed(
        self,
        params: Params,
        table_VD: jax.Array,
        ids_BT: jax.Array,
        places_BT: jax.Array | None,
        key: jax.Array | None,
    ) -> jax.Array:
        x_BTD = embed(table_VD, ids_BT)
        if places_BT is not None:
            x_BTD = self.position.embed(x_BTD, places_BT, params.get("position"))
        if self.model.block == "bare":  # bare blocks apply dropout to their own inputs
            return x_BTD
        return self.dropout(x_BTD, key=key)

    def _logits(self, params: Params, x_BTD: jax.Array, places_BT: jax.Array | None) -> jax.Array:
        x: Any = x_BTD
        if self.final_norm is not None:
            x = self.final_norm.apply({"params": params["norm"]}, x)
        logits_BTV: Any
        if self.model.tied_embedding:
            table_DV = params["embedding"].T
            logits_BTV = matmul(x, table_DV, operand_dtype=self.operand_dtype)
        else:
            logits_BTV = self.output.apply({"params": params["output"]}, x)
        if places_BT is None or not self.position.learns:
            return logits_BTV
        # Positions beyond the table have no vector. NaN makes such a read impossible to miss.
        is_known_BT1 = (places_BT < self.model.max_length)[:, :, None]
        return jnp.where(is_known_BT1, logits_BTV, jnp.nan)


def _places(read_B: jax.Array | tuple[()], length: int) -> jax.Array | None:
    """Return the positions of a piece's characters, from 0; None if they are not counted."""
    if isinstance(read_B, tuple):
        return None
    return read_B[:, None] + jnp.arange(length)[None, :]


def _unwrap(seen: Mapping[str, Any]) -> dict[str, jax.Array]:
    """Flatten the values sown by Linen: tuples, nested under the names of the sowing modules."""
    sown = dict(seen.get("captured", {}))
    return dict(_arrays({**sown.pop("mixer", {}), **sown}))


def _arrays(sown: Mapping[str, Any]) -> Iterator[tuple[str, jax.Array]]:
    """Yield arrays by name; those of a module within the mixer have its name before their own."""
    for name, values in sown.items():
        if isinstance(values, Mapping):
            yield from ((f"{name}_{inner}", x) for inner, x in _arrays(values))
        else:
            yield name, values[0]
