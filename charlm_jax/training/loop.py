"""The training loop: start reading here.

A `Trainer` holds the parts of a run, a `TrainState` the arrays that it changes, a `LoopState` its
progress. Between evaluations the device is one dispatch ahead of the loop state: the results of one
dispatch are read while the next one runs, so that logging does not stall the device.
"""

import contextlib
import json
import shlex
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import jax
import numpy as np

from charlm_jax._version import __version__
from charlm_jax.config.loading import ConfigSource
from charlm_jax.config.schema import Config
from charlm_jax.core.errors import CharlmError
from charlm_jax.core.numerics import fixed_numerics
from charlm_jax.core.processes import ALONE, Processes, describe_code
from charlm_jax.core.signals import Interrupted, deferred_signals
from charlm_jax.core.tree_hash import format_hash
from charlm_jax.data.dataset import load_dataset, refuse_joined_parts, with_absolute_paths
from charlm_jax.data.download import Progress
from charlm_jax.evaluation.scoring import mean_score
from charlm_jax.inference.trained_model import TrainedModel
from charlm_jax.sampling.params import SamplingParams
from charlm_jax.storage.metrics_log import metrics_row
from charlm_jax.storage.open_run import FollowedRun, OpenRun, open_run
from charlm_jax.storage.seal import sealed_values
from charlm_jax.storage.workdir import Workdir
from charlm_jax.training import remarks
from charlm_jax.training.batch_gradient import Batch
from charlm_jax.training.loop_state import NOTHING, LoopState, Totals
from charlm_jax.training.nan_replay import write_fault
from charlm_jax.training.progress_bar import ProgressListener, ignore_broken_pipe
from charlm_jax.training.start import (
    begin_or_resume,
    config_to_record,
    prepare_folder,
    refuse_strangers,
    source_facts,
)
from charlm_jax.training.train_step import (
    Dispatch,
    TrainState,
    all_finite,
    checkpointed_params,
    hash_state,
)
from charlm_jax.training.trainer import Trainer, build_trainer

# Samples shown during training.
_SAMPLING, _SAMPLE_LENGTH = SamplingParams(scale=1.5, seed=1), 200


class Result(NamedTuple):
    """Status of a run when `train_and_evaluate` returns.

    `best_loss_nats` is None if no text is held out. `watched` says of which characters it is if it
    is not of all held-out ones, and is empty otherwise. `extension` says how a run that has ended
    is trained further.
    """

    step: int
    best_loss_nats: float | None
    best_step: int
    watched: str
    extension: str
    stopped_early: bool
    was_done: bool


