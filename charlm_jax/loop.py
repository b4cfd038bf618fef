"""The training loop: read this page first.

A `Trainer` holds the parts of a run, a `TrainState` the arrays that it changes, a `Tally` what it
has seen so far. The device is always one dispatch ahead of the tally: the results of one are read
while the next one runs, so that writing them down never keeps the device waiting.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from charlm_jax import __version__
from charlm_jax.checkpoint import Checkpoints
from charlm_jax.config import Config
from charlm_jax.console import Silent, View
from charlm_jax.corpora import absolute_spec
from charlm_jax.dataset import load_dataset
from charlm_jax.download import Progress
from charlm_jax.evaluate import mean_score
from charlm_jax.interrupts import Interrupted, deferred_signals
from charlm_jax.logbook import Logbook, metrics_row
from charlm_jax.tally import NOTHING, Sum, Tally
from charlm_jax.train_step import StepMetrics, TrainState
from charlm_jax.trainer import Trainer, build_trainer, fresh_state
from charlm_jax.types import CharlmError, Params
from charlm_jax.workdir import Workdir


class Result(NamedTuple):
    """How a run stands when `train_and_evaluate` returns.

    `best_loss_nats` is None where nothing is held out.
    """

    step: int
    best_loss_nats: float | None
    best_step: int
    was_done: bool


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
    config = config.with_corpus(absolute_spec(config.data.corpus))
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
        with deferred_signals() as signal_received:
            _Run(trainer, checkpoints, logbook, view, tally).train(state, signal_received)
        return Result(tally.step, tally.best_loss_nats, tally.best_step, was_done=False)


def _start(trainer: Trainer, checkpoints: Checkpoints) -> tuple[TrainState, Tally]:
    """The latest checkpoint's state and tally, or fresh ones."""
    if not checkpoints.steps():
        return fresh_state(trainer), Tally()
    step = checkpoints.choose("latest")
    meta = checkpoints.read_meta(step)
    if meta["fingerprint"] != trainer.dataset.fingerprint:
        raise CharlmError(
            f"checkpoint {step} was trained on another text: choose another --workdir"
        )
    like = jax.eval_shape(lambda: fresh_state(trainer))
    params = checkpoints.restore(step, "params", like.params)
    count, opt_state = checkpoints.restore(step, "training", (like.step, like.opt_state))
    state = jax.tree.map(jnp.array, TrainState(count, params, opt_state))
    return state, Tally.from_json(meta["tally"])


