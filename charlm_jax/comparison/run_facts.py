"""Facts about a run: its progress, the command that trains it, and how its config differs."""

import datetime
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from charlm_jax.config.loading import ConfigSource, as_text
from charlm_jax.core.trees import count_parameters
from charlm_jax.core.visible_text import visible_line
from charlm_jax.inference.run import Run
from charlm_jax.storage.metrics_log import MetricsRow
from charlm_jax.storage.seal import read_rows
from charlm_jax.storage.workdir import Workdir

Curve = Sequence[tuple[int, float]]
"""Losses in nats, as (number of updates, loss) pairs."""


class RunFacts(NamedTuple):
    """Facts about one run.

    Attributes:
      workdir: folder of the run, as given.
      seed: seed of its config.
      layers: names of its layers.
      parameters: number of parameters.
      checkpoint: step of its weights.
      weights: `raw` or `average`.
      step: last step in its metrics.
      total_steps: step at which training ends; None if unknown.
      has_ended: False if run.json records that training is neither complete nor stopped early.
      characters_per_step: number of characters in a full batch.
      context: number of characters in a window of its own validation.
      unit: unit of its text, `characters` or `bytes`.
      training: training loss, each value over a few steps or a whole epoch.
      held_out: validation loss, by weights; empty if no text is held out.
      command: command that trains the same run; a comment that names its config if none is
        recorded.
    """

    workdir: str
    seed: int
    layers: Sequence[str]
    parameters: int
    checkpoint: int
    weights: str
    step: int
    total_steps: int | None
    has_ended: bool
    characters_per_step: int
    context: int
    unit: str
    training: Curve
    held_out: Mapping[str, Curve]
    command: str

    @property
    def name(self) -> str:
        """Name of the run's folder."""
        return Path(self.workdir).resolve().name


def read_run_facts(run: Run) -> RunFacts:
    """Read the facts about a run from its folder.

    Raises:
      CharlmError: a file in the folder is damaged.
    """
    workdir, data = Workdir(run.workdir), run.config.data
    workdir.warn_of_lost_facts()
    facts, rows = workdir.read_facts(), read_rows(workdir)
    passing = [row for row in rows if row["split"] == "train" and row["scope"] == "step"]
    epochs = [row for row in rows if row["split"] == "train" and row["scope"] == "epoch"]
    held_out = [row for row in rows if row["split"] == "valid"]
    return RunFacts(
        workdir=str(run.workdir),
        seed=run.config.seed,
        layers=run.config.model.layers,
        parameters=count_parameters(run.params),
        checkpoint=run.checkpoint,
        weights=run.weights,
        step=rows[-1]["step"] if rows else 0,
        total_steps=facts.get("total_steps"),
        has_ended=not is_unfinished(facts),
        characters_per_step=data.batch_size * data.sequence_length,
        context=run.config.evaluation_context,
        unit=data.unit,
        training=_curve(passing if len(passing) > 1 or not epochs else epochs),
        held_out={
            weights: _curve([row for row in held_out if row["weights"] == weights])
            for weights in sorted({row["weights"] for row in held_out})
        },
        command=train_command(facts, str(run.workdir)),
    )


def is_unfinished(facts: Mapping[str, Any]) -> bool:
    """Return whether training has not ended: it goes on, was interrupted, or has diverged.

    Args:
      facts: content of the run's run.json; {} if there is none, and so no record of an end.
    """
    return bool(facts) and not facts.get("finished")


def _curve(rows: Sequence[MetricsRow]) -> Curve:
    return [(row["step"], row["loss_nats"]) for row in rows]


def train_command(facts: Mapping[str, Any], workdir: str) -> str:
    """Return the `charlm train` command that reproduces a run, quoted for the shell.

    Args:
      facts: content of the run's run.json.
      workdir: folder of the run, as it should appear in the command.

    Returns:
      One line. A run that was trained from Python, or before run.json recorded the source of its
      config, has no command: the line is then a comment that names its config.json.
    """
    if not facts.get("config_spec"):
        return f"# no command recorded: {visible_line(workdir)}/config.json"
    point, overrides = facts.get("point") or (), facts.get("overrides") or ()
    config, *fields = ConfigSource(facts["config_spec"], tuple(point), tuple(overrides)).flags()
    allowed = dict.fromkeys(
        f"--allow_module={_importable(source)}" for source in facts.get("mixers") or ()
    )
    return shlex.join(["charlm", "train", config, f"--workdir={workdir}", *fields, *allowed])


def _importable(source: Mapping[str, Any]) -> str:
    """Return a module's file if that alone imports it, otherwise its name."""
    module, file = source["module"], source["file"]
    return file if file is not None and Path(file).stem == module else module


def newest_row(runs: Sequence[Run]) -> datetime.datetime | None:
    """Return the time of the last written row of metrics, in UTC; None if there is no row."""
    files = (Workdir(run.workdir).metrics_file for run in runs)
    times = [file.stat().st_mtime for file in files if file.exists()]
    return datetime.datetime.fromtimestamp(max(times), datetime.UTC) if times else None


def shared_fields(runs: Sequence[Run]) -> dict[str, str]:
    """Return the fields in which configs agree, with their values in command-line syntax."""
    first, *others = (run.config.flatten() for run in runs)
    return {
        field: as_text(value)
        for field, value in first.items()
        if all(other[field] == value for other in others)
    }


def differing_fields(groups: Sequence[Sequence[Run]]) -> dict[str, list[str]]:
    """Return the fields in which runs differ.

    Args:
      groups: runs of each group.

    Returns:
      Field -> the value of each group, in command-line syntax; if its runs differ, all their
      values, in the order of the runs.
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
