"""Sweep definition: named points, the command of each, and the manifest that records them.

This module runs nothing; `local.py` and `slurm.py` do. Every point is one `charlm train` command,
which resumes where it was stopped and returns at once when the run is done. A sweep therefore has
no state other than its runs.
"""

import contextlib
import functools
import hashlib
import itertools
import json
import re
import shlex
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from charlm_jax.config.loading import (
    ConfigSource,
    as_text,
    defines_sweep,
    load_config,
    load_fields,
    parse_values,
    split_override,
    sweep_points,
)
from charlm_jax.config.schema import Config, as_field, flatten
from charlm_jax.core.errors import CharlmError, read_error, write_error
from charlm_jax.core.files import atomic_write, final_name, stored_path
from charlm_jax.core.folders import read_object
from charlm_jax.core.json_files import dump_json
from charlm_jax.data.dataset import with_absolute_paths
from charlm_jax.storage.default_folder import default_folder
from charlm_jax.storage.run_index import has_failed, read_end
from charlm_jax.storage.workdir import Workdir

MANIFEST = "manifest.json"
LOGS = "logs"
SLURM = ".slurm"  # hidden: next to a run that is no point, its files might be read as a text
TUNING = ".tuning"  # hidden: lists and comparisons of a sweep's runs leave it out
# Reserved for other entries of a sweep's folder.
NOT_NAMES = frozenset({MANIFEST, LOGS, SLURM, TUNING})

_LONGEST_NAME = 100
_MOST_CHANGES = 3  # maximum listed in an error message


class Point(NamedTuple):
    """One run of a sweep.

    Attributes:
      name: name of its folder and log, unique within the sweep.
      config: value of `--config`: a shipped name or a file, with its argument.
      overrides: texts such as `data.sequence_length=40`; the last one wins.
      modules: values of `--allow_module`, for layers outside the package.
    """

    name: str
    config: str
    overrides: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()

    def load(self) -> Config:
        """Load the point's config, with absolute paths as saved by its run."""
        return with_absolute_paths(load_config(self.config, self.overrides))

    def workdir(self, folder: Path) -> Workdir:
        """Return the directory of the point's run within the sweep's folder."""
        return Workdir(folder / self.name)

    def log_file(self, folder: Path) -> Path:
        """Return the path of the log of the point's output."""
        return folder / LOGS / f"{self.name}.log"

    def arguments(self, folder: Path) -> list[str]:
        """Return the arguments of `charlm` that train the point."""
        more = [f"--config.{text}" for text in self.overrides]
        more += [f"--allow_module={module}" for module in self.modules]
        return ["train", f"--config={self.config}", f"--workdir={folder / self.name}", *more]

    def command(self, folder: Path) -> str:
        """Return the shell command that trains the point, for the current directory."""
        return shlex.join(["charlm", *self.arguments(folder)])

    def is_finished(self, folder: Path) -> bool:
        """Return whether the point's run exists, has exactly this config and has ended.

        Its text is not compared: `check_texts` does.
        """
        workdir = self.workdir(folder)
        try:
            return bool(read_end(workdir)) and workdir.read_config() == self.load()
        except CharlmError:  # `charlm train` will report the error
            return False

    def has_diverged(self, folder: Path) -> bool:
        """Return whether the point's run has exactly this config and lost its finite loss."""
        workdir = self.workdir(folder)
        try:
            return has_failed(workdir) and workdir.read_config() == self.load()
        except CharlmError:  # the point's own failure is reported
            return False


def make_point(name: str, config: str, fields: Mapping[str, Any]) -> Point:
    """Return a point from dotted fields and their values, as returned by a config's `sweep()`."""
    return Point(name, config, tuple(f"{field}={as_text(fields[field])}" for field in fields))


class Sweep(NamedTuple):
    """Points defined by one config file and one command line.

    Attributes:
      config: value of `--config`.
      overrides: command-line overrides, shared by every point.
      points: points in the file's order.
      tuned: field that is tuned for every point before it is trained; empty for none.
    """

    config: str
    overrides: tuple[str, ...]
    points: tuple[Point, ...]
    tuned: str = ""


