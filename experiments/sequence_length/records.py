"""Records of the study: what is kept of a text, of a trial and of a run.

Every number and interval of the study follows from its records, without training anything again.
Losses are kept as sums over blocks of consecutive characters (`charlm_jax.evaluation.block_sums`),
rounded to `DIGITS` decimals of a nat; results are always computed from the rounded sums. Records
hold neither times nor paths, so the same training gives the same bytes.

Files in a folder of records:

  speeds.json       training speed of each model and length, in characters per second
  text.json         sizes of the text's parts, its simple predictors, characters in each block
  trials/NAME.json  held-out loss of one trial of a learning rate
  runs/NAME.json    losses of one run and what else was measured of it
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from charlm_jax.analysis.text_quality import TextQuality
from charlm_jax.core.errors import CharlmError
from charlm_jax.core.files import atomic_write
from charlm_jax.core.json_files import to_jsonable
from charlm_jax.evaluation.block_sums import BlockSums
from experiments.sequence_length.arms import Arm

DIGITS = 4
SPEEDS, TEXT, TRIALS, RUNS = "speeds.json", "text.json", "trials", "runs"
RULES = ("window", "stream")

Sums = tuple[float, ...]
"""Losses summed over blocks, in nats."""


class TextRecord(NamedTuple):
    """The text, and simple predictors of its third part.

    Attributes:
      corpus: name of the text.
      fingerprint: hash of the text and its split.
      symbols: number of distinct characters.
      characters: number of characters of each part.
      compressed: compressed size of the third part in nats per character, by compressor.
      ngram_order: length of the longest strings of the n-gram, by rule (`window` or `stream`).
      ngram: its losses on the third part, summed over blocks, by rule.
      ngram_second: its mean loss on the second part in nats per character, by rule.
      counts: number of characters in each block of 1,000.
      class_counts: the same in wider blocks, by kind of character.
      place_counts: the same, by number of characters read before.
      target_counts: number of targets of the effective context in each wider block.
      human: measures of held-out text, as many samples as are generated.
    """

    corpus: str
    fingerprint: str
    symbols: int
    characters: Mapping[str, int]
    compressed: Mapping[str, float]
    ngram_order: Mapping[str, int]
    ngram: Mapping[str, Sums]
    ngram_second: Mapping[str, float]
    counts: Sequence[int]
    class_counts: Mapping[str, Sequence[int]]
    place_counts: Mapping[str, Sequence[int]]
    target_counts: Sequence[int]
    human: Mapping[str, Any]


class TrialRecord(NamedTuple):
    """One trial of a learning rate.

    Attributes:
      config: config name.
      fields: config fields that were changed.
      loss: lowest loss on the second part while it trained, in nats per character; None if it
        diverged.
    """

    config: str
    fields: Mapping[str, Any]
    loss: float | None


class RunRecord(NamedTuple):
    """One run, at its best checkpoint on the second part.

    Attributes:
      arm: its arm.
      seed: its seed.
      config: config name.
      fields: config fields that were changed.
      commit: commit of the project that trained it; empty if unknown.
      rate: learning rate.
      parameters: number of parameters of the model.
      characters: characters read by the whole training, at most.
      curve: characters read and loss on the second part in windows, at every evaluation.
      best_characters: characters read by the best checkpoint.
      flops: floating-point operations in the matrix products of the whole training.
      second: mean loss on the second part in nats per character, by rule.
      window: losses on the third part in windows, summed over blocks.
      stream: losses with the state carried through it.
      by_class: stream losses by kind of character.
      by_place: losses by number of characters read before, less the difficulty of the characters.
      by_context: change -> n -> losses with all but the nearest n characters changed; None if not
        measured.
      gradients: number of characters between a character and the prediction -> mean norm of the
        gradient of the prediction's loss; None if not measured.
      quality: measures of generated text, with intervals; None if not measured.
    """

    arm: Arm
    seed: int
    config: str
    fields: Mapping[str, Any]
    commit: str
    rate: float
    parameters: int
    characters: int
    curve: Sequence[tuple[int, float]]
    best_characters: int
    flops: float
    second: Mapping[str, float]
    window: Sums
    stream: Sums
    by_class: Mapping[str, Sums]
    by_place: Mapping[str, Sums]
    by_context: Mapping[str, Mapping[str, Sums]] | None
    gradients: Mapping[str, float] | None
    quality: Mapping[str, Any] | None


class Records:
    """A folder of records."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def speeds(self) -> dict[str, float] | None:
        """Return characters per second by model and length; None before they are measured."""
        return _read(self.folder / SPEEDS)

    def text(self) -> TextRecord | None:
        """Return the record of the text; None before there is one."""
        values = _read(self.folder / TEXT)
        return None if values is None else _record(TextRecord, values, self.folder / TEXT)

    def trial(self, name: str) -> TrialRecord | None:
        """Return the record of a trial; None if it has not been trained."""
        file = self._file(TRIALS, name)
        values = _read(file)
        return None if values is None else _record(TrialRecord, values, file)

    def run(self, name: str) -> RunRecord | None:
        """Return the record of a run; None if it has not been trained."""
        file = self._file(RUNS, name)
        values = _read(file)
        if values is None:
            return None
        record = _record(RunRecord, values, file)
        arm = _record(Arm, record.arm, file)
        return record._replace(arm=arm._replace(lengths=tuple(arm.lengths)))

    def write_speeds(self, speeds: Mapping[str, float]) -> None:
        """Write training speeds, rounded to whole characters per second."""
        _write(self.folder / SPEEDS, {name: round(x) for name, x in speeds.items()})

    def write_text(self, record: TextRecord) -> None:
        """Write the record of the text."""
        _write(self.folder / TEXT, record._asdict())

    def write_trial(self, name: str, record: TrialRecord) -> None:
        """Write the record of a trial."""
        _write(self._file(TRIALS, name), record._asdict())

    def write_run(self, name: str, record: RunRecord) -> None:
        """Write the record of a run."""
        _write(self._file(RUNS, name), record._asdict())

    def _file(self, kind: str, name: str) -> Path:
        return self.folder / kind / f"{name}.json"


def to_sums(sums: BlockSums) -> list[Sums]:
    """Return the rounded sums of each run."""
    return [tuple(round(float(x), DIGITS) for x in sums_K) for sums_K in sums.sums_SK]


def from_sums(rows: Sequence[Sums], counts: Sequence[int]) -> BlockSums:
    """Return the losses of several runs.

    Args:
      rows: sums of each run.
      counts: number of characters in each block.
    """
    return BlockSums(np.array(rows, np.float64), np.array(counts, np.int64))


def quality_values(quality: TextQuality) -> dict[str, Any]:
    """Return measures of generated text as JSON values, without the copied passage."""
    values: dict[str, Any] = to_jsonable(quality._replace(longest_copy=None))
    del values["longest_copy"]
    return values


def _read(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(file) from error


def _record(kind: Any, values: Any, file: Path) -> Any:
    try:
        return kind(**values)
    except TypeError as error:
        raise _damaged(file) from error


def _damaged(file: Path) -> CharlmError:
    return CharlmError(f"{file} is damaged: remove it, and the same command makes it again")


def _write(file: Path, values: Mapping[str, Any]) -> None:
    """Write a record with one line per field: short, and readable in a comparison of versions."""
    lines = (f"  {json.dumps(name)}: {json.dumps(to_jsonable(x))}" for name, x in values.items())
    file.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(file, ("{\n" + ",\n".join(lines) + "\n}\n").encode())
