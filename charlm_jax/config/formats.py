"""Formats of the JSON that charlm_jax keeps: what changed in each, and how old values are read.

`config.json`, `run.json`, the metadata of checkpoints, the notes of evaluations and the header of
exports carry `format`. Files from before there was one are of format 1. `upgrade` is called where
such a file is read, and nowhere else: all other code knows the newest format alone.

To add a config field, append a format with the value that older runs have implicitly had:

    3: {"config": Change(added={"model.gate_bias": 1.0})},

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
    """A file of a format that only a later version of charlm_jax reads."""


class Change(NamedTuple):
    """Changes of one kind of file between a format and the next.

    Attributes:
      added: new fields by dotted name, with the value that stands for their absence.
      renamed: new dotted names of fields by their old ones.
    """

    added: Mapping[str, Any] = {}
    renamed: Mapping[str, str] = {}


# Format -> kind of file -> how it differs from the format before.
CHANGES: Mapping[int, Mapping[Kind, Change]] = {
    2: {
        "run": Change(renamed={"sittings": "sessions"}),
        "evaluation": Change(added={"weights_hash": None}),
    },
}


def newest_format() -> int:
    """Return the format that is written, the newest that can be read."""
    return max(CHANGES)


def with_format(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a new file, with the format that they are written in."""
    return {"format": newest_format(), **values}


def upgrade(kind: Kind, values: object, file: Path | None = None) -> dict[str, Any]:
    """Return values that were read from a file as the newest format has them.

    Args:
      kind: kind of file.
      values: content of the file, which is left as it is.
      file: its path, for messages.

    Returns:
      The values without `format`: whoever writes them calls `with_format`.

    Raises:
      NewerFormat: the format is newer than `newest_format`.
      CharlmError: the format is not a positive integer, or the values are no object.

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
        if not isinstance(inner, dict):  # absent, or damaged: whoever validates the values says so
            return {}, name
        values = inner
    return values, name
