"""State that a run starts from: new weights, another run's, or its latest valid checkpoint."""

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from charlm_jax.config.formats import NewerFormat
from charlm_jax.config.loading import as_text
from charlm_jax.config.schema import ModelConfig
from charlm_jax.core.errors import CharlmError
from charlm_jax.core.files import stored_path
from charlm_jax.core.processes import ALONE, Processes
from charlm_jax.core.tree_hash import format_hash, hash_tree
from charlm_jax.core.types import Params
from charlm_jax.data.splits import size
from charlm_jax.inference.run import load_run
from charlm_jax.models.transfer import transfer_params
from charlm_jax.storage.checkpoint import SCORES_BEFORE_END, Checkpoint, Checkpoints
from charlm_jax.storage.compatibility import config_changes
from charlm_jax.storage.metrics_log import format_rows, parse_rows
from charlm_jax.storage.open_run import FollowedRun, OpenRun
from charlm_jax.storage.seal import describe_lost_rows, read_seal
from charlm_jax.storage.workdir import Workdir
from charlm_jax.training.loop_state import LoopState
from charlm_jax.training.train_step import (
    TrainState,
    checkpointed_params,
    state_specs,
    with_weights,
)
from charlm_jax.training.trainer import Trainer


class InitialParams(NamedTuple):
    """Weights of step 0, and their origin.

    Attributes:
      params: weights of another run, transferred to the run's symbols; None for new ones.
      started_from: run, checkpoint and hash of those weights, for run.json; None for new ones.
      remark: line about symbols that kept no weights; empty if there is nothing to say.
    """

    params: Params | None
    started_from: Mapping[str, Any] | None
    remark: str = ""


def load_init_from(
    trainer: Trainer,
    started_from: Mapping[str, Any] | None,
    *,
    advice: str = "; begin again with fresh=True",
) -> InitialParams:
    """Load the weights named by `config.train.init_from`, if any.

    Args:
      trainer: the run's parts.
      started_from: record in run.json, if the run has started before. The source run may continue
        training, so its checkpoint is pinned when this run starts.
      advice: end of the message if the pinned checkpoint cannot be used.

    Raises:
      CharlmError: the source run does not exist, has another model, or has changed.
    """
    source = trainer.config.train.init_from
    if not source:
        return InitialParams(None, None)
    pinned = started_from and str(started_from["checkpoint"])
    try:
        run = load_run(source, checkpoint=pinned or "best")
        _refuse_other_model(run.config.model, trainer.config.model)
        unit_there, unit_here = run.config.data.unit, trainer.config.data.unit
        if unit_there != unit_here:
            raise CharlmError(f"config.data.unit is {unit_there!r} there, {unit_here!r} here")
        params = transfer_params(
            run.params,
            run.vocabulary.symbols,
            jax.device_get(trainer.init_params()),
            trainer.dataset.vocabulary.symbols,
        )
    except CharlmError as error:
        raise CharlmError(
            f"cannot start from {source}: {error}{advice if pinned else ''}"
        ) from error
    facts = {
        "run": stored_path(source),
        "checkpoint": run.checkpoint,
        "params_hash": format_hash(hash_tree(run.params)),
    }
    if started_from is not None and facts != started_from:
        raise CharlmError(f"cannot start from {source}: it has changed since this run began")
    here = trainer.dataset.vocabulary.symbols
    if set(run.vocabulary.symbols) & set(here):
        return InitialParams(params, facts)
    remark = (
        f"{source} has none of the {len(here)} symbols of this text: embedding and output layer "
        f"start anew"
    )
    return InitialParams(params, facts, remark)


# Fields that do not change the function that a model computes from its weights, except rounding.
_MAY_DIFFER = frozenset(
    {
        "dropout",
        "dropout_mask",
        "weight_dropout",
        "embedding_dropout",
        "init",
        "zero_init",
        "scan",
        "chunk_size",
        "precision",
    }
)


