"""Where a run starts: afresh, from another run's weights, or from its own last sound checkpoint."""

import dataclasses
import os
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from charlm_jax.config.schema import Config, ModelConfig
from charlm_jax.core.errors import CharlmError
from charlm_jax.core.tree_hash import format_hash, state_hash
from charlm_jax.inference.run import load_run
from charlm_jax.models.transfer import transfer_params
from charlm_jax.storage.checkpoint import Checkpoints
from charlm_jax.storage.compatibility import config_changes
from charlm_jax.storage.workdir import Workdir
from charlm_jax.training.loop_state import LoopState
from charlm_jax.training.train_step import TrainState, checkpointed_params, with_weights
from charlm_jax.training.trainer import Trainer, fresh_state


def init_or_transfer(
    trainer: Trainer, started_from: Mapping[str, Any] | None
) -> tuple[TrainState, Mapping[str, Any] | None]:
    """The state at step 0.

    Args:
      trainer: the run.
      started_from: which weights of another run it started from, if it has started before.

    Returns:
      The state, and which weights of another run they are; None if they are of none. That run may
      train on, so its checkpoint is pinned when ours starts.

    Raises:
      CharlmError: there is no such run, it is another model, or not what it was.
    """
    source = trainer.config.train.init_from
    if not source:
        return fresh_state(trainer), None
    pinned = started_from and str(started_from["checkpoint"])
    try:
        run = load_run(source, checkpoint=pinned or "best")
        _refuse_other_model(run.config.model, trainer.config.model)
        params = transfer_params(
            run.params,
            run.vocabulary.symbols,
            fresh_state(trainer).params,
            trainer.dataset.vocabulary.symbols,
        )
    except CharlmError as error:
        hint = "; begin again with --fresh" if pinned else ""
        raise CharlmError(f"cannot start from {source}: {error}{hint}") from error
    facts = {
        "run": source,
        "checkpoint": run.checkpoint,
        "params_hash": format_hash(state_hash(run.params)),
    }
    if started_from is not None and facts != started_from:
        raise CharlmError(f"cannot start from {source}: it has changed since this run began")
    return fresh_state(trainer, params), facts


# What does not change the function that a model computes from its weights, but for rounding.
_MAY_DIFFER = frozenset({"dropout", "init", "zero_init", "scan", "precision"})


def _refuse_other_model(there: ModelConfig, here: ModelConfig) -> None:
    """Weights mean something only in the model that they were trained in."""
    for field in [field.name for field in dataclasses.fields(ModelConfig)]:
        if field in _MAY_DIFFER:
            continue
        value_there, value_here = getattr(there, field), getattr(here, field)
        if value_there != value_here:
            raise CharlmError(f"config.model.{field} is {value_there!r} there, {value_here!r} here")


def validate_init_from(trainer: Trainer, workdir: Workdir, *, fresh: bool) -> None:
    """Refuse to start from weights that will not do, before the workdir is touched.

    Raises:
      CharlmError: as `init_or_transfer`; or the weights are to come from the workdir itself.
    """
    source = trainer.config.train.init_from
    if not source:
        return
    if os.path.realpath(source) == os.path.realpath(workdir.path):
        raise CharlmError(
            f"--init_from and --workdir are the same run ({source}): name another --workdir"
        )
    if fresh:
        init_or_transfer(trainer, None)
    elif not Checkpoints(workdir.checkpoints).steps():
        facts = workdir.read_facts() if workdir.has_something_to_lose() else {}
        init_or_transfer(trainer, facts.get("started_from"))


def restore_latest(
    trainer: Trainer, workdir: Workdir, note: Callable[[str], None]
) -> tuple[TrainState, LoopState] | None:
    """State and tally of the last sound checkpoint; None where nothing was saved yet.

    Damaged checkpoints after it are moved aside, and each is noted.

    Raises:
      CharlmError: there are checkpoints, and none is sound; they are of another text or model.
    """
    checkpoints = Checkpoints(workdir.checkpoints)
    step, damages = checkpoints.latest_valid()
    if step is None:
        if not damages:
            return None
        raise CharlmError(
            f"no checkpoint of {workdir.path} can be used ({'; '.join(map(str, damages))}): "
            f"restore one, or begin again with --fresh"
        )
    for damage in damages:
        moved = checkpoints.quarantine(damage.step, workdir.damaged)
        note(f"{damage}: moved to {moved}, going on from checkpoint {step}")
    checkpoints.prune()
    meta = checkpoints.read_meta(step)
    try:
        fingerprint, tally = meta["fingerprint"], LoopState.from_json(meta["tally"])
        changes = config_changes(Config.from_dict(meta["config"]), trainer.config)
    except (KeyError, TypeError, CharlmError) as error:
        raise CharlmError(
            f"checkpoint {step} does not say where the run stood: another version of charlm_jax "
            f"may have written it; begin again with --fresh"
        ) from error
    if fingerprint != trainer.dataset.fingerprint:
        changes.insert(0, "its text is another")
    if changes:
        raise CharlmError(
            f"checkpoint {step} of {workdir.path} is of another run: {'; '.join(changes)}: put the "
            f"right one back, or begin again with --fresh"
        )
    like = jax.eval_shape(lambda: fresh_state(trainer))
    weights = checkpoints.restore(step, "params", checkpointed_params(like))
    rest = checkpoints.restore(step, "training", (like.step, like.opt_state, like.carried))
    count, opt_state, carried = rest
    state = with_weights(TrainState(count, {}, opt_state, carried, like.average), weights)
    return jax.tree.map(jnp.array, state), tally