def load_sweep(
    spec: str,
    overrides: Sequence[str] = (),
    *,
    values: Sequence[str] = (),
    modules: Sequence[str] = (),
    tuned: str = "",
) -> Sweep:
    """Read a sweep, and validate the config of every point.

    Args:
      spec: config name or file, passed to `load_config`; without `values`, the file has a function
        `sweep`.
      overrides: command-line texts applied to every point, after its own fields.
      values: texts such as `data.sequence_length=40,80`, one for each field; the points are all
        combinations, and the values of the last field change first.
      modules: values of `--allow_module`, passed to the process of every point.
      tuned: field to tune for every point; a config without a sweep is then a single point.

    Raises:
      CharlmError: the file defines no sweep, or one in addition to `values`, a point's config is
        invalid, two points are the same, or an override sets a field that the sweep varies, or
        the sweep varies the field that is tuned.
    """
    if tuned and not values and not defines_sweep(spec):
        point = Point("point", spec, tuple(overrides), tuple(modules))
        point.load()
        return Sweep(spec, tuple(overrides), (point,), tuned)
    points = _combinations(spec, values) if values else sweep_points(spec)
    fields = list(dict.fromkeys(field for point in points for field in point))
    if tuned in fields:
        raise CharlmError(f"--tune={tuned}: the sweep varies that field itself: remove one of them")
    alone = _fields(points, functools.partial(_unchecked_fields, spec))
    _refuse_same(alone, fields)
    _refuse_overriding(alone, fields, overrides)
    configs = _fields(points, lambda point: load_config(spec, overrides, point=point).flatten())
    names = point_names(configs, fields)
    named = [
        make_point(name, spec, {field: config[field] for field in point})
        for name, point, config in zip(names, points, configs, strict=True)
    ]
    texts, allowed = tuple(overrides), tuple(modules)
    return Sweep(
        spec,
        texts,
        tuple(
            point._replace(overrides=point.overrides + texts, modules=allowed) for point in named
        ),
        tuned,
    )


