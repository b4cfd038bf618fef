"""Metrics rows as TensorBoard events, with the extra `tensorboard`.

`metrics.jsonl` is the source: its rows are written to a new event file whenever training begins,
and every further row is appended. An event's time is the row's `seconds` since the run began. The
writer is tensorboard's own, without a thread: tensorboardX's `SummaryWriter` blocks training
forever once its thread meets a full disk.
"""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from charlm_jax.core.errors import CharlmError
from charlm_jax.storage.metrics_log import MetricsLog, MetricsRow
from charlm_jax.storage.workdir import Workdir
from charlm_jax.training.progress_bar import ProgressListener, ignore_broken_pipe

_FILE_VERSION = "brain.Event:2"

# Name of the files that this module writes; other files in the folder are left alone.
_OWN_FILE = re.compile(r"events\.out\.tfevents\.[0-9]{10}\.charlm_jax")
# Tags of `step` rows besides losses, and their fields.
_OF_STEPS = {
    "optimizer/gradient_norm": "gradient_norm",
    "optimizer/learning_rate": "learning_rate",
    "speed/chars_per_second": "chars_per_second",
}


class EventFiles:
    """A listener that writes events and forwards all calls to another listener.

    Args:
      workdir: folder of the run; the events go to `tensorboard/` in it.
      view: the other listener.

    Raises:
      CharlmError: the package tensorboard is not installed.
    """

    def __init__(self, workdir: Path | str, view: ProgressListener) -> None:
        _refuse_missing()
        self._workdir, self._view = Workdir(workdir), ignore_broken_pipe(view)
        self._file: Path | None = None

    def note(self, line: str) -> None:
        self._view.note(line)

    def begin(self, step: int, total_steps: int) -> None:
        self._view.begin(step, total_steps)
        self.write_anew()

    def advance(self, step: int, loss_nats: float, chars_per_second: float) -> None:
        self._view.advance(step, loss_nats, chars_per_second)

    def scoring(self, share: float) -> None:
        self._view.scoring(share)

    def row(self, row: MetricsRow, mark: str) -> None:
        self._view.row(row, mark)
        if self._file is not None:
            try:
                _append(self._file, _events(row))
            except OSError as error:
                self._give_up(error)

    def sample(self, step: int, scale: float, text: str) -> None:
        self._view.sample(step, scale, text)

    def write_anew(self) -> None:
        """Replace all events with those of the rows written so far."""
        rows = MetricsLog(self._workdir.metrics_file).rows()
        self._workdir.refuse_links()
        folder = self._workdir.tensorboard
        partial = folder / "partial"
        try:
            folder.mkdir(exist_ok=True)
            partial.unlink(missing_ok=True)
            _append(partial, [*_beginning(), *(event for row in rows for event in _events(row))])
            # A running TensorBoard continues with the file whose name sorts last.
            before = [path for path in folder.iterdir() if _OWN_FILE.fullmatch(path.name)]
            number = max((int(path.name.split(".")[3]) + 1 for path in before), default=0)
            for file in before:
                file.unlink()
            self._file = folder / f"events.out.tfevents.{number:010d}.charlm_jax"
            partial.rename(self._file)
        except OSError as error:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        """Stop writing events; the run continues."""
        self._file = None
        reason = error.strerror or error
        self._view.note(
            f"TensorBoard logging stopped: cannot write to {self._workdir.tensorboard}: {reason}"
        )


def scalars(row: MetricsRow) -> dict[str, float]:
    """Return a row's values by tag; no two rows of a step have the same tag.

    Tags are `loss_nats/NAME` and `loss_bits/NAME`, which TensorBoard sorts first, with the name
    `train` for steps, `train_epoch` for whole epochs, `valid` for held-out text, and
    `valid_average` for held-out text if the weights are a moving average; then
    `optimizer/gradient_norm`, `optimizer/learning_rate` and `speed/chars_per_second` of steps.
    """
    is_passing = row["split"] == "train" and row["scope"] == "step"
    name = row["split"]
    if row["split"] == "train" and not is_passing:
        name = "train_epoch"
    elif row["weights"] == "average":
        name += "_average"
    values = {f"loss_nats/{name}": "loss_nats", f"loss_bits/{name}": "bits_per_char"}
    return {
        tag: float(row[field])
        for tag, field in (values | (_OF_STEPS if is_passing else {})).items()
        if field in row  # earlier versions wrote no gradient norms
    }


def _refuse_missing() -> None:
    try:
        import tensorboard.compat.proto.event_pb2
        import tensorboard.summary.writer.record_writer  # noqa: F401
    except ImportError as error:
        raise CharlmError(
            f"--tensorboard needs the package tensorboard ({error}): "
            f"pip install -e '.[tensorboard]' in the clone"
        ) from error


def _beginning() -> Iterator[Any]:
    """Yield the first events of a file; the second makes TensorBoard discard earlier files."""
    from tensorboard.compat.proto.event_pb2 import Event, SessionLog

    yield Event(file_version=_FILE_VERSION)
    yield Event(session_log=SessionLog(status=SessionLog.START))


def _events(row: MetricsRow) -> Iterator[Any]:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary

    values = [Summary.Value(tag=tag, simple_value=x) for tag, x in scalars(row).items()]
    yield Event(step=row["step"], wall_time=row["seconds"], summary=Summary(value=values))


def _append(path: Path, events: Any) -> None:
    from tensorboard.summary.writer.record_writer import RecordWriter

    with path.open("ab") as file:
        writer = RecordWriter(file)
        for event in events:
            writer.write(event.SerializeToString())
