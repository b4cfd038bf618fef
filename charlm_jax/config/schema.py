"""Complete config of a run, as frozen dataclasses that validate every invariant.

Code that reads a field can trust it. `loading.py` builds them from a file and overrides.
"""

import dataclasses
import math
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any

from charlm_jax.config.counts import parse_counts
from charlm_jax.config.formats import upgrade, with_format
from charlm_jax.config.length_schedule import Phase, list_phases, parse_length_schedule
from charlm_jax.core.errors import CharlmError, closest, same_leaf
from charlm_jax.core.files import local_path, stored_path
from charlm_jax.core.foreign_names import suggest_field
from charlm_jax.core.html_table import html_table
from charlm_jax.core.limits import MAX_INT32
from charlm_jax.core.typed_numbers import parse_whole_number

_SMALLEST, _LARGEST = 2.0**-126, 2.0**127  # range of float32 at full precision


def _require_count(field: str, value: int, *, least: int) -> None:
    _require(least <= value <= MAX_INT32, field, value, f"in [{least}, 2**31)")


def _require(ok: bool, field: str, value: object, allowed: str) -> None:
    if not ok:
        raise CharlmError(f"config.{field}={value!r} is not allowed: it must be {allowed}")


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Text, and how it is cut into batches."""

    corpus: str
    unit: str
    encoding: str
    loader: str
    sequence_length: int
    batch_size: int
    length_schedule: str
    reset_probability: float

    def __post_init__(self) -> None:
        _require(bool(self.corpus), "data.corpus", self.corpus, "a corpus name or a path")
        decodes = self.unit != "bytes" or self.encoding == "utf-8"
        utf8 = "utf-8 under config.data.unit=bytes, which decodes nothing"
        _require(decodes, "data.encoding", self.encoding, utf8)
        _require_count("data.sequence_length", self.sequence_length, least=1)
        _require_count("data.batch_size", self.batch_size, least=1)
        if self.batch_size * self.sequence_length > MAX_INT32:
            raise CharlmError(
                f"config.data.sequence_length={self.sequence_length} times "
                f"config.data.batch_size={self.batch_size} is not allowed: it must be below 2**31"
            )
        characters = self.batch_size * self.sequence_length
        for length, _ in parse_length_schedule(self.length_schedule):
            if characters % length:
                raise CharlmError(
                    f"config.data.length_schedule={self.length_schedule!r} is not allowed: "
                    f"{length} must divide the {characters} characters of a step, "
                    f"config.data.sequence_length={self.sequence_length} times "
                    f"config.data.batch_size={self.batch_size}"
                )
        reset = self.reset_probability
        _require(0.0 <= reset <= 1.0, "data.reset_probability", reset, "in [0, 1]")
        no_state = "0 unless config.data.loader=streams: other loaders carry no state"
        _require(reset == 0.0 or self.carries_state, "data.reset_probability", reset, no_state)

    @property
    def carries_state(self) -> bool:
        """True if a row may continue from the previous batch."""
        return self.loader == "streams"

    @property
    def phases(self) -> tuple[Phase, ...]:
        """Phases of a run: those of the schedule, and the last with sequences of T characters."""
        return list_phases(
            parse_length_schedule(self.length_schedule),
            sequence_length=self.sequence_length,
            batch_size=self.batch_size,
            carries_state=self.carries_state,
        )


@dataclasses.dataclass(frozen=True)
class SplitConfig:
    """Held-out parts of the text."""

    kind: str
    valid_fraction: float
    test_fraction: float
    counts: str
    blocks: int
    guard: int
    rounding: str
    vocabulary: str

    def __post_init__(self) -> None:
        if self.counts:
            parse_counts(self.counts)
            only_tail = "empty unless config.split.kind=tail"
            _require(self.kind == "tail", "split.counts", self.counts, only_tail)
        inside = 0.0 < self.valid_fraction < 1.0
        _require(inside, "split.valid_fraction", self.valid_fraction, "between 0 and 1, exclusive")
        room = 0.0 <= self.test_fraction < 1.0 and (
            # As they are written: in binary fractions, 1.0 - 0.7 is above 0.3.
            Fraction(str(self.valid_fraction)) + Fraction(str(self.test_fraction)) < 1
        )
        valid = f"config.split.valid_fraction={self.valid_fraction}"
        below = f"at least 0, and below 1 together with {valid}"
        _require(room, "split.test_fraction", self.test_fraction, below)
        blocks = self.blocks
        _require(1 <= blocks <= 10_000, "split.blocks", blocks, "in [1, 10000]")
        _require_count("split.guard", self.guard, least=0)


LAYERS_WITH_HEADS = frozenset({"attention", "rglru", "gated_deltanet", "mamba2", "mlstm", "slstm"})
LAYERS_WITHOUT_CELL_NORM = frozenset(
    {
        "rnn",
        "mingru",
        "minlstm",
        "rglru",
        "gated_deltanet",
        "mamba2",
        "mlstm",
        "slstm",
        "attention",
        "self_attention",
    }
)


_LARGE = (2**20, "2**20")
_MODEL_RANGES = {  # least, most, and how the most is written
    "embedding_size": (1, *_LARGE),
    "hidden_size": (1, *_LARGE),
    "max_length": (1, *_LARGE),
    "heads": (1, *_LARGE),
    "kv_heads": (0, *_LARGE),
    "conv_width": (0, 64, "64"),
    "state_size": (1, *_LARGE),
    "chunk_size": (1, *_LARGE),
    "mogrifier_rounds": (0, 64, "64"),
}


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The stack of layers, and the components of each layer."""

    layers: tuple[str, ...]
    embedding_size: int
    hidden_size: int
    block: str
    norm: str
    mlp: str
    mlp_ratio: float
    position: str
    max_length: int
    heads: int
    kv_heads: int
    qk_norm: bool
    window: int
    state_size: int
    conv_width: int
    chunk_size: int
    mogrifier_rounds: int
    cell_norm: bool
    scan: str
    tied_embedding: bool
    dropout: float
    dropout_mask: str
    weight_dropout: float
    embedding_dropout: float
    init: str
    zero_init: bool
    precision: str

    def __post_init__(self) -> None:
        if not 1 <= len(self.layers) <= 64:
            raise CharlmError(
                f"config.model.layers has {len(self.layers)} layers: it must have 1 to 64"
            )
        for field, (least, most, shown) in _MODEL_RANGES.items():
            value = getattr(self, field)
            _require(least <= value <= most, f"model.{field}", value, f"in [{least}, {shown}]")
        _require_count("model.window", self.window, least=0)
        for field in ("dropout", "weight_dropout", "embedding_dropout"):
            value = getattr(self, field)
            _require(0.0 <= value < 1.0, f"model.{field}", value, "in [0, 1)")
        # Residual branches and a tied output layer must be as wide as the stream.
        is_one_stream = self.block in ("pre_norm", "post_norm") or self.tied_embedding
        if is_one_stream and self.embedding_size != self.hidden_size:
            cause = "tied_embedding=True" if self.tied_embedding else f"block={self.block}"
            raise CharlmError(
                f"config.model.hidden_size={self.hidden_size} is not allowed: it must be "
                f"config.model.embedding_size={self.embedding_size} under config.model.{cause}"
            )
        if self.block == "bare" and self.mlp != "none":
            raise CharlmError(
                f"config.model.mlp={self.mlp!r} is not allowed: it must be none under "
                f"config.model.block=bare, which has no residual connection"
            )
        ratio = self.mlp_ratio
        _require(0.0 < ratio <= 64.0, "model.mlp_ratio", ratio, "above 0 and at most 64")
        if self.cell_norm:
            self._check_cell_norm()
        if not LAYERS_WITH_HEADS.isdisjoint(self.layers):
            self._check_heads()
        field = "embedding_size"
        for name in self.layers if self.position == "rotary" else ():
            if name == "self_attention":  # as wide as its input
                width = getattr(self, field)
                even = "even: rotary positions rotate pairs of features"
                _require(width % 2 == 0, f"model.{field}", width, even)
            else:
                field = "hidden_size"

    def _check_cell_norm(self) -> None:
        layers, rounds = ",".join(self.layers), self.mogrifier_rounds
        # A layer from outside this package may have one.
        is_used = not {*self.layers} <= LAYERS_WITHOUT_CELL_NORM
        only = f"False for config.model.layers={layers}: it is for lstm and gru"
        _require(is_used, "model.cell_norm", True, only)
        without = f"False under config.model.mogrifier_rounds={rounds}"
        _require(rounds == 0, "model.cell_norm", True, without)

    def _check_heads(self) -> None:
        width, heads, kv_heads = self.hidden_size, self.heads, self.kv_heads
        divides = width % heads == 0
        _require(divides, "model.heads", heads, f"a divisor of config.model.hidden_size={width}")
        is_wide = "mlstm" not in self.layers or heads < width
        two = f"below config.model.hidden_size={width} for mlstm: its norm of one number is 0"
        _require(is_wide, "model.heads", heads, two)
        if "attention" not in self.layers:
            return
        groups = kv_heads == 0 or heads % kv_heads == 0
        divisor = f"0 or a divisor of config.model.heads={heads}"
        _require(groups, "model.kv_heads", kv_heads, divisor)
        is_even = self.position != "rotary" or (width // heads) % 2 == 0
        even = f"such that config.model.hidden_size={width} gives every head an even width (rotary)"
        _require(is_even, "model.heads", heads, even)


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """Update rule and learning-rate schedule."""

    rule: str
    learning_rate: float
    schedule: str
    warmup_steps: int
    final_learning_rate: float
    beta1: float
    beta2: float
    epsilon: float
    epsilon_hat: bool
    clip_norm: float
    weight_decay: float
    decay_fraction: float
    average_decay: float
    activation_penalty: float
    temporal_penalty: float

    def __post_init__(self) -> None:
        for field in ("learning_rate", "epsilon"):
            value = getattr(self, field)
            inside = _SMALLEST <= value <= _LARGEST
            allowed = f"in [{_SMALLEST:.2g}, {_LARGEST:.2g}], for float32"
            _require(inside, f"optimizer.{field}", value, allowed)
        _require_count("optimizer.warmup_steps", self.warmup_steps, least=0)
        for field in (
            "final_learning_rate",
            "clip_norm",
            "weight_decay",
            "activation_penalty",
            "temporal_penalty",
        ):
            value = getattr(self, field)
            inside = 0 <= value <= _LARGEST
            _require(inside, f"optimizer.{field}", value, f"in [0, {_LARGEST:.2g}]")
        fraction = self.decay_fraction
        _require(0.0 <= fraction <= 1.0, "optimizer.decay_fraction", fraction, "in [0, 1]")
        for field in ("beta1", "beta2", "average_decay"):
            value = getattr(self, field)
            _require(0.0 <= value < 1.0, f"optimizer.{field}", value, "in [0, 1)")
        under = f"under config.optimizer.rule={self.rule}"
        if self.rule != "adam":
            only_adam = f"False {under}"
            _require(not self.epsilon_hat, "optimizer.epsilon_hat", self.epsilon_hat, only_adam)
        if self.rule == "schedule_free":
            schedule, decay = self.schedule, self.average_decay
            constant = f"constant {under}, whose average takes the place of a decay"
            _require(schedule == "constant", "optimizer.schedule", schedule, constant)
            own = f"0 {under}, which keeps an average of its own"
            _require(decay == 0, "optimizer.average_decay", decay, own)
            _require(self.beta1 > 0, "optimizer.beta1", self.beta1, f"above 0 {under}")

    @property
    def averages(self) -> bool:
        """True if an average of the weights is kept, to be scored and sampled from."""
        return self.average_decay > 0 or self.rule == "schedule_free"

    def stable_steps(self, total_steps: int) -> int:
        """Return the number of first steps whose learning rates do not depend on the length.

        Args:
          total_steps: length of the run in steps.
        """
        if self.schedule == "constant":
            return MAX_INT32 + 1
        decay_steps = max(round(self.decay_fraction * total_steps), 1)
        stable = total_steps - decay_steps if self.schedule == "wsd" else 0
        return max(self.warmup_steps, stable)


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Length of training, and intervals of logging, evaluation and samples."""

    epochs: int
    max_steps: int
    steps_per_dispatch: int
    devices: int
    shard_params: bool
    microbatches: int
    segment_length: int
    log_every_steps: int
    evaluate_every_steps: int
    sample_every_steps: int
    patience: int
    keep: str
    init_from: str

    def __post_init__(self) -> None:
        for field in ("epochs", "steps_per_dispatch", "microbatches", "log_every_steps"):
            _require_count(f"train.{field}", getattr(self, field), least=1)
        for field in (
            "max_steps",
            "devices",
            "segment_length",
            "evaluate_every_steps",
            "sample_every_steps",
            "patience",
        ):
            _require_count(f"train.{field}", getattr(self, field), least=0)
        is_number = 0 < (parse_whole_number(self.keep) or 0) <= MAX_INT32
        allowed = "a number of steps, log, or empty"
        _require(is_number or self.keep in ("", "log"), "train.keep", self.keep, allowed)

    def keeps(self, step: int) -> bool:
        """Return whether the checkpoint of a step, from 1, is kept for good."""
        if self.keep == "log":
            return step & (step - 1) == 0
        return bool(self.keep) and step % int(self.keep) == 0


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """Scoring of held-out text during training."""

    context: int
    batch_size: int
    max_characters: int

    def __post_init__(self) -> None:
        for field in ("context", "max_characters"):
            _require_count(f"evaluation.{field}", getattr(self, field), least=0)
        _require_count("evaluation.batch_size", self.batch_size, least=1)


@dataclasses.dataclass(frozen=True)
class Config:
    """Complete config of a run. `configs/base.py` documents each value.

    Numbers are checked here. A name (of a layer, a loader, a split, ...) is checked by the one
    table that owns it, when the run is built and before anything is compiled.
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
        is_watched = self.train.patience == 0 or self.split.kind != "none"
        no_figure = "0 if config.split.kind=none: there is no held-out loss to monitor"
        _require(is_watched, "train.patience", self.train.patience, no_figure)
        for field in ("activation_penalty", "temporal_penalty"):
            value, block = getattr(self.optimizer, field), self.model.block
            is_bare = f"0 under config.model.block={block}: its norms undo the scale of outputs"
            _require(value == 0 or block == "bare", f"optimizer.{field}", value, is_bare)

    @property
    def evaluation_context(self) -> int:
        """Characters per evaluation window: `evaluation.context`, or the training length if 0."""
        return self.evaluation.context or self.data.sequence_length

    def with_paths(self, *, corpus: str, init_from: str) -> "Config":
        """Return a copy that names another text and another run to start from."""
        data = dataclasses.replace(self.data, corpus=corpus)
        train = dataclasses.replace(self.train, init_from=init_from)
        return dataclasses.replace(self, data=data, train=train)

    def _map_paths(self, function: Callable[[str], str]) -> "Config":
        return self.with_paths(
            corpus=function(self.data.corpus), init_from=function(self.train.init_from)
        )

    def to_dict(self) -> dict[str, Any]:
        """Return nested plain values with their format, ready for JSON; paths are UTF-8."""
        return with_format(dataclasses.asdict(self._map_paths(stored_path)))

    def flatten(self) -> dict[str, Any]:
        """Return dotted field -> value, in declaration order; each item is a valid override."""
        return dict(flatten(dataclasses.asdict(self)))

    def _repr_html_(self) -> str:
        return html_table([*self.flatten().items()], columns=["config.", "value"])

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Config":
        """Build a config from the output of `to_dict`, of this or an earlier version.

        Raises:
          CharlmError: a newer format; a missing, unknown or mistyped field.
        """
        return cls.from_fields(upgrade("config", values))._map_paths(local_path)

    @classmethod
    def from_fields(cls, values: Mapping[str, Any]) -> "Config":
        """Build a config from nested plain values; a missing, unknown or mistyped field fails."""
        return _build(cls, values, "")


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted field and the value of every leaf."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _build(kind: Any, values: object, prefix: str) -> Any:
    if not isinstance(values, Mapping):
        raise CharlmError(f"config.{prefix.rstrip('.')}={values!r} is not a section of fields")
    hints = typing.get_type_hints(kind)
    for name in values:
        if name not in hints:
            raise unknown_field(prefix + name, [prefix + known for known in hints])
    arguments = {}
    for name, hint in hints.items():
        if name not in values:
            raise CharlmError(f"config.{prefix}{name} is missing: configs/base.py declares it")
        if dataclasses.is_dataclass(hint):
            arguments[name] = _build(hint, values[name], f"{prefix}{name}.")
        else:
            arguments[name] = _coerce(values[name], hint, prefix + name)
    return kind(**arguments)


def field_type(field: str) -> Any:
    """Return the type of a dotted field; None if there is no such field."""
    kind: Any = Config
    for name in field.split("."):
        kind = typing.get_type_hints(kind).get(name) if dataclasses.is_dataclass(kind) else None
    return kind


def as_field(value: Any, field: str) -> Any:
    """Return a value as the type of its dotted field, unchanged if there is no such field.

    Raises:
      CharlmError: the value has another type.
    """
    hint = field_type(field)
    return value if hint is None else _coerce(value, hint, field)


def _as_plain(value: Any) -> Any:
    """Return a scalar of NumPy or JAX, or an array without dimensions, as Python's."""
    return value.item() if getattr(value, "ndim", None) == 0 else value


def _coerce(value: Any, hint: Any, field: str) -> Any:
    """Check a leaf's type, and convert numbers that are exactly of another type.

    An int is accepted as a float, and a float as an int if it is one; a bool is neither.
    """
    value = _as_plain(value)
    if hint is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if hint == tuple[str, ...]:
        if isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value):
            return tuple(value)
    elif hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return _as_float(value)
    elif isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    name = "a tuple of names" if hint == tuple[str, ...] else f"of type {hint.__name__}"
    if hint == tuple[str, ...] and isinstance(value, str):
        names = tuple(filter(None, (part.strip() for part in value.split(","))))
        name += f", such as {names}" + ": the comma makes it a tuple" * (len(names) == 1)
    raise CharlmError(f"config.{field}={value!r} has the wrong type: it must be {name}")


def _as_float(value: float) -> float:
    """Convert a number to a float; integers too large for one become infinite."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def unknown_field(field: str, known: Sequence[str]) -> CharlmError:
    """Return the error for an unknown field; it suggests a known one, or says that there is none.

    A field of that name in another section comes first, then our name for another program's, then
    the closest.
    """
    same = same_leaf(field, known)
    foreign = None if same else suggest_field(field)
    if foreign is not None:
        return CharlmError(f"config.{field} is not a field; {foreign}")
    close = same or closest(field, known)
    hint = f"did you mean config.{close}?" if close else f"known: {', '.join(known)}"
    return CharlmError(f"config.{field} is not a field; {hint}")
