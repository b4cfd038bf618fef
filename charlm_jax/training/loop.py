"""The training loop: read this page first.

A `Trainer` holds the parts of a run, a `TrainState` the arrays that it changes, a `LoopState` what
it has seen so far. The device is always one dispatch ahead of the loop state: the results of one
are read while the next one runs, so that writing them down never keeps the device waiting.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, NoReturn

import jax
import jax.numpy as jnp
import numpy as np

from charlm_jax._version import __version__
from charlm_jax.config.schema import Config
from charlm_jax.core.errors import CharlmError
from charlm_jax.core.signals import Interrupted, deferred_signals
from charlm_jax.core.tree_hash import format_hash
from charlm_jax.core.trees import count_parameters
from charlm_jax.data.dataset import load_dataset, with_absolute_paths
from charlm_jax.data.download import Progress
from charlm_jax.evaluation.scoring import mean_score
from charlm_jax.storage.checkpoint import Checkpoints
from charlm_jax.storage.metrics_log import MetricsLog, metrics_row
from charlm_jax.storage.workdir import Workdir
from charlm_jax.training.environment import differences, environment, lacks_bfloat16_units
from charlm_jax.training.loop_state import NOTHING, LoopState, RunningMean
from charlm_jax.training.nan_replay import write_fault
from charlm_jax.training.progress_bar import IgnoreBrokenPipe, NullProgress, ProgressListener
from charlm_jax.training.restore import init_or_transfer, restore_latest, validate_init_from
from charlm_jax.training.train_step import Dispatch, TrainState, all_finite, checkpointed_params
from charlm_jax.training.trainer import Trainer, build_trainer


class Result(NamedTuple):
    """How a run stands when `train_and_evaluate` returns.

    `best_loss_nats` is None where nothing is held out.
    """

    step: int
    best_loss_nats: float | None
    best_step: int
    stopped_early: bool
    was_done: bool


def train_and_evaluate(
    config: Config,
    workdir: Path | str,
    *,
    fresh: bool = False,
    view: ProgressListener | None = None,
    progress: Progress | None = None,
) -> Result:
    """Train a model as the config says; go on where an earlier call on the workdir stopped.

    Args:
      config: everything that the run depends on.
      workdir: the run's folder; it is made, or it already holds this very run.
      fresh: move a run that is there aside, and begin again.
      view: what is told how training goes.
      progress: told how a download of the text goes.

    Returns:
      Where the run stands: at its last step, or where it stopped early.

    Raises:
      CharlmError: a text, config or workdir that cannot be used; a loss that is not finite.
      Interrupted: SIGINT, SIGTERM or SIGHUP came; the run was saved first.
    """
    view = IgnoreBrokenPipe(view or NullProgress())
    config = with_absolute_paths(config)
    trainer = build_trainer(config, load_dataset(config, progress=progress))
    run_dir = Workdir(workdir)
    validate_init_from(trainer, run_dir, fresh=fresh)
    if fresh and (moved := run_dir.move_aside()):
        view.note(f"moved the run at {run_dir.path} to {moved}")
    with run_dir.held():
        run_dir.refuse_other(config, trainer.dataset)
        state, tally = _start(trainer, run_dir, view)
        was_done = _is_over(trainer, tally)
        if not was_done:
            with deferred_signals() as signal_received:
                again = "the same command" + (" without --fresh" if fresh else "")
                _Loop(trainer, run_dir, view, tally, again).train(state, signal_received)
        stopped_early = tally.step < trainer.total_steps
        run_dir.write_facts(finished="stopped early" if stopped_early else "done")
    return Result(tally.step, tally.best_loss_nats, tally.best_step, stopped_early, was_done)


def _start(
    trainer: Trainer, workdir: Workdir, view: ProgressListener
) -> tuple[TrainState, LoopState]:
    """Where the run stands, and what it writes down about itself before it goes on from there."""
    facts = workdir.read_facts() if workdir.has_something_to_lose() else {}
    resumed = restore_latest(trainer, workdir, view.note)
    if resumed is None:
        _refuse_to_lose_rows(trainer, workdir)
        state, started_from = init_or_transfer(trainer, facts.get("started_from"))
        tally = LoopState()
        facts["started_from"] = started_from
    else:
        state, tally = resumed
    is_over = _is_over(trainer, tally)
    if not is_over:
        MetricsLog(workdir.metrics_file).truncate_after(tally.step)
    workdir.claim(trainer.config, trainer.dataset)
    if is_over:
        return state, tally
    sittings = facts.get("sittings", [])
    if trainer.config.model.precision == "bfloat16" and lacks_bfloat16_units():
        view.note("this processor has no bfloat16 units: config.model.precision=float32 is faster")
    if tally.step:
        view.note(f"going on from step {tally.step} of {trainer.total_steps}")
        before = sittings[-1]["environment"] if sittings else {}
        for change in differences(before, environment()):
            view.note(f"not bit for bit what it would have been without the stop: {change}")
    workdir.write_facts(
        corpus=trainer.config.data.corpus,
        parameters=count_parameters(state.params),
        steps_per_epoch=trainer.steps_per_epoch,
        total_steps=trainer.total_steps,
        started_from=facts.get("started_from"),
        finished=None,
        sittings=[*sittings, {"from_step": tally.step, "environment": environment()}],
    )
    return state, tally


def _refuse_to_lose_rows(trainer: Trainer, workdir: Workdir) -> None:
    """A run without a checkpoint begins again; its rows do not reach beyond the first save."""
    rows = MetricsLog(workdir.metrics_file).rows()
    if not rows:
        return
    first_save = workdir.read_config().train.evaluate_every_steps or trainer.steps_per_epoch
    if rows[-1]["step"] > first_save or workdir.read_facts().get("finished"):
        raise CharlmError(
            f"{workdir.path} has metrics up to step {rows[-1]['step']} but no checkpoint: restore "
            f"{workdir.checkpoints}, or begin again with --fresh"
        )


def _is_over(trainer: Trainer, tally: LoopState) -> bool:
    patience = trainer.config.train.patience
    is_stale = patience > 0 and tally.scores_since_best >= patience
    return is_stale or tally.step >= trainer.total_steps


class _Loop:
    """The loop's moving parts."""

    def __init__(
        self,
        trainer: Trainer,
        workdir: Workdir,
        view: ProgressListener,
        tally: LoopState,
        again: str,
    ) -> None:
        self.again = again  # what to type to go on
        self.trainer, self.workdir, self.view, self.tally = trainer, workdir, view, tally
        self.checkpoints, self.logbook = (
            Checkpoints(workdir.checkpoints),
            MetricsLog(workdir.metrics_file),
        )
        self.ids_N = jnp.asarray(trainer.dataset.ids_N)
        self.pending: tuple[int, Dispatch] | None = None
        self.state_hash = ""
        self.clock = time.monotonic()

    def train(self, state: TrainState, signal_received: Callable[[], int]) -> None:
        """Run to the end, or raise `Interrupted` after saving."""
        trainer, step = self.trainer, self.tally.step
        self.view.begin(step, trainer.total_steps)
        while not _is_over(trainer, self.tally):
            count = trainer.steps_to_next_stop(step)
            state, dispatch = trainer.dispatch(state, self.ids_N, step, count)
            step += count
            self.read_pending(state)
            self.pending = (count, dispatch)
            number = signal_received()
            if number or trainer.stops_at(step):
                self.read_pending(state)
                if not all_finite(state):
                    self.fail(f"step {step}: the parameters or their norm are not finite", state)
                loss_nats = self.evaluate(state) if trainer.stops_at(step) else None
                self.save(state, loss_nats)
            if number and not _is_over(trainer, self.tally):
                raise Interrupted(
                    f"stopped at step {step} of {trainer.total_steps} and saved: "
                    f"{self.again} goes on from there",
                    number,
                )

    def read_pending(self, state: TrainState) -> None:
        """Read the losses of the dispatch before, and write the rows that are due."""
        if self.pending is None:
            self.lap()  # compilation, mostly: part of the run's time, not of its speed
            return
        count, dispatch = self.pending
        self.pending = None
        losses = np.asarray(dispatch.steps.loss_nats, np.float64)[:count]
        characters = np.asarray(dispatch.steps.characters, np.int64)[:count]
        self.refuse_non_finite(losses, np.asarray(dispatch.steps.gradient_norm)[:count], state)
        self.state_hash = format_hash(np.asarray(dispatch.state_hash))
        seen = RunningMean(float(losses @ characters), int(characters.sum()), self.lap())
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

    def refuse_non_finite(self, losses: np.ndarray, norms: np.ndarray, state: TrainState) -> None:
        """Stop at the first step whose loss or gradient is not finite; `state` is that before."""
        bad = np.flatnonzero(~(np.isfinite(losses) & np.isfinite(norms)))
        if bad.size:
            step, loss, norm = self.tally.step + int(bad[0]) + 1, losses[bad[0]], norms[bad[0]]
            self.fail(f"step {step}: the loss is {loss:g}, the gradient's norm {norm:g}", state)

    def fail(self, what: str, state: TrainState) -> NoReturn:
        """Give up; keep the state and the batch of the update that it was to make next."""
        batch = self.trainer.batch(self.ids_N, int(state.step))
        replay = f"charlm replay --workdir={self.workdir.path} names the array that went bad first"
        try:
            write_fault(self.workdir, self.trainer, state, batch)
        except CharlmError as error:
            replay = f"the state before it could not be kept ({error})"
        raise self.diverged(f"{what}; {replay}")

    def diverged(self, what: str) -> CharlmError:
        """The error of a run that cannot go on, with what is left of it."""
        steps = self.checkpoints.steps()
        last = f"checkpoint {steps[-1]} is the last good one" if steps else "nothing was saved yet"
        return CharlmError(
            f"{what}; {last}: lower config.optimizer.learning_rate or set "
            f"config.optimizer.clip_norm, in another --workdir"
        )

    def evaluate(self, state: TrainState) -> float | None:
        """Score the held-out text if there is any, write the rows, remember the best.

        Where an average of the weights is kept, its score is the one that counts.
        """
        dataset, tally = self.trainer.dataset, self.tally
        if "valid" not in dataset.parts:
            return None
        kinds = {"raw": state.params}
        if state.average:
            kinds["average"] = state.average
        for weights, params in kinds.items():
            score = mean_score(self.trainer.score(params, self.ids_N, dataset.part("valid")))
            seen = RunningMean(score.loss_nats * score.characters, score.characters, self.lap())
            if not np.isfinite(score.loss_nats):
                raise self.diverged(f"step {tally.step}: the held-out loss is {score.loss_nats:g}")
            scope = "epoch" if self.trainer.ends_epoch(tally.step) else "step"
            self.write_row("valid", scope, seen, weights)
        tally.add_score(score.loss_nats)
        return score.loss_nats

    def write_row(self, split: str, scope: str, seen: RunningMean, weights: str = "raw") -> None:
        """Append a row to the metrics, and show it."""
        row = metrics_row(
            step=self.tally.step,
            epoch=(self.tally.step - 1) // self.trainer.steps_per_epoch + 1,
            split=split,
            scope=scope,
            weights=weights,
            loss_nats=seen.mean_nats,
            learning_rate=float(self.trainer.schedule(self.tally.step - 1)),
            state_hash=self.state_hash,
            chars_per_second=seen.chars_per_second,
            seconds=self.tally.seconds,
        )
        self.logbook.append(row)
        self.view.row(row)

    def save(self, state: TrainState, loss_nats: float | None) -> None:
        """Write a checkpoint of this step."""
        meta = {
            "charlm_jax": __version__,
            "jax": jax.__version__,
            "config": self.trainer.config.to_dict(),
            "fingerprint": self.trainer.dataset.fingerprint,
            "tally": self.tally.to_json(),
        }
        self.checkpoints.save(
            self.tally.step,
            params=checkpointed_params(state),
            training=(state.step, state.opt_state, state.carried),
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
