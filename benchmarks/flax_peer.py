"""The tutorial's model in Flax's own layers, trained with optax as in its documentation."""

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from benchmarks.data import cut_batches, load_text
from benchmarks.worker import TakeTurn


class Model(nn.Module):
    """Embedding, LSTM and linear output layer."""

    symbols: int
    embedding_size: int
    hidden_size: int

    @nn.compact
    def __call__(self, ids_BT: jax.Array) -> jax.Array:
        x_BTD = nn.Embed(self.symbols, self.embedding_size)(ids_BT)
        hidden_BTH = nn.RNN(nn.OptimizedLSTMCell(self.hidden_size))(x_BTD)
        return nn.Dense(self.symbols)(hidden_BTH)


State = tuple[Any, Any]
"""Parameters and optimizer state."""


def make_train_step(
    model: Model, optimizer: optax.GradientTransformation
) -> Callable[[State, jax.Array], tuple[State, jax.Array]]:
    """Return a jitted step (state, ids_BN) -> (state, loss)."""

    def loss_nats(params: Any, ids_BN: jax.Array) -> jax.Array:
        logits_BTV: Any = model.apply(params, ids_BN[:, :-1])
        return optax.softmax_cross_entropy_with_integer_labels(logits_BTV, ids_BN[:, 1:]).mean()

    def train_step(state: State, ids_BN: jax.Array) -> tuple[State, jax.Array]:
        params, opt_state = state
        loss, gradient = jax.value_and_grad(loss_nats)(params, ids_BN)
        update, opt_state = optimizer.update(gradient, opt_state, params)
        return (optax.apply_updates(params, update), opt_state), loss

    return jax.jit(train_step, donate_argnums=0)


def train(
    *,
    embedding_size: int,
    hidden_size: int,
    batch_size: int,
    sequence_length: int,
    corpus: str,
    steps: int,
) -> TakeTurn:
    """Build a program whose turn is `steps` calls of one jitted step with donated state.

    Batches are on the device before the clock starts.
    """
    text = load_text(corpus, batch_size=batch_size, sequence_length=sequence_length)
    batches_EBN = cut_batches(text, batch_size=batch_size, sequence_length=sequence_length)
    batches = itertools.cycle([jnp.asarray(ids_BN, jnp.int32) for ids_BN in batches_EBN])
    model, optimizer = Model(len(text.symbols), embedding_size, hidden_size), optax.adam(1e-3)
    params: Any = model.init(jax.random.key(0), jnp.asarray(batches_EBN[0, :, :-1]))
    train_step, state = make_train_step(model, optimizer), (params, optimizer.init(params))

    def turn() -> float:
        nonlocal state
        for _ in range(steps):
            state, loss = train_step(state, next(batches))
        jax.block_until_ready((state, loss))
        return steps * batch_size * sequence_length

    return turn


PROGRAMS: Mapping[str, Callable[..., TakeTurn]] = {"train": train}
