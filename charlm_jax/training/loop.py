"""The training loop: start reading here.

A `Trainer` holds the parts of a run, a `TrainState` the arrays that it changes, a `LoopState` its
progress. Between evaluations the device is one dispatch ahead of the loop state: the results of one
dispatch are read while the next one runs, so that logging does not stall the device.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import jax
import jax.numpy as jnp
import numpy as np

from charlm_jax._version import __version__
from charlm_jax.config.loading import ConfigSource
from charlm_jax.config.schema import Config
from charlm_jax.core.errors import CharlmError
from charlm_jax.core.numerics import fixed_numerics
from charlm_jax.core.signals import Interrupted, deferred_signals
from charlm_jax.core.tree_hash import format_hash
from charlm_jax.core.trees import count_parameters
from charlm_jax.data.dataset import load_dataset, with_absolute_paths
from charlm_jax.data.download import Progress
from charlm_jax.evaluation.scoring import mean_score
from charlm_jax.inference.trained_model import TrainedModel
from charlm_jax.models.mixers import describe_mixers
from charlm_jax.sampling.params import SamplingParams
from charlm_jax.storage.metrics_log import metrics_row
from charlm_jax.storage.mixer_sources import recorded_mixers, source_changes
from charlm_jax.storage.open_run import OpenRun, open_run
from charlm_jax.storage.workdir import Workdir
from charlm_jax.training.environment import differences, environment, lacks_bfloat16_units
from charlm_jax.training.loop_state import NOTHING, LoopState, RunningMean
from charlm_jax.training.nan_replay import write_fault
from charlm_jax.training.progress_bar import ProgressListener, ignore_broken_pipe
from charlm_jax.training.restore import InitialParams, restore_or_init, validate_init_from
from charlm_jax.training.train_step import Dispatch, TrainState, all_finite, checkpointed_params
from charlm_jax.training.trainer import Trainer, build_trainer

# Samples shown during training.
_SAMPLING, _SAMPLE_LENGTH = SamplingParams(scale=1.5, seed=1), 200


class Result(NamedTuple):
    """Status of a run when `train_and_evaluate` returns.

    `best_loss_nats` is None if no text is held out.
    """

    step: int
    best_loss_nats: float | None
    best_step: int
    stopped_early: bool
    was_done: bool


@fixed_numerics()
def train_and_evaluate(
    config: Config,
    workdir: Path | str,
    *,
    fresh: bool = False,
    view: ProgressListener | None = None,
    progress: Progress | None = None,
    source: ConfigSource | None = None,
) -> Result:
    """Train a model as configured, resuming an earlier run in the workdir.

    Args:
      config: all settings of the run.
      workdir: the run's folder, which is created or already holds this very run.
      fresh: move an existing run aside and begin again.
      view: listener for the progress of training.
      progress: callback for the progress of a text download.
      source: origin of the config, if it was loaded; `run.json` records it.

    Returns:
      The status of the run at its last step, or at the step where it stopped early.

    Raises:
      CharlmError: the text, config or workdir cannot be used, or a loss is not finite.
      Interrupted: SIGINT, SIGTERM or SIGHUP was received; the run was saved first.
    """
    view = ignore_broken_pipe(view)
    config = with_absolute_paths(config)
    trainer = build_trainer(config, load_dataset(config, progress=progress))
    run_dir = Workdir(workdir)
    initial = validate_init_from(trainer, run_dir, fresh=fresh)
    if fresh and (moved := run_dir.move_aside()):
        view.note(f"moved the run at {run_dir.path} to {moved}")
        if (link := Workdir(moved).checkpoints).is_symlink():
            view.note(
                f"its checkpoints stay in {link.resolve()}; those of the new run are in its own "
                f"folder"
            )
    with open_run(run_dir, config, trainer.dataset) as run:
        recorded = _source_facts(source, config, run.recorded_config)
        state, loop_state = _start(trainer, run, initial, view, recorded)
        del initial  # a copy of the weights
        was_done = _is_over(trainer, loop_state)
        if not was_done:
            with deferred_signals() as signal_received:
                again = "the same command " + ("without --fresh" if fresh else "again")
                _Loop(trainer, run, view, loop_state, again).train(state, signal_received)
        stopped_early = loop_state.step < trainer.total_steps
        run.write_facts(finished="stopped early" if stopped_early else "done", **recorded)
    return Result(
        step=loop_state.step,
        best_loss_nats=loop_state.best_loss_nats,
        best_step=loop_state.best_step,
        stopped_early=stopped_early,
        was_done=was_done,
    )


def _source_facts(
    source: ConfigSource | None, config: Config, recorded_config: Config | None
) -> dict[str, Any]:
    """Return the updates of `run.json` for a config's source; None for absent facts."""
    if source is None and config == recorded_config:
        return {}
    if source is None:
        return {"config_spec": None, "point": None, "overrides": None}
    spec, point, overrides = source.with_absolute_paths(config)
    return {
        "config_spec": spec,
        "point": list(point) or None,
        "overrides": list(overrides) or None,
    }


