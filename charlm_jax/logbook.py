"""`metrics.jsonl`: one JSON object a line, appended as a run goes on."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]

NATS_PER_BIT = math.log(2.0)


def metrics_row(
    *,
    step: int,
    epoch: int,
    split: str,
    scope: str,
    loss_nats: float,
    learning_rate: float,
    chars_per_second: float,
    seconds: float,
) -> Row:
    """One row.

    Args:
      step: updates made so far.
      epoch: the epoch that the last of them belongs to, from 1.
      split: `train` or `valid`.
      scope: `step` (the steps since the last such row, or a validation on the way) or `epoch` (a
        whole epoch, or the validation at its end).
      loss_nats: mean negative log-likelihood of a character.
      learning_rate: of the last update.
      chars_per_second: characters trained on, or scored, per second of doing just that.
      seconds: wall-clock time of the run so far, earlier sittings included.
    """
    return {
        "step": step,
        "epoch": epoch,
        "split": split,
        "scope": scope,
        "loss_nats": loss_nats,
        "bits_per_char": loss_nats / NATS_PER_BIT,
        "learning_rate": learning_rate,
        "chars_per_second": round(chars_per_second, 1),
        "seconds": round(seconds, 3),
    }


class Logbook:
    """Appends rows to a file, and forgets those past the step that a run goes on from."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def append(self, row: Row) -> None:
        """Write one row as one line, at once."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def rows(self) -> list[Row]:
        """All whole rows, in order; a torn last line is passed over."""
        if not self._path.exists():
            return []
        rows = []
        for line in self._path.read_text(encoding="utf-8").splitlines():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                break
        return rows

    def keep_up_to(self, step: int) -> None:
        """Drop rows past `step` and a torn last line: they will be written again."""
        if not self._path.exists():
            return
        kept = [json.dumps(row) + "\n" for row in self.rows() if row["step"] <= step]
        whole = self._path.with_suffix(".partial")
        whole.write_text("".join(kept), encoding="utf-8")
        whole.replace(self._path)
