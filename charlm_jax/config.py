"""From a config file and overrides to a frozen, validated `Config`.

Later wins: `configs/base.py`, the named file, a sweep's point, the command line. The result is
resolved once into frozen dataclasses that hold every invariant; past this module no ConfigDict
exists, and what reads a field can trust it.
"""

import dataclasses
import difflib
import importlib.util
import inspect
import math
import re
import sys
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from charlm_jax.types import CharlmError


def _require(ok: bool, field: str, value: object, allowed: str) -> None:
    if not ok:
        raise CharlmError(f"config.{field}={value!r} is not allowed: it must be {allowed}")


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Which text, and how it is cut into batches."""

    corpus: str
    encoding: str
    loader: str
    sequence_length: int
    batch_size: int

    def __post_init__(self) -> None:
        _require(bool(self.corpus), "data.corpus", self.corpus, "a corpus name or a path")
        _require(self.sequence_length >= 1, "data.sequence_length", self.sequence_length, ">= 1")
        _require(self.batch_size >= 1, "data.batch_size", self.batch_size, ">= 1")


@dataclasses.dataclass(frozen=True)
class SplitConfig:
    """Which part of the text is held out."""

    kind: str
    valid_fraction: float

    def __post_init__(self) -> None:
        inside = 0.0 < self.valid_fraction < 1.0
        _require(inside, "split.valid_fraction", self.valid_fraction, "between 0 and 1, exclusive")


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The stack of layers."""

    layers: tuple[str, ...]
    embedding_size: int
    hidden_size: int
    dropout: float
    init: str

    def __post_init__(self) -> None:
        _require(len(self.layers) >= 1, "model.layers", self.layers, "at least one layer")
        _require(self.embedding_size >= 1, "model.embedding_size", self.embedding_size, ">= 1")
        _require(self.hidden_size >= 1, "model.hidden_size", self.hidden_size, ">= 1")
        _require(0.0 <= self.dropout < 1.0, "model.dropout", self.dropout, "in [0, 1)")


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """The update rule and its learning rate over time."""

    learning_rate: float
    schedule: str
    warmup_steps: int
    final_learning_rate: float
    beta1: float
    beta2: float
    epsilon: float
    clip_norm: float

    def __post_init__(self) -> None:
        for field in ("learning_rate", "epsilon"):
            value = getattr(self, field)
            _require(0 < value < math.inf, f"optimizer.{field}", value, "positive and finite")
        for field in ("warmup_steps", "final_learning_rate", "clip_norm"):
            value = getattr(self, field)
            _require(0 <= value < math.inf, f"optimizer.{field}", value, "finite and >= 0")
        for field in ("beta1", "beta2"):
            value = getattr(self, field)
            _require(0.0 <= value < 1.0, f"optimizer.{field}", value, "in [0, 1)")


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How long to train, and how often to look."""

    epochs: int
    max_steps: int
    steps_per_dispatch: int
    log_every_steps: int
    evaluate_every_steps: int

    def __post_init__(self) -> None:
        for field in ("epochs", "steps_per_dispatch", "log_every_steps"):
            _require(getattr(self, field) >= 1, f"train.{field}", getattr(self, field), ">= 1")
        for field in ("max_steps", "evaluate_every_steps"):
            _require(getattr(self, field) >= 0, f"train.{field}", getattr(self, field), ">= 0")


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """How held-out text is scored while training."""

    context: int
    batch_size: int

    def __post_init__(self) -> None:
        _require(self.context >= 0, "evaluation.context", self.context, ">= 0")
        _require(self.batch_size >= 1, "evaluation.batch_size", self.batch_size, ">= 1")


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that a run depends on. `configs/base.py` says what each value means.

    Numbers are checked here; a name (of a layer, a loader, a split, ...) by the one table that
    owns it, when the run is built and before anything is compiled.
    """

    seed: int
    data: DataConfig
    split: SplitConfig
    model: ModelConfig
    optimizer: OptimizerConfig
    train: TrainConfig
    evaluation: EvaluationConfig

    def __post_init__(self) -> None:
        _require(0 <= self.seed < 2**32, "seed", self.seed, "in [0, 2**32)")

    @property
    def evaluation_context(self) -> int:
        """Characters per evaluation window: `evaluation.context`, or the training length if 0."""
        return self.evaluation.context or self.data.sequence_length

    def to_dict(self) -> dict[str, Any]:
        """Nested plain values, ready for JSON."""
        return dataclasses.asdict(self)

    def flatten(self) -> dict[str, Any]:
        """Dotted field -> value, in declaration order; each item pastes back as an override."""
        return dict(_flatten(self.to_dict()))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Config":
        """Build from nested plain values; missing, unknown or mistyped fields raise `CharlmError`."""
        return _build(cls, values, "")


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _build(kind: Any, values: object, prefix: str) -> Any:
    if not isinstance(values, Mapping):
        raise CharlmError(f"config.{prefix.rstrip('.')}={values!r} is not a section of fields")
    hints = typing.get_type_hints(kind)
    for name in values:
        if name not in hints:
            raise _unknown_field(prefix + name, [prefix + known for known in hints])
    arguments = {}
    for name, hint in hints.items():
        if name not in values:
            raise CharlmError(f"config.{prefix}{name} is missing: configs/base.py declares it")
        if dataclasses.is_dataclass(hint):
            arguments[name] = _build(hint, values[name], f"{prefix}{name}.")
        else:
            arguments[name] = _coerce(values[name], hint, prefix + name)
    return kind(**arguments)