def _start(
    trainer: Trainer,
    run: OpenRun,
    initial: InitialParams | None,
    view: ProgressListener,
    recorded: dict[str, Any],
) -> tuple[TrainState, LoopState]:
    """Restore or begin a run, and record its facts before training starts."""
    state, loop_state, started_from = restore_or_init(trainer, run, initial, view.note)
    is_over = _is_over(trainer, loop_state)
    if not is_over:
        run.metrics.truncate_after(loop_state.step)
    run.claim(trainer.config, trainer.dataset)
    if is_over:
        return state, loop_state
    mixers = describe_mixers(trainer.config.model)
    sessions = run.facts.get("sessions", [])
    if trainer.config.model.precision == "bfloat16" and lacks_bfloat16_units():
        view.note("this processor has no bfloat16 units: config.model.precision=float32 is faster")
    if loop_state.step:
        view.note(f"resuming from step {loop_state.step} of {trainer.total_steps}")
        before = sessions[-1]["environment"] if sessions else {}
        for change in differences(before, environment()):
            view.note(f"may not be bit-for-bit equal to an uninterrupted run: {change}")
        for change in source_changes(recorded_mixers(run.workdir, trainer.config.model), mixers):
            view.note(f"may not be equal to an uninterrupted run: {change}")
    session = {"from_step": loop_state.step, "environment": environment()}
    listed = [mixer._asdict() for mixer in mixers]
    run.write_facts(
        **recorded,
        corpus=trainer.config.data.corpus,
        parameters=count_parameters(state.params),
        steps_per_epoch=trainer.steps_per_epoch,
        total_steps=trainer.total_steps,
        started_from=started_from,
        finished=None,
        sessions=[*sessions, session | ({"mixers": listed} if listed else {})],
        mixers=listed or None,
    )
    return state, loop_state


def _is_over(trainer: Trainer, loop_state: LoopState) -> bool:
    patience = trainer.config.train.patience
    is_stale = patience > 0 and loop_state.scores_since_best >= patience
    return is_stale or loop_state.step >= trainer.total_steps


