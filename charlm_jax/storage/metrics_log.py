"""`metrics.jsonl`: one JSON object a line, appended as a run goes on."""

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

_LATEST_BYTES = 4096  # some ten rows


def metrics_row(
    *,
    step: int,
    epoch: int,
    split: str,
    scope: str,
    weights: str,
    loss_nats: float,
    learning_rate: float,
    state_hash: str,
    chars_per_second: float,
    seconds: float,
) -> MetricsRow:
    """One row.

    Args:
      step: updates made so far.
      epoch: the epoch that the last of them belongs to, from 1.
      split: `train` or `valid`.
      scope: `step` (the steps since the last such row, or a validation on the way) or `epoch` (a
        whole epoch, or the validation at its end).
      weights: whose loss it is: `raw`, or their moving `average`.
      loss_nats: mean negative log-likelihood of a character.
      learning_rate: of the last update.
      state_hash: of parameters, optimiser and carried state after it (`charlm_jax.core.tree_hash`).
      chars_per_second: characters trained on, or scored, per second of doing just that.
      seconds: wall-clock time of the run so far, earlier sessions included.
    """
    return {
        "step": step,
        "epoch": epoch,
        "split": split,
        "scope": scope,
        "weights": weights,
        "loss_nats": loss_nats,
        "bits_per_char": bits(loss_nats),
        "learning_rate": learning_rate,
        "state_hash": state_hash,
        "chars_per_second": round(chars_per_second, 1),
        "seconds": round(seconds, 3),
    }


# What a row must have, and of which type.
_FIELDS = {**get_annotations(metrics_row), "bits_per_char": float}
del _FIELDS["return"]


class MetricsLog:
    """Appends rows to a file, and forgets those past the step that a run goes on from."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def append(self, row: MetricsRow) -> None:
        """Write one row as one line, at once; a `CharlmError` where that cannot be done."""
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            raise write_error(self._path, error) from error

    def rows(self) -> list[MetricsRow]:
        """All rows, in order; a last line that was torn off is passed over.

        Raises:
          CharlmError: another line is not a row.
        """
        if not self._path.exists():
            return []
        *lines, last = self._path.read_bytes().split(b"\n")
        del last  # empty, or torn: a whole line ends in a newline
        return [self._parse(number, line) for number, line in enumerate(lines, start=1)]

    def latest(self) -> list[MetricsRow]:
        """The last few rows, quickly: those that are whole in the file's last bytes.

        Raises:
          CharlmError: one of them is not a row.
        """
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            start = max(0, file.seek(0, os.SEEK_END) - _LATEST_BYTES)
            file.seek(start)
            first, *lines = file.read().split(b"\n")
        whole = [first, *lines][:-1] if start == 0 else lines[:-1]
        return [self._parse(number, line) for number, line in enumerate(whole, start=-len(whole))]

    def truncate_after(self, step: int) -> None:
        """Drop rows past `step` and a torn last line: they will be written again."""
        if not self._path.exists():
            return
        kept = [json.dumps(row) + "\n" for row in self.rows() if row["step"] <= step]
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
        if not is_row or row["step"] < 1:
            raise CharlmError(
                f"{self._path}, line {number}, is not a row of metrics: remove that line"
            )
        return row
