"""Assembly of a run from its config and text, before anything is compiled."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from charlm_jax.config.length_schedule import Phase, count_shared_steps, phase_at
from charlm_jax.config.schema import Config
from charlm_jax.core.errors import lookup
from charlm_jax.core.numerics import fixed_numerics
from charlm_jax.core.prng import KeyStream, stream_key
from charlm_jax.core.types import ModelState, Params
from charlm_jax.data.dataset import Dataset
from charlm_jax.data.loaders import EpochPlan, Loader, build_loader
from charlm_jax.data.splits import Part
from charlm_jax.evaluation.protocol import Window
from charlm_jax.evaluation.scoring import Measure, Scorer, make_window_scorer
from charlm_jax.models import (
    LanguageModel,
    build_model,
    build_reader,
    in_segments,
    rematerialize,
)
from charlm_jax.models.losses import negative_log_likelihood
from charlm_jax.training.batch_gradient import Batch, Penalties, make_gradient_of_batch
from charlm_jax.training.devices import BY_ROWS, EVERYWHERE, ONE_DEVICE, Devices, find_devices
from charlm_jax.training.divided_model import divide_rows
from charlm_jax.training.host_text import DispatchText, Prefetcher, gather_steps
from charlm_jax.training.loop_state import LoopState
from charlm_jax.training.optimizer import build_adam, make_schedule
from charlm_jax.training.run_limits import (
    count_steps,
    refuse_long_pieces,
    refuse_sequences,
    refuse_steps,
    refuse_uneven_rows,
)
from charlm_jax.training.train_step import (
    Dispatch,
    TrainState,
    TrainStep,
    TrainSteps,
    make_batch,
    make_train_step,
    make_train_steps,
    state_specs,
)
from charlm_jax.training.update_rules import build_muon, build_schedule_free

Ids = jax.Array | np.ndarray
"""An encoded text: on the devices, or on the host."""


class LengthParts(NamedTuple):
    """Parts of a run for sequences of one length.

    Attributes:
      loader: loader that plans how an epoch reads the training text.
      plan: epoch, and block in it, from 0 -> starts of the rows of its batches; the last plan is
        cached.
      train_steps: several updates in one dispatch.
      init_carried: the state that a first batch starts from; () if no state is carried.
    """

    loader: Loader
    plan: Callable[..., EpochPlan]
    train_steps: TrainSteps
    init_carried: Callable[[], ModelState]


class Trainer(NamedTuple):
    """Parts of a run that follow from its config and text.

    Attributes:
      config: config of the run.
      dataset: the text, encoded and split.
      model: functions of the model.
      divided: the model with its rows, and sharded weights, divided among the devices.
      optimizer: optimizer for the model's parameters.
      schedule: step -> learning rate.
      devices: devices that train it.
      phases: steps with sequences of one length, in order; a single one without a schedule.
      by_length: sequence length -> its loader and updates.
      score: per-character losses of a part, under the `window` evaluation protocol.
      watched: held-out windows that are scored during training; empty if no text is held out.
      total_steps: number of steps in the run.
      prefetcher: reader of a text that stays on the host.
    """

    config: Config
    dataset: Dataset
    model: LanguageModel
    divided: LanguageModel
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    devices: Devices
    phases: tuple[Phase, ...]
    by_length: Mapping[int, LengthParts]
    score: Scorer
    watched: Part
    total_steps: int
    prefetcher: Prefetcher

    @property
    def steps_per_epoch(self) -> int:
        """Updates in one epoch with sequences of `data.sequence_length`."""
        return self.by_length[self.config.data.sequence_length].loader.steps_per_epoch

    def shared_steps(self, config: Config) -> int:
        """Return the number of first steps with the same rates and lengths under another config.

        Args:
          config: config of a run on the same text; only its length and its schedules of learning
            rates and sequence lengths matter.
        """
        return min(
            self.total_steps,
            self.config.optimizer.stable_steps(self.total_steps),
            config.optimizer.stable_steps(count_steps(config, self.steps_per_epoch)),
            count_shared_steps(self.phases, config.data.phases),
        )

    def is_over(self, loop_state: LoopState) -> bool:
        """Return whether a run has made its last step, or has not improved for long enough."""
        patience = self.config.train.patience
        is_stale = patience > 0 and loop_state.scores_since_best >= patience
        is_last = loop_state.step >= self.total_steps
        return (is_stale or is_last) and not loop_state.score_is_due

    def ends_phase(self, step: int) -> bool:
        """Return whether sequences have another length after `step` updates."""
        return any(step == phase.end_step for phase in self.phases)

    def ends_epoch(self, step: int) -> bool:
        """Return whether an epoch is complete after `step` updates."""
        return step % self.steps_per_epoch == 0

    def stops_at(self, step: int) -> bool:
        """Return whether to score held-out text and save a checkpoint after `step` updates."""
        return self.scores_regularly(step) or step == self.total_steps

    def scores_regularly(self, step: int) -> bool:
        """Return whether held-out text is scored after `step` updates, however long the run is."""
        every = self.config.train.evaluate_every_steps or self.steps_per_epoch
        return step % every == 0

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
        phase, loader = phase_at(self.phases, step), self.parts_at(step).loader
        batch_index = phase.position(step) % loader.steps_per_epoch
        left = loader.steps_per_epoch - batch_index
        planned = loader.steps_per_block - batch_index % loader.steps_per_block
        return min(ahead, left, planned, phase.end_step - step, self.total_steps - step)

    def init_state(self, params: Params | None = None) -> TrainState:
        """Return the state at step 0, with the given parameters or newly initialized ones."""

        def state(key: jax.Array, params: Params | None) -> TrainState:
            params = self.model.init(key) if params is None else params
            carried = self.parts_at(0).init_carried()
            averages = self.config.optimizer.averages
            created = TrainState.create(params, self.optimizer, carried, averages=averages)
            return self.devices.constrain(created, state_specs(created, self.devices))

        return jax.jit(state)(stream_key(self.config.seed, KeyStream.PARAMETERS), params)

    def init_params(self) -> Params:
        """Return newly initialized parameters, on one device of this process."""
        params: Params = jax.jit(self.model.init)(
            stream_key(self.config.seed, KeyStream.PARAMETERS)
        )
        return params

    def parts_at(self, step: int) -> LengthParts:
        """Return the parts for the length of update `step`."""
        return self.by_length[phase_at(self.phases, step).sequence_length]

    def enter_phase(self, state: TrainState, step: int) -> TrainState:
        """Return the state that update `step` starts from: no state is carried into a phase."""
        if not self.ends_phase(step):
            return state
        return state._replace(carried=self.parts_at(step).init_carried())

    def dispatch(
        self, state: TrainState, ids_N: Ids, step: int, count: int
    ) -> tuple[TrainState, Dispatch]:
        """Make `count` updates of one block of an epoch, the first of which is update `step`.

        Args:
          state: state before the updates.
          ids_N: the text as `Devices.put_text` returned it, on the devices or on the host.
          step: number of updates made before, in the run.
          count: number of updates.
        """
        if isinstance(ids_N, np.ndarray):
            last = step + count
            ahead = (last, self.steps_to_next_stop(last)) if last < self.total_steps else None
            rows = self.prefetcher.take(
                functools.partial(self._gather, ids_N), (step, count), ahead
            )
            ids_N, plan, batch_index = self.devices.put_everywhere(rows.ids_N), rows.plan, 0
        else:
            plan, batch_index = self._plan(step)
        state = self.enter_phase(state, step)
        return self.parts_at(step).train_steps(state, ids_N, plan, batch_index, step, count)

    def batch(self, ids_N: Ids, step: int) -> Batch:
        """Return the batch of update `step` of the run."""
        plan, batch_index = self._plan(step)
        if isinstance(ids_N, np.ndarray):
            rows = self._gather(ids_N, step, 1)
            ids_N, plan, batch_index = self.devices.put_everywhere(rows.ids_N), rows.plan, 0
        return make_batch(
            ids_N,
            plan,
            jnp.int32(batch_index),
            jnp.int32(step),
            sequence_length=phase_at(self.phases, step).sequence_length,
            dropout_key=stream_key(self.config.seed, KeyStream.DROPOUT),
        )

    @fixed_numerics()  # in the prefetcher's thread too
    def _gather(self, ids_N: np.ndarray, step: int, count: int) -> DispatchText:
        """Gather the rows of a dispatch from a text on the host."""
        plan, batch_index = self._plan(step)
        length = phase_at(self.phases, step).sequence_length
        return gather_steps(
            ids_N,
            plan,
            batch_index,
            count,
            sequence_length=length,
            most_steps=_most_steps(self.config, self.parts_at(step).loader),
        )

    def _plan(self, step: int) -> tuple[EpochPlan, int]:
        """Return the plan of the block of update `step`, and the index of its batch there."""
        parts, position = self.parts_at(step), phase_at(self.phases, step).position(step)
        epoch, batch_index = divmod(position, parts.loader.steps_per_epoch)
        block, batch_index = divmod(batch_index, parts.loader.steps_per_block)
        return parts.plan(epoch, block), batch_index


def _most_steps(config: Config, loader: Loader) -> int:
    """Return the largest number of updates in a dispatch."""
    return min(config.train.steps_per_dispatch, loader.steps_per_epoch)


@fixed_numerics()
def build_trainer(config: Config, dataset: Dataset) -> Trainer:
    """Build a run's parts; all names in the config are looked up here, before anything compiles.

    Raises:
      CharlmError: an unknown name, a text too short for the loader, or a run of too many steps.
    """
    model = build_model(config.model, len(dataset.vocabulary))
    refuse_sequences(config, model)
    phases = config.data.phases
    devices = find_devices(config.train.devices, shards=config.train.shard_params)
    refuse_uneven_rows(config, devices.number)
    refuse_long_pieces(phases, dataset.part("train"))
    lengths = {phase.sequence_length: phase for phase in phases}
    loaders = {
        length: build_loader(
            config.data.loader,
            part=dataset.part("train"),
            sequence_length=length,
            batch_size=phase.batch_size,
            reset_probability=config.data.reset_probability,
        )
        for length, phase in lengths.items()
    }
    total_steps = count_steps(config, loaders[config.data.sequence_length].steps_per_epoch)
    refuse_steps(config, total_steps)
    schedule, optimizer = build_optimizer(config, total_steps)
    penalties = build_penalties(config, len(dataset.vocabulary))
    divided = divide_rows(model, devices)
    score = make_window_scorer(
        divided,
        context=config.evaluation_context,
        batch_size=config.evaluation.batch_size,
        measure=_measure(devices),
    )
    return Trainer(
        config=config,
        dataset=dataset,
        model=model,
        divided=divided,
        optimizer=optimizer,
        schedule=schedule,
        devices=devices,
        phases=phases,
        by_length={
            length: _build_length_parts(
                config, model, penalties, optimizer, devices, loaders[length], phase
            )
            for length, phase in lengths.items()
        },
        score=score,
        watched=Window(config.evaluation_context).spread(
            dataset.parts.get("valid", ()), most=config.evaluation.max_characters
        ),
        total_steps=total_steps,
        prefetcher=Prefetcher(),
    )


def _measure(devices: Devices) -> Measure:
    """Return the measure of scoring, the loss, which every process can read."""
    if devices.processes == 1:
        return negative_log_likelihood

    def measure(logits_BTV: jax.Array, targets_BT: jax.Array) -> Any:
        return devices.constrain(negative_log_likelihood(logits_BTV, targets_BT), EVERYWHERE)

    return measure


def _build_length_parts(
    config: Config,
    model: LanguageModel,
    penalties: Penalties | None,
    optimizer: optax.GradientTransformation,
    devices: Devices,
    loader: Loader,
    phase: Phase,
) -> LengthParts:
    """Build the parts of a run for sequences of a phase's length."""
    order_key = stream_key(config.seed, KeyStream.ORDER)

    @functools.lru_cache(maxsize=1)
    def plan(epoch: int, block: int = 0) -> EpochPlan:
        return loader.plan(order_key, epoch, block)

    train_steps = make_train_steps(
        build_train_step(config, model, penalties, optimizer, phase, devices),
        sequence_length=phase.sequence_length,
        most_steps=_most_steps(config, loader),
        dropout_key=stream_key(config.seed, KeyStream.DROPOUT),
        devices=devices,
    )

    @jax.jit
    def init_carried() -> ModelState:
        carries, rows = loader.carries_state, phase.batch_size
        carried = model.initial_state(rows, phase.carried_context) if carries else ()
        return devices.constrain(carried, BY_ROWS)

    return LengthParts(loader, plan, train_steps, init_carried)


