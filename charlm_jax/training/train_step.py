"""Training step: one update of the parameters, or several in one dispatch."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from charlm_jax.core.tree_hash import hash_tree
from charlm_jax.core.types import ModelState, Params
from charlm_jax.data.loaders import EpochPlan, gather_batch
from charlm_jax.training.batch_gradient import Batch, GradientOfBatch
from charlm_jax.training.devices import BY_ROWS, ONE_DEVICE, Devices
from charlm_jax.training.update_rules import next_average

NO_AVERAGE: Params = {}


class TrainState(NamedTuple):
    """Arrays that an update reads and replaces.

    Attributes:
      step: number of updates made.
      params: the model's weights.
      opt_state: state of the optimizer.
      carried: final model state of the last batch's rows if the loader carries it over;
        otherwise ().
      average: moving average of the weights if one is kept; otherwise empty.
    """

    step: jax.Array
    params: Params
    opt_state: optax.OptState
    carried: ModelState
    average: Params = NO_AVERAGE

    @classmethod
    def create(
        cls,
        params: Params,
        optimizer: optax.GradientTransformation,
        carried: ModelState = (),
        *,
        averages: bool = False,
    ) -> "TrainState":
        """Return the state at step 0.

        Args:
          params: the model's weights.
          optimizer: the optimizer, which makes its own state.
          carried: the state that the rows of the first batch start from; () if none is carried.
          averages: whether a moving average of the weights is kept.
        """
        return cls(
            step=jnp.zeros((), jnp.int32),
            params=params,
            opt_state=optimizer.init(params),
            carried=carried,
            average=jax.tree.map(jnp.copy, params) if averages else NO_AVERAGE,
        )


class StepMetrics(NamedTuple):
    """Metrics of one update; stacked along a leading step axis after a dispatch.

    Attributes:
      loss_nats: mean loss over the batch's characters, before the update.
      characters: number of these characters.
      gradient_norm: global norm of the gradient, before clipping.
    """

    loss_nats: jax.Array
    characters: jax.Array
    gradient_norm: jax.Array


class Dispatch(NamedTuple):
    """Metrics of several updates.

    Attributes:
      steps: metrics with one entry per step.
      state_hash: hash of the whole training state after the last update.
    """

    steps: StepMetrics
    state_hash: jax.Array


TrainStep = Callable[[TrainState, Batch], tuple[TrainState, StepMetrics]]
TrainSteps = Callable[
    [TrainState, jax.Array, EpochPlan, int, int, int], tuple[TrainState, Dispatch]
]


def state_specs(state: TrainState, devices: Devices) -> TrainState:
    """Return the division of each array of a state among devices."""
    specs: TrainState = devices.specs(state)
    return specs._replace(carried=jax.tree.map(lambda _: BY_ROWS, state.carried))


def hash_state(state: TrainState, devices: Devices) -> jax.Array:
    """Return the hash of the whole state, which does not depend on its division."""
    return hash_tree(state, by_leaf=devices.shards)


def checkpointed_params(state: TrainState) -> Params:
    """Return the weights as a checkpoint stores them, with their average if one is kept."""
    if not state.average:
        return state.params
    return {"raw": state.params, "average": state.average}


def with_weights(state: TrainState, weights: Params) -> TrainState:
    """Return the state with its weights replaced by those that `checkpointed_params` gave."""
    if not state.average:
        return state._replace(params=weights)
    return state._replace(params=weights["raw"], average=weights["average"])


@jax.jit
def all_finite(state: TrainState) -> jax.Array:
    """Return whether all numbers of a state and the parameters' global norm are finite."""
    numbers = jnp.array([jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(state)])
    return jnp.all(numbers) & jnp.isfinite(optax.tree.norm(state.params))


