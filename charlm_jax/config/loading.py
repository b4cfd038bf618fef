"""Loading of a `Config` from a config file and overrides.

Later sources win: `configs/base.py`, the named file, a sweep's point, the command line. The result
is resolved once; no ConfigDict exists outside this module.
"""

import glob
import hashlib
import importlib.machinery
import importlib.util
import inspect
import os
import re
import sys
import threading
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from charlm_jax.config.schema import Config, as_field, field_type, flatten, unknown_field
from charlm_jax.core.errors import CharlmError, describe_exception
from charlm_jax.core.files import local_path, stored_path
from charlm_jax.core.import_path import first_on_path

_NO_SWEEP = ": use charlm train for a single run, or sweep a field with --sweep.FIELD=VALUE,VALUE"

# One of several values on a command line, and the comma after it.
_VALUE = re.compile(r"""(\s*(?:\([^()]*\)|\[[^][]*\]|"[^"]*"|'[^']*')\s*|[^,]*),""", re.DOTALL)

# Names of a tuple: in a pair of brackets, or without any.
_NAMES = re.compile(r"\([^][()]*\)|\[[^][()]*\]|[^][()]*")

_MOST_DIGITS = 20  # of an integer written with an exponent: no field has more

# Held while a file runs, because `sys.modules` and `sys.path` are changed for it. Reentrant: a file
# may load another.
_loading = threading.RLock()


class ConfigSource(NamedTuple):
    """Source of a config: its file, sweep point and overrides.

    Attributes:
      spec: shipped name or file, with its argument, as for `load_config`.
      point: fields of a sweep's point, such as `seed=2`.
      overrides: command-line overrides, applied after the point.
    """

    spec: str
    point: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()

    def flags(self) -> list[str]:
        """Return the command-line flags that load the config."""
        texts = (*self.point, *self.overrides)
        return [f"--config={self.spec}", *(f"--config.{text}" for text in texts)]

    def with_absolute_paths(self, config: Config) -> "ConfigSource":
        """Return a source that loads the same config in every folder.

        Args:
          config: config loaded from this source, with absolute paths.
        """
        path, argument = _locate(self.spec)
        name = self.spec if argument is None else self.spec[: -len(argument) - 1]
        spec = name if name in shipped_names() else os.path.abspath(path)
        named = {"data.corpus": config.data.corpus, "train.init_from": config.train.init_from}
        paths = {field: value for field, value in named.items() if os.path.isabs(value)}
        if argument is not None:
            whole = os.path.abspath(os.path.expanduser(argument))
            argument = whole if whole in paths.values() else argument
            spec += f":{argument}"
        fields = {split_override(text)[0] for text in (*self.point, *self.overrides)}
        more = [
            f"{field}={value}"
            for field, value in paths.items()
            if field not in fields and value != argument
        ]
        point, overrides = (
            tuple(
                f"{field}={paths.get(field, value)}" for field, value in map(split_override, texts)
            )
            for texts in (self.point, self.overrides)
        )
        return ConfigSource(spec, point, (*overrides, *more))


def shipped_configs() -> Path:
    """Return the folder of config files shipped with the package: the clone's or the wheel's."""
    package = Path(__file__).resolve().parent.parent
    clone = package.parent / "configs"
    return clone if (clone / "base.py").is_file() else package / "shipped" / "configs"


