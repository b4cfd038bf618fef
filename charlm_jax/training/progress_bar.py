"""Progress of a training run: a bar on a terminal or in a notebook, plain lines elsewhere."""

import math
import sys
import textwrap
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from html import escape
from typing import TYPE_CHECKING, Protocol, TypeVar, cast

from charlm_jax.core.html_table import html_table
from charlm_jax.core.notebook import CellOutput, in_notebook, open_output
from charlm_jax.core.visible_text import visible_text
from charlm_jax.storage.metrics_log import MetricsRow

if TYPE_CHECKING:
    from rich.progress import Progress


class ProgressListener(Protocol):
    """Callbacks of the training loop."""

    def note(self, line: str) -> None:
        """Called with a message of one line."""

    def begin(self, step: int, total_steps: int) -> None:
        """Called when training starts, at `step` of `total_steps`."""

    def advance(self, step: int, loss_nats: float, chars_per_second: float) -> None:
        """Called after a dispatch, with the mean loss of its steps."""

    def scoring(self, share: float) -> None:
        """Called while held-out text is scored, with the share that is done."""

    def row(self, row: MetricsRow, mark: str) -> None:
        """Called after a row was written to the metrics.

        Args:
          row: the row.
          mark: `best` if it has the lowest held-out loss so far, `no better since step N` if an
            earlier one has, and empty for other rows.
        """

    def sample(self, step: int, scale: float, text: str) -> None:
        """Called with a text sampled from the weights at `step`, at a scale factor."""


class NullProgress:
    """Listener that ignores every call; subclasses override those that they show."""

    def note(self, line: str) -> None:
        pass

    def begin(self, step: int, total_steps: int) -> None:
        pass

    def advance(self, step: int, loss_nats: float, chars_per_second: float) -> None:
        pass

    def scoring(self, share: float) -> None:
        pass

    def row(self, row: MetricsRow, mark: str) -> None:
        pass

    def sample(self, step: int, scale: float, text: str) -> None:
        pass


Listener = TypeVar("Listener")


def ignore_broken_pipe(listener: Listener | None) -> Listener:
    """Return a listener that forwards calls until one raises `OSError`, and is silent after it.

    A terminal that was closed, or a reader that went away, must not end a run.

    Args:
      listener: object whose methods return None; None for a silent listener.
    """
    return cast(Listener, _IgnoreBrokenPipe(listener))


class _IgnoreBrokenPipe:
    def __init__(self, listener: object) -> None:
        self._listener = listener

    def __getattr__(self, name: str) -> Callable[..., None]:
        def call(*arguments: object) -> None:
            if self._listener is not None:
                try:
                    getattr(self._listener, name)(*arguments)
                except OSError:
                    self._listener = None

        return call


def describe_row(row: MetricsRow) -> str:
    """Return a metrics row as a line: `epoch  3  step   1272  valid 1.6120 nats/char ...`."""
    split = "avg'd" if row["weights"] == "average" else row["split"]
    return (
        f"epoch {row['epoch']:>2}  step {row['step']:>6}  {split:<5} "
        f"{row['loss_nats']:.4f} nats/char  {row['bits_per_char']:.4f} bits/char  "
        f"{row['chars_per_second']:>9,.0f} chars/s  {row['seconds']:>7,.0f} s"
    )


def describe_sample(step: int, scale: float, text: str) -> str:
    """Return a sample as an indented paragraph under its step and scale factor."""
    return f"step {step}, scale {scale:g}:\n{textwrap.indent(text.strip(), '    ')}\n"


class _TimeLeft:
    """Estimate of the time until the last step, from the steps after the first dispatch."""

    def __init__(self) -> None:
        self._from: tuple[int, float] | None = None  # after the compilation

    def __call__(self, step: int, total_steps: int) -> str:
        """Return minutes and seconds, such as `1:20 left`; empty while that is unknown."""
        now = time.monotonic()
        self._from = since_step, since = self._from or (step, now)
        if step == since_step:
            return ""
        left = int((now - since) / (step - since_step) * (total_steps - step))
        return f"{left // 60}:{left % 60:02} left"


