"""The training loop: read this page first.

    dataset   the text of the config, encoded and split
    model     four pure functions
    loader    an epoch's plan from a key: where every row of every batch starts
    dispatch  up to `steps_per_dispatch` updates in one jitted call
    tally     what the run has seen so far, on the host; it is saved with every checkpoint

Dispatches end at multiples of their length, at rows to log, at evaluations and at the end of an
epoch; their results are read while the next one runs.
"""

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from charlm_jax import __version__
from charlm_jax.batches import Loader, build_loader
from charlm_jax.checkpoint import Checkpoints
from charlm_jax.config import Config
from charlm_jax.console import Silent, View
from charlm_jax.corpora import Progress
from charlm_jax.dataset import Dataset, load_dataset
from charlm_jax.evaluate import Scorer, make_window_scorer, mean_score
from charlm_jax.interrupts import Interrupted, deferred_signals
from charlm_jax.logbook import Logbook, metrics_row
from charlm_jax.models import LanguageModel, build_model
from charlm_jax.optim import build_optimizer, make_schedule
from charlm_jax.randomness import Stream, stream_key
from charlm_jax.train_step import (
    StepMetrics,
    TrainState,
    TrainSteps,
    init_state,
    make_train_step,
    make_train_steps,
)
from charlm_jax.types import CharlmError
from charlm_jax.workdir import Workdir


class Sum(NamedTuple):
    """A running sum of losses."""

    nats: float = 0.0
    characters: int = 0

    def plus(self, nats: float, characters: int) -> "Sum":
        return Sum(self.nats + nats, self.characters + characters)

    @property
    def mean(self) -> float:
        return self.nats / self.characters


@dataclasses.dataclass
class Tally:
    """What a run has seen so far.

    Attributes:
      step: updates that are accounted for.
      epoch: loss over the current epoch's characters.
      window: loss since the last `step` row.
      window_seconds: time spent training since then.
      seconds: wall-clock time of the run, earlier sittings included.
      best_loss_nats: lowest held-out loss, None before the first.
      best_step: where that was.
    """

    step: int = 0
    epoch: Sum = Sum()
    window: Sum = Sum()
    window_seconds: float = 0.0
    epoch_seconds: float = 0.0
    seconds: float = 0.0
    best_loss_nats: float | None = None
    best_step: int = 0

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Tally":
        tally = cls(**values)
        tally.epoch, tally.window = Sum(*values["epoch"]), Sum(*values["window"])
        return tally


class Trainer(NamedTuple):
    """The parts of a run that follow from its config and text."""

    config: Config
    dataset: Dataset
    model: LanguageModel
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    loader: Loader
    train_steps: TrainSteps
    score: Scorer
    total_steps: int


class Result(NamedTuple):
    """How a run stands when `train_and_evaluate` returns.

    `best_loss_nats` is None where nothing is held out.
    """

    step: int
    best_loss_nats: float | None
    best_step: int
    was_done: bool


def build_trainer(config: Config, dataset: Dataset) -> Trainer:
    """Put a run together; every name in the config is looked up here, before anything compiles."""
    data, rate = config.data, config.optimizer
    model = build_model(config.model, len(dataset.vocabulary))
    loader = build_loader(
        data.loader,
        characters=len(dataset.part("train")),
        sequence_length=data.sequence_length,
        batch_size=data.batch_size,
    )
    total_steps = config.train.epochs * loader.steps_per_epoch
    if config.train.max_steps:
        total_steps = min(total_steps, config.train.max_steps)
    schedule = make_schedule(
        schedule=rate.schedule,
        learning_rate=rate.learning_rate,
        warmup_steps=rate.warmup_steps,
        final_learning_rate=rate.final_learning_rate,
        total_steps=total_steps,
    )
    optimizer = build_optimizer(
        schedule,
        beta1=rate.beta1,
        beta2=rate.beta2,
        epsilon=rate.epsilon,
        clip_norm=rate.clip_norm,
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
        config, dataset, model, optimizer, schedule, loader, train_steps, score, total_steps
    )


def fresh_state(trainer: Trainer) -> TrainState:
    """The state at step 0."""
    key = stream_key(trainer.config.seed, Stream.PARAMETERS)
    return jax.jit(lambda key: init_state(trainer.model, trainer.optimizer, key))(key)