def _coerce(value: Any, hint: Any, field: str) -> Any:
    """Check a leaf's type; bool is not an int here, and an int will do where a float is asked."""
    if hint == tuple[str, ...]:
        if isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value):
            return tuple(value)
    elif hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    elif isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    name = "a tuple of names" if hint == tuple[str, ...] else f"of type {hint.__name__}"
    raise CharlmError(f"config.{field}={value!r} has the wrong type: it must be {name}")


def _unknown_field(field: str, known: Sequence[str]) -> CharlmError:
    close = difflib.get_close_matches(field, known, n=1, cutoff=0.4)
    hint = f"did you mean config.{close[0]}?" if close else f"known: {', '.join(known)}"
    return CharlmError(f"config.{field} is not a field; {hint}")


def shipped_configs() -> Path:
    """The folder of config files that came with the package: the clone's, or the wheel's."""
    package = Path(__file__).resolve().parent
    clone = package.parent / "configs"
    return clone if (clone / "base.py").is_file() else package / "shipped" / "configs"


def shipped_names() -> list[str]:
    """The names that `--config=NAME` resolves."""
    return sorted(path.stem for path in shipped_configs().glob("*.py") if path.stem != "base")


def config_name(spec: str) -> str:
    """A short name for a config, as its default workdir has it: `my_text:a/b.txt` -> my_text-b."""
    path, argument = _locate(spec)
    stem = "" if argument is None else re.sub(r"\W+", "-", Path(argument).stem).strip("-")
    return f"{path.stem}-{stem}" if stem else path.stem


def load_config(spec: str, overrides: Sequence[str] | Mapping[str, Any] = ()) -> Config:
    """Read a config file, apply overrides, validate.

    Args:
      spec: a shipped name (`quickstart`) or a path (`my/config.py`); `:argument` behind either is
        handed to the file's `get_config`.
      overrides: command-line texts such as `data.sequence_length=80`, applied in order, or a
        mapping of dotted field to value, as `sweep()` returns.

    Returns:
      The resolved config.

    Raises:
      CharlmError: no such file, a file that fails, an unknown field, a value that is not allowed.
    """
    path, argument = _locate(spec)
    config = _get_config(path, argument)
    config.lock()  # before the overrides: an unlocked ConfigDict grows misspelt keys silently
    if isinstance(overrides, Mapping):
        for field, value in overrides.items():
            _set(config, field, value)
    else:
        for text in overrides:
            field, equals, value = text.partition("=")
            if not equals:
                raise CharlmError(f"--config.{text} has no value: write --config.{field}=VALUE")
            _set(config, field, _parse(value, _get(config, field), field))
    return Config.from_dict(config.to_dict())


