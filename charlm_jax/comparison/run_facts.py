"""What a run tells of itself: how it went, what trains it again, how its config differs."""

import datetime
import functools
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from charlm_jax.config.loading import as_text, load_config, shipped_names
from charlm_jax.config.schema import Config
from charlm_jax.core.errors import CharlmError
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
      command: one that trains the same run.
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
        command=train_command(run.config, str(run.workdir)),
    )


def _curve(rows: Sequence[MetricsRow]) -> Curve:
    return [(row["step"], row["loss_nats"]) for row in rows]


def train_command(config: Config, workdir: str) -> str:
    """The shortest `charlm train` that gives a config, as a shell takes it.

    Args:
      config: any.
      workdir: where the run lies, or is to lie.

    Returns:
      One line. A run does not know the name of the file that its config came from: this is the
      shipped one with the fewest fields to change, the first of those by name.
    """
    spec, changes = min(
        ((spec, _changes(base, config)) for spec, base in _shipped(config.data.corpus)),
        key=lambda found: len(found[1]),
    )
    words = ["charlm", "train", f"--config={spec}", f"--workdir={workdir}", *changes]
    return " ".join(map(shlex.quote, words))


@functools.lru_cache(maxsize=32)
def _shipped(corpus: str) -> Sequence[tuple[str, Config]]:
    """What can be named without saying more than a text; the points of sweeps come last."""
    found = []
    names = sorted(shipped_names(), key=lambda name: "/" in name)
    for spec in [spec for name in names for spec in (name, f"{name}:{corpus}")]:
        try:
            found.append((spec, load_config(spec)))
        except CharlmError:  # it asks for something else
            continue
    return found


def _changes(base: Config, config: Config) -> list[str]:
    """What turns one config into the other, as overrides."""
    before = base.flatten()
    return [
        f"--config.{field}={as_text(value)}"
        for field, value in config.flatten().items()
        if value != before[field]
    ]


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


def differing_fields(arms: Sequence[Sequence[Run]]) -> dict[str, list[str]]:
    """The fields in which runs differ.

    Args:
      arms: runs, arm by arm.

    Returns:
      Field -> what each arm has, as the command line takes it: one value, or all that its runs
      have, in their order.
    """
    shared = shared_fields([run for runs in arms for run in runs])
    flat = [[run.config.flatten() for run in runs] for runs in arms]
    return {
        field: [", ".join(dict.fromkeys(as_text(config[field]) for config in arm)) for arm in flat]
        for field in flat[0][0]
        if field not in shared
    }