@fixed_numerics()
def train_and_evaluate(
    config: Config,
    workdir: Path | str,
    *,
    fresh: bool = False,
    branch_from: Path | str | None = None,
    view: ProgressListener | None = None,
    progress: Progress | None = None,
    source: ConfigSource | None = None,
    processes: Processes = ALONE,
) -> Result:
    """Train a model as configured, resuming an earlier run in the workdir.

    Args:
      config: all settings of the run.
      workdir: the run's folder, which is created or already holds this very run.
      fresh: move an existing run aside and begin again.
      branch_from: folder of a run that differs in length, decay, `data.length_schedule` and fields
        that may change on resume alone; a new run starts from its latest checkpoint before rates
        or sequence lengths differ, and ends as if trained alone.
      view: listener for the progress of training.
      progress: callback for the progress of a text download.
      source: origin of the config, if it was loaded; `run.json` records it.
      processes: processes that train the run together, each of which calls this; process 0 alone
        reads and writes the workdir and calls the listener.

    Returns:
      The status of the run at its last step, or at the step where it stopped early.

    Raises:
      CharlmError: the text, config or workdir cannot be used, or a loss is not finite.
      Interrupted: SIGINT, SIGTERM or SIGHUP was received; the run was saved first.
    """
    view = ignore_broken_pipe(view if processes.leads else None)
    processes.require_equal(lambda: {**describe_code(), **_fields(config)})
    config = with_absolute_paths(config)
    run_dir = Workdir(workdir)
    is_new = processes.leads and (fresh or not run_dir.has_started())
    if is_new and (remark := refuse_joined_parts(config)):
        view.note(remark)
    dataset = load_dataset(config, progress=progress)
    if dataset.corpus.left_out:
        view.note(f"{config.data.corpus}: {dataset.corpus.left_out}")
    trainer = build_trainer(config, dataset)
    for remark in remarks.on_overrides(config, source):
        view.note(remark)
    refuse_strangers(trainer, processes)
    processes.require_equal(lambda: {"the fingerprint of the text": dataset.fingerprint})
    trainer.devices.connect()
    with contextlib.ExitStack() as stack:
        run: OpenRun | FollowedRun = FollowedRun(run_dir)
        initial = None
        if processes.leads:
            initial = prepare_folder(
                trainer, run_dir, view, is_new=is_new, fresh=fresh, branch_from=branch_from
            )
            run = stack.enter_context(open_run(run_dir, config, trainer.dataset))
        recorded = source_facts(source, config, run.recorded_config)
        state, loop_state = begin_or_resume(trainer, run, initial, view, recorded, processes)
        del initial  # a copy of the weights
        was_done = trainer.is_over(loop_state)
        if was_done and run.recorded_config is not None:
            is_recorded = config_to_record(trainer, run, loop_state) == config
            recorded = recorded if is_recorded else {}
            for remark in remarks.on_changes_of_done_run(
                config, run.recorded_config, is_recorded=is_recorded
            ):
                view.note(remark)
        number = 0  # of a signal
        if not was_done:
            with deferred_signals() as signal_received:
                again = "the same command " + ("without fresh=True" if fresh else "again")
                _Loop(trainer, run, view, loop_state, again, processes).train(
                    state, lambda: processes.agree(signal_received())
                )
                number = processes.agree(signal_received())
        stopped_early = loop_state.step < trainer.total_steps
        run.refuse_if_gone()
        run.write_facts(finished="stopped early" if stopped_early else "done", **recorded)
    if not was_done:
        for remark in remarks.on_end(trainer, loop_state):
            view.note(remark)
    if number:
        raise Interrupted(
            f"stopped after step {loop_state.step}, the last: the run is done", number
        )
    return Result(
        step=loop_state.step,
        best_loss_nats=loop_state.best_loss_nats,
        best_step=loop_state.best_step,
        watched=remarks.describe_watched(trainer),
        extension=remarks.describe_extension(trainer, run_dir, stopped_early=stopped_early),
        stopped_early=stopped_early,
        was_done=was_done,
    )


def _fields(config: Config) -> Mapping[str, Any]:
    """Return the fields of a config as JSON values, by the names that an error gives them."""
    return {f"config.{field}": json.loads(json.dumps(x)) for field, x in config.flatten().items()}


class _LeftOff(Exception):
    """A signal came while held-out text was scored."""


