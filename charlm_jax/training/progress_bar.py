"""What a person sees of a training run: a progress bar on a terminal, plain lines elsewhere."""

import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Protocol

from charlm_jax.storage.metrics_log import MetricsRow


class ProgressListener(Protocol):
    """What the loop tells of itself, as it happens."""

    def note(self, line: str) -> None:
        """Something worth a line."""

    def begin(self, step: int, total_steps: int) -> None:
        """Training starts, at `step` of `total_steps`."""

    def advance(self, step: int, loss_nats: float, chars_per_second: float) -> None:
        """A dispatch is done, with the mean loss of its steps."""

    def row(self, row: MetricsRow) -> None:
        """A row was written to the metrics."""


class NullProgress:
    """Shows nothing: what a notebook and a test use."""

    def note(self, line: str) -> None:
        pass

    def begin(self, step: int, total_steps: int) -> None:
        pass

    def advance(self, step: int, loss_nats: float, chars_per_second: float) -> None:
        pass

    def row(self, row: MetricsRow) -> None:
        pass


class IgnoreBrokenPipe:
    """Passes everything on to a view until that can no longer print; then it falls silent.

    A terminal that was closed, or a reader that went away, must not end a run.
    """

    def __init__(self, view: ProgressListener) -> None:
        self._view = view

    def note(self, line: str) -> None:
        self._pass_on(lambda: self._view.note(line))

    def begin(self, step: int, total_steps: int) -> None:
        self._pass_on(lambda: self._view.begin(step, total_steps))

    def advance(self, step: int, loss_nats: float, chars_per_second: float) -> None:
        self._pass_on(lambda: self._view.advance(step, loss_nats, chars_per_second))

    def row(self, row: MetricsRow) -> None:
        self._pass_on(lambda: self._view.row(row))

    def _pass_on(self, tell: Callable[[], None]) -> None:
        try:
            tell()
        except OSError:
            self._view = NullProgress()


def describe_row(row: MetricsRow) -> str:
    """A metrics row in words: `epoch 3  step 1272  valid 1.612 nats  2.326 bits`."""
    split = "avg'd" if row["weights"] == "average" else row["split"]
    return (
        f"epoch {row['epoch']:>2}  step {row['step']:>6}  {split:<5} "
        f"{row['loss_nats']:.4f} nats/char  {row['bits_per_char']:.4f} bits/char  "
        f"{row['chars_per_second']:>9,.0f} chars/s  {row['seconds']:>7,.0f} s"
    )


class LogProgress:
    """Lines, for logs, pipes and CI: every epoch and evaluation, and a step row now and then."""

    def __init__(self, write: Callable[[str], None] = print, every_seconds: float = 10.0) -> None:
        self._write = write
        self._every_seconds = every_seconds
        self._last = -math.inf

    def note(self, line: str) -> None:
        self._say(line)

    def begin(self, step: int, total_steps: int) -> None:
        pass

    def advance(self, step: int, loss_nats: float, chars_per_second: float) -> None:
        pass

    def row(self, row: MetricsRow) -> None:
        is_passing = row["scope"] == "step" and row["split"] == "train"
        if is_passing and time.monotonic() - self._last < self._every_seconds:
            return
        self._last = time.monotonic()
        self._say(describe_row(row))

    def _say(self, line: str) -> None:
        self._write(line)
        sys.stdout.flush()


class Bar:
    """A progress bar with loss, characters per second and time left; epoch rows stay above it."""

    def __init__(self) -> None:
        from rich import progress

        self.display = progress.Progress(
            progress.TextColumn("training"),
            progress.BarColumn(bar_width=None),
            progress.MofNCompleteColumn(),
            progress.TextColumn("{task.fields[loss]}"),
            progress.TextColumn("{task.fields[speed]}"),
            progress.TimeRemainingColumn(elapsed_when_finished=True),
        )
        self._task: progress.TaskID | None = None

    def note(self, line: str) -> None:
        self.display.console.print(line, markup=False, highlight=False)

    def begin(self, step: int, total_steps: int) -> None:
        self._task = self.display.add_task(
            "training", total=total_steps, completed=step, loss="compiling ...", speed=""
        )

    def advance(self, step: int, loss_nats: float, chars_per_second: float) -> None:
        if self._task is not None:
            self.display.update(
                self._task,
                completed=step,
                loss=f"{loss_nats:.3f} nats",
                speed=f"{chars_per_second:,.0f} chars/s",
            )

    def row(self, row: MetricsRow) -> None:
        if row["scope"] == "epoch" or row["split"] != "train":
            self.note(describe_row(row))


@contextmanager
def training_view() -> Iterator[ProgressListener]:
    """The view that fits standard output."""
    if not sys.stdout.isatty():
        yield LogProgress()
        return
    bar = Bar()
    bar.display.start()
    try:
        yield bar
    finally:
        with suppress(OSError):  # the terminal may be gone
            bar.display.stop()