def _unchecked_fields(spec: str, point: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a point before an override may mend them, each as the field's type."""
    return {
        field: as_field(value, field) for field, value in flatten(load_fields(spec, point=point))
    }


def _combinations(spec: str, values: Sequence[str]) -> list[Mapping[str, Any]]:
    """Return a point for each combination of the values of several fields."""
    if defines_sweep(spec):
        raise CharlmError(
            f"--sweep.{values[0]}: {spec} has points of its own, by its function sweep: vary the "
            f"field there, or name a config without one"
        )
    choices: dict[str, list[Any]] = {}
    for text in values:
        field, several = parse_values(text)
        if field in choices:
            raise CharlmError(f"--sweep.{field} is given twice: write all its values in one")
        choices[field] = several
    return [
        dict(zip(choices, point, strict=True)) for point in itertools.product(*choices.values())
    ]


def _fields(
    points: Sequence[Mapping[str, Any]], load: Callable[[Mapping[str, Any]], dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return the fields of every point.

    Args:
      points: fields of each point.
      load: returns the dotted fields of a config with a point's.
    """
    found = []
    for number, point in enumerate(points, start=1):
        try:
            found.append(load(point))
        except CharlmError as error:
            if str(error) == _mistake(load):
                raise
            said = ", ".join(f"{field}={as_text(value)}" for field, value in point.items())
            raise CharlmError(f"point {number} of the sweep ({said}): {error}") from error
    return found


def _mistake(load: Callable[[Mapping[str, Any]], dict[str, Any]]) -> str:
    """Return the error message of the config without any point; empty if it is valid."""
    try:
        load({})
    except CharlmError as error:
        return str(error)
    return ""


def _refuse_same(configs: Sequence[Mapping[str, Any]], fields: Sequence[str]) -> None:
    numbers: dict[tuple[Any, ...], int] = {}
    for number, config in enumerate(configs, start=1):
        values = tuple(config[field] for field in fields)
        if values in numbers:
            said = ", ".join(f"{field}={as_text(config[field])}" for field in fields)
            raise CharlmError(
                f"points {numbers[values]} and {number} of the sweep are the same"
                + (f" ({said})" if said else "")
                + ": remove one"
            )
        numbers[values] = number


def _refuse_overriding(
    configs: Sequence[Mapping[str, Any]], fields: Sequence[str], overrides: Sequence[str]
) -> None:
    for text in overrides:
        field, _ = split_override(text)
        if field in fields and _count(configs, [field]) > 1:
            values = dict.fromkeys(as_text(config[field]) for config in configs)
            raise CharlmError(
                f"--config.{text}: the sweep varies config.{field} itself ({', '.join(values)}), "
                f"and an override would be the same for every point: remove it"
            )


def _count(configs: Sequence[Mapping[str, Any]], fields: Sequence[str]) -> int:
    """Return the number of distinct points, judged by these fields."""
    return len({tuple(config[field] for field in fields) for config in configs})


def point_names(configs: Sequence[Mapping[str, Any]], fields: Sequence[str]) -> list[str]:
    """Name the points by the fields that distinguish them, in the given order.

    Args:
      configs: dotted fields and their values, for every point.
      fields: fields allowed in a name.

    Returns:
      Names that are valid file names on any system. A name that would be too long or not unique
      ends in a hash of its values.
    """
    telling: list[str] = []
    for field in fields:
        if _count(configs, [*telling, field]) > _count(configs, telling):
            telling.append(field)
    telling = telling or list(fields)  # a single point
    lasts = Counter(field.rpartition(".")[2] for field in telling)
    short = {field: field.rpartition(".")[2] for field in telling}
    short = {field: last if lasts[last] == 1 else field for field, last in short.items()}
    names = [
        "-".join(f"{short[field]}={_word(config[field])}" for field in telling) or "point"
        for config in configs
    ]
    alike = Counter(name.lower() for name in names)  # some file systems ignore case
    for number, (name, config) in enumerate(zip(names, configs, strict=True)):
        if len(name) > _LONGEST_NAME or alike[name.lower()] > 1:
            values = json.dumps([config[field] for field in telling])
            code = hashlib.sha256(values.encode()).hexdigest()[:8]
            names[number] = f"{name[: _LONGEST_NAME - 9]}-{code}"
    return names


def _word(value: Any) -> str:
    """Return a value as part of a file name: `("attention",) * 4` becomes 4xattention."""
    if isinstance(value, tuple):
        counts = [(len(list(group)), item) for item, group in itertools.groupby(value)]
        value = "+".join(f"{count}x{item}" if count > 1 else item for count, item in counts)
    return re.sub(r"[^A-Za-z0-9_.+]+", "-", as_text(value))


class OtherSweep(CharlmError):
    """A folder that holds another sweep."""


def refuse_other(sweep: Sweep, folder: Path) -> None:
    """Check that a folder is empty, missing or already holds this sweep.

    Raises:
      OtherSweep: the folder holds another sweep.
      CharlmError: the folder holds something else, or cannot be read.
    """
    file = folder / MANIFEST
    try:
        if folder.exists() and not folder.is_dir():
            raise CharlmError(f"{folder} is not a folder: choose another workdir")
        if not file.exists():
            paths = list(folder.iterdir()) if folder.exists() else []
            if any(final_name(path.name) != MANIFEST for path in paths):
                raise CharlmError(f"{folder} exists and is not a sweep: choose another workdir")
            return
        changes = _changes(file, make_manifest(sweep, folder))
    except OSError as error:
        raise read_error(folder, error) from error
    if changes:
        more = f" and {len(changes) - _MOST_CHANGES} more" if len(changes) > _MOST_CHANGES else ""
        raise OtherSweep(
            f"{folder} holds another sweep: {'; '.join(changes[:_MOST_CHANGES])}{more}; runs of "
            f"both would be mixed: choose another workdir, or resume that sweep by its command"
        )


def claim(sweep: Sweep, folder: Path) -> None:
    """Claim a folder for this sweep: write the manifest, or check the existing one.

    Of several sweeps that claim a new folder at the same time, one succeeds.

    Raises:
      OtherSweep: the folder holds another sweep.
      CharlmError: the folder holds something else, or cannot be written.
    """
    refuse_other(sweep, folder)
    file = folder / MANIFEST
    try:
        if not file.exists():
            folder.mkdir(parents=True, exist_ok=True)
            try:
                atomic_write(file, dump_json(make_manifest(sweep, folder)), replace=False)
            except FileExistsError:  # another process was faster
                if not file.exists():  # a broken link
                    raise
                refuse_other(sweep, folder)
    except OSError as error:
        raise write_error(folder, error) from error


def make_manifest(sweep: Sweep, folder: Path) -> dict[str, Any]:
    """Return the contents of a sweep's manifest."""
    return {
        "config": stored_path(sweep.config),
        "overrides": [*map(stored_path, sweep.overrides)],
        **({"tuned": sweep.tuned} if sweep.tuned else {}),
        "points": [
            {
                "name": point.name,
                "overrides": [*map(stored_path, point.overrides)],
                "workdir": point.name,
                "command": stored_path(point.command(folder)),
            }
            for point in sweep.points
        ],
    }


def default_sweep_folder(spec: str, values: Sequence[str] = (), *, tuned: str = "") -> Path:
    """Return the folder of the sweep that `charlm sweep --config=SPEC` makes or resumes.

    Args:
      spec: value of `--config`.
      values: texts such as `data.sequence_length=40,80`; the folder is named after the fields.
      tuned: field that is tuned; empty for none.
    """
    fields = [text.partition("=")[0].rpartition(".")[2] for text in values]
    fields += [f"tuned_{tuned.rpartition('.')[2]}"] if tuned else []

    def is_same(path: Path) -> bool | None:
        manifest = read_object(str(path / MANIFEST))
        return None if manifest is None else manifest.get("config") == stored_path(spec)

    return default_folder(spec, is_same, suffix="".join(f"-{field}" for field in fields))


def find_source(workdir: Path | str, spec: str, overrides: Sequence[str]) -> ConfigSource:
    """Return the source of a run's config.

    Args:
      workdir: directory of the run. If it is a point of a sweep, whose manifest lies next to it,
        the point's own fields are separated from the sweep's overrides.
      spec: value of `--config`.
      overrides: overrides passed to `charlm train`, the point's own fields first.
    """
    path, texts = Workdir(workdir).path, tuple(overrides)
    with contextlib.suppress(OSError, ValueError, RecursionError, TypeError, KeyError):
        manifest = json.loads((path.parent / MANIFEST).read_text(encoding="utf-8"))
        points = {point["name"]: tuple(point["overrides"]) for point in manifest["points"]}
        stored = tuple(map(stored_path, texts))
        if manifest["config"] == stored_path(spec) and points[path.name] == stored:
            count = len(_own_overrides(manifest)[path.name])
            return ConfigSource(spec, texts[:count], texts[count:])
    return ConfigSource(spec, (), texts)


def _changes(file: Path, here: Mapping[str, Any]) -> list[str]:
    """Describe the differences from a saved manifest; commands, which depend on paths, may vary."""
    try:
        there = json.loads(file.read_text(encoding="utf-8"))
        before, now = _own_overrides(there), _own_overrides(here)
        words = {name: there[name] for name in ("config", "overrides")}
        words["tuned"] = there.get("tuned", "")
    except (ValueError, RecursionError, TypeError, KeyError) as error:
        raise CharlmError(f"{file} is damaged: choose another workdir") from error
    changes = [
        f"{name} was {value!r} and is now {here.get(name, '')!r}"
        for name, value in words.items()
        if value != here.get(name, "")
    ]
    changes += [f"point {name} is missing now" for name in before if name not in now]
    changes += [f"point {name} is new" for name in now if name not in before]
    return changes + [
        f"point {name} was {before[name]} and is now {now[name]}"
        for name in now
        if name in before and before[name] != now[name]
    ]


def _own_overrides(manifest: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return each point's overrides by name, without the trailing ones of the command line."""
    common = len(manifest["overrides"])
    return {
        point["name"]: point["overrides"][: len(point["overrides"]) - common]
        for point in manifest["points"]
    }