def _refuse_other_model(there: ModelConfig, here: ModelConfig) -> None:
    """Refuse weights of another model: they are valid only in the model they were trained in."""
    before, now = dataclasses.asdict(there), dataclasses.asdict(here)
    fields = [name for name in now if name not in _MAY_DIFFER and before[name] != now[name]]
    if fields:
        changes = [
            f"config.model.{name} is {before[name]!r} there, {now[name]!r} here" for name in fields
        ]
        flags = [f"--config.model.{name}={as_text(before[name])}" for name in fields]
        raise CharlmError(
            f"{'; '.join(changes)}; weights are valid only in the model they were trained in: "
            f"write {' '.join(flags)}"
        )


def load_initial_params(
    trainer: Trainer, workdir: Workdir, *, fresh: bool, is_branch: bool = False
) -> InitialParams | None:
    """Load and check the weights to start from, before the workdir is changed.

    Args:
      trainer: the run's parts.
      workdir: folder of the run.
      fresh: whether an existing run in it will be moved aside.
      is_branch: whether the run starts from a checkpoint of another run.

    Returns:
      The weights of step 0, another run's or new ones; None if the run has a checkpoint to resume
      from, or will have one.

    Raises:
      CharlmError: see `load_init_from`; or `init_from` is the workdir itself.
    """
    source = trainer.config.train.init_from
    if not source:
        return InitialParams(None, None)
    if os.path.realpath(source) == os.path.realpath(workdir.path):
        raise CharlmError(
            f"config.train.init_from and the workdir are the same run ({source}): name another "
            f"workdir"
        )
    if is_branch:
        return None
    if fresh:
        return load_init_from(trainer, None)
    if Checkpoints(workdir.checkpoints).steps():
        return None
    facts = workdir.read_facts() if workdir.has_started() else {}
    return load_init_from(trainer, facts.get("started_from"))


class _Start(NamedTuple):
    """Content of a run where it starts or resumes, on the host.

    Attributes:
      restored: state of the latest valid checkpoint; None if there is no checkpoint.
      params: weights of step 0; None for new ones, or if there is a checkpoint.
      loop_state: progress.
      started_from: record of the run that the weights came from; None for new weights.
    """

    restored: TrainState | None
    params: Params | None
    loop_state: LoopState
    started_from: Mapping[str, Any] | None


def restore_or_init(
    trainer: Trainer,
    run: OpenRun | FollowedRun,
    initial: InitialParams | None,
    note: Callable[[str], None],
    processes: Processes = ALONE,
) -> tuple[TrainState, LoopState, Mapping[str, Any] | None]:
    """Restore the latest valid checkpoint, or begin at step 0 if nothing was saved yet.

    Damaged checkpoints after it are moved aside and reported. Process 0 alone reads them.

    Args:
      trainer: the run's parts.
      run: the run's directory.
      initial: result of `load_initial_params` in process 0; None in the others.
      note: callback for a line about every damaged checkpoint.
      processes: processes that train the run.

    Returns:
      The state, the loop state, and the record of the run that the weights came from (None for
      new weights).

    Raises:
      CharlmError: no checkpoint is valid, or the latest belongs to another text or model.
    """
    start = _read_start(trainer, run, initial, note) if isinstance(run, OpenRun) else None
    start = _share_start(trainer, start, processes)
    if start.restored is None:
        return trainer.init_state(start.params), start.loop_state, start.started_from
    specs = state_specs(start.restored, trainer.devices)
    return trainer.devices.put(start.restored, specs), start.loop_state, start.started_from


def _share_start(trainer: Trainer, start: _Start | None, processes: Processes) -> _Start:
    """Return the start that process 0 has read.

    Args:
      trainer: the run's parts.
      start: that start; None in the other processes.
      processes: processes that train the run.
    """
    if processes.number == 1:
        assert start is not None
        return start

    def describe() -> Mapping[str, Any]:
        assert start is not None
        return {
            "loop_state": start.loop_state.to_json(),
            "started_from": start.started_from,
            "is_restored": start.restored is not None,
            "has_params": start.params is not None,
        }

    facts = processes.share(describe)
    loop_state = LoopState.from_json(facts["loop_state"])
    like = _state_shapes(trainer, loop_state.step)
    restored, params = (None, None) if start is None else (start.restored, start.params)

    def share(arrays: Any, like: Any) -> Any:
        nothing = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), like)
        return processes.share_arrays(nothing if arrays is None else arrays)

    return _Start(
        restored=share(restored, like) if facts["is_restored"] else None,
        params=share(params, like.params) if facts["has_params"] else None,
        loop_state=loop_state,
        started_from=facts["started_from"],
    )