# Seconds between printed rows of a split: epochs and evaluations may last a moment.
_SECONDS_BETWEEN: Mapping[str, float] = {"train": 10.0, "valid": 2.0}


class _Pace:
    """Choice of the rows that are printed, by time; an evaluation at the last planned step is."""

    def __init__(self) -> None:
        self._last = dict.fromkeys(_SECONDS_BETWEEN, -math.inf)
        self._step = 0  # of the last printed evaluation

    def prints(self, row: MetricsRow, total_steps: int) -> bool:
        """Return whether to print a row; a later weights' row of a printed evaluation is too."""
        split, step, now = row["split"], row["step"], time.monotonic()
        is_due = now - self._last[split] >= _SECONDS_BETWEEN[split]
        if split == "valid" and (is_due or step in (self._step, total_steps)):
            self._step, is_due = step, True
        if is_due:
            self._last[split] = now
        return is_due


class LogProgress(NullProgress):
    """Lines for logs, pipes and CI: evaluations and occasional training losses, with time left."""

    def __init__(self) -> None:
        self._pace, self._time_left = _Pace(), _TimeLeft()
        self._total_steps = 0
        self._left = ""

    def note(self, line: str) -> None:
        print(line, flush=True)

    def begin(self, step: int, total_steps: int) -> None:
        self._total_steps = total_steps

    def advance(self, step: int, loss_nats: float, chars_per_second: float) -> None:
        self._left = self._time_left(step, self._total_steps)

    def row(self, row: MetricsRow, mark: str) -> None:
        if self._pace.prints(row, self._total_steps):
            self.note("  ".join(filter(None, [describe_row(row), self._left, mark])))

    def sample(self, step: int, scale: float, text: str) -> None:
        self.note(describe_sample(step, scale, text))


class Bar:
    """A progress bar with loss, speed and time left; epoch and evaluation rows stay above it."""

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
        self._pace = _Pace()
        self._total_steps = 0

    def note(self, line: str) -> None:
        print_above(self.display, line)

    def begin(self, step: int, total_steps: int) -> None:
        self._total_steps = total_steps
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

    def scoring(self, share: float) -> None:
        if self._task is not None:
            self.display.update(self._task, loss=f"scoring {share:.0%}")

    def row(self, row: MetricsRow, mark: str) -> None:
        is_passing = row["scope"] == "step" and row["split"] == "train"
        if not is_passing and self._pace.prints(row, self._total_steps):
            self.note("  ".join(filter(None, [describe_row(row), mark])))

    def sample(self, step: int, scale: float, text: str) -> None:
        self.note(describe_sample(step, scale, text))


_MAX_NOTEBOOK_ROWS = 20
_TRAINING, _HELD_OUT, _AVERAGE = "training loss", "held-out loss", "of averaged weights"


