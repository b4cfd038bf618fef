"""One update of the parameters, and many of them in one dispatch."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from charlm_jax.batches import EpochPlan, gather_batch
from charlm_jax.losses import masked_mean, negative_log_likelihood
from charlm_jax.models import LanguageModel
from charlm_jax.types import Params


class TrainState(NamedTuple):
    """What an update reads and replaces."""

    step: jax.Array
    params: Params
    opt_state: optax.OptState


class StepMetrics(NamedTuple):
    """What an update says of itself; stacked, with one entry a step, after a dispatch.

    Attributes:
      loss_nats: mean over the batch's characters, before the update.
      characters: how many they were.
      gradient_norm: global norm, before clipping.
    """

    loss_nats: jax.Array
    characters: jax.Array
    gradient_norm: jax.Array


TrainStep = Callable[
    [TrainState, jax.Array, jax.Array, jax.Array, jax.Array], tuple[TrainState, StepMetrics]
]
TrainSteps = Callable[[TrainState, jax.Array, EpochPlan, int, int], tuple[TrainState, StepMetrics]]


def init_state(
    model: LanguageModel, optimizer: optax.GradientTransformation, key: jax.Array
) -> TrainState:
    """Fresh parameters and optimiser, at step 0."""
    params = model.init(key)
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))


def make_train_step(model: LanguageModel, optimizer: optax.GradientTransformation) -> TrainStep:
    """Softmax cross-entropy of the next character, its gradient, and one update.

    Returns:
      (state, inputs_BT, targets_BT, mask_B, key) -> (state, metrics). Rows start from the
      model's initial state; those where the mask is False count for nothing.
    """

    def train_step(
        state: TrainState,
        inputs_BT: jax.Array,
        targets_BT: jax.Array,
        mask_B: jax.Array,
        key: jax.Array,
    ) -> tuple[TrainState, StepMetrics]:
        batch_size, _ = inputs_BT.shape
        mask_BT = jnp.broadcast_to(mask_B[:, None], inputs_BT.shape)

        def loss_nats(params: Params) -> jax.Array:
            start = model.initial_state(batch_size, 0)
            logits_BTV, _ = model.apply(params, inputs_BT, start, key=key)
            return masked_mean(negative_log_likelihood(logits_BTV, targets_BT), mask_BT)

        loss, gradient = jax.value_and_grad(loss_nats)(state.params)
        update, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, update)
        metrics = StepMetrics(loss, jnp.sum(mask_BT), optax.tree.norm(gradient))
        return TrainState(state.step + 1, params, opt_state), metrics

    return train_step


def make_train_steps(
    train_step: TrainStep, *, sequence_length: int, most_steps: int, dropout_key: jax.Array
) -> TrainSteps:
    """Several updates in one jitted program, whose state is donated.

    The number of steps is an argument and not a shape, so one compiled program serves every
    dispatch, wherever epochs, evaluations or an interruption cut them.

    Args:
      train_step: one update.
      sequence_length: T.
      most_steps: the longest dispatch.
      dropout_key: every step folds its number in.

    Returns:
      (state, ids_N, plan, first, count) -> (state, metrics): runs steps first .. first + count - 1
      of an epoch. Metrics have `most_steps` entries, of which the first `count` are meant.
    """

    def train_steps(
        state: TrainState,
        ids_N: jax.Array,
        plan: EpochPlan,
        first: jax.Array,
        count: jax.Array,
    ) -> tuple[TrainState, StepMetrics]:
        def body(
            index: jax.Array, carry: tuple[TrainState, StepMetrics]
        ) -> tuple[TrainState, StepMetrics]:
            state, history = carry
            starts_B, mask_B = plan.starts_EB[first + index], plan.mask_EB[first + index]
            inputs_BT, targets_BT = gather_batch(ids_N, starts_B, sequence_length=sequence_length)
            key = jax.random.fold_in(dropout_key, state.step)
            state, metrics = train_step(state, inputs_BT, targets_BT, mask_B, key)
            history = jax.tree.map(lambda all_, now: all_.at[index].set(now), history, metrics)
            return state, history

        history = StepMetrics(
            loss_nats=jnp.zeros(most_steps),
            characters=jnp.zeros(most_steps, jnp.int32),
            gradient_norm=jnp.zeros(most_steps),
        )
        return jax.lax.fori_loop(0, count, body, (state, history))

    return jax.jit(train_steps, donate_argnums=0)