def build_train_step(
    config: Config,
    model: LanguageModel,
    penalties: Penalties | None,
    optimizer: optax.GradientTransformation,
    phase: Phase,
    devices: Devices = ONE_DEVICE,
) -> TrainStep:
    """Build one update with sequences of a phase's length.

    Args:
      config: config of the run.
      model: model to train.
      penalties: result of `build_penalties`.
      optimizer: optimizer for the model's parameters.
      phase: phase of the update.
      devices: devices that train the model.
    """
    if segment := config.train.segment_length:
        model = rematerialize(model, segment_length=segment)
    gradient_of_batch = make_gradient_of_batch(
        model,
        context=phase.carried_context,
        penalties=penalties,
        microbatches=config.train.microbatches,
        devices=devices,
    )
    return make_train_step(
        gradient_of_batch, optimizer, average_decay=config.optimizer.average_decay
    )


def build_penalties(config: Config, symbols: int) -> Penalties | None:
    """Build the penalties that training adds to the loss; None if their weights are 0.

    Args:
      config: config of the run.
      symbols: V, vocabulary size.
    """
    activation, temporal = config.optimizer.activation_penalty, config.optimizer.temporal_penalty
    if activation == temporal == 0.0:
        return None
    read, segment = build_reader(config.model, symbols), config.train.segment_length
    if segment:
        read = in_segments(read, segment_length=segment)
    return Penalties(read, activation, temporal)


