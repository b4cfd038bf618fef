"""Overview of the runs in a folder, read from their files; nothing is computed."""

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from charlm_jax.core.errors import CharlmError
from charlm_jax.core.files import user_path
from charlm_jax.core.folders import EXPORT, RUN, own_folder, read_object, walk
from charlm_jax.storage.checkpoint import Checkpoints
from charlm_jax.storage.metrics_log import MetricsRow
from charlm_jax.storage.seal import read_checked_config, read_rows
from charlm_jax.storage.workdir import Workdir


class RunStatus(NamedTuple):
    """Status of one run.

    Attributes:
      path: folder of the run.
      state: `training`, `done`, `stopped early`, `interrupted`, `failed` (a value was not
        finite), `begun` (nothing recorded yet) or `unreadable`. `unknown` if the disk has no file
        locks, so that nothing tells whether a process is training.
      corpus: name or path of the training text.
      parameters: number of model parameters; None if unknown.
      step: number of recorded updates.
      total_steps: planned number of updates; None if unknown.
      best_loss_nats: lowest held-out loss, in nats per character; None if there is none.
      seconds_ago: seconds since the last write to its metrics, or to its config if it has none yet;
        None if it has neither.
      says: why a run is unreadable; empty for others.
    """

    path: str
    state: str
    corpus: str
    parameters: int | None
    step: int
    total_steps: int | None
    best_loss_nats: float | None
    seconds_ago: float | None
    says: str = ""


def list_runs(folder: Path | str) -> list[RunStatus]:
    """Return the runs in a folder and in the folders below it, latest first.

    Raises:
      CharlmError: there is no such folder.
    """
    root = user_path(folder)
    if not root.is_dir():
        raise CharlmError(
            f"no folder {folder}: give a folder that contains runs (charlm train creates runs/)"
        )
    rows = [read_status(Workdir(path)) for path in _run_folders(root)]
    return sorted(rows, key=lambda row: math.inf if row.seconds_ago is None else row.seconds_ago)


def run_folders(folder: Path | str) -> list[Path]:
    """Return a run's folder, or those of all runs below a folder, sorted by name.

    Raises:
      CharlmError: there is no run, or only an exported model.
    """
    found = _run_folders(user_path(folder))
    if not found:
        Workdir(folder).refuse_exported()
        raise CharlmError(
            f"no run in {folder}: give a run's folder, or a folder that contains runs"
        )
    return found


def _run_folders(root: Path) -> list[Path]:
    """Return the folders of runs at or below a folder, in sorted order; links are followed.

    A `config.json` that is not JSON may be that of a damaged run; one of another program is no run.
    A run with checkpoints has lost its config if there is none.
    """
    found = []
    for folder in walk(str(root), refuse=lambda error: None):  # it has no run to show
        workdir = Workdir(folder.path)
        has_config = workdir.config_file.is_file()
        if workdir.is_exported or not (has_config or workdir.checkpoints.is_dir()):
            continue
        if own_folder(folder.path, folder.names) in (RUN, EXPORT):
            found.append(workdir.path)
            folder.folders.clear()
        elif has_config and read_object(str(workdir.config_file)) is None:
            found.append(workdir.path)
    return sorted(found, key=lambda path: path.parts)


def read_status(workdir: Workdir) -> RunStatus:
    """Return the status of one run."""
    files = (workdir.metrics_file, workdir.config_file)
    changed = next((file.stat().st_mtime for file in files if file.exists()), None)
    seconds_ago = None if changed is None else max(0.0, time.time() - changed)
    try:
        workdir.check_readable()
        workdir.warn_of_lost_facts()
        config, facts, rows = read_checked_config(workdir), workdir.read_facts(), read_rows(workdir)
        state = _state(workdir, facts, rows)
    except CharlmError as error:
        return RunStatus(
            path=str(workdir.path),
            state="unreadable",
            corpus="",
            parameters=None,
            step=0,
            total_steps=None,
            best_loss_nats=None,
            seconds_ago=seconds_ago,
            says=str(error),
        )
    counted = "average" if config.optimizer.averages else "raw"
    valid = [row for row in rows if row["split"] == "valid"]
    losses = [row["loss_nats"] for row in valid if row["weights"] == counted]
    return RunStatus(
        path=str(workdir.path),
        state=state,
        corpus=config.data.corpus,
        parameters=facts.get("parameters"),
        step=rows[-1]["step"] if rows else 0,
        total_steps=facts.get("total_steps"),
        best_loss_nats=min(losses, default=None),
        seconds_ago=seconds_ago,
    )


def read_end(workdir: Workdir) -> str:
    """Return how a run has ended: `done` or `stopped early`; empty if there is more to train.

    It has ended if `run.json` says so and its latest checkpoint is valid and of its last step.

    Raises:
      CharlmError: a file is damaged, or the run has ended but no checkpoint of it is valid.
    """
    return _end(workdir, workdir.read_facts(), read_rows(workdir))


def has_failed(workdir: Workdir) -> bool:
    """Return whether a value was not finite at a step that the run has not passed since."""
    failed, saved = (Checkpoints(path).steps() for path in (workdir.fault, workdir.checkpoints))
    return workdir.fault.is_dir() and max(failed, default=math.inf) > max(saved, default=0)


def _end(workdir: Workdir, facts: Mapping[str, Any], rows: Sequence[MetricsRow]) -> str:
    finished: str = facts.get("finished") or ""
    if not finished:
        return ""
    checkpoint, damages = Checkpoints(workdir.checkpoints).latest_valid(items=("params", "rows"))
    if checkpoint is None:
        raise damages[0] if damages else _no_weights(workdir)
    last = facts.get("total_steps") if finished == "done" else None
    is_last = last in (None, checkpoint.step) and all(
        row["step"] <= checkpoint.step for row in rows
    )
    return finished if is_last and not damages else ""


def _no_weights(workdir: Workdir) -> CharlmError:
    return CharlmError(
        f"{workdir.path} has ended, but {workdir.checkpoints} has no checkpoint: restore it from a "
        f"copy, or begin again with fresh=True"
    )


def _state(workdir: Workdir, facts: Mapping[str, Any], rows: Sequence[MetricsRow]) -> str:
    is_held = workdir.is_held()
    if is_held:
        return "training"
    if finished := _end(workdir, facts, rows):
        return finished
    if is_held is None:
        return "unknown"
    if has_failed(workdir):
        return "failed"
    return "interrupted" if rows else "begun"


def format_age(seconds: float | None) -> str:
    """Format an age in the largest unit that fits; ? if it is not known.

    >>> format_age(5), format_age(150), format_age(7300), format_age(200_000), format_age(None)
    ('5 s ago', '2 min ago', '2 h ago', '2 days ago', '?')
    """
    if seconds is None:
        return "?"
    for unit, length in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length * (2 if unit == "days" else 1):
            return f"{int(seconds // length)} {unit} ago"
    return f"{int(seconds)} s ago"