def _state_shapes(trainer: Trainer, step: int) -> TrainState:
    """Return the shapes of the state that a checkpoint of a step has."""
    like = jax.eval_shape(trainer.init_state)
    return like._replace(carried=jax.eval_shape(trainer.parts_at(max(step - 1, 0)).init_carried))


def _read_start(
    trainer: Trainer, run: OpenRun, initial: InitialParams | None, note: Callable[[str], None]
) -> _Start:
    """Read the latest valid checkpoint, if there is any; see `restore_or_init`."""
    run.checkpoints.clear_partial()  # may bring back the latest
    checkpoint, damages = run.checkpoints.latest_valid()
    path = run.workdir.path
    if checkpoint is None:
        if damages:
            raise CharlmError(
                f"no checkpoint of {path} can be used ({'; '.join(map(str, damages))}): "
                f"restore one, or begin again with fresh=True"
            )
        _refuse_to_lose_rows(trainer, run)
        pinned = run.facts.get("started_from")
        if initial is None or pinned not in (None, initial.started_from):
            initial = load_init_from(trainer, pinned)  # the workdir has changed since
        return _Start(None, initial.params, LoopState(), initial.started_from)
    loop_state = _check_meta(checkpoint, trainer, run)
    _restore_rows(checkpoint, run, note)
    for damage in damages:
        moved = run.checkpoints.quarantine(damage.step, run.workdir.damaged)
        note(f"{damage}: moved to {moved}, resuming from checkpoint {checkpoint.step}")
    run.checkpoints.prune()
    like = _state_shapes(trainer, checkpoint.step)
    weights = checkpoint.params(checkpointed_params(like))
    training = checkpoint.training((like.step, like.opt_state, like.carried))
    step, opt_state, carried = training
    if not trainer.stops_at(checkpoint.step):  # a longer run has no evaluation here
        if before := checkpoint.meta.get(SCORES_BEFORE_END):
            loop_state = loop_state.with_scores(before)
            _drop_last_score(checkpoint, run, loop_state, weights, training)
        elif _was_scored_at_its_end(checkpoint, trainer):
            note(
                f"checkpoint {checkpoint.step} was saved by an earlier version, which did not "
                f"record the best held-out loss before it: its own stays in the metrics, which a "
                f"run of this length from the start does not have"
            )
        loop_state.score_is_due = False
    elif checkpoint.meta["loss_nats"] is None:  # another length or interval saved it unscored
        loop_state.score_is_due = bool(trainer.watched)
    state = with_weights(TrainState(step, {}, opt_state, carried, like.average), weights)
    return _Start(state, None, loop_state, run.facts.get("started_from"))


def _was_scored_at_its_end(checkpoint: Checkpoint, trainer: Trainer) -> bool:
    """Return whether the held-out text was scored at a step only because a run ended there."""
    every = read_seal(checkpoint).config.train.evaluate_every_steps or trainer.steps_per_epoch
    return checkpoint.meta["loss_nats"] is not None and checkpoint.step % every != 0


def _drop_last_score(
    checkpoint: Checkpoint, run: OpenRun, loop_state: LoopState, weights: Any, training: Any
) -> None:
    """Make a run's last checkpoint and its rows those of a stop before its last evaluation.

    Args:
      checkpoint: checkpoint at the step where the run ended.
      run: the run.
      loop_state: progress without the evaluation, which is due.
      weights: arrays of the checkpoint.
      training: arrays of the checkpoint that are not weights.
    """
    rows = parse_rows(checkpoint.rows or b"", run.workdir.metrics_file)
    kept = [row for row in rows if (row["step"], row["split"]) != (checkpoint.step, "valid")]
    content = format_rows(kept)
    run.checkpoints.save(
        checkpoint.step,
        params=weights,
        training=training,
        meta=checkpoint.meta | {"tally": loop_state.to_json()},
        loss_nats=None,
        best_step=loop_state.best_step,
        rows=content,
        replace=True,
    )
    run.metrics.replace(content)