def _locate(spec: str) -> tuple[Path, str | None]:
    head, dot_py, tail = spec.partition(".py")
    if dot_py and (not tail or tail[0] == ":"):
        path, argument = Path(head + dot_py), tail[1:] if tail else None
    else:
        name, colon, rest = spec.partition(":")
        path, argument = shipped_configs() / f"{name}.py", rest if colon else None
        if "/" in name or not path.is_file():
            known = ", ".join(shipped_names())
            raise CharlmError(f"no config {spec!r}: name one of {known}, or a path ending in .py")
    if not path.is_file():
        raise CharlmError(f"no config file {str(path)!r}; shipped: {', '.join(shipped_names())}")
    return path, argument


@contextmanager
def _configs_package(folder: Path) -> Iterator[None]:
    """Let `from configs import base` mean the file's own folder, then the shipped one.

    A console script has neither folder on its path, and somebody else's `configs` package may be
    there; a stand-in for the time of one import is exact in all three cases.
    """
    names = [name for name in sys.modules if name.split(".")[0] == "configs"]
    shadowed = {name: sys.modules.pop(name) for name in names}
    package = types.ModuleType("configs")
    package.__path__ = [str(folder), str(shipped_configs())]
    sys.modules["configs"] = package
    try:
        yield
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] == "configs"]:
            del sys.modules[name]
        sys.modules.update(shadowed)


def _get_config(path: Path, argument: str | None) -> ConfigDict:
    spec = importlib.util.spec_from_file_location(f"charlm_config_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with _configs_package(path.resolve().parent):
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            raise CharlmError(f"config file {path} failed: {_one_line(error)}") from error
        if not callable(getattr(module, "get_config", None)):
            raise CharlmError(f"config file {path} defines no function get_config")
        arguments = () if argument is None else (argument,)
        try:
            inspect.signature(module.get_config).bind(*arguments)
        except TypeError as error:
            wanted = "needs an argument" if argument is None else "takes no argument"
            example = f"{path.stem}:VALUE" if argument is None else path.stem
            raise CharlmError(f"config {path.stem} {wanted}: write --config={example}") from error
        try:
            config = module.get_config(*arguments)
        except CharlmError:
            raise
        except Exception as error:
            raise CharlmError(f"config file {path} failed: {_one_line(error)}") from error
    if not isinstance(config, ConfigDict):
        raise CharlmError(f"get_config of {path} returned {type(config).__name__}, not ConfigDict")
    return config


def _one_line(error: Exception) -> str:
    first = str(error).strip().splitlines()[:1]
    return f"{type(error).__name__}: {first[0] if first else 'no message'}"


def _get(config: ConfigDict, field: str) -> Any:
    node: Any = config
    for name in field.split("."):
        if not isinstance(node, ConfigDict) or name not in node:
            raise _unknown_field(field, [name for name, _ in _flatten(config.to_dict())])
        node = node[name]
    if isinstance(node, ConfigDict):
        example = f"{field}.{next(iter(node))}"
        raise CharlmError(f"config.{field} is a section: set one of its fields, as config.{example}")
    return node


def _set(config: ConfigDict, field: str, value: Any) -> None:
    current = _get(config, field)
    *sections, name = field.split(".")
    node = config
    for section in sections:
        node = node[section]
    if isinstance(current, tuple) and isinstance(value, list):
        value = tuple(value)
    if isinstance(current, float) and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    try:
        node[name] = value
    except TypeError as error:
        wanted = type(current).__name__
        raise CharlmError(
            f"config.{field}={value!r} has the wrong type: it must be of type {wanted}"
        ) from error


def _parse(text: str, current: Any, field: str) -> Any:
    """Read a command-line value as the type that the field has now."""
    if isinstance(current, str):
        return text
    if isinstance(current, bool):
        if text.lower() in ("true", "false"):
            return text.lower() == "true"
        raise CharlmError(f"config.{field}={text!r} is not a truth value: write true or false")
    if isinstance(current, (tuple, list)):
        return tuple(item for item in text.strip("()").replace(" ", "").split(",") if item)
    kind = int if isinstance(current, int) else float
    try:
        return kind(text)
    except ValueError as error:
        wanted = "an integer" if kind is int else "a number"
        raise CharlmError(f"config.{field}={text!r} is not {wanted}") from error
