"""Which runs are one group, and what the groups of a comparison are called."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from charlm_jax.core.errors import CharlmError
from charlm_jax.inference.run import Run

# Fields that change nothing about what is learnt, and the one in which the runs of a group differ.
_INDIFFERENT = (
    "seed",
    "train.steps_per_dispatch",
    "train.log_every_steps",
    "evaluation.context",
    "evaluation.batch_size",
)

# More fields than these are too many for a name.
_MOST_FIELDS = 3


def group_runs(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Runs that differ by their seed alone, by a name that says in what groups differ.

    Args:
      runs: at least one.

    Returns:
      Name -> runs, in the order in which their first runs come. A single group, and groups of one
      run that differ in much, are named after the runs' folders.

    Raises:
      CharlmError: the same run twice.
    """
    groups: dict[tuple[tuple[str, Any], ...], list[Run]] = {}
    for run in runs:
        same = [(k, v) for k, v in run.config.flatten().items() if k not in _INDIFFERENT]
        group = groups.setdefault(tuple(same), [])
        for other in group:
            if other.config.seed == run.config.seed:
                raise CharlmError(
                    f"{other.workdir} and {run.workdir} are the same run: same config, same seed"
                )
        group.append(run)
    folders = [Path(group[0].workdir).resolve().name for group in groups.values()]
    configs = [dict(same) for same in groups]
    varied = [field for field in configs[0] if len({repr(c[field]) for c in configs}) > 1]
    is_much = len(varied) > _MOST_FIELDS and len(groups) == len(runs) == len(set(folders))
    names = folders if is_much or not varied else _names(configs, varied)
    return dict(zip(names, groups.values(), strict=True))


def _names(configs: Sequence[Mapping[str, Any]], varied: Sequence[str]) -> list[str]:
    """What varies; of many fields the fewest that tell the configs apart, the first of these."""
    if len(varied) > _MOST_FIELDS:
        for count in range(1, len(varied)):
            for fields in itertools.combinations(varied, count):
                if len({_words(config, fields) for config in configs}) == len(configs):
                    return [_words(config, fields) for config in configs]
    return [_words(config, varied) for config in configs]


def _words(config: Mapping[str, Any], fields: Sequence[str]) -> str:
    def value(field: str) -> str:
        own = config[field]
        return "+".join(map(str, own)) if isinstance(own, (tuple, list)) else f"{own}"

    return " ".join(f"{field.rpartition('.')[2]}={value(field)}" for field in fields)
