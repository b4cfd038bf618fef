"""`metrics.jsonl`: one JSON object per line, appended during training."""

import json
import os
from collections.abc import Mapping
from inspect import get_annotations
from pathlib import Path
from typing import Any

from charlm_jax.core.errors import CharlmError, write_error
from charlm_jax.core.files import atomic_write
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
      chars_per_second: characters trained on, or scored, per second spent on that alone.
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

    def append(self, row: MetricsRow) -> None:
        """Write one row as one line, immediately; raises `CharlmError` on failure."""
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            raise write_error(self._path, error) from error

    def rows(self) -> list[MetricsRow]:
        """Return all rows in order; an incomplete last line is skipped.

        Raises:
          CharlmError: another line is not a valid row.
        """
        if not self._path.exists():
            return []
        *lines, last = self._path.read_bytes().split(b"\n")
        del last  # empty, or incomplete: a complete line ends in a newline
        return [self._parse(number, line) for number, line in enumerate(lines, start=1)]

    def latest(self) -> list[MetricsRow]:
        """Return the last few rows quickly: those complete in the file's last bytes.

        Raises:
          CharlmError: one of them is not a valid row.
        """
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            start = max(0, file.seek(0, os.SEEK_END) - _LATEST_BYTES)
            file.seek(start)
            first, *lines = file.read().split(b"\n")
        whole = [first, *lines][:-1] if start == 0 else lines[:-1]
        return [self._parse(number, line) for number, line in enumerate(whole, start=-len(whole))]

    def truncate_after(self, step: int, *, is_scored: bool = True) -> None:
        """Drop rows that will be written again, and an incomplete last line.

        Args:
          step: step whose rows are the last to keep.
          is_scored: whether to keep its `valid` rows too.
        """
        if not self._path.exists():
            return
        kept = [
            json.dumps(row) + "\n"
            for row in self.rows()
            if row["step"] < step
            or (row["step"] == step and (is_scored or row["split"] == "train"))
        ]
        try:
            atomic_write(self._path, "".join(kept).encode())
        except OSError as error:
            raise write_error(self._path, error) from error

    def _parse(self, number: int, line: bytes) -> MetricsRow:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        is_row = isinstance(row, dict) and all(
            type(row.get(name)) is kind for name, kind in _FIELDS.items()
        )
        is_row = is_row and type(row.get("gradient_norm", 0.0)) is float
        if not is_row or row["step"] < 1:
            raise CharlmError(
                f"{self._path}, line {number}, is not a valid metrics row: remove that line"
            )
        return row
