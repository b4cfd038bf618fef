"""Formats of the JSON that charlm_jax writes: changes by format, and upgrades of old values.

`config.json`, `run.json`, the metadata of checkpoints, the notes of evaluations and the header of
exports carry `format`. Older files without it have format 1. `upgrade` is called only where such a
file is read: all other code knows only the newest format.

To add a config field, append a format with the value that older runs have implicitly had:

    8: {"config": Change(added={"model.gate_bias": 1.0})},

and to rename one, `Change(renamed={"old.name": "section.new_name"})`.
"""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from charlm_jax._version import __version__
from charlm_jax.core.errors import CharlmError

Kind = Literal["config", "run", "checkpoint", "evaluation", "export"]


class NewerFormat(CharlmError):
    """A file in a format that only a later version of charlm_jax can read."""


class Change(NamedTuple):
    """Changes to one kind of file from one format to the next.

    Attributes:
      added: dotted names of new fields, with the values that older files imply.
      renamed: new dotted names of fields, by their old names.
    """

    added: Mapping[str, Any] = {}
    renamed: Mapping[str, str] = {}


# Format -> kind of file -> changes from the previous format.
CHANGES: Mapping[int, Mapping[Kind, Change]] = {
    2: {
        "run": Change(renamed={"sittings": "sessions"}),
        "evaluation": Change(added={"weights_hash": None}),
    },
    3: {"config": Change(added={"train.sample_every_steps": 0})},
    4: {
        "config": Change(
            added={
                "data.unit": "characters",
                "evaluation.max_characters": 0,
                "split.counts": "",
                "split.rounding": "float",
                "train.keep": "",
            }
        ),
        "evaluation": Change(added={"bits_per_byte": None, "sha256": None}),
    },
    5: {
        "config": Change(
            added={
                "data.length_schedule": "",
                "train.devices": 1,
                "train.shard_params": False,
                "train.microbatches": 1,
            }
        )
    },
    6: {
        "config": Change(
            added={
                "model.state_size": 64,
                "model.conv_width": 4,
                "model.chunk_size": 32,
                "model.mogrifier_rounds": 0,
                "optimizer.rule": "adam",
            }
        )
    },
    7: {
        "config": Change(
            added={
                "model.cell_norm": False,
                "model.dropout_mask": "position",
                "model.embedding_dropout": 0.0,
                "model.weight_dropout": 0.0,
                "optimizer.activation_penalty": 0.0,
                "optimizer.temporal_penalty": 0.0,
            }
        )
    },
}


def newest_format() -> int:
    """Return the newest format, in which all files are written."""
    return max(CHANGES)


def with_format(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a new file with their format."""
    return {"format": newest_format(), **values}


def upgrade(kind: Kind, values: object, file: Path | None = None) -> dict[str, Any]:
    """Upgrade values that were read from a file to the newest format.

    Args:
      kind: kind of file.
      values: content of the file; not modified.
      file: path of the file, for error messages.

    Returns:
      The values without `format`; `with_format` adds it when they are written.

    Raises:
      NewerFormat: the format is newer than `newest_format`.
      CharlmError: the format is not a positive integer, or the values are not an object.

    >>> upgrade("run", {"sittings": [], "finished": "done"})
    {'finished': 'done', 'sessions': []}
    """
    name = "" if file is None else f"{file}: "
    if not isinstance(values, Mapping):
        raise CharlmError(f"{name}{values!r} is not a JSON object")
    upgraded = copy.deepcopy(dict(values))
    found, newest = upgraded.pop("format", 1), newest_format()
    if type(found) is not int or found < 1:
        raise CharlmError(f"{name}format={found!r} is not allowed: it must be a positive integer")
    if found > newest:
        raise NewerFormat(
            f"{name}format {found} is newer than charlm_jax {__version__}, which reads formats up "
            f"to {newest}: install a newer charlm_jax"
        )
    for number in range(found + 1, newest + 1):
        change = CHANGES[number].get(kind, Change())
        for old, new in change.renamed.items():
            section, leaf = _section(upgraded, old, make=False)
            if leaf in section:
                value = section.pop(leaf)
                section, leaf = _section(upgraded, new, make=True)
                section[leaf] = value
        for field, value in change.added.items():
            section, leaf = _section(upgraded, field, make=True)
            section.setdefault(leaf, copy.deepcopy(value))
    return upgraded


def _section(values: dict[str, Any], field: str, *, make: bool) -> tuple[dict[str, Any], str]:
    """Return the section that a dotted field belongs to, and the field's name there."""
    *sections, name = field.split(".")
    for section in sections:
        inner = values.setdefault(section, {}) if make else values.get(section)
        if not isinstance(inner, dict):  # absent, or damaged: validation reports it
            return {}, name
        values = inner
    return values, name
