"""`metrics.jsonl`: one JSON object per line, appended during training."""

import json
import math
import os
from collections.abc import Iterable, Mapping
from inspect import get_annotations
from pathlib import Path
from typing import Any

from charlm_jax.core.errors import CharlmError, read_error, write_error
from charlm_jax.core.files import atomic_write, read_regular
from charlm_jax.core.types import bits

MetricsRow = Mapping[str, Any]

_LATEST_BYTES = 4096  # about ten rows


def metrics_row(
    *,
    step: int,
    epoch: int,
    split: str,
    scope: str,
    weights: str,
    loss_nats: float,
    gradient_norm: float | None,
    learning_rate: float,
    state_hash: str,
    chars_per_second: float,
    seconds: float,
) -> MetricsRow:
    """Build one row of metrics.

    Args:
      step: number of updates so far.
      epoch: epoch of the last update, from 1.
      split: `train` or `valid`.
      scope: `step` (the steps since the last such row, or a validation within an epoch) or `epoch`
        (a whole epoch, or the validation at its end).
      weights: weights that have this loss: `raw`, or their moving `average`.
      loss_nats: mean negative log-likelihood per character, in nats.
      gradient_norm: largest L2 norm of a step's gradient among the row's steps, all parameters
        together, before clipping; None for `valid`, whose rows do not have the field.
      learning_rate: learning rate of the last update.
      state_hash: `charlm_jax.core.tree_hash` of parameters, optimizer and carried state after it.
      chars_per_second: characters trained on, or scored, per second spent on that alone; the first
        scoring of a session includes its compilation.
      seconds: wall-clock time of the run so far, earlier sessions included.
    """
    norm = {} if gradient_norm is None else {"gradient_norm": gradient_norm}
    return {
        "step": step,
        "epoch": epoch,
        "split": split,
        "scope": scope,
        "weights": weights,
        "loss_nats": loss_nats,
        "bits_per_char": bits(loss_nats),
        **norm,
        "learning_rate": learning_rate,
        "state_hash": state_hash,
        "chars_per_second": round(chars_per_second, 1),
        "seconds": round(seconds, 3),
    }


# Required fields of a row, and their types; earlier versions wrote no gradient norms.
_FIELDS = {**get_annotations(metrics_row), "bits_per_char": float}
del _FIELDS["return"], _FIELDS["gradient_norm"]


class MetricsLog:
    """Log of metrics: appends rows, and drops those after the step that a run resumes from."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._written: bytearray | None = None  # the file's lines, once this process has added any

    def append(self, row: MetricsRow) -> None:
        """Write one row as one line, immediately; raises `CharlmError` on failure."""
        if self._written is None:
            self._written = bytearray(self.content())
        line = format_rows([row])
        try:
            with self._path.open("ab") as file:
                file.write(line)
        except OSError as error:
            raise write_error(self._path, error) from error
        self._written += line

    def content(self) -> bytes:
        """Return the file's complete lines, whether or not they are valid rows.

        Raises:
          CharlmError: the file cannot be read.
        """
        try:
            data = read_regular(self._path)
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise read_error(self._path, error) from error
        return data[: data.rfind(b"\n") + 1]

    def written(self) -> bytes:
        """Return the lines as this process left them, whatever became of the file since."""
        return self.content() if self._written is None else bytes(self._written)

    def rows(self) -> list[MetricsRow]:
        """Return all rows in order; an incomplete last line is skipped.

        Raises:
          CharlmError: another line is not a valid row.
        """
        return parse_rows(self.content(), self._path)

    def latest(self) -> list[MetricsRow]:
        """Return the last few rows quickly: those complete in the file's last bytes.

        Raises:
          CharlmError: one of them is not a valid row.
        """
        if not self._path.is_file():
            return []
        with self._path.open("rb") as file:
            start = max(0, file.seek(0, os.SEEK_END) - _LATEST_BYTES)
            file.seek(start)
            first, *lines = file.read().split(b"\n")
        whole = [first, *lines][:-1] if start == 0 else lines[:-1]
        rows = [row for row in map(_parse, whole) if row is not None]
        return rows if len(rows) == len(whole) else self.rows()  # raises, with the line's number

    def truncate_after(self, step: int) -> None:
        """Drop rows after `step` and an incomplete last line: they will be written again."""
        if not self._path.exists():
            return
        self.replace(format_rows(row for row in self.rows() if row["step"] <= step))

    def replace(self, content: bytes) -> None:
        """Replace all rows by complete lines, if they differ; raises `CharlmError` on failure."""
        try:
            if not self._path.is_file() or read_regular(self._path) != content:
                atomic_write(self._path, content)
        except OSError as error:
            raise write_error(self._path, error) from error
        self._written = bytearray(content)


def format_rows(rows: Iterable[MetricsRow]) -> bytes:
    """Return rows as complete lines."""
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def parse_rows(content: bytes, path: Path) -> list[MetricsRow]:
    """Return the rows of complete lines.

    Args:
      content: the lines.
      path: file that they are from, for error messages.

    Raises:
      CharlmError: a line is not a valid row.
    """
    lines = content.split(b"\n")[:-1]
    rows = []
    for number, line in enumerate(lines, start=1):
        row = _parse(line)
        if row is None:
            raise CharlmError(
                f"{path}, line {number}, is not a valid metrics row: remove that line"
            )
        rows.append(row)
    return rows


def _parse(line: bytes) -> MetricsRow | None:
    """Return the row of a line; None if it is not a valid one."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    is_row = isinstance(row, dict) and all(
        _is_value(row.get(name), kind) for name, kind in _FIELDS.items()
    )
    return row if is_row and _is_value(row.get("gradient_norm", 0.0), float) else None


def _is_value(value: object, kind: type) -> bool:
    """Return whether a value has its type, and numbers are in the range that a run can write."""
    if type(value) is not kind:
        return False
    if isinstance(value, int):
        return 1 <= value < 2**31
    return not isinstance(value, float) or math.isfinite(value)
