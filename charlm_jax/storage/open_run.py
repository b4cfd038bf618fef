"""A run opened for training: locked, checked and read once."""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from charlm_jax.config.schema import Config
from charlm_jax.core.errors import CharlmError
from charlm_jax.storage.checkpoint import Checkpoints
from charlm_jax.storage.compatibility import check_same_run
from charlm_jax.storage.metrics_log import MetricsLog, MetricsRow
from charlm_jax.storage.workdir import Workdir

if TYPE_CHECKING:
    from charlm_jax.data.dataset import Dataset


@dataclasses.dataclass
class OpenRun:
    """A run whose lock this process holds, with the content of its directory.

    Neither checkpoints nor metrics are read here: `restore_or_init` opens the checkpoint that it
    resumes from.

    Attributes:
      workdir: paths in the run's directory.
      recorded_config: config of the run so far; None for a run that has not started.
      facts: content of run.json; {} for a run that has not started.
      checkpoints: the run's checkpoints.
      metrics: the run's metrics.jsonl.
      is_there: function that returns whether the directory is still there and still this run's.
    """

    workdir: Workdir
    recorded_config: Config | None
    facts: dict[str, Any]
    checkpoints: Checkpoints
    metrics: MetricsLog
    is_there: Callable[[], bool]

    def claim(self, config: Config, dataset: "Dataset") -> None:
        """Record the config and the vocabulary, which assign the directory to this run."""
        self.workdir.claim(config, dataset)

    def refuse_if_gone(self) -> None:
        """Refuse to write to a directory that was moved, removed or taken over meanwhile.

        Raises:
          CharlmError: it is not there any more, or has no config.
        """
        if not self.is_there() or not self.workdir.config_file.is_file():
            raise CharlmError(
                f"{self.workdir.path} was moved or removed during training: nothing more is saved"
            )

    def write_facts(self, **changes: Any) -> None:
        """Update values of run.json; the others are kept."""
        self.facts |= changes
        self.workdir.write_facts(self.facts)


class _Unwritten:
    """Metrics and checkpoints of a run that another process writes."""

    def append(self, row: MetricsRow) -> None:
        """Write nothing."""

    def truncate_after(self, step: int) -> None:
        """Drop nothing."""

    def written(self) -> bytes:
        """Return no lines."""
        return b""

    def steps(self) -> list[int]:
        """Return no steps."""
        return []

    def save(self, step: int, **values: Any) -> None:
        """Write nothing."""


class FollowedRun:
    """A run that another process of its training writes: what `OpenRun` does, without effect.

    Attributes:
      workdir: paths of the run, which need not exist on this machine.
      recorded_config: None.
      facts: {}.
      checkpoints: no checkpoints.
      metrics: no metrics.
    """

    recorded_config = None

    def __init__(self, workdir: Workdir) -> None:
        self.workdir = workdir
        self.facts: dict[str, Any] = {}
        self.checkpoints = _Unwritten()
        self.metrics = _Unwritten()

    def claim(self, config: Config, dataset: "Dataset") -> None:
        """Record nothing."""

    def refuse_if_gone(self) -> None:
        """Refuse nothing."""

    def write_facts(self, **changes: Any) -> None:
        """Write nothing."""


@contextmanager
def open_run(workdir: Workdir, config: Config, dataset: "Dataset") -> Iterator[OpenRun]:
    """Lock a run's directory, created if necessary, and read its content.

    Args:
      workdir: directory of the run.
      config: requested config.
      dataset: requested text.

    Raises:
      CharlmError: another process holds the directory, it is not this run's, or a file is damaged.
    """
    with workdir.held() as is_there:
        workdir.warn_of_lost_facts()
        recorded_config = check_same_run(workdir, config, dataset)
        yield OpenRun(
            workdir=workdir,
            recorded_config=recorded_config,
            facts=workdir.read_facts() if workdir.has_started() else {},
            checkpoints=Checkpoints(workdir.checkpoints, config.train.keeps),
            metrics=MetricsLog(workdir.metrics_file),
            is_there=is_there,
        )
