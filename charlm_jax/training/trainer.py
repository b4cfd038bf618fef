"""Assembly of a run from its config and text, before anything is compiled."""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from charlm_jax.config.schema import Config
from charlm_jax.core.errors import CharlmError
from charlm_jax.core.numerics import fixed_numerics
from charlm_jax.core.prng import KeyStream, stream_key
from charlm_jax.core.types import Params
from charlm_jax.data.dataset import Dataset
from charlm_jax.data.loaders import EpochPlan, Loader, build_loader
from charlm_jax.data.splits import Part
from charlm_jax.evaluation.protocol import Window
from charlm_jax.evaluation.scoring import Scorer, make_window_scorer
from charlm_jax.models import LanguageModel, build_model, rematerialize
from charlm_jax.training.optimizer import build_optimizer, make_schedule
from charlm_jax.training.train_step import (
    Batch,
    Dispatch,
    TrainState,
    TrainSteps,
    make_batch,
    make_train_step,
    make_train_steps,
)

# Bounds of `train.keep`: of disk, and of time, since a checkpoint takes about as long as a step.
_MOST_KEPT, _LEAST_APART = 50, 40


class Trainer(NamedTuple):
    """Parts of a run that follow from its config and text.

    Attributes:
      config: config of the run.
      dataset: the text, encoded and split.
      model: functions of the model.
      optimizer: optimizer for the model's parameters.
      schedule: step -> learning rate.
      loader: loader that plans how an epoch reads the training text.
      plan: epoch, from 0 -> starts of the rows of its batches; the last plan is cached.
      train_steps: several updates in one dispatch.
      score: per-character losses of a part, under the `window` evaluation protocol.
      watched: held-out windows that are scored during training; empty if no text is held out.
      total_steps: number of steps in the run.
    """

    config: Config
    dataset: Dataset
    model: LanguageModel
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    loader: Loader
    plan: Callable[[int], EpochPlan]
    train_steps: TrainSteps
    score: Scorer
    watched: Part
    total_steps: int

    @property
    def steps_per_epoch(self) -> int:
        """Updates in one epoch."""
        return self.loader.steps_per_epoch

    def shared_steps(self, config: Config) -> int:
        """Return the number of first steps with the same learning rates under another config.

        Args:
          config: config of a run on the same text; only its length and schedule matter.
        """
        return min(
            self.total_steps,
            self.config.optimizer.stable_steps(self.total_steps),
            config.optimizer.stable_steps(count_steps(config, self.steps_per_epoch)),
        )

    def ends_epoch(self, step: int) -> bool:
        """Return whether an epoch is complete after `step` updates."""
        return step % self.steps_per_epoch == 0

    def stops_at(self, step: int) -> bool:
        """Return whether to score held-out text and save a checkpoint after `step` updates."""
        every = self.config.train.evaluate_every_steps or self.steps_per_epoch
        return step % every == 0 or step == self.total_steps

    def saves_at(self, step: int) -> bool:
        """Return whether to save a checkpoint after `step` updates."""
        return self.stops_at(step) or self.config.train.keeps(step)

    def samples_at(self, step: int) -> bool:
        """Return whether to show a sample after `step` updates."""
        every = self.config.train.sample_every_steps
        return every > 0 and step % every == 0

    def steps_to_next_stop(self, step: int) -> int:
        """Return the length of the dispatch that starts at `step`.

        It ends at multiples of fixed numbers, regardless of where an earlier session stopped.
        """
        train = self.config.train
        every = [
            train.steps_per_dispatch,
            train.log_every_steps,
            train.evaluate_every_steps,
            train.sample_every_steps,
            self.steps_per_epoch,
        ]
        if train.keep == "log":
            every.append(1 << step.bit_length())  # the next power of two
        elif train.keep:
            every.append(int(train.keep))
        ahead = min(n - step % n for n in every if n)
        return min(ahead, self.total_steps - step)

    def init_state(self, params: Params | None = None) -> TrainState:
        """Return the state at step 0, with the given parameters or newly initialized ones."""
        rows, context = self.config.data.batch_size, self.config.carried_context

        def state(key: jax.Array, params: Params | None) -> TrainState:
            params = self.model.init(key) if params is None else params
            carries = self.loader.carries_state
            carried = self.model.initial_state(rows, context) if carries else ()
            averages = self.config.optimizer.average_decay > 0
            return TrainState.create(params, self.optimizer, carried, averages=averages)

        return jax.jit(state)(stream_key(self.config.seed, KeyStream.PARAMETERS), params)

    def dispatch(
        self, state: TrainState, ids_N: jax.Array, step: int, count: int
    ) -> tuple[TrainState, Dispatch]:
        """Make `count` updates of one epoch, the first of which is update `step` of the run."""
        epoch, batch_index = divmod(step, self.steps_per_epoch)
        return self.train_steps(state, ids_N, self.plan(epoch), batch_index, step, count)

    def batch(self, ids_N: jax.Array, step: int) -> Batch:
        """Return the batch of update `step` of the run."""
        epoch, batch_index = divmod(step, self.steps_per_epoch)
        return make_batch(
            ids_N,
            self.plan(epoch),
            jnp.int32(batch_index),
            jnp.int32(step),
            sequence_length=self.config.data.sequence_length,
            dropout_key=stream_key(self.config.seed, KeyStream.DROPOUT),
        )