def train_and_evaluate(
    config: Config,
    workdir: Path | str,
    *,
    view: View | None = None,
    progress: Progress | None = None,
) -> Result:
    """Train a model as the config says; go on where an earlier call on the workdir stopped.

    Args:
      config: everything that the run depends on.
      workdir: the run's folder; it is made, or it already holds this very run.
      view: what is told how training goes.
      progress: told how a download of the text goes.

    Returns:
      Where the run stands: at its last step.

    Raises:
      CharlmError: a text, config or workdir that cannot be used; a loss that is not finite.
      Interrupted: SIGINT or SIGTERM came; the run was saved first.
    """
    view = view or Silent()
    trainer = build_trainer(config, load_dataset(config, progress=progress))
    place = Workdir(workdir)
    place.claim(config, trainer.dataset)
    with Checkpoints(place.checkpoints) as checkpoints:
        state, tally = _start(trainer, checkpoints)
        logbook = Logbook(place.metrics_file)
        if tally.step >= trainer.total_steps:
            return Result(tally.step, tally.best_loss_nats, tally.best_step, was_done=True)
        logbook.keep_up_to(tally.step)
        if tally.step:
            view.note(f"going on from step {tally.step} of {trainer.total_steps}")
        with deferred_signals() as interruption:
            run = _Run(trainer, checkpoints, logbook, view, tally)
            run.train(state, interruption)
        return Result(tally.step, tally.best_loss_nats, tally.best_step, was_done=False)


def _start(trainer: Trainer, checkpoints: Checkpoints) -> tuple[TrainState, Tally]:
    """The latest checkpoint's state and tally, or fresh ones."""
    if not checkpoints.steps():
        return fresh_state(trainer), Tally()
    step = checkpoints.choose("latest")
    meta = checkpoints.read_meta(step)
    if meta["fingerprint"] != trainer.dataset.fingerprint:
        raise CharlmError(f"checkpoint {step} was trained on another text: choose another --workdir")
    like = jax.eval_shape(lambda: fresh_state(trainer))
    params = checkpoints.restore(step, "params", like.params)
    training = checkpoints.restore(step, "training", like._replace(params=()))
    state = jax.tree.map(jnp.array, training._replace(params=params))
    return state, Tally.from_json(meta["tally"])


