"""Config changes that allow a run to be resumed, or its weights to be used."""

from typing import TYPE_CHECKING, Any

from charlm_jax.config.length_schedule import count_shared_steps
from charlm_jax.config.schema import Config
from charlm_jax.core.errors import CharlmError
from charlm_jax.data.splits import size
from charlm_jax.storage.workdir import Workdir

if TYPE_CHECKING:
    from charlm_jax.data.dataset import Dataset

_LIMITS = ("train.max_steps", "train.patience")

OBSERVING = ("train.log_every_steps", "train.sample_every_steps", "evaluation.batch_size")
"""Fields that only observe a run."""

DIVIDING = ("train.devices", "train.shard_params", "train.microbatches")
"""Fields that decide how the work of a step is divided, which changes it by rounding alone."""

# Fields that decide the length of a run and the learning rates towards its end.
_LENGTH = ("train.epochs", "train.max_steps")
_RATES = (
    *_LENGTH,
    "optimizer.schedule",
    "optimizer.decay_fraction",
    "optimizer.final_learning_rate",
)

# The field that decides the sequence lengths of the first steps; several texts mean the same.
_LENGTHS = "data.length_schedule"

PLACES = ("data.corpus", "data.encoding")
"""Fields that say where a text is and how its bytes are decoded, but nothing else about a run."""

# Fields without bearing on a model and its losses: when training ends or is observed, and where
# the text lies and how its fractions are rounded, since text and parts have a fingerprint. A run
# that was extended has other rates towards its end.
_NO_BEARING = {
    *OBSERVING,
    *DIVIDING,
    *_LIMITS,
    *_RATES,
    *PLACES,
    "split.rounding",
    "train.evaluate_every_steps",
    "train.keep",
    "evaluation.max_characters",
}


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
    has_same_text = workdir.read_fingerprint() == dataset.fingerprint
    held_out = size(dataset.parts.get("valid", ()))
    changes = config_changes(recorded, config, same_text=has_same_text, held_out=held_out)
    if changes:
        raise CharlmError(
            f"{workdir.path} holds another run: {'; '.join(changes)}; a run keeps one "
            f"config, or its figures would be of neither: choose another workdir, or move that run "
            f"aside with fresh=True"
        )
    if not has_same_text:
        check_same_text(workdir, recorded, dataset)
    return recorded


def check_same_text(workdir: Workdir, recorded: Config, dataset: "Dataset") -> None:
    """Refuse a text that is not the one that a run was started on.

    Args:
      workdir: directory of the run.
      recorded: config that the run recorded.
      dataset: requested text.

    Raises:
      CharlmError: the text or its parts differ.
    """
    if workdir.read_fingerprint() == dataset.fingerprint:
        return
    if workdir.read_fingerprint() == dataset.resplit(recorded).fingerprint:
        raise CharlmError(
            f"{workdir.path} was started when fractions of a text were rounded otherwise: to "
            f"resume it, add --config.split.rounding={recorded.split.rounding}"
        )
    raise CharlmError(
        f"the text of {dataset.corpus.name} is not the one that {workdir.path} was started on: "
        f"restore the text, choose another workdir, or begin again with fresh=True"
    )


def config_changes(
    there: Config,
    here: Config,
    *,
    same_text: bool,
    held_out: int,
    steps_agree: bool | None = None,
    same_evaluations: bool = False,
) -> list[str]:
    """List the config differences that prevent resuming a run, in words.

    Args:
      there: config that the run recorded.
      here: requested config.
      same_text: whether the texts have the same fingerprint, wherever they are.
      held_out: number of characters of the run's held-out text.
      steps_agree: whether all updates so far have the same learning rates and sequence lengths
        under both; None if it is not known yet how many there are.
      same_evaluations: whether held-out text must be scored at the same steps, because one run
        takes over the rows of the other.
    """
    before = there.flatten()
    lengths_agree = steps_agree or there.data.phases == here.data.phases
    return [
        f"config.{field} is {before[field]!r} there and {value!r} here{_reason(field, here)}"
        for field, value in here.flatten().items()
        if value != before[field]
        and not (same_text and field in PLACES)
        and not (lengths_agree and field == _LENGTHS)
        and (
            (same_evaluations and field == "train.evaluate_every_steps")
            or not _may_change(field, before[field], value, here, held_out, steps_agree)
        )
    ]


def division(config: Config) -> dict[str, int]:
    """Return the values of the fields that decide how the work of a step is divided."""
    values = config.flatten()
    return {f"config.{field}": values[field] for field in DIVIDING}


def changes_of_model(there: Config, here: Config, *, step: int) -> list[str]:
    """List the config differences that bear on a model or on its losses, in words.

    Args:
      there: config that a checkpoint recorded.
      here: config of the run.
      step: step of the checkpoint; a branched run may have other sequence lengths after it.
    """
    now = here.flatten()
    lengths_agree = step <= count_shared_steps(there.data.phases, here.data.phases)
    return [
        f"config.{field} is {before!r} there and {now[field]!r} here"
        for field, before in there.flatten().items()
        if before != now[field]
        and field not in _NO_BEARING
        and not (lengths_agree and field == _LENGTHS)
    ]


def _reason(field: str, config: Config) -> str:
    is_cosine = config.optimizer.schedule == "cosine"
    if field == "train.keep" and not is_cosine:
        return " (--branch_from=RUN starts a run that keeps others in another workdir)"
    if field not in _LENGTH or not is_cosine:
        return ""
    return (
        " (under config.optimizer.schedule=cosine the rate of every step depends on the last: "
        "--init_from=RUN starts a longer run from its weights)"
    )


def _may_change(
    field: str, before: Any, value: Any, config: Config, held_out: int, steps_agree: bool | None
) -> bool:
    """Return whether a change only affects monitoring, or extends a run and keeps its steps."""
    if field in _RATES and steps_agree is not None:
        return steps_agree
    has_stable_rate = config.optimizer.schedule in ("constant", "wsd")
    is_later_limit = field in _LIMITS and (value == 0 or 0 < before < value)  # 0 means no limit
    if field in (*OBSERVING, *DIVIDING):
        return True
    match field:
        case "evaluation.max_characters":  # if both score the same characters
            return min(before or held_out, held_out) == min(value or held_out, held_out)
        case "split.rounding":  # the fingerprint has the parts
            return True
        case "train.evaluate_every_steps":  # with patience it affects when training stops
            return config.train.patience == 0
        case "train.keep":  # in the same folder, another rule would remove what was kept
            return before == "" or steps_agree is not None
        case "train.epochs":
            return has_stable_rate and value > before
        case "train.max_steps":
            return has_stable_rate and is_later_limit
        case _:
            return is_later_limit
