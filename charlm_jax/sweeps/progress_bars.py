"""Progress of a sweep: bars on a terminal, plain lines elsewhere."""

import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple, Protocol

from charlm_jax.core.visible_text import visible_line
from charlm_jax.training.progress_bar import displayed, print_above


class PointRow(NamedTuple):
    """Progress of one point of a sweep.

    Attributes:
      name: name of the point.
      state: `waiting`, `running`, `done`, `failed`, or `elsewhere` (another process trains it).
      step: number of updates made.
      total_steps: last step of the run; None before it is known.
      chars_per_second: training speed; 0 before it is known.
    """

    name: str
    state: str
    step: int = 0
    total_steps: int | None = None
    chars_per_second: float = 0.0


class SweepView(Protocol):
    """Callbacks of a sweep."""

    def note(self, line: str) -> None:
        """Called with a one-line message."""

    def start(self, name: str) -> None:
        """Called when a point starts training."""

    def show(self, rows: Sequence[PointRow]) -> None:
        """Called with the progress of all points several times a second."""


class PlainSweep:
    """One line per event, for logs, pipes and CI."""

    def note(self, line: str) -> None:
        print(line, flush=True)

    def start(self, name: str) -> None:
        print(f"{name}: started", flush=True)

    def show(self, rows: Sequence[PointRow]) -> None:
        pass


class Bars:
    """One bar per training point and one for the whole sweep; messages are printed above."""

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
        print_above(self.display, line)

    def start(self, name: str) -> None:
        self._tasks[name] = self.display.add_task(
            visible_line(name), total=None, says="starting ..."
        )

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


def sweep_view() -> AbstractContextManager[SweepView]:
    """Return bars if standard output is a terminal, plain lines otherwise."""
    return displayed(Bars()) if sys.stdout.isatty() else nullcontext(PlainSweep())
