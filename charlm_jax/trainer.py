"""A run put together from its config and text, before anything is compiled."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import optax

from charlm_jax.batches import EpochPlan, build_loader
from charlm_jax.config import Config
from charlm_jax.dataset import Dataset
from charlm_jax.evaluate import Scorer, make_window_scorer
from charlm_jax.models import LanguageModel, build_model
from charlm_jax.optim import build_optimizer, make_schedule
from charlm_jax.randomness import Stream, stream_key
from charlm_jax.train_step import (
    TrainState,
    TrainSteps,
    init_state,
    make_train_step,
    make_train_steps,
)


class Trainer(NamedTuple):
    """The parts of a run that follow from its config and text.

    Attributes:
      config: what the run was asked to be.
      dataset: the text, encoded and split.
      model: its functions.
      optimizer: of its parameters.
      schedule: step -> learning rate.
      plan: epoch, from 0 -> where the rows of its batches start; the last plan is remembered.
      steps_per_epoch: updates in one epoch.
      train_steps: several updates in one dispatch.
      score: per-character losses of a part, under the `window` rule.
      total_steps: where the run ends.
    """

    config: Config
    dataset: Dataset
    model: LanguageModel
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    plan: Callable[[int], EpochPlan]
    steps_per_epoch: int
    train_steps: TrainSteps
    score: Scorer
    total_steps: int

    def ends_epoch(self, step: int) -> bool:
        """Whether an epoch is whole after so many updates."""
        return step % self.steps_per_epoch == 0

    def saves_at(self, step: int) -> bool:
        """Whether a checkpoint is due after so many updates, whatever the loss."""
        every = self.config.train.evaluate_every_steps or self.steps_per_epoch
        return step % every == 0 or step == self.total_steps

    def evaluates_at(self, step: int) -> bool:
        """Whether held-out text is scored after so many updates."""
        is_due = self.saves_at(step) or self.ends_epoch(step)
        return is_due and "valid" in self.dataset.parts

    def steps_to_next_stop(self, step: int) -> int:
        """Length of the dispatch that starts at `step`.

        It is cut at multiples of fixed numbers, never where a run happened to stop before.
        """
        train = self.config.train
        every = [
            train.steps_per_dispatch,
            train.log_every_steps,
            train.evaluate_every_steps,
            self.steps_per_epoch,
        ]
        ahead = min(n - step % n for n in every if n)
        return min(ahead, self.total_steps - step)


def build_trainer(config: Config, dataset: Dataset) -> Trainer:
    """Put a run together; every name in the config is looked up here, before anything compiles."""
    data, adam = config.data, config.optimizer
    model = build_model(config.model, len(dataset.vocabulary))
    loader = build_loader(
        data.loader,
        characters=len(dataset.part("train")),
        sequence_length=data.sequence_length,
        batch_size=data.batch_size,
    )
    order_key = stream_key(config.seed, Stream.ORDER)

    @functools.lru_cache(maxsize=1)
    def plan(epoch: int) -> EpochPlan:
        return loader.plan(jax.random.fold_in(order_key, epoch))

    total_steps = config.train.epochs * loader.steps_per_epoch
    if config.train.max_steps:
        total_steps = min(total_steps, config.train.max_steps)
    schedule = make_schedule(
        schedule=adam.schedule,
        learning_rate=adam.learning_rate,
        warmup_steps=adam.warmup_steps,
        final_learning_rate=adam.final_learning_rate,
        total_steps=total_steps,
    )
    optimizer = build_optimizer(
        schedule,
        beta1=adam.beta1,
        beta2=adam.beta2,
        epsilon=adam.epsilon,
        epsilon_hat=adam.epsilon_hat,
        clip_norm=adam.clip_norm,
    )
    train_steps = make_train_steps(
        make_train_step(model, optimizer),
        sequence_length=data.sequence_length,
        most_steps=config.train.steps_per_dispatch,
        dropout_key=stream_key(config.seed, Stream.DROPOUT),
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
        plan=plan,
        steps_per_epoch=loader.steps_per_epoch,
        train_steps=train_steps,
        score=score,
        total_steps=total_steps,
    )


def fresh_state(trainer: Trainer) -> TrainState:
    """The state at step 0."""
    key = stream_key(trainer.config.seed, Stream.PARAMETERS)
    return jax.jit(lambda key: init_state(trainer.model, trainer.optimizer, key))(key)