def build_optimizer(
    config: Config, total_steps: int
) -> tuple[optax.Schedule, optax.GradientTransformation]:
    """Build the learning rate schedule, and the optimizer that follows it.

    It clips the gradient by its global norm first if `config.optimizer.clip_norm` is above 0.
    """
    rule = config.optimizer
    schedule = make_schedule(
        schedule=rule.schedule,
        learning_rate=rule.learning_rate,
        warmup_steps=rule.warmup_steps,
        final_learning_rate=rule.final_learning_rate,
        decay_fraction=rule.decay_fraction,
        total_steps=total_steps,
    )
    builders: Mapping[str, Callable[..., optax.GradientTransformation]] = {
        "adam": functools.partial(build_adam, epsilon_hat=rule.epsilon_hat),
        "muon": functools.partial(
            build_muon, width=config.model.hidden_size, layers=config.model.layers
        ),
        "schedule_free": build_schedule_free,
    }
    optimizer = lookup(builders, rule.rule, "config.optimizer.rule")(
        schedule,
        beta1=rule.beta1,
        beta2=rule.beta2,
        epsilon=rule.epsilon,
        weight_decay=rule.weight_decay,
    )
    if rule.clip_norm > 0:
        optimizer = optax.chain(optax.clip_by_global_norm(rule.clip_norm), optimizer)
    return schedule, optimizer