class _Loop:
    """Mutable state of the training loop."""

    def __init__(
        self,
        trainer: Trainer,
        run: OpenRun,
        view: ProgressListener,
        loop_state: LoopState,
        again: str,
    ) -> None:
        self.trainer = trainer
        self.run = run
        self.view = view
        self.loop_state = loop_state
        self.again = again  # command that resumes the run
        self.ids_N = jnp.asarray(trainer.dataset.ids_N)
        self.pending: tuple[int, Dispatch] | None = None
        self.state_hash = ""
        self.clock = time.monotonic()

    def train(self, state: TrainState, signal_received: Callable[[], int]) -> None:
        """Train to the end, or save and raise `Interrupted`."""
        trainer, step = self.trainer, self.loop_state.step
        self.view.begin(step, trainer.total_steps)
        while not _is_over(trainer, self.loop_state):
            count = trainer.steps_to_next_stop(step)
            state, dispatch = trainer.dispatch(state, self.ids_N, step, count)
            step += count
            self.read_pending(state)
            self.pending = (count, dispatch)
            number = signal_received()
            if number or trainer.stops_at(step) or trainer.samples_at(step):
                self.read_pending(state)
                if not all_finite(state):
                    self.fail(f"step {step}: the parameters or their norm are not finite", state)
            if trainer.samples_at(step):
                self.sample(state)
            if number or trainer.stops_at(step):
                loss_nats = self.evaluate(state) if trainer.stops_at(step) else None
                self.save(state, loss_nats)
            if number and not _is_over(trainer, self.loop_state):
                raise Interrupted(
                    f"stopped at step {step} of {trainer.total_steps} and saved; "
                    f"run {self.again} to resume",
                    number,
                )

    def read_pending(self, state: TrainState) -> None:
        """Read the losses of the previous dispatch, and write the rows that are due."""
        if self.pending is None:
            self.lap()  # after a start it is mostly compilation, which is not part of the speed
            return
        count, dispatch = self.pending
        self.pending = None
        losses = np.asarray(dispatch.steps.loss_nats, np.float64)[:count]
        characters = np.asarray(dispatch.steps.characters, np.int64)[:count]
        self.refuse_non_finite(losses, np.asarray(dispatch.steps.gradient_norm)[:count], state)
        self.state_hash = format_hash(np.asarray(dispatch.state_hash))
        seen = RunningMean(float(losses @ characters), int(characters.sum()), self.lap())
        loop_state = self.loop_state
        loop_state.step += count
        loop_state.window = loop_state.window.plus(seen)
        loop_state.epoch = loop_state.epoch.plus(seen)
        self.view.advance(loop_state.step, seen.mean_nats, seen.chars_per_second)
        if loop_state.step % self.trainer.config.train.log_every_steps == 0:
            self.write_row("train", "step", loop_state.window)
            loop_state.window = NOTHING
        if self.trainer.ends_epoch(loop_state.step):
            self.write_row("train", "epoch", loop_state.epoch)
            loop_state.epoch = NOTHING

    def refuse_non_finite(self, losses: np.ndarray, norms: np.ndarray, state: TrainState) -> None:
        """Fail at the first step whose loss or gradient is not finite; `state` precedes it."""
        bad = np.flatnonzero(~(np.isfinite(losses) & np.isfinite(norms)))
        if bad.size:
            step, loss, norm = self.loop_state.step + int(bad[0]) + 1, losses[bad[0]], norms[bad[0]]
            self.fail(f"step {step}: the loss is {loss:g}, the gradient norm {norm:g}", state)

    def fail(self, what: str, state: TrainState) -> NoReturn:
        """Raise an error, after saving the state and the batch of the next update."""
        batch = self.trainer.batch(self.ids_N, int(state.step))
        workdir = self.run.workdir
        replay = f"charlm replay --workdir={workdir.path} names the first array that is not finite"
        try:
            write_fault(workdir, self.trainer, state, batch)
        except CharlmError as error:
            replay = f"the state before it could not be saved ({error})"
        raise self.diverged(f"{what}; {replay}")

    def diverged(self, what: str) -> CharlmError:
        """Return the error of a run that diverged, which names its last good checkpoint."""
        steps = self.run.checkpoints.steps()
        last = (
            f"checkpoint {steps[-1]} is the last good one" if steps else "no checkpoint was saved"
        )
        return CharlmError(
            f"{what}; {last}: lower config.optimizer.learning_rate or set "
            f"config.optimizer.clip_norm, in another --workdir"
        )

    def evaluate(self, state: TrainState) -> float | None:
        """Score the held-out text, if any, write the rows and track the best loss.

        If an average of the weights is kept, its score is the one that counts.
        """
        dataset, loop_state = self.trainer.dataset, self.loop_state
        if "valid" not in dataset.parts:
            return None
        kinds = {"raw": state.params}
        if state.average:
            kinds["average"] = state.average
        for weights, params in kinds.items():
            score = mean_score(self.trainer.score(params, self.ids_N, dataset.part("valid")))
            seen = RunningMean(score.loss_nats * score.characters, score.characters, self.lap())
            if not np.isfinite(score.loss_nats):
                what = f"step {loop_state.step}: the held-out loss is {score.loss_nats:g}"
                raise self.diverged(what)
            scope = "epoch" if self.trainer.ends_epoch(loop_state.step) else "step"
            self.write_row("valid", scope, seen, weights)
        loop_state.add_score(score.loss_nats)  # of the average, the last of `kinds`, if one is kept
        return score.loss_nats

    def sample(self, state: TrainState) -> None:
        """Show a text sampled from the weights; its prompt and noise are the same every time."""
        trainer, dataset = self.trainer, self.trainer.dataset
        params = state.average or state.params
        model = TrainedModel(trainer.config, dataset.vocabulary, trainer.model, params)
        text = model.generate(dataset.vocabulary.symbols[0], _SAMPLING, characters=_SAMPLE_LENGTH)
        self.view.sample(self.loop_state.step, text)
        self.lap()

    def write_row(self, split: str, scope: str, seen: RunningMean, weights: str = "raw") -> None:
        """Append a row to the metrics, and show it."""
        row = metrics_row(
            step=self.loop_state.step,
            epoch=(self.loop_state.step - 1) // self.trainer.steps_per_epoch + 1,
            split=split,
            scope=scope,
            weights=weights,
            loss_nats=seen.mean_nats,
            learning_rate=float(self.trainer.schedule(self.loop_state.step - 1)),
            state_hash=self.state_hash,
            chars_per_second=seen.chars_per_second,
            seconds=self.loop_state.seconds,
        )
        self.run.metrics.append(row)
        self.view.row(row)

    def save(self, state: TrainState, loss_nats: float | None) -> None:
        """Write a checkpoint of this step."""
        meta = {
            "charlm_jax": __version__,
            "jax": jax.__version__,
            "config": self.trainer.config.to_dict(),
            "fingerprint": self.trainer.dataset.fingerprint,
            "tally": self.loop_state.to_json(),
        }
        self.run.checkpoints.save(
            self.loop_state.step,
            params=checkpointed_params(state),
            training=(state.step, state.opt_state, state.carried),
            meta=meta,
            loss_nats=loss_nats,
        )
        self.lap()

    def lap(self) -> float:
        """Return the seconds since the last call; every second of the run is counted once."""
        now = time.monotonic()
        seconds, self.clock = now - self.clock, now
        self.loop_state.seconds += seconds
        return seconds
