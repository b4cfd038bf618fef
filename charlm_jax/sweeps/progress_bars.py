"""Progress of a sweep: bars on a terminal, plain lines elsewhere."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import NamedTuple, Protocol


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
