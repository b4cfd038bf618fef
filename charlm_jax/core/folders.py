"""Content of folders: one rule for links, and one for what charlm_jax wrote itself.

Links to folders are followed, and every real folder is visited once, so a loop ends.
"""

import json
import os
import re
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

from charlm_jax.core.errors import CharlmError
from charlm_jax.core.files import final_name, is_temporary

MOST_NAMES = 200_000
"""Limit of files and folders below one folder, or matched by one pattern."""

PAGE_MARK = "A page of charlm_jax:"
"""Words near the start of every HTML page that charlm_jax writes, and may replace."""

MODEL_PAGE_MARK = "A model of charlm_jax:"
"""Words near the start of an HTML page with a model, which is never replaced."""

FIGURE_MARK = "charlm_jax"
"""Name of the software in every PNG figure that charlm_jax writes."""

_PAGE_BYTES = 200  # at the start of a page or a figure, which contain its mark
_MOST_JSON_BYTES = 1 << 22

RUN, EXPORT, PAGE = "run", "exported model", "page"


class _Mark(NamedTuple):
    """A sign that charlm_jax wrote a folder: files in it, and keys of the last one, a JSON file."""

    kind: str
    files: tuple[str, ...]
    keys: frozenset[str]


_CONFIG_KEYS = frozenset({"data", "model", "optimizer", "train"})

# The first that fits decides.
_MARKS = (
    _Mark(EXPORT, ("model.safetensors", "config.json"), _CONFIG_KEYS),
    _Mark(RUN, ("config.json",), _CONFIG_KEYS),
    _Mark(RUN, ("vocabulary.json",), frozenset({"symbols", "fingerprint"})),
    _Mark("sweep", ("manifest.json",), frozenset({"config", "overrides", "points"})),
    _Mark("checkpoint", ("params.npz", "meta.json"), frozenset({"config", "fingerprint"})),
)

# Files of a run, of which a damaged one still has several.
_RUN_FILES = frozenset({"config.json", "vocabulary.json", "run.json", "metrics.jsonl", "lock"})
_ENOUGH_FILES = 3

# Content of a run's folder before it has a config.
_BEGUN = frozenset(
    {"lock", "lock.claim", "lock.takeover", "checkpoints", "vocabulary.json", "config.json"}
)


class Folder(NamedTuple):
    """A folder that `walk` visits.

    Attributes:
      path: path by which it was reached.
      real: the same without links.
      names: names of everything in it.
      folders: names of the folders in it, without those that begin with a dot; `walk` enters those
        that are left in the list.
      files: names of everything else in it, without those that begin with a dot.
    """

    path: str
    real: str
    names: frozenset[str]
    folders: list[str]
    files: Sequence[str]


def walk(root: str, *, refuse: Callable[[OSError], None]) -> Iterator[Folder]:
    """Yield a folder and those below it, each real folder once, parents first.

    Links are followed after everything else: a folder that is below the root is found there, and
    not through a link.

    Args:
      root: path of the folder.
      refuse: callback for a folder that cannot be listed; if it returns, the folder is left out.

    Raises:
      CharlmError: there are more than `MOST_NAMES` names.
    """
    plain, linked = [(root, os.path.realpath(root))], deque[str]()
    seen, count = set[str](), 0
    while plain or linked:
        if plain:
            path, real = plain.pop()
        else:
            path = linked.popleft()
            real = os.path.realpath(path)
        if real in seen:
            continue
        seen.add(real)
        try:
            with os.scandir(path or ".") as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            refuse(error)
            continue
        count += len(found)
        refuse_too_many(count, root)
        shown = [entry for entry in found if not entry.name.startswith(".")]
        links = {entry.name for entry in shown if entry.is_symlink()}
        folders = [entry.name for entry in shown if _is_folder(entry)]
        is_folder = {*folders}
        files = [entry.name for entry in shown if entry.name not in is_folder]
        yield Folder(path, real, frozenset(entry.name for entry in found), folders, files)
        linked += [os.path.join(path, name) for name in folders if name in links]
        plain += [
            (os.path.join(path, name), os.path.join(real, name))
            for name in reversed(folders)
            if name not in links
        ]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    return os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir(follow_symlinks=False)


def refuse_too_many(count: int, name: str) -> None:
    """Raise a `CharlmError` for more than `MOST_NAMES` files and folders."""
    if count > MOST_NAMES:
        raise CharlmError(
            f"{name!r} has more than {MOST_NAMES:,} files and folders: name a smaller folder"
        )


def own_folder(path: str, names: Collection[str]) -> str | None:
    """Return the kind of a folder that charlm_jax wrote, such as `run`; None for any other.

    Args:
      path: path of the folder.
      names: names of everything in it.
    """
    for mark in _MARKS:
        if all(name in names for name in mark.files):
            values = read_object(os.path.join(path, mark.files[-1]))
            if values is not None and mark.keys <= values.keys():
                return mark.kind
    is_damaged = read_object(os.path.join(path, "config.json")) is None
    if is_damaged and len(_RUN_FILES.intersection(names)) >= _ENOUGH_FILES:
        return RUN
    is_begun = "lock" in names and {*map(final_name, names)} <= _BEGUN
    return RUN if is_begun and re.fullmatch(rb"(\d+( \S+)?\n)?", _start(path, "lock")) else None


def own_file(path: str) -> str | None:
    """Return the kind of a file that charlm_jax wrote outside its folders; None for any other."""
    folder, name = os.path.split(path)
    if is_temporary(name):
        return "temporary file"
    start = _start(folder, name)
    if f"<!-- {PAGE_MARK}".encode() in start:
        return PAGE
    if f"<!-- {MODEL_PAGE_MARK}".encode() in start:
        return EXPORT
    is_figure = start.startswith(b"\x89PNG") and f"Software\0{FIGURE_MARK}".encode() in start
    return "figure" if is_figure else None


def describe_left_out(left_out: Mapping[str, str], *, most: int = 3) -> str:
    """Return one line about what was left out; empty if nothing was.

    Args:
      left_out: path -> kind.
      most: number of paths named for each kind.

    >>> describe_left_out({"runs/a": "run", "report.html": "page", "runs/b": "run"})
    'left out 1 page (report.html), 2 runs (runs/a, runs/b)'
    """
    by_kind: dict[str, list[str]] = {}
    for path, kind in sorted(left_out.items()):
        by_kind.setdefault(kind, []).append(path)
    parts = []
    for kind, paths in sorted(by_kind.items()):
        more = f" and {len(paths) - most} more" if len(paths) > most else ""
        plural = "s" if len(paths) > 1 else ""
        parts.append(f"{len(paths)} {kind}{plural} ({', '.join(paths[:most])}{more})")
    return f"left out {', '.join(parts)}" if parts else ""


def read_object(path: str) -> Mapping[str, object] | None:
    """Return the object in a JSON file of moderate size; None for any other content."""
    try:
        if not os.path.isfile(path) or os.path.getsize(path) > _MOST_JSON_BYTES:
            return None
        with open(path, "rb") as file:
            values = json.loads(file.read(_MOST_JSON_BYTES))
    except (OSError, ValueError, RecursionError):
        return None
    return values if isinstance(values, dict) else None


def _start(folder: str, name: str) -> bytes:
    """Return the first bytes of a regular file; empty if it cannot be read."""
    path = os.path.join(folder, name)
    try:
        if not os.path.isfile(path):
            return b""
        with open(path, "rb") as file:
            return file.read(_PAGE_BYTES)
    except OSError:
        return b""
