"""Folder of a run before training, and the facts that are recorded of its start."""

from pathlib import Path
from typing import Any

from charlm_jax.config.loading import ConfigSource
from charlm_jax.config.schema import Config
from charlm_jax.core.errors import CharlmError
from charlm_jax.core.files import stored_path
from charlm_jax.core.processes import Processes
from charlm_jax.core.trees import count_parameters
from charlm_jax.data.splits import size
from charlm_jax.models.mixers import external_sources
from charlm_jax.storage.compatibility import config_changes, division
from charlm_jax.storage.open_run import FollowedRun, OpenRun
from charlm_jax.storage.sessions import sessions_until
from charlm_jax.storage.workdir import Workdir
from charlm_jax.training import remarks
from charlm_jax.training.branch import branch, shared_checkpoints
from charlm_jax.training.environment import environment
from charlm_jax.training.loop_state import LoopState
from charlm_jax.training.progress_bar import ProgressListener
from charlm_jax.training.restore import InitialParams, load_initial_params, restore_or_init
from charlm_jax.training.train_step import TrainState
from charlm_jax.training.trainer import Trainer


def refuse_strangers(trainer: Trainer, processes: Processes) -> None:
    """Refuse devices of processes that were not joined."""
    if trainer.devices.processes != processes.number:
        raise CharlmError(
            f"JAX has devices of {trainer.devices.processes} processes, but the run was given "
            f"{processes.number}: join them by charlm train --coordinator"
        )


def prepare_folder(
    trainer: Trainer,
    run_dir: Workdir,
    view: ProgressListener,
    *,
    is_new: bool,
    fresh: bool,
    branch_from: Path | str | None,
) -> InitialParams | None:
    """Make the folder ready for the run; return the result of `load_initial_params`."""
    shared = (
        shared_checkpoints(trainer, run_dir, branch_from, fresh=fresh)
        if branch_from is not None
        else []
    )
    initial = load_initial_params(trainer, run_dir, fresh=fresh, is_branch=bool(shared))
    if is_new and initial is not None and initial.remark:
        view.note(initial.remark)
    if fresh and (moved := run_dir.move_aside()):
        view.note(f"moved the run at {run_dir.path} to {moved}")
        if (link := Workdir(moved).checkpoints).is_symlink():
            view.note(
                f"its checkpoints stay in {link.resolve()}; those of the new run are in its own "
                f"folder"
            )
    if branch_from is not None and shared:
        step = branch(trainer, run_dir, branch_from, shared)
        view.note(f"starting from checkpoint {step} of {branch_from}")
    if trainer.config.data.unit == "bytes":
        view.note("config.data.unit=bytes: a char in the figures below is a byte")
    return initial


def source_facts(
    source: ConfigSource | None, config: Config, recorded_config: Config | None
) -> dict[str, Any]:
    """Return the updates of `run.json` for a config's source; None for absent facts."""
    if source is None and config == recorded_config:
        return {}
    if source is None:
        return {"config_spec": None, "point": None, "overrides": None}
    spec, point, overrides = source.with_absolute_paths(config)
    return {
        "config_spec": stored_path(spec),
        "point": [*map(stored_path, point)] or None,
        "overrides": [*map(stored_path, overrides)] or None,
    }


def config_to_record(trainer: Trainer, run: OpenRun | FollowedRun, loop_state: LoopState) -> Config:
    """Return the config that a run is to record.

    A run that is over keeps its own config, unless that one would still be accepted afterwards.
    """
    before, config = run.recorded_config, trainer.config
    if before is None or not trainer.is_over(loop_state):
        return config
    held_out = size(trainer.dataset.parts.get("valid", ()))
    return before if config_changes(config, before, same_text=True, held_out=held_out) else config


def begin_or_resume(
    trainer: Trainer,
    run: OpenRun | FollowedRun,
    initial: InitialParams | None,
    view: ProgressListener,
    recorded: dict[str, Any],
    processes: Processes,
) -> tuple[TrainState, LoopState]:
    """Begin or resume a run, and record its facts unless it is over.

    Args:
      trainer: parts of the run.
      run: the opened run.
      initial: result of `prepare_folder` in process 0; None in the others.
      view: listener for the progress of training.
      recorded: facts to record, of `source_facts`.
      processes: processes that train the run together.
    """
    state, loop_state, started_from = restore_or_init(trainer, run, initial, view.note, processes)
    if not loop_state.step:
        run.metrics.truncate_after(0)
    run.claim(config_to_record(trainer, run, loop_state), trainer.dataset)
    if trainer.is_over(loop_state):
        return state, loop_state
    for remark in remarks.on_start(trainer, run, loop_state, state.params):
        view.note(remark)
    mixers = [mixer._asdict() for mixer in external_sources(trainer.config.model)]
    session = {
        "from_step": loop_state.step,
        "environment": environment(),
        "division": division(trainer.config),
    }
    run.write_facts(
        **recorded,
        corpus=stored_path(trainer.config.data.corpus),
        parameters=count_parameters(state.params),
        steps_per_epoch=trainer.steps_per_epoch,
        total_steps=trainer.total_steps,
        started_from=started_from,
        finished=None,
        sessions=[
            *sessions_until(run.facts, loop_state.step),
            session | ({"mixers": mixers} if mixers else {}),
        ],
        mixers=mixers or None,
    )
    return state, loop_state