def shipped_names() -> list[str]:
    """Return the names that `--config=NAME` accepts; those of sweeps begin with `sweeps/`."""
    folder = shipped_configs()
    names = [path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.py")]
    return sorted(name for name in names if name != "base")


class DefaultNames(NamedTuple):
    """Names of a config's default folder.

    Attributes:
      names: possible names, the shortest first; the last one is unique to the argument.
      former: name that earlier versions would give.
    """

    names: tuple[str, ...]
    former: str


def default_names(spec: str) -> DefaultNames:
    """Return names for the default folder of a config.

    >>> default_names("my_text:a/b.txt").names[:2], default_names("transformer:1.6M").names[0]
    (('my_text-b', 'my_text-a-b'), 'transformer-1-6M')
    >>> default_names("my_text:src/**/*.py").names[0], default_names("lstm").names
    ('my_text-src-py', ('lstm',))
    """
    path, argument = _locate(spec)
    if argument is None:
        return DefaultNames((path.stem,), path.stem)
    argument = stored_path(argument)
    parts = [part for part in argument.split("/") if part not in ("", ".", "..")]
    last = parts[-1] if parts else ""
    patterns = [number for number, part in enumerate(parts) if glob.has_magic(part)]
    if patterns and not os.path.lexists(local_path(argument)):
        start = max(0, patterns[0] - 1)
        words = ["-".join(parts[start:]), "-".join(parts[max(0, start - 1) :])]
    elif stem := re.sub(r"(?<=.)\.[^\W\d]\w*$", "", last):
        words = [stem, "-".join([*parts[-2:-1], stem])]
    else:
        words = [""]
    whole = os.path.abspath(argument).encode("utf-8", "surrogateescape")
    code = hashlib.sha256(whole).hexdigest()[:8]
    names = [_with_word(path.stem, word) for word in words]
    former = _with_word(path.stem, Path(argument).stem)
    return DefaultNames((*dict.fromkeys([*names, f"{names[0]}-{code}"]),), former)


def _with_word(name: str, argument: str) -> str:
    word = re.sub(r"\W+", "-", argument).strip("-")
    return f"{name}-{word}" if word else name


def load_config(
    spec: str | os.PathLike[str],
    overrides: Sequence[str] | Mapping[str, Any] = (),
    *,
    point: Mapping[str, Any] | None = None,
) -> Config:
    """Read a config file, apply a sweep's point and overrides, and validate the result.

    Args:
      spec: a shipped name (`quickstart`) or a path (`my/config.py`); `:argument` after either is
        passed to the file's `get_config`.
      overrides: command-line texts such as `data.sequence_length=80`, applied in order, or a
        mapping of dotted field to value.
      point: one of the mappings that `sweep_points` returns, applied before the overrides.

    Returns:
      The resolved config.

    Raises:
      CharlmError: no such file, a file that fails, an unknown field or an invalid value.
    """
    return Config.from_fields(load_fields(os.fspath(spec), overrides, point=point))


def load_fields(
    spec: str,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    *,
    point: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the fields of a config file with a sweep's point and overrides, before validation.

    Args:
      spec: shipped name or path, with an optional argument, as for `load_config`.
      overrides: command-line texts, or a mapping of dotted field to value.
      point: fields of a sweep's point, applied before the overrides.

    Raises:
      CharlmError: no such file, a file that fails, an unknown field or a value of another type.
    """
    config = _get_config(spec)
    config.lock()  # before the overrides: an unlocked ConfigDict grows misspelt keys silently
    for field, value in (point or {}).items():
        _set(config, field, value)
    if isinstance(overrides, str):
        raise CharlmError(
            f"overrides={overrides!r} is one text: write a list, as in [{overrides!r}]"
        )
    if isinstance(overrides, Mapping):
        for field, value in overrides.items():
            _set(config, field, value)
    else:
        for text in overrides:
            field, value = split_override(text)
            _get(config, field)
            _set(config, field, _parse(value, field))
    fields: dict[str, Any] = config.to_dict()
    return fields


def sweep_points(spec: str) -> list[Mapping[str, Any]]:
    """Return the points of a config file's `sweep()`, each a mapping of dotted field to value.

    Args:
      spec: shipped name or path; its argument is passed to `sweep` if that takes one.

    Raises:
      CharlmError: no such file, a file that fails or has no `sweep`, or invalid points.
    """
    points = _call(spec, "sweep")
    path, _ = _locate(spec)
    if not isinstance(points, (list, tuple)):
        raise CharlmError(f"sweep of {path} returned {type(points).__name__}, not a list of dicts")
    if not points:
        raise CharlmError(f"sweep of {path} returned no points: it must return at least one")
    for number, point in enumerate(points, start=1):
        if not isinstance(point, Mapping) or not all(isinstance(field, str) for field in point):
            raise CharlmError(
                f"point {number} of {path} is {point!r}: it must be a dict of dotted fields, such "
                f'as {{"data.sequence_length": 40}}'
            )
    return list(points)


def defines_sweep(spec: str) -> bool:
    """Return whether a config file has a function `sweep`."""
    with _executed(spec) as module:
        return callable(getattr(module, "sweep", None))


def parse_values(text: str) -> tuple[str, list[Any]]:
    """Parse `FIELD=VALUE,VALUE,...`, the values of one field in a sweep.

    Args:
      text: dotted field and its values, as on the command line. A value that has commas itself is
        in parentheses, as a tuple is: `model.layers=(lstm,lstm),gru`; a text in quotes.

    Returns:
      The field, and its values as Python's.

    Raises:
      CharlmError: no value, an empty one, one of another type, or half a pair of brackets.

    >>> parse_values("data.sequence_length=40,80"), parse_values("model.layers=(lstm,lstm),gru")
    (('data.sequence_length', [40, 80]), ('model.layers', [('lstm', 'lstm'), ('gru',)]))
    """
    field, _, values = text.partition("=")
    items = [match[1].strip() for match in _VALUE.finditer(f"{values},")]
    if not all(items) or not field:
        raise CharlmError(
            f"--sweep.{text} has an empty value: write --sweep.{field or 'FIELD'}=VALUE,VALUE,..."
        )
    if field_type(field) == tuple[str, ...]:
        for item in items:
            if not _NAMES.fullmatch(item):
                raise CharlmError(
                    f"--sweep.{text} has half a pair of brackets, in {item!r}: write "
                    f"--sweep.{field}=(VALUE,VALUE),VALUE"
                )
    if field_type(field) is str:
        items = [re.sub(r"""(["'])(.*)\1""", r"\2", item, flags=re.DOTALL) for item in items]
    return field, [_parse(item, field) for item in items]


def split_override(text: str) -> tuple[str, str]:
    """Split a command-line text such as `data.sequence_length=80` into field and value."""
    field, equals, value = text.partition("=")
    if not equals:
        raise CharlmError(f"config.{text} has no value: write config.{field}=VALUE")
    return field, value


def as_text(value: Any) -> str:
    """Format a field's value for the command line.

    >>> as_text(("lstm", "gru")), as_text(True), as_text(1e-3)
    ('lstm,gru', 'true', '0.001')
    """
    if isinstance(value, (tuple, list)):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _locate(spec: str) -> tuple[Path, str | None]:
    """Return the file that a spec names, and the argument after its colon."""
    name, colon, argument = spec.partition(":")
    shipped = shipped_configs() / f"{name}.py"
    if re.fullmatch(r"[\w/]+", name) and shipped.is_file() and name in shipped_names():
        return shipped, argument if colon else None
    file = re.fullmatch(r"(.*?\.py)(?::(.*))?", spec, flags=re.DOTALL)
    if file is None or not os.path.isfile(file[1]):
        known = f"name one of {', '.join(shipped_names())}, or a file ending in .py"
        if os.path.isfile(spec):
            known += f"; to train on that text: --config=my_text:{spec}"
        raise CharlmError(f"no config {spec!r}: {known}")
    return Path(file[1]), file[2]


@contextmanager
def _configs_package(folder: Path) -> Iterator[None]:
    """Make `from configs import base` search the file's own folder, then the shipped one.

    This puts a package in `sys.modules` for the duration of one load. Folders on `sys.path` would
    not work for it: the file's own folder may have any name, a regular package `configs` on the
    path takes precedence over folders without `__init__.py`, and the next load would find these
    modules.
    """
    shadowed = {name: sys.modules.pop(name) for name in _loaded_configs()}
    package = types.ModuleType("configs")
    package.__path__ = [str(folder), str(shipped_configs())]
    sys.modules["configs"] = package
    try:
        yield
    finally:
        for name in _loaded_configs():
            del sys.modules[name]
        sys.modules.update(shadowed)


def _own_folder_first(path: Path) -> AbstractContextManager[None]:
    """Let a user's file import its neighbours, such as the module of a mixer, as a script can."""
    folder = path.resolve().parent
    is_shipped = folder.is_relative_to(shipped_configs().resolve())
    return nullcontext() if is_shipped else first_on_path(folder)


def _loaded_configs() -> list[str]:
    return [name for name in sys.modules if name == "configs" or name.startswith("configs.")]


def _get_config(spec: str) -> ConfigDict:
    config = _call(spec, "get_config")
    if not isinstance(config, ConfigDict):
        path, _ = _locate(spec)
        raise CharlmError(f"get_config of {path} returned {type(config).__name__}, not ConfigDict")
    return config


class _SourceLoader(importlib.machinery.SourceFileLoader):
    """Loader that never takes bytecode, which may be that of a file edited a moment ago."""

    def get_code(self, fullname: str) -> types.CodeType:
        path = self.get_filename(fullname)
        return compile(self.get_data(path), path, "exec", dont_inherit=True)


@contextmanager
def _executed(spec: str) -> Iterator[types.ModuleType]:
    """Execute a config file; yield its module while its imports work."""
    path, _ = _locate(spec)
    name = f"charlm_config_{path.stem}"
    loader = _SourceLoader(name, str(path))
    source = importlib.util.spec_from_file_location(name, path, loader=loader)
    assert source is not None and source.loader is not None
    module = importlib.util.module_from_spec(source)
    with _loading, _configs_package(path.resolve().parent), _own_folder_first(path):
        try:
            source.loader.exec_module(module)
        except (Exception, SystemExit) as error:
            raise CharlmError(f"config file {path} failed: {describe_exception(error)}") from error
        yield module


def _call(spec: str, name: str) -> Any:
    """Call a function of a config file with the spec's argument, and return its result."""
    path, argument = _locate(spec)
    with _executed(spec) as module:
        function = getattr(module, name, None)
        if not callable(function):
            hint = "" if name == "get_config" else _NO_SWEEP
            raise CharlmError(f"config file {path} defines no function {name}{hint}")
        if name == "sweep" and not inspect.signature(function).parameters:
            argument = None  # `get_config` takes it
        arguments = () if argument is None else (argument,)
        _refuse_arguments(function, arguments, spec)
        try:
            return function(*arguments)
        except CharlmError:
            raise
        except (Exception, SystemExit) as error:
            raise CharlmError(f"config file {path} failed: {describe_exception(error)}") from error


def _refuse_arguments(function: Callable[..., Any], arguments: Sequence[str], spec: str) -> None:
    """Raise a `CharlmError` for a missing or superfluous argument."""
    signature = inspect.signature(function)
    try:
        signature.bind(*arguments)
    except TypeError as error:
        path, argument = _locate(spec)
        required = [x for x in signature.parameters.values() if x.default is x.empty]
        if len(required) > 1:
            raise CharlmError(
                f"config {path.stem} needs {len(required)} arguments, and a config has at most "
                f"one: give the others of get_config defaults"
            ) from error
        wanted = "takes no argument" if arguments else "needs an argument"
        name = spec.removesuffix(f":{argument}")
        value = next(iter(signature.parameters), "value")
        example = name if arguments else f"{name}:{value.upper()}"
        raise CharlmError(f"config {path.stem} {wanted}: write --config={example}") from error


def _get(config: ConfigDict, field: str) -> Any:
    node: Any = config
    for name in field.split("."):
        if not isinstance(node, ConfigDict) or name not in node:
            raise unknown_field(field, [name for name, _ in flatten(config.to_dict())])
        node = node[name]
    if isinstance(node, ConfigDict):
        example = f"{field}.{next(iter(node))}"
        raise CharlmError(
            f"config.{field} is a section: set one of its fields, such as config.{example}"
        )
    return node


def _set(config: ConfigDict, field: str, value: Any) -> None:
    _get(config, field)
    value = as_field(value, field)
    *sections, name = field.split(".")
    node = config
    for section in sections:
        node = node[section]
    with node.ignore_type():  # the schema has checked it
        node[name] = value


def _parse(text: str, field: str) -> Any:
    """Parse a command-line value as the type of its field; a text if the field is not known."""
    kind = field_type(field)
    if kind is bool:
        if text.lower() in ("true", "false"):
            return text.lower() == "true"
        raise CharlmError(f"config.{field}={text!r} is not a boolean: write true or false")
    if kind == tuple[str, ...]:
        return _parse_names(text, field)
    if kind not in (int, float):
        return text
    try:
        return _parse_integer(text) if kind is int else float(text)
    except (ValueError, ArithmeticError) as error:
        wanted = "an integer" if kind is int else "a number"
        raise CharlmError(f"config.{field}={text!r} is not {wanted}") from error


def _parse_names(text: str, field: str) -> tuple[str, ...]:
    """Parse the names of a tuple; a comma after the last is allowed."""
    wrong = "half a pair of brackets"
    if _NAMES.fullmatch(text.strip()):
        *names, last = (name.strip(" '\"") for name in text.strip().strip("()[]").split(","))
        names += [last] * (last != "")
        if all(names):
            return tuple(names)
        wrong = "an empty name"
    raise CharlmError(f"config.{field}={text!r} has {wrong}: write config.{field}=NAME,NAME,...")


def _parse_integer(text: str) -> int:
    """Parse an integer, which may be written as `1e3`.

    Raises:
      ValueError, ArithmeticError: the text is not a number, or not exactly an integer.
    """
    try:
        return int(text)
    except ValueError:
        number = Decimal(text)
        if number.adjusted() > _MOST_DIGITS or number != number.to_integral_value():
            raise
        return int(number)
