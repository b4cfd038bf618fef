"""The runs in a folder, at a glance. Nothing is computed: what they wrote down is read."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from charlm_jax.core.errors import CharlmError
from charlm_jax.storage.metrics_log import MetricsLog
from charlm_jax.storage.workdir import Workdir


class RunStatus(NamedTuple):
    """One run.

    Attributes:
      path: its folder.
      state: `training`, `done`, `stopped early`, `interrupted`, `failed` (at a step that gave no
        finite number), `begun` (nothing recorded yet) or `unreadable`.
      corpus: what it trains on.
      parameters: how many the model has; None where that is not known.
      step: updates recorded.
      total_steps: where it ends.
      best_loss_nats: lowest held-out loss, per character.
      seconds_ago: since it last wrote to its metrics.
    """

    path: str
    state: str
    corpus: str
    parameters: int | None
    step: int
    total_steps: int | None
    best_loss_nats: float | None
    seconds_ago: float


def list_runs(folder: Path | str) -> list[RunStatus]:
    """The runs in a folder and in the folders below it, the latest first.

    Raises:
      CharlmError: there is no such folder.
    """
    root = Path(folder)
    if not root.is_dir():
        raise CharlmError(
            f"no folder {folder}: name one with runs in it (charlm train makes runs/)"
        )
    rows = [read_status(Workdir(path)) for path in _run_folders(root)]
    return sorted(rows, key=lambda row: row.seconds_ago)


def run_folders(folder: Path | str) -> list[Path]:
    """A run's folder, or those of all runs below a folder, by name.

    Raises:
      CharlmError: there is no run; it is an exported model alone.
    """
    found = list(_run_folders(Path(folder)))
    if not found:
        Workdir(folder).refuse_exported()
        raise CharlmError(f"no run in {folder}: name the folder of a run, or one with runs in it")
    return found


def _run_folders(root: Path) -> Iterator[Path]:
    if (root / "config.json").is_file() and not Workdir(root).is_exported:
        yield root
        return
    try:
        paths = sorted(root.iterdir())
    except OSError:  # a folder that may not be read has no run to show
        return
    for path in paths:
        if path.is_dir() and not path.is_symlink() and not path.name.startswith("."):
            yield from _run_folders(path)


def read_status(workdir: Workdir) -> RunStatus:
    """How one run stands."""
    files = (workdir.metrics_file, workdir.config_file)
    changed = next((file.stat().st_mtime for file in files if file.exists()), 0.0)
    seconds_ago = max(0.0, time.time() - changed)
    try:
        workdir.check_readable()
        config, facts = workdir.read_config(), workdir.read_facts()
        rows = MetricsLog(workdir.metrics_file).rows()
    except CharlmError:
        return RunStatus(str(workdir.path), "unreadable", "", None, 0, None, None, seconds_ago)
    counted = "average" if config.optimizer.average_decay > 0 else "raw"
    valid = [row for row in rows if row["split"] == "valid"]
    losses = [row["loss_nats"] for row in valid if row["weights"] == counted]
    return RunStatus(
        path=str(workdir.path),
        state=_state(workdir, facts.get("finished"), bool(rows)),
        corpus=config.data.corpus,
        parameters=facts.get("parameters"),
        step=rows[-1]["step"] if rows else 0,
        total_steps=facts.get("total_steps"),
        best_loss_nats=min(losses, default=None),
        seconds_ago=seconds_ago,
    )


def _state(workdir: Workdir, finished: str | None, has_rows: bool) -> str:
    if workdir.is_held():
        return "training"
    if finished:
        return finished
    if workdir.fault.is_dir():
        return "failed"
    return "interrupted" if has_rows else "begun"


def format_age(seconds: float) -> str:
    """How long ago, in the largest unit that fits.

    >>> format_age(5), format_age(150), format_age(7300), format_age(200_000)
    ('5 s ago', '2 min ago', '2 h ago', '2 days ago')
    """
    for unit, length in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length * (2 if unit == "days" else 1):
            return f"{int(seconds // length)} {unit} ago"
    return f"{int(seconds)} s ago"