class _Run:
    """The loop's moving parts."""

    def __init__(
        self,
        trainer: Trainer,
        checkpoints: Checkpoints,
        logbook: Logbook,
        view: View,
        tally: Tally,
    ) -> None:
        self.trainer, self.tally = trainer, tally
        self.checkpoints, self.logbook, self.view = checkpoints, logbook, view
        self.ids_N = jnp.asarray(trainer.dataset.ids_N)
        train = trainer.dataset.part("train")
        self.train_ids_N = self.ids_N[train.start : train.stop]
        self.pending: tuple[int, StepMetrics] | None = None
        self.clock = time.monotonic()

    def train(self, state: TrainState, signal_received: Callable[[], int]) -> None:
        """Run to the last step, or raise `Interrupted` after saving."""
        trainer, step = self.trainer, self.tally.step
        self.view.begin(step, trainer.total_steps)
        while step < trainer.total_steps:
            epoch, first = divmod(step, trainer.steps_per_epoch)
            plan, count = trainer.plan(epoch), trainer.steps_to_next_stop(step)
            state, metrics = trainer.train_steps(state, self.train_ids_N, plan, first, count)
            step += count
            self.read_pending()
            self.pending = (count, metrics)
            number = signal_received()
            if number or trainer.saves_at(step) or trainer.evaluates_at(step):
                self.read_pending()
                loss_nats = self.evaluate(state.params) if trainer.evaluates_at(step) else None
                if number or trainer.saves_at(step) or step == self.tally.best_step:
                    self.save(state, loss_nats)
            if number and step < trainer.total_steps:
                raise Interrupted(
                    f"stopped at step {step} of {trainer.total_steps} and saved: "
                    f"the same command goes on from there",
                    number,
                )

    def read_pending(self) -> None:
        """Read the losses of the dispatch before, and write the rows that are due."""
        if self.pending is None:
            self.lap()  # compilation, mostly: part of the run's time, not of its speed
            return
        count, metrics = self.pending
        self.pending = None
        losses = np.asarray(metrics.loss_nats, np.float64)[:count]
        characters = np.asarray(metrics.characters, np.int64)[:count]
        self.refuse_non_finite(losses, np.asarray(metrics.gradient_norm)[:count])
        seen = Sum(float(losses @ characters), int(characters.sum()), self.lap())
        tally = self.tally
        tally.step += count
        tally.window, tally.epoch = tally.window.plus(seen), tally.epoch.plus(seen)
        self.view.advance(tally.step, seen.mean_nats, seen.chars_per_second)
        if tally.step % self.trainer.config.train.log_every_steps == 0:
            self.write_row("train", "step", tally.window)
            tally.window = NOTHING
        if self.trainer.ends_epoch(tally.step):
            self.write_row("train", "epoch", tally.epoch)
            tally.epoch = NOTHING

    def refuse_non_finite(self, losses: np.ndarray, norms: np.ndarray) -> None:
        """Stop at the first step whose loss or gradient is not finite."""
        bad = np.flatnonzero(~(np.isfinite(losses) & np.isfinite(norms)))
        if bad.size:
            step, loss, norm = self.tally.step + int(bad[0]) + 1, losses[bad[0]], norms[bad[0]]
            raise self.diverged(f"step {step}: the loss is {loss:g}, the gradient's norm {norm:g}")

    def diverged(self, what: str) -> CharlmError:
        """The error of a run that cannot go on, with what is left of it."""
        steps = self.checkpoints.steps()
        last = f"checkpoint {steps[-1]} is the last good one" if steps else "nothing was saved yet"
        return CharlmError(
            f"{what}; {last}: lower config.optimizer.learning_rate or set "
            f"config.optimizer.clip_norm, in another --workdir"
        )

    def evaluate(self, params: Params) -> float:
        """Score the held-out text, write the row, remember the best."""
        tally = self.tally
        score = mean_score(
            self.trainer.score(params, self.ids_N, self.trainer.dataset.part("valid"))
        )
        seen = Sum(score.loss_nats * score.characters, score.characters, self.lap())
        if not np.isfinite(score.loss_nats):
            raise self.diverged(f"step {tally.step}: the held-out loss is {score.loss_nats:g}")
        self.write_row("valid", "epoch" if self.trainer.ends_epoch(tally.step) else "step", seen)
        if tally.best_loss_nats is None or score.loss_nats < tally.best_loss_nats:
            tally.best_loss_nats, tally.best_step = score.loss_nats, tally.step
        return score.loss_nats

    def write_row(self, split: str, scope: str, seen: Sum) -> None:
        """Append a row to the metrics, and show it."""
        row = metrics_row(
            step=self.tally.step,
            epoch=(self.tally.step - 1) // self.trainer.steps_per_epoch + 1,
            split=split,
            scope=scope,
            loss_nats=seen.mean_nats,
            learning_rate=float(self.trainer.schedule(self.tally.step - 1)),
            chars_per_second=seen.chars_per_second,
            seconds=self.tally.seconds,
        )
        self.logbook.append(row)
        self.view.row(row)

    def save(self, state: TrainState, loss_nats: float | None) -> None:
        """Write a checkpoint of this step, unless its last update ruined the parameters."""
        if not np.isfinite(optax.tree.norm(state.params)):
            raise self.diverged(f"step {self.tally.step}: a parameter is not finite")
        meta = {
            "charlm_jax": __version__,
            "jax": jax.__version__,
            "config": self.trainer.config.to_dict(),
            "fingerprint": self.trainer.dataset.fingerprint,
            "tally": self.tally.to_json(),
        }
        self.checkpoints.save(
            self.tally.step,
            params=state.params,
            training=(state.step, state.opt_state),
            meta=meta,
            loss_nats=loss_nats,
        )
        self.lap()

    def lap(self) -> float:
        """Seconds since the last call; every second of the run is counted once."""
        now = time.monotonic()
        seconds, self.clock = now - self.clock, now
        self.tally.seconds += seconds
        return seconds
