"""Grouping of runs that differ only by their seed, and the names of the groups."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from charlm_jax.core.errors import CharlmError
from charlm_jax.inference.run import Run
from charlm_jax.storage.compatibility import DIVIDING, OBSERVING, PLACES

# Fields that affect neither training, except by rounding, nor the choice of the best checkpoint,
# and the one in which the runs of a group differ. Runs that are compared have one text and one
# split, wherever each has read it, and by whatever rule it was cut.
_INDIFFERENT = {
    "seed",
    "train.keep",
    "train.steps_per_dispatch",
    *OBSERVING,
    *DIVIDING,
    *PLACES,
}

# Largest number of fields in a name.
_MOST_FIELDS = 3


def group_runs(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Group runs that differ only by their seed, and name groups by the fields that differ.

    Args:
      runs: at least one run; all of one text, vocabulary and split.

    Returns:
      Name -> runs, in the order of the groups' first runs. A single group, and groups of one run
      that differ in many fields, are named after the runs' folders.

    Raises:
      CharlmError: a run is given twice, or two have one seed and differ in ignored fields alone.
    """
    groups: dict[tuple[tuple[str, Any], ...], list[Run]] = {}
    for run in runs:
        same = [
            (field, value)
            for field, value in run.config.flatten().items()
            if field not in _INDIFFERENT and not field.startswith("split.")
        ]
        group = groups.setdefault(tuple(same), [])
        for other in group:
            if other.config.seed == run.config.seed:
                raise CharlmError(
                    f"{other.workdir} and {run.workdir} are the same run: {_likeness(other, run)}"
                )
        group.append(run)
    folders = [Path(group[0].workdir).resolve().name for group in groups.values()]
    configs = [dict(same) for same in groups]
    varied = [field for field in configs[0] if len({repr(c[field]) for c in configs}) > 1]
    is_much = len(varied) > _MOST_FIELDS and len(groups) == len(runs) == len(set(folders))
    names = folders if is_much or not varied else _names(configs, varied)
    return dict(zip(names, groups.values(), strict=True))


def _likeness(run: Run, other: Run) -> str:
    """Return why two runs of one group and seed are taken for the same, in words."""
    here, there = run.config.flatten(), other.config.flatten()
    fields = [f"config.{field}" for field in here if here[field] != there[field]]
    if not fields:
        return "same config, same seed"
    return f"same seed, and what differs is ignored ({', '.join(fields)}): give one of them"


def _names(configs: Sequence[Mapping[str, Any]], varied: Sequence[str]) -> list[str]:
    """Name configs by varied fields; if there are many, by the fewest that distinguish them."""
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
