"""What a person sees of a training run: a progress bar on a terminal, plain lines elsewhere."""

import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import NamedTuple, Protocol

from charlm_jax.logbook import Row


class View(Protocol):
    """What the loop tells of itself, as it happens."""

    def note(self, line: str) -> None:
        """Something worth a line."""

    def begin(self, step: int, total_steps: int) -> None:
        """Training starts, at `step` of `total_steps`."""

    def advance(self, step: int, loss_nats: float, chars_per_second: float) -> None:
        """A dispatch is done, with the mean loss of its steps."""

    def row(self, row: Row) -> None:
        """A row was written to the metrics."""


class Silent:
    """Shows nothing: what a notebook and a test use."""

    def note(self, line: str) -> None:
        pass

    def begin(self, step: int, total_steps: int) -> None:
        pass

    def advance(self, step: int, loss_nats: float, chars_per_second: float) -> None:
        pass

    def row(self, row: Row) -> None:
        pass


class Unfailing:
    """Passes everything on to a view until that can no longer print; then it falls silent.

    A terminal that was closed, or a reader that went away, must not end a run.
    """

    def __init__(self, view: View) -> None:
        self._view = view

    def note(self, line: str) -> None:
        self._pass_on(lambda: self._view.note(line))

    def begin(self, step: int, total_steps: int) -> None:
        self._pass_on(lambda: self._view.begin(step, total_steps))

    def advance(self, step: int, loss_nats: float, chars_per_second: float) -> None:
        self._pass_on(lambda: self._view.advance(step, loss_nats, chars_per_second))

    def row(self, row: Row) -> None:
        self._pass_on(lambda: self._view.row(row))

    def _pass_on(self, tell: Callable[[], None]) -> None:
        try:
            tell()
        except OSError:
            self._view = Silent()


def describe_row(row: Row) -> str:
    """A metrics row in words: `epoch 3  step 1272  valid 1.612 nats  2.326 bits`."""
    split = "avg'd" if row["weights"] == "average" else row["split"]
    return (
        f"epoch {row['epoch']:>2}  step {row['step']:>6}  {split:<5} "
        f"{row['loss_nats']:.4f} nats/char  {row['bits_per_char']:.4f} bits/char  "
        f"{row['chars_per_second']:>9,.0f} chars/s  {row['seconds']:>7,.0f} s"
    )


class Plain:
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

    def row(self, row: Row) -> None:
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

    def row(self, row: Row) -> None:
        if row["scope"] == "epoch" or row["split"] != "train":
            self.note(describe_row(row))


class PointRow(NamedTuple):
    """How a point of a sweep stands.

    Attributes:
      name: the point's.
      state: `waiting`, `running`, `done`, `failed`, or `elsewhere` (another process trains it).
      step: updates made.
      total_steps: where its run ends; None before that is known.
      chars_per_second: trained on; 0 before that is known.
    """

    name: str
    state: str
    step: int = 0
    total_steps: int | None = None
    chars_per_second: float = 0.0


class SweepView(Protocol):
    """What the runner of several runs tells of itself."""

    def note(self, line: str) -> None:
        """Something worth a line."""

    def start(self, name: str) -> None:
        """A point begins to train."""

    def show(self, rows: Sequence[PointRow]) -> None:
        """How all points stand; told several times a second."""


class SilentSweep:
    """Shows nothing."""

    def note(self, line: str) -> None:
        pass

    def start(self, name: str) -> None:
        pass

    def show(self, rows: Sequence[PointRow]) -> None:
        pass


class UnfailingSweep:
    """Passes everything on to a view until that can no longer print; then it falls silent."""

    def __init__(self, view: SweepView) -> None:
        self._view = view

    def note(self, line: str) -> None:
        self._pass_on(lambda: self._view.note(line))

    def start(self, name: str) -> None:
        self._pass_on(lambda: self._view.start(name))

    def show(self, rows: Sequence[PointRow]) -> None:
        self._pass_on(lambda: self._view.show(rows))

    def _pass_on(self, tell: Callable[[], None]) -> None:
        try:
            tell()
        except OSError:
            self._view = SilentSweep()


class PlainSweep(SilentSweep):
    """A line for every event, for logs, pipes and CI."""

    def note(self, line: str) -> None:
        print(line, flush=True)

    def start(self, name: str) -> None:
        print(f"{name}: started", flush=True)


class Bars:
    """A bar for every point that trains and one for all points; what has ended stays above."""

    def __init__(self) -> None:
        from rich import progress

        self.display = progress.Progress(
            progress.TextColumn("{task.description}", markup=False),
            progress.BarColumn(bar_width=None),
            progress.MofNCompleteColumn(),
            progress.TextColumn("{task.fields[says]}", markup=False),
            progress.TimeRemainingColumn(),
            refresh_per_second=4,
        )
        self._tasks: dict[str, progress.TaskID] = {}
        self._all = self.display.add_task("points", total=None, says="")

    def note(self, line: str) -> None:
        self.display.console.print(line, markup=False, highlight=False)

    def start(self, name: str) -> None:
        self._tasks[name] = self.display.add_task(name, total=None, says="starting ...")

    def show(self, rows: Sequence[PointRow]) -> None:
        states = [row.state for row in rows]
        says = f"{states.count('waiting')} waiting, {states.count('failed')} failed"
        ended = len(rows) - states.count("waiting") - states.count("running")
        self.display.update(self._all, total=len(rows), completed=ended, says=says)
        for row in rows:
            if row.name not in self._tasks:
                continue
            if row.state != "running":
                self.display.remove_task(self._tasks.pop(row.name))
            elif row.total_steps is not None:
                speed = f"{row.chars_per_second:,.0f} chars/s"
                self.display.update(
                    self._tasks[row.name], completed=row.step, total=row.total_steps, says=speed
                )


class DownloadProgress:
    """Says on standard error how much of a download has arrived, once a second at most."""

    def __init__(self) -> None:
        self._last = 0.0

    def __call__(self, received: int, total: int | None) -> None:
        now, done = time.monotonic(), received == total
        if done or now - self._last > 1.0:
            self._last = now
            of = f" of {total / 1e6:.1f}" if total else ""
            print(f"downloading: {received / 1e6:.1f}{of} MB", file=sys.stderr)


@contextmanager
def training_view() -> Iterator[View]:
    """The view that fits standard output."""
    if not sys.stdout.isatty():
        yield Plain()
        return
    bar = Bar()
    bar.display.start()
    try:
        yield bar
    finally:
        with suppress(OSError):  # the terminal may be gone
            bar.display.stop()


@contextmanager
def sweep_view() -> Iterator[SweepView]:
    """The view of a sweep that fits standard output."""
    if not sys.stdout.isatty():
        yield PlainSweep()
        return
    bars = Bars()
    bars.display.start()
    try:
        yield bars
    finally:
        with suppress(OSError):  # the terminal may be gone
            bars.display.stop()