def _check_meta(checkpoint: Checkpoint, trainer: Trainer, run: OpenRun) -> LoopState:
    """Check that a checkpoint belongs to this run, and return its loop state."""
    meta, step = checkpoint.meta, checkpoint.step
    try:
        seal, loop_state = read_seal(checkpoint), LoopState.from_json(meta["tally"])
        if loop_state.step != step:
            raise CharlmError("its progress is that of another step")
    except NewerFormat:
        raise
    except (KeyError, TypeError, CharlmError) as error:
        raise CharlmError(
            f"checkpoint {step} does not record the run's progress: another version of "
            f"charlm_jax may have written it; begin again with fresh=True"
        ) from error
    shared = trainer.shared_steps(seal.config)
    has_same_text = seal.fingerprint == trainer.dataset.fingerprint
    compare = functools.partial(
        config_changes,
        seal.config,
        trainer.config,
        same_text=has_same_text,
        held_out=size(trainer.dataset.parts.get("valid", ())),
    )
    changes = compare(steps_agree=step <= shared)
    if changes and not compare(steps_agree=True):
        raise _beyond_shared_steps(step, shared, run)
    if not has_same_text:
        changes.insert(0, "its text is different")
    if changes:
        raise CharlmError(
            f"checkpoint {step} of {run.workdir.path} belongs to another run: "
            f"{'; '.join(changes)}: restore the right one, or begin again with fresh=True"
        )
    return loop_state


def _restore_rows(checkpoint: Checkpoint, run: OpenRun, note: Callable[[str], None]) -> None:
    """Make the metrics those up to the checkpoint; what has been lost of them is restored."""
    if checkpoint.rows is None:
        note(
            f"checkpoint {checkpoint.step} was saved by an earlier version, which did not seal "
            f"symbols and metrics: {run.workdir.metrics_file.name} is taken as it is"
        )
        run.metrics.truncate_after(checkpoint.step)
        return
    content = run.metrics.content()
    if not content.startswith(checkpoint.rows):
        note(
            f"{run.workdir.metrics_file} {describe_lost_rows(content, checkpoint.rows)} that "
            f"checkpoint {checkpoint.step} recorded: they are restored from the checkpoint"
        )
    run.metrics.replace(checkpoint.rows)


def _beyond_shared_steps(step: int, shared: int, run: OpenRun) -> CharlmError:
    """Return the error of a run whose rate has changed since the steps that a longer one has."""
    path = run.workdir.path
    kept = [number for number in run.checkpoints.steps() if number <= shared]
    way = (
        f"--branch_from={path} and another --workdir start from checkpoint {kept[-1]}, and give "
        f"the run that had this length from the start"
        if kept
        else f"no checkpoint up to that step is left (config.train.keep keeps some): "
        f"--init_from={path} and another --workdir start from its weights"
    )
    return CharlmError(
        f"the length of {path} cannot be changed at checkpoint {step}: its learning rates differ "
        f"from those of the other length after step {shared}; {way}"
    )


def _refuse_to_lose_rows(trainer: Trainer, run: OpenRun) -> None:
    """Refuse to restart a run that has metrics beyond its first save but no checkpoint."""
    rows = run.metrics.rows()
    if not rows or run.recorded_config is None:
        return
    last, train = rows[-1]["step"], run.recorded_config.train
    every = train.evaluate_every_steps or trainer.steps_per_epoch
    first_save = next(step for step in range(1, every + 1) if step == every or train.keeps(step))
    if last > first_save or run.facts.get("finished"):
        raise CharlmError(
            f"{run.workdir.path} has metrics up to step {last} but no checkpoint: restore "
            f"{run.workdir.checkpoints}, or begin again with fresh=True"
        )
