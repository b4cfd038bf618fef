"""Which config changes allow a run to be resumed."""

from typing import TYPE_CHECKING, Any

from charlm_jax.config.schema import Config

if TYPE_CHECKING:
    pass

_LIMITS = ("train.max_steps", "train.patience")


def config_changes(there: Config, here: Config) -> list[str]:
    """What keeps one config from going on with the run of another, in words."""
    before = there.flatten()
    return [
        f"config.{field} is {before[field]!r} there and {value!r} here"
        for field, value in here.flatten().items()
        if value != before[field] and not _may_change(field, before[field], value, here)
    ]


def _may_change(field: str, before: Any, value: Any, config: Config) -> bool:
    """What only watches a run, or makes it longer without changing the steps that were made."""
    is_constant_rate = config.optimizer.schedule == "constant"
    is_later_limit = field in _LIMITS and (value == 0 or 0 < before < value)  # 0 is no limit
    match field:
        case "train.log_every_steps" | "evaluation.batch_size":
            return True
        case "train.evaluate_every_steps":  # with patience it decides when to end
            return config.train.patience == 0
        case "train.epochs":
            return is_constant_rate and value > before
        case "train.max_steps":
            return is_constant_rate and is_later_limit
        case _:
            return is_later_limit
