"""Reproducibility check: repeat the first steps of a run and compare hashes."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from charlm_jax.core.errors import CharlmError
from charlm_jax.core.numerics import fixed_numerics
from charlm_jax.core.tree_hash import format_hash
from charlm_jax.data.download import Progress
from charlm_jax.inference.run import load_text
from charlm_jax.storage.compatibility import division
from charlm_jax.storage.mixer_sources import find_recorded_mixers
from charlm_jax.storage.seal import read_checked_config, read_rows
from charlm_jax.storage.sessions import sessions_until
from charlm_jax.storage.workdir import Workdir
from charlm_jax.training.environment import differences, environment
from charlm_jax.training.restore import load_init_from
from charlm_jax.training.trainer import build_trainer


class Verification(NamedTuple):
    """Result of repeating the first steps of a run.

    Attributes:
      steps: number of repeated steps.
      compared: steps at which hashes were compared.
      first_difference: first of them where the hashes differ; None if all are equal.
      recorded: hash recorded by the run at that step.
      found: hash computed at that step now.
      changes: descriptions of the changes since the run made these steps, in the environment and
        in the division of their work.
    """

    steps: int
    compared: list[int]
    first_difference: int | None
    recorded: str
    found: str
    changes: list[str]


@fixed_numerics()
def verify_run(
    workdir: Path | str,
    *,
    steps: int = 100,
    corpus: str | None = None,
    progress: Progress | None = None,
) -> Verification:
    """Repeat a run's first steps, and compare their hashes with those in its metrics.

    Args:
      workdir: the run's folder, which is not changed.
      steps: largest number of steps to repeat, which end with a recorded row; more if the first
        row is later.
      corpus: current path of the run's text, if it has moved.
      progress: callback for the progress of a text download.

    Raises:
      CharlmError: there is no run, it has no metrics, or its text has changed.
    """
    if steps < 1:
        raise CharlmError(f"steps={steps} is not allowed: it must be at least 1")
    run_dir = Workdir(workdir)
    run_dir.refuse_exported()
    run_dir.check_readable()
    config, facts = read_checked_config(run_dir), run_dir.read_facts()
    recorded = {row["step"]: row["state_hash"] for row in read_rows(run_dir)}
    if not recorded:
        raise CharlmError(f"the run at {run_dir.path} has no metrics yet: train it first")
    dataset = load_text(run_dir, config, corpus=corpus, progress=progress)
    find_recorded_mixers(run_dir, config.model)
    trainer = build_trainer(config, dataset)
    initial = load_init_from(trainer, facts.get("started_from"), advice="")
    state = trainer.init_state(initial.params)
    ids_N = trainer.devices.put_text(dataset.ids_N)
    last = min(max(steps, min(recorded)), trainer.total_steps)
    wanted = [step for step in sorted(recorded) if step <= last]
    if not wanted:
        raise CharlmError(
            f"the metrics of {run_dir.path} have no row within its first {last} steps"
        )
    divided = division(config)
    changes = [
        f"from step {session['from_step']} on {change}"
        for session in sessions_until(facts, wanted[-1])
        for change in [
            *differences(session["environment"], environment()),
            *differences(session.get("division", divided), divided),
        ]
    ]
    step, compared = 0, []
    for stop in wanted:
        while step < stop:
            count = min(trainer.steps_to_next_stop(step), stop - step)
            state, dispatch = trainer.dispatch(state, ids_N, step, count)
            step += count
            dispatch.state_hash.block_until_ready()  # hundreds under way deadlock CPU devices
        compared.append(stop)
        found = format_hash(np.asarray(dispatch.state_hash))
        if found != recorded[stop]:
            return Verification(step, compared, stop, recorded[stop], found, changes)
    return Verification(step, compared, None, "", "", changes)