def count_steps(config: Config, steps_per_epoch: int) -> int:
    """Return the number of steps in a run."""
    steps = config.train.epochs * steps_per_epoch
    return min(steps, config.train.max_steps or steps)


@fixed_numerics()
def build_trainer(config: Config, dataset: Dataset) -> Trainer:
    """Build a run's parts; all names in the config are looked up here, before anything compiles.

    Raises:
      CharlmError: an unknown name, a text too short for the loader, or a run of too many steps.
    """
    model = build_model(config.model, len(dataset.vocabulary))
    _refuse_too_long(config, model)
    _refuse_segments(config, model)
    loader = build_loader(
        config.data.loader,
        part=dataset.part("train"),
        sequence_length=config.data.sequence_length,
        batch_size=config.data.batch_size,
        reset_probability=config.data.reset_probability,
    )
    order_key = stream_key(config.seed, KeyStream.ORDER)

    @functools.lru_cache(maxsize=1)
    def plan(epoch: int) -> EpochPlan:
        return loader.plan(order_key, epoch)

    total_steps = count_steps(config, loader.steps_per_epoch)
    if total_steps >= 2**31:
        raise CharlmError(
            f"a run of {total_steps} steps is too long: lower config.train.epochs, or set "
            f"config.train.max_steps below 2**31"
        )
    _refuse_many_kept(config, total_steps)
    schedule, optimizer = build_update_rule(config, total_steps)
    length = config.train.segment_length
    train_steps = make_train_steps(
        make_train_step(
            rematerialize(model, segment_length=length) if length else model,
            optimizer,
            context=config.carried_context,
            average_decay=config.optimizer.average_decay,
        ),
        sequence_length=config.data.sequence_length,
        most_steps=min(config.train.steps_per_dispatch, loader.steps_per_epoch),
        dropout_key=stream_key(config.seed, KeyStream.DROPOUT),
    )
    score = make_window_scorer(
        model, context=config.evaluation_context, batch_size=config.evaluation.batch_size
    )
    return Trainer(
        config=config,
        dataset=dataset,
        model=model,
        optimizer=optimizer,
        schedule=schedule,
        loader=loader,
        plan=plan,
        train_steps=train_steps,
        score=score,
        watched=Window(config.evaluation_context).spread(
            dataset.parts.get("valid", ()), most=config.evaluation.max_characters
        ),
        total_steps=total_steps,
    )


def _refuse_too_long(config: Config, model: LanguageModel) -> None:
    """Refuse sequences that are longer than the model's table of learned positions."""
    most, data = model.max_length, config.data
    if most is None:
        return
    position = config.model.position
    rule = f"config.model.position={position} has config.model.max_length={most} positions"
    if data.loader == "streams":
        raise CharlmError(f"{rule}, but config.data.loader=streams reads through the whole text")
    for field, length in {
        "data.sequence_length": data.sequence_length,
        "evaluation.context": config.evaluation_context,
    }.items():
        if length > most:
            raise CharlmError(f"{rule}, fewer than config.{field}={length}")


def _refuse_many_kept(config: Config, total_steps: int) -> None:
    """Refuse to keep so many checkpoints that disk and time have no bound."""
    keep = config.train.keep
    least = max(_LEAST_APART, math.ceil((total_steps + 1) / (_MOST_KEPT + 1)))
    if keep not in ("", "log") and int(keep) < least:
        raise CharlmError(
            f"config.train.keep={keep} is not allowed in a run of {total_steps} steps: it must be "
            f"at least {least}, for at most {_MOST_KEPT} checkpoints, or log"
        )


def _refuse_segments(config: Config, model: LanguageModel) -> None:
    """Refuse unequal segments, and models whose state does not hold the whole past."""
    length = config.train.segment_length
    if not length:
        return
    field = f"config.train.segment_length={length}"
    if config.data.sequence_length % length:
        whole = config.data.sequence_length
        raise CharlmError(f"{field} must divide config.data.sequence_length={whole}")
    if model.keeps_positions or model.max_length is not None:
        raise CharlmError(f"{field} is for recurrent layers: attention needs the whole sequence")


def build_update_rule(
    config: Config, total_steps: int
) -> tuple[optax.Schedule, optax.GradientTransformation]:
    """Build the learning rate schedule, and the optimizer that follows it."""
    adam = config.optimizer
    schedule = make_schedule(
        schedule=adam.schedule,
        learning_rate=adam.learning_rate,
        warmup_steps=adam.warmup_steps,
        final_learning_rate=adam.final_learning_rate,
        decay_fraction=adam.decay_fraction,
        total_steps=total_steps,
    )
    optimizer = build_optimizer(
        schedule,
        beta1=adam.beta1,
        beta2=adam.beta2,
        epsilon=adam.epsilon,
        epsilon_hat=adam.epsilon_hat,
        clip_norm=adam.clip_norm,
        weight_decay=adam.weight_decay,
    )
    return schedule, optimizer
