"""What a run tells of itself: how it went, what trains it again, how its config differs."""

import datetime
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from charlm_jax.config.loading import ConfigSource, as_text
from charlm_jax.core.errors import escape_control_characters
from charlm_jax.inference.run import Run
from charlm_jax.storage.metrics_log import MetricsLog, MetricsRow
from charlm_jax.storage.workdir import Workdir

Curve = Sequence[tuple[int, float]]
"""Losses in nats, by the number of updates made."""


class RunFacts(NamedTuple):
    """One run.

    Attributes:
      workdir: its folder, as it was named.
      seed: of its config.
      checkpoint: the step that its weights are from.
      weights: `raw` or `average`.
      step: updates that its metrics tell of.
      total_steps: where it ends; None where that is not known.
      has_ended: whether it is done, or stopped early.
      characters_per_step: trained on in a full batch.
      context: characters in a window of its own validation.
      training: its loss as it went on, of a few steps each or of whole epochs.
      held_out: the loss of its held-out text, by weights; nothing where none is held out.
      command: one that trains the same run; a comment that names its config if none is recorded.
    """

    workdir: str
    seed: int
    checkpoint: int
    weights: str
    step: int
    total_steps: int | None
    has_ended: bool
    characters_per_step: int
    context: int
    training: Curve
    held_out: Mapping[str, Curve]
    command: str

    @property
    def name(self) -> str:
        """Of its folder."""
        return Path(self.workdir).resolve().name


def read_run_facts(run: Run) -> RunFacts:
    """What a run's folder tells.

    Raises:
      CharlmError: a file in it is damaged.
    """
    workdir, data = Workdir(run.workdir), run.config.data
    facts, rows = workdir.read_facts(), MetricsLog(workdir.metrics_file).rows()
    passing = [row for row in rows if row["split"] == "train" and row["scope"] == "step"]
    epochs = [row for row in rows if row["split"] == "train" and row["scope"] == "epoch"]
    held_out = [row for row in rows if row["split"] == "valid"]
    return RunFacts(
        workdir=str(run.workdir),
        seed=run.config.seed,
        checkpoint=run.checkpoint,
        weights=run.weights,
        step=rows[-1]["step"] if rows else 0,
        total_steps=facts.get("total_steps"),
        has_ended=bool(facts.get("finished")),
        characters_per_step=data.batch_size * data.sequence_length,
        context=run.config.evaluation_context,
        training=_curve(passing if len(passing) > 1 else epochs),
        held_out={
            weights: _curve([row for row in held_out if row["weights"] == weights])
            for weights in sorted({row["weights"] for row in held_out})
        },
        command=train_command(facts, str(run.workdir)),
    )


def _curve(rows: Sequence[MetricsRow]) -> Curve:
    return [(row["step"], row["loss_nats"]) for row in rows]


def train_command(facts: Mapping[str, Any], workdir: str) -> str:
    """Return the `charlm train` that gives a run, as a shell takes it.

    Args:
      facts: content of its run.json.
      workdir: its directory, as the command is to name it.

    Returns:
      One line. A run that was trained from Python, or before run.json recorded the source of its
      config, has no command: the line is then a comment that names its config.json.
    """
    if not facts.get("config_spec"):
        return f"# no command recorded: {escape_control_characters(workdir)}/config.json"
    point, overrides = facts.get("point") or (), facts.get("overrides") or ()
    config, *fields = ConfigSource(facts["config_spec"], tuple(point), tuple(overrides)).flags()
    return shlex.join(["charlm", "train", config, f"--workdir={workdir}", *fields])


def newest_row(runs: Sequence[Run]) -> datetime.datetime | None:
    """When the last row of metrics was written, in UTC; None where no run has any."""
    files = (Workdir(run.workdir).metrics_file for run in runs)
    times = [file.stat().st_mtime for file in files if file.exists()]
    return datetime.datetime.fromtimestamp(max(times), datetime.UTC) if times else None


def shared_fields(runs: Sequence[Run]) -> dict[str, str]:
    """The fields in which configs agree, with their values as the command line takes them."""
    first, *others = (run.config.flatten() for run in runs)
    return {
        field: as_text(value)
        for field, value in first.items()
        if all(other[field] == value for other in others)
    }


def differing_fields(groups: Sequence[Sequence[Run]]) -> dict[str, list[str]]:
    """The fields in which runs differ.

    Args:
      groups: runs, group by group.

    Returns:
      Field -> what each group has, as the command line takes it: one value, or all that its runs
      have, in their order.
    """
    shared = shared_fields([run for runs in groups for run in runs])
    flat = [[run.config.flatten() for run in runs] for runs in groups]
    return {
        field: [
            ", ".join(dict.fromkeys(as_text(config[field]) for config in group)) for group in flat
        ]
        for field in flat[0][0]
        if field not in shared
    }