class _Loop:
    """Mutable state of the training loop."""

    def __init__(
        self,
        trainer: Trainer,
        run: OpenRun | FollowedRun,
        view: ProgressListener,
        loop_state: LoopState,
        again: str,
        processes: Processes,
    ) -> None:
        self.trainer = trainer
        self.run = run
        self.view = view
        self.loop_state = loop_state
        self.again = again  # command that resumes the run
        self.processes = processes
        self.ids_N = trainer.devices.put_text(trainer.dataset.ids_N)
        self.pending: tuple[int, Dispatch] | None = None
        self.state_hash = ""
        self.scores_before: dict[str, Any] | None = None  # if only the end asks for an evaluation
        self.clock = time.monotonic()

    def train(self, state: TrainState, signal_received: Callable[[], int]) -> None:
        """Train to the end, or save and raise `Interrupted`."""
        trainer, step = self.trainer, self.loop_state.step
        self.view.begin(step, trainer.total_steps)
        if self.loop_state.score_is_due:
            self.state_hash = format_hash(np.asarray(hash_state(state, trainer.devices)))
            self.score_and_save(state, signal_received, replace=True)
        while not trainer.is_over(self.loop_state):
            count = trainer.steps_to_next_stop(step)
            state, dispatch = trainer.dispatch(state, self.ids_N, step, count)
            step += count
            self.read_pending(state)
            self.pending = (count, dispatch)
            number = signal_received()
            is_border = trainer.ends_phase(step)  # no update follows one that may have failed
            if number or is_border or trainer.saves_at(step) or trainer.samples_at(step):
                self.read_pending(state)
                if not all_finite(state):
                    self.fail(f"step {step}: the parameters or their norm are not finite", state)
            if trainer.samples_at(step):
                self.sample(state)
            if number or trainer.saves_at(step):
                self.loop_state.score_is_due = trainer.stops_at(step) and bool(trainer.watched)
                self.score_and_save(state, signal_received)

    def score_and_save(
        self, state: TrainState, signal_received: Callable[[], int], *, replace: bool = False
    ) -> None:
        """Score held-out text if that is due, and save; raise `Interrupted` after a signal.

        A signal stops scoring, which begins again when the run resumes. After the last step it is
        left to the caller, which records the end of the run first.

        Args:
          state: state of this step.
          signal_received: function that returns the signal, or 0.
          replace: whether a checkpoint of this step, without the score, is there to be replaced.
        """
        loop_state, loss_nats = self.loop_state, None
        if loop_state.score_is_due:
            with contextlib.suppress(_LeftOff):
                loss_nats = self.evaluate(state, signal_received)
        if not (replace and loop_state.score_is_due):
            self.save(state, loss_nats, replace=replace)
        number = signal_received()
        if number and not self.trainer.is_over(loop_state):
            raise Interrupted(
                f"stopped at step {loop_state.step} of {self.trainer.total_steps} and saved; "
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
        norms = np.asarray(dispatch.steps.gradient_norm)[:count]
        self.refuse_non_finite(losses, norms, state)
        self.state_hash = format_hash(np.asarray(dispatch.state_hash))
        seen = Totals(
            float(losses @ characters), int(characters.sum()), self.lap(), float(norms.max())
        )
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

    def fail(self, what: str, state: TrainState, *, in_update: bool = True) -> NoReturn:
        """Raise an error, after saving the state and the batch of the next update.

        Args:
          what: what is not finite.
          state: state before the update that failed, or the state that failed.
          in_update: whether that update failed.
        """
        step = int(state.step)
        state, batch = self.trainer.enter_phase(state, step), self.trainer.batch(self.ids_N, step)
        state = self.trainer.devices.fetch(state)
        hint = self.processes.share(lambda: self.write_fault(state, batch, in_update=in_update))
        raise self.diverged(f"{what}; {hint}")

    def write_fault(self, state: TrainState, batch: Batch, *, in_update: bool) -> str:
        """Save a state that failed, and a batch; return a hint, or why they could not be saved."""
        workdir = self.run.workdir
        try:
            self.run.refuse_if_gone()
            write_fault(workdir, self.trainer, state, batch)
        except CharlmError as error:
            return f"the state before it could not be saved ({error})"
        if not in_update:
            return f"the state is in {workdir.fault}"
        command = shlex.join(["charlm", "replay", f"--workdir={workdir.path}"])
        return f"{command} names the first array that is not finite"

    def diverged(self, what: str) -> CharlmError:
        """Return the error of a run that diverged, which names its last good checkpoint."""
        steps = self.processes.share(self.run.checkpoints.steps)
        last = (
            f"checkpoint {steps[-1]} is the last good one" if steps else "no checkpoint was saved"
        )
        clip = "lower" if self.trainer.config.optimizer.clip_norm else "set"
        return CharlmError(
            f"{what}; {last}: lower config.optimizer.learning_rate or {clip} "
            f"config.optimizer.clip_norm, in another workdir"
        )

    def evaluate(self, state: TrainState, signal_received: Callable[[], int]) -> float:
        """Score the watched held-out text, write the rows and track the best loss.

        If an average of the weights is kept, its score is the one that counts. Rows are written
        when all weights are scored, so that a signal before leaves none.
        """

        def advance(share: float) -> None:
            if signal_received():
                raise _LeftOff
            self.view.scoring(share)

        trainer, loop_state = self.trainer, self.loop_state
        kinds = {"raw": state.params}
        if state.average:
            kinds["average"] = state.average
        seen = {}
        for weights, params in kinds.items():
            nll_N = trainer.score(params, trainer.dataset.ids_N, trainer.watched, advance=advance)
            score = mean_score(nll_N)
            nats = score.loss_nats * score.characters
            seen[weights] = Totals(nats, score.characters, self.lap())
            if not np.isfinite(score.loss_nats):
                what = f"step {loop_state.step}: the held-out loss is {score.loss_nats:g}"
                self.fail(what, state, in_update=False)
        if not trainer.scores_regularly(loop_state.step):
            self.scores_before = loop_state.scores
        loop_state.add_score(score.loss_nats)  # of the average, the last of `kinds`, if one is kept
        scope = "epoch" if trainer.ends_epoch(loop_state.step) else "step"
        for name, totals in seen.items():
            self.write_row("valid", scope, totals, name, loop_state.mark if name == weights else "")
        return score.loss_nats

    def sample(self, state: TrainState) -> None:
        """Show a text sampled from the weights; its prompt and noise are the same every time."""
        trainer, dataset = self.trainer, self.trainer.dataset
        params = state.average or state.params
        model = TrainedModel(trainer.config, dataset.vocabulary, trainer.divided, params)
        prompt = dataset.vocabulary.to_text(dataset.vocabulary.symbols[0])
        text = model.generate(prompt, _SAMPLING, characters=_SAMPLE_LENGTH)
        self.view.sample(self.loop_state.step, _SAMPLING.scale, text)
        self.lap()

    def write_row(
        self, split: str, scope: str, seen: Totals, weights: str = "raw", mark: str = ""
    ) -> None:
        """Append a row to the metrics, and show it with its mark."""
        row = metrics_row(
            step=self.loop_state.step,
            epoch=(self.loop_state.step - 1) // self.trainer.steps_per_epoch + 1,
            split=split,
            scope=scope,
            weights=weights,
            loss_nats=seen.mean_nats,
            gradient_norm=seen.gradient_norm if split == "train" else None,
            learning_rate=float(self.trainer.schedule(self.loop_state.step - 1)),
            state_hash=self.state_hash,
            chars_per_second=seen.chars_per_second,
            seconds=self.loop_state.seconds,
        )
        self.run.refuse_if_gone()
        self.run.metrics.append(row)
        self.view.row(row, mark)

    def save(self, state: TrainState, loss_nats: float | None, *, replace: bool) -> None:
        """Write a checkpoint of this step."""
        self.run.refuse_if_gone()
        state = self.trainer.devices.fetch(state)
        self.run.checkpoints.save(
            self.loop_state.step,
            params=checkpointed_params(state),
            training=(state.step, state.opt_state, state.carried),
            meta={
                "charlm_jax": __version__,
                "jax": jax.__version__,
                **sealed_values(self.trainer.config, self.trainer.dataset),
                "tally": self.loop_state.to_json(),
            },
            loss_nats=loss_nats,
            best_step=self.loop_state.best_step,
            scores_before_end=self.scores_before,
            rows=self.run.metrics.written(),
            replace=replace,
        )
        self.lap()

    def lap(self) -> float:
        """Return the seconds since the last call; every second of the run is counted once."""
        now = time.monotonic()
        seconds, self.clock = now - self.clock, now
        self.loop_state.seconds += seconds
        return seconds