class _Run:
    """The loop's moving parts. The device is always one dispatch ahead of the tally."""

    def __init__(
        self,
        trainer: Trainer,
        checkpoints: Checkpoints,
        logbook: Logbook,
        view: View,
        tally: Tally,
    ) -> None:
        self.trainer, self.config = trainer, trainer.config
        self.checkpoints, self.logbook, self.view = checkpoints, logbook, view
        self.tally = tally
        self.ids_N = jnp.asarray(trainer.dataset.ids_N)
        self.clock = time.monotonic()
        self.pending: tuple[int, StepMetrics] | None = None

    def train(self, state: TrainState, interruption: Any) -> None:
        """Run to the last step, or raise `Interrupted` after saving."""
        step, total_steps = self.tally.step, self.trainer.total_steps
        per_epoch = self.trainer.loader.steps_per_epoch
        order_key = stream_key(self.config.seed, Stream.ORDER)
        self.view.begin(step, total_steps)
        planned_epoch, plan = -1, None
        while step < total_steps:
            epoch, first = divmod(step, per_epoch)
            if epoch != planned_epoch:
                plan = self.trainer.loader.plan(jax.random.fold_in(order_key, epoch))
                planned_epoch = epoch
            count = self._steps_to_next_stop(step)
            state, metrics = self.trainer.train_steps(state, self.ids_N, plan, first, count)
            step += count
            self._account()
            self.pending = (count, metrics)
            stop = interruption()
            if stop or self._is_landmark(step):
                self._account()
                loss_nats = self._evaluate(state.params) if self._evaluates_at(step) else None
                self._save(state, loss_nats)
            if stop and step < total_steps:
                raise Interrupted(
                    f"stopped at step {step} of {total_steps}, saved: "
                    f"the same command goes on from there",
                    stop,
                )

    def _steps_to_next_stop(self, step: int) -> int:
        """Dispatches are cut at multiples of these, never where a run happened to stop before."""
        train = self.config.train
        every = [
            train.steps_per_dispatch,
            train.log_every_steps,
            train.evaluate_every_steps,
            self.trainer.loader.steps_per_epoch,
        ]
        ahead = min(n - step % n for n in every if n)
        return min(ahead, self.trainer.total_steps - step)

    def _is_landmark(self, step: int) -> bool:
        """Whether a checkpoint is due: the end of an epoch or of the run, or an evaluation."""
        return (
            step % self.trainer.loader.steps_per_epoch == 0
            or step == self.trainer.total_steps
            or self._evaluates_at(step)
        )

    def _evaluates_at(self, step: int) -> bool:
        if "valid" not in self.trainer.dataset.parts:
            return False
        every = self.config.train.evaluate_every_steps
        ends = step % self.trainer.loader.steps_per_epoch == 0 or step == self.trainer.total_steps
        return ends or (every > 0 and step % every == 0)

    def _account(self) -> None:
        """Read the pending dispatch's losses, write the rows that are due."""
        if self.pending is None:
            self._lap()  # compilation, mostly: part of the run's time, not of its speed
            return
        count, metrics = self.pending
        self.pending = None
        losses = np.asarray(metrics.loss_nats, np.float64)[:count]
        characters = np.asarray(metrics.characters, np.int64)[:count]
        norms = np.asarray(metrics.gradient_norm)[:count]
        self._refuse_non_finite(losses, norms)
        tally = self.tally
        tally.step += count
        nats, total = float(losses @ characters), int(characters.sum())
        tally.window, tally.epoch = tally.window.plus(nats, total), tally.epoch.plus(nats, total)
        seconds = self._lap()
        tally.window_seconds += seconds
        tally.epoch_seconds += seconds
        self.view.advance(tally.step, nats / total, total / max(seconds, 1e-9))
        if tally.step % self.config.train.log_every_steps == 0:
            self._row("train", "step", tally.window, tally.window_seconds)
            tally.window, tally.window_seconds = Sum(), 0.0
        if tally.step % self.trainer.loader.steps_per_epoch == 0:
            self._row("train", "epoch", tally.epoch, tally.epoch_seconds)
            tally.epoch, tally.epoch_seconds = Sum(), 0.0

    def _refuse_non_finite(self, losses: np.ndarray, norms: np.ndarray) -> None:
        bad = np.flatnonzero(~(np.isfinite(losses) & np.isfinite(norms)))
        if not bad.size:
            return
        steps = self.checkpoints.steps()
        last = f"checkpoint {steps[-1]} is the last good one" if steps else "nothing was saved yet"
        step = self.tally.step + int(bad[0]) + 1
        raise CharlmError(
            f"step {step}: the loss is {losses[bad[0]]:g} and the gradient's norm "
            f"{norms[bad[0]]:g}; {last}: lower config.optimizer.learning_rate or set "
            f"config.optimizer.clip_norm"
        )

    def _evaluate(self, params: Any) -> float:
        nll_N = self.trainer.score(params, self.ids_N, self.trainer.dataset.part("valid"))
        result, seconds = mean_score(nll_N), self._lap()
        ends_epoch = self.tally.step % self.trainer.loader.steps_per_epoch == 0
        nats = Sum(result.loss_nats * result.characters, result.characters)
        self._row("valid", "epoch" if ends_epoch else "step", nats, seconds)
        best = self.tally.best_loss_nats
        if best is None or result.loss_nats < best:
            self.tally.best_loss_nats, self.tally.best_step = result.loss_nats, self.tally.step
        return result.loss_nats

    def _row(self, split: str, scope: str, loss: Sum, seconds: float) -> None:
        tally = self.tally
        row = metrics_row(
            step=tally.step,
            epoch=(tally.step - 1) // self.trainer.loader.steps_per_epoch + 1,
            split=split,
            scope=scope,
            loss_nats=loss.mean,
            learning_rate=float(self.trainer.schedule(tally.step - 1)),
            chars_per_second=loss.characters / max(seconds, 1e-9),
            seconds=tally.seconds,
        )
        self.logbook.append(row)
        self.view.row(row)

    def _save(self, state: TrainState, loss_nats: float | None) -> None:
        meta = {
            "charlm_jax": __version__,
            "jax": jax.__version__,
            "config": self.config.to_dict(),
            "fingerprint": self.trainer.dataset.fingerprint,
            "tally": self.tally.to_json(),
        }
        self.checkpoints.save(
            self.tally.step,
            params=state.params,
            training=state._replace(params=()),
            meta=meta,
            loss_nats=loss_nats,
        )
        self._lap()

    def _lap(self) -> float:
        """Seconds since the last call; every second of the run is counted once."""
        now = time.monotonic()
        seconds, self.clock = now - self.clock, now
        self.tally.seconds += seconds
        return seconds