class NotebookView(NullProgress):
    """A progress bar in a notebook; a table of evaluations and the latest sample are below it.

    What is left when training ends has no times or speeds, so that a notebook that is run again
    gives the same output.

    Args:
      show: callback that draws below the cell.
    """

    def __init__(self, show: CellOutput) -> None:
        self._show = show
        self._time_left = _TimeLeft()
        self._notes: list[str] = []
        self._losses: defaultdict[int, dict[str, float]] = defaultdict(dict)
        self._marks: dict[int, str] = {}
        self._training = math.nan
        self._scores_within_epochs = False  # an epoch's mean is of other updates than the scores
        self._step = self._total_steps = 0
        self._status = self._sample = ""

    def note(self, line: str) -> None:
        self._notes.append(visible_text(line))
        self._draw(at_once=True)

    def begin(self, step: int, total_steps: int) -> None:
        self._step, self._total_steps = step, total_steps
        self._status = "compiling ..."
        self._draw(at_once=True)

    def advance(self, step: int, loss_nats: float, chars_per_second: float) -> None:
        self._step, left = step, self._time_left(step, self._total_steps)
        speed = f"{chars_per_second:,.0f} characters/s"
        self._status = ", ".join(filter(None, [f"{loss_nats:.3f} nats", speed, left]))
        self._draw()

    def scoring(self, share: float) -> None:
        self._status = f"scoring {share:.0%}"
        self._draw()

    def row(self, row: MetricsRow, mark: str) -> None:
        step, loss_nats, is_training = row["step"], row["loss_nats"], row["split"] == "train"
        is_epoch = row["scope"] == "epoch"
        self._scores_within_epochs |= not is_training and not is_epoch
        if is_training and not (is_epoch and self._scores_within_epochs):
            self._training = loss_nats
        if is_training and not is_epoch:
            return
        self._losses[step][_TRAINING] = self._training
        if not is_training:
            self._losses[step][_AVERAGE if row["weights"] == "average" else _HELD_OUT] = loss_nats
        if mark:
            self._marks[step] = mark
        self._draw(at_once=True)

    def sample(self, step: int, scale: float, text: str) -> None:
        self._sample = visible_text(describe_sample(step, scale, text))
        self._draw(at_once=True)

    def end(self) -> None:
        """Replace the bar with the step that was reached, if training had begun."""
        if self._total_steps:
            self._status = ""
            self._draw(at_once=True)

    def _draw(self, *, at_once: bool = False) -> None:
        lines, html = [*self._notes], [escape(line) for line in self._notes]
        if self._total_steps:
            status = f"step {self._step:,} of {self._total_steps:,}"
            bar = f'<progress value="{self._step}" max="{self._total_steps}"></progress>'
            lines.append(status)
            html.append(f"{bar} {status}, {self._status}" if self._status else status)
        table = ""
        if self._losses:
            columns, rows = self._table()
            lines += map("  ".join, [columns, *rows])
            table = html_table(rows, columns=columns)
        if self._sample:
            lines.append(self._sample)
            table += f"<pre>{escape(self._sample)}</pre>"
        self._show("<br>".join(html) + table, "\n".join(lines), at_once=at_once)

    def _table(self) -> tuple[list[str], list[list[str]]]:
        found = {name for losses in self._losses.values() for name in losses}
        names = [name for name in (_TRAINING, _HELD_OUT, _AVERAGE) if name in found]
        shows_marks = any(mark != "best" for mark in self._marks.values())
        rows = [
            [
                f"{step:,}",
                *(_four_digits(losses.get(name, math.nan)) for name in names),
                *([self._marks.get(step, "")] if shows_marks else []),
            ]
            for step, losses in list(self._losses.items())[-_MAX_NOTEBOOK_ROWS:]
        ]
        return ["step", *names, *([""] if shows_marks else [])], rows


def _four_digits(loss_nats: float) -> str:
    return "" if math.isnan(loss_nats) else f"{loss_nats:.4f}"


@contextmanager
def _notebook_view() -> Iterator[NotebookView]:
    view = NotebookView(open_output())
    try:
        yield view
    finally:
        view.end()


BarType = TypeVar("BarType", bound="HasDisplay")


class HasDisplay(Protocol):
    """A view that draws on a terminal."""

    display: "Progress"


def print_above(display: "Progress", text: str) -> None:
    """Print a text above a progress bar, with invisible characters escaped."""
    shown = visible_text(text)
    display.console.print(shown, markup=False, highlight=False, emoji=False)


@contextmanager
def displayed(bar: BarType) -> Iterator[BarType]:
    """Show a progress bar until the block ends."""
    bar.display.start()
    try:
        yield bar
    finally:
        with suppress(OSError):  # the terminal may be gone
            bar.display.stop()


def training_view() -> AbstractContextManager[ProgressListener]:
    """Return a progress bar on a terminal or in a notebook, and plain lines otherwise."""
    if in_notebook():
        return _notebook_view()
    return displayed(Bar()) if sys.stdout.isatty() else nullcontext(LogProgress())
