"""Branches: runs that begin with the steps that they share with another run.

The rate of a `constant` or `wsd` schedule does not depend on a run's length before the decay. Two
runs that differ only in length and decay are therefore equal up to there, and the second one can
start from a checkpoint of the first, optimizer included. It ends with the same bits as if it had
been trained alone. Runs with other schedules of sequence lengths are equal as far as these agree.
"""

import contextlib
import os
from pathlib import Path

from charlm_jax.core.errors import CharlmError
from charlm_jax.core.files import stored_path
from charlm_jax.data.splits import size
from charlm_jax.storage.checkpoint import Checkpoints, DamagedCheckpoint, VanishedCheckpoint
from charlm_jax.storage.compatibility import check_same_run, config_changes, division
from charlm_jax.storage.metrics_log import MetricsLog, format_rows
from charlm_jax.storage.seal import read_checked_config, read_rows
from charlm_jax.storage.sessions import sessions_until
from charlm_jax.storage.workdir import Workdir
from charlm_jax.training.trainer import Trainer


def shared_checkpoints(
    trainer: Trainer, workdir: Workdir, source: Path | str, *, fresh: bool
) -> list[int]:
    """Return the steps of another run's checkpoints that a new run can start from.

    Args:
      trainer: parts of the new run.
      workdir: folder of the new run.
      source: folder of the other run.
      fresh: whether an existing run in `workdir` will be moved aside.

    Returns:
      Steps in ascending order; empty if the run has begun, so that it is resumed.

    Raises:
      CharlmError: the other run differs in more than length, decay, schedule of sequence lengths
        and fields that may change on resume, or has no checkpoint in the steps that agree.
    """
    other = Workdir(source)
    other.check_readable()
    other.refuse_exported()
    if os.path.realpath(other.path) == os.path.realpath(workdir.path):
        raise CharlmError(
            f"--branch_from and --workdir are the same run ({source}): name another --workdir"
        )
    return _common(trainer, other) if fresh or not _has_begun(workdir) else []


def _has_begun(workdir: Workdir) -> bool:
    """Return whether a run has started; one that is branched off, from a complete copy."""
    branched_from = workdir.read_facts().get("branched_from")
    if not branched_from:
        return workdir.has_started()
    steps = Checkpoints(workdir.checkpoints).steps()
    return any(step >= branched_from["checkpoint"] for step in steps)


def branch(trainer: Trainer, workdir: Workdir, source: Path | str, steps: list[int]) -> int:
    """Copy checkpoints of another run, and the rows up to the last of them, into a new run.

    The other run may be in training. Where it has removed a checkpoint meanwhile, that one is left
    out; where it has removed the last, its checkpoints are listed again.

    Args:
      trainer: parts of the new run.
      workdir: folder of the new run.
      source: folder of the other run, which is only read.
      steps: steps that `shared_checkpoints` returned.

    Returns:
      The step that the new run starts from.

    Raises:
      CharlmError: the folder is another run's, or cannot be written.
    """
    other = Workdir(source)
    with workdir.held():
        check_same_run(workdir, trainer.config, trainer.dataset)
        workdir.claim(trainer.config, trainer.dataset)
        while not _copy(trainer, other, workdir, steps):
            steps = _common(trainer, other)
    return steps[-1]


def _copy(trainer: Trainer, other: Workdir, workdir: Workdir, steps: list[int]) -> bool:
    """Copy checkpoints and rows, and return whether the last of the steps was there to be copied.

    Checkpoints are copied in order, so that a run without the last one has not begun.
    """
    rows = [  # the rate of a schedule that is constant is recorded unrounded
        {**row, "learning_rate": float(trainer.schedule(row["step"] - 1))}
        for row in read_rows(other)
        if row["step"] <= steps[-1]
    ]
    facts, divided = other.read_facts(), division(other.read_config())
    copied = {name: facts.get(name) for name in ("parameters", "started_from", "mixers")}
    workdir.write_facts(
        {
            **copied,
            "corpus": stored_path(trainer.config.data.corpus),
            "steps_per_epoch": trainer.steps_per_epoch,
            "total_steps": trainer.total_steps,
            "branched_from": {"run": os.path.realpath(other.path), "checkpoint": steps[-1]},
            "sessions": [  # those of earlier versions have no division
                {"division": divided, **session} for session in sessions_until(facts, steps[-1])
            ],
        }
    )
    MetricsLog(workdir.metrics_file).replace(format_rows(rows))
    source, target = Checkpoints(other.checkpoints), Checkpoints(workdir.checkpoints)
    for step in sorted({*steps} - {*target.steps()}):
        with contextlib.suppress(VanishedCheckpoint):
            source.copy(step, target, format_rows(row for row in rows if row["step"] <= step))
    return steps[-1] in target.steps()


def _common(trainer: Trainer, other: Workdir) -> list[int]:
    """Return the steps of the other run's valid checkpoints that are this run's too."""
    there = read_checked_config(other)
    has_same_text = other.read_fingerprint() == trainer.dataset.fingerprint
    changes = config_changes(
        there,
        trainer.config,
        same_text=has_same_text,
        held_out=size(trainer.dataset.parts.get("valid", ())),
        steps_agree=True,
        same_evaluations=True,
    )
    if not has_same_text:
        changes.insert(0, "its text is different")
    if changes:
        raise CharlmError(
            f"--branch_from={other.path} is another run: {'; '.join(changes)}: only its length, "
            f"decay, config.data.length_schedule and fields that may change on resume may differ; "
            f"--init_from starts from its weights alone"
        )
    shared, checkpoints = trainer.shared_steps(there), Checkpoints(other.checkpoints)
    found = []
    for step in checkpoints.steps():
        if step <= shared:
            try:
                checkpoints.open(step)
            except DamagedCheckpoint:
                continue
            found.append(step)
    if not found:
        saved = ", ".join(map(str, checkpoints.steps())) or "none"
        raise CharlmError(
            f"--branch_from={other.path} has no checkpoint to start from: its learning rates and "
            f"sequence lengths are those of this run up to step {shared}, and its checkpoints are "
            f"{saved}; config.train.keep keeps more of them"
        )
    return found