def make_train_step(
    gradient_of_batch: GradientOfBatch,
    optimizer: optax.GradientTransformation,
    *,
    average_decay: float = 0.0,
) -> TrainStep:
    """Return a function that computes the next-character loss, its gradient and one update.

    If the loss or its gradient is not finite, the update is skipped: the state is returned
    unchanged, its step included.

    Args:
      gradient_of_batch: function that computes the loss and the gradient of a batch.
      optimizer: optimizer for the model's parameters.
      average_decay: decay of the average of the weights, if the state keeps one and the optimizer
        has none of its own.

    Returns:
      (state, batch) -> (state, metrics).
    """

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, StepMetrics]:
        loss, gradient, end = gradient_of_batch(state.params, state.carried, batch)
        update, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        norm = optax.tree.norm(gradient)
        params, average = optax.apply_updates(state.params, update), state.average
        if average:
            average = next_average(
                average, params, opt_state, state.step, average_decay=average_decay
            )
        new = TrainState(
            step=state.step + 1,
            params=params,
            opt_state=opt_state,
            carried=end,
            average=average,
        )
        is_made = jnp.isfinite(loss) & jnp.isfinite(norm)
        new = jax.tree.map(lambda after, before: jnp.where(is_made, after, before), new, state)
        characters = jnp.sum(batch.mask_B) * batch.inputs_BT.shape[1]
        return new, StepMetrics(loss, characters, norm)

    return train_step


def make_batch(
    ids_N: jax.Array,
    plan: EpochPlan,
    batch_index: jax.Array,
    step: jax.Array,
    *,
    sequence_length: int,
    dropout_key: jax.Array,
) -> Batch:
    """Return one batch of an epoch.

    Args:
      ids_N: the encoded text.
      plan: plan of the epoch.
      batch_index: index of the batch in the epoch, from 0.
      step: number of updates made before this one, which is folded into the key.
      sequence_length: T.
      dropout_key: root of the keys of all steps.
    """
    inputs_BT, targets_BT = gather_batch(
        ids_N, plan.starts_EB[batch_index], sequence_length=sequence_length
    )
    key = jax.random.fold_in(dropout_key, step)
    return Batch(inputs_BT, targets_BT, plan.mask_EB[batch_index], plan.fresh_EB[batch_index], key)


def make_train_steps(
    train_step: TrainStep,
    *,
    sequence_length: int,
    most_steps: int,
    dropout_key: jax.Array,
    devices: Devices = ONE_DEVICE,
) -> TrainSteps:
    """Return a jitted function that makes several updates; its state is donated.

    The number of steps is an argument and not a shape, so one compiled program serves every
    dispatch, wherever epochs, evaluations or an interruption cut them.

    A skipped update (see `make_train_step`) does not advance `state.step`. That ends the dispatch,
    and later dispatches, whose first step is not `state.step`, have no effect: the last valid
    state is still there when the host reads the metrics.

    Args:
      train_step: one update.
      sequence_length: T.
      most_steps: maximum number of updates in a dispatch.
      dropout_key: root key, into which every step folds its number.
      devices: devices of the state.

    Returns:
      (state, ids_N, plan, batch_index, step, count) -> (state, dispatch): makes `count` updates,
      starting with batch `batch_index` of the epoch, which is update `step` of the run (both from
      0). Metrics have `most_steps` entries, of which the first `count` are valid.
    """

    def train_steps(
        state: TrainState,
        ids_N: jax.Array,
        plan: EpochPlan,
        batch_index: jax.Array,
        step: jax.Array,
        count: jax.Array,
    ) -> tuple[TrainState, Dispatch]:
        Carry = tuple[jax.Array, TrainState, StepMetrics]

        def goes_on(carry: Carry) -> jax.Array:
            index, state, _ = carry
            return (index < count) & (state.step == step + index)

        def body(carry: Carry) -> Carry:
            index, state, history = carry
            batch = make_batch(
                ids_N,
                plan,
                batch_index + index,
                state.step,
                sequence_length=sequence_length,
                dropout_key=dropout_key,
            )
            state, metrics = train_step(state, batch)
            history = jax.tree.map(lambda all_, now: all_.at[index].set(now), history, metrics)
            return index + 1, state, history

        history = StepMetrics(
            loss_nats=jnp.zeros(most_steps),
            characters=jnp.zeros(most_steps, jnp.int32),
            gradient_norm=jnp.zeros(most_steps),
        )
        first = jnp.zeros((), jnp.int32)
        _, state, history = jax.lax.while_loop(goes_on, body, (first, state, history))
        state = devices.constrain(state, state_specs(state, devices))
        return state, Dispatch(history, hash_state(state, devices))

    return jax.jit(train_steps, donate_argnums=0)
