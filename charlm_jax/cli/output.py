"""Standard output of commands: the exact text for pipes and files, a safe one for terminals."""

import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from charlm_jax.core.progress import Report
from charlm_jax.core.visible_text import visible_line, visible_text

# Arguments as messages of the library name them, and the flags of the command line.
_FLAGS = {
    "another workdir": "another --workdir",
    "another replacement": "another --replacement",
    "fresh=True": "--fresh",
    "split='train'": "--split=train",
    "split='valid'": "--split=valid",
    "unknown='drop'": "--unknown=drop",
    "unknown='replace'": "--unknown=replace",
}


def in_flags(message: object) -> str:
    """Return a message of the library with flags in place of Python's arguments.

    >>> in_flags("choose another workdir, or begin again with fresh=True")
    'choose another --workdir, or begin again with --fresh'
    """
    text = str(message)
    for argument, flag in _FLAGS.items():
        text = text.replace(argument, flag)
    return text


def show(text: object, *, end: str = "\n") -> None:
    """Print a text on standard output.

    On a terminal its invisible characters are escaped: names of folders and sampled text cannot
    move the cursor, change colours or reverse the direction of a line.
    """
    words = str(text)
    print(visible_text(words) if sys.stdout.isatty() else words, end=end, flush=True)


def note(text: object) -> None:
    """Print a line for the reader on standard error, with invisible characters escaped."""
    print(visible_line(str(text)), file=sys.stderr, flush=True)


@contextmanager
def shown_progress() -> Iterator[Report]:
    """Show the progress of a long computation on standard error; yields its callback.

    A terminal has one line, from the second second, which is erased in the end; a file gets a line
    every ten seconds.
    """
    is_terminal = sys.stderr.isatty()
    pause = 0.2 if is_terminal else 10.0
    due = time.monotonic() + (1.0 if is_terminal else pause)
    start, end = ("\r\x1b[K", "") if is_terminal else ("", "\n")
    shown = False

    def report(phase: str, share: float) -> None:
        nonlocal due, shown
        if time.monotonic() >= due:
            done = f": {share:.0%}" if share else ""
            line = visible_line(phase)
            if is_terminal:  # a line that wraps could not be erased
                from rich.cells import cell_len, set_cell_size

                room = shutil.get_terminal_size().columns - 1 - len(done)
                line = set_cell_size(line, max(0, min(room, cell_len(line))))
            print(start + line + done, end=end, file=sys.stderr, flush=True)
            due, shown = time.monotonic() + pause, True

    try:
        yield report
    finally:
        if shown:
            print(start, end="", file=sys.stderr, flush=True)
