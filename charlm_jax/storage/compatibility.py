"""Config changes that allow a run to be resumed."""

from typing import TYPE_CHECKING, Any

from charlm_jax.config.schema import Config
from charlm_jax.core.errors import CharlmError
from charlm_jax.storage.workdir import Workdir

if TYPE_CHECKING:
    from charlm_jax.data.dataset import Dataset

_LIMITS = ("train.max_steps", "train.patience")


def check_same_run(workdir: Workdir, config: Config, dataset: "Dataset") -> Config | None:
    """Refuse a directory that holds a run with another config or text.

    Args:
      workdir: directory of the run, which need not exist.
      config: requested config.
      dataset: requested text.

    Returns:
      The config that the run recorded; None if no run has started.

    Raises:
      CharlmError: the text differs, or a config value that may not change on resume.
    """
    if not workdir.config_file.exists() or not workdir.has_started():
        return None
    recorded = workdir.read_config()
    changes = config_changes(recorded, config)
    if changes:
        raise CharlmError(
            f"{workdir.path} holds another run: {'; '.join(changes)}: choose another workdir, or "
            f"move that run aside with fresh=True"
        )
    if workdir.read_fingerprint() != dataset.fingerprint:
        raise CharlmError(
            f"the text of {dataset.corpus.name} is not the one that {workdir.path} was started on: "
            f"restore the text, choose another workdir, or begin again with fresh=True"
        )
    return recorded


def config_changes(there: Config, here: Config) -> list[str]:
    """List the config differences that prevent resuming a run, in words."""
    before = there.flatten()
    return [
        f"config.{field} is {before[field]!r} there and {value!r} here"
        for field, value in here.flatten().items()
        if value != before[field] and not _may_change(field, before[field], value, here)
    ]


def _may_change(field: str, before: Any, value: Any, config: Config) -> bool:
    """Return whether a change only affects monitoring, or extends a run and keeps its steps."""
    is_constant_rate = config.optimizer.schedule == "constant"
    is_later_limit = field in _LIMITS and (value == 0 or 0 < before < value)  # 0 means no limit
    match field:
        case "train.log_every_steps" | "train.sample_every_steps" | "evaluation.batch_size":
            return True
        case "train.evaluate_every_steps":  # with patience it affects when training stops
            return config.train.patience == 0
        case "train.epochs":
            return is_constant_rate and value > before
        case "train.max_steps":
            return is_constant_rate and is_later_limit
        case _:
            return is_later_limit
