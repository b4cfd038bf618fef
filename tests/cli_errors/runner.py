"""How a command is asked, and how its answer is judged."""

import contextlib
import io
import shlex
import signal
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from charlm_jax.cli import main

SECONDS = 60  # in which a mistake must have its answer, even on a busy machine

# What an answer must say.
Says = str | tuple[str, ...]


class Answer(NamedTuple):
    """What a command said."""

    status: int | str | None
    out: str
    err: str

    def faults(self, says: Says) -> list[str]:
        """In what it is not the one clear line that a mistake should get."""
        wanted = (says,) if isinstance(says, str) else says
        return [
            *([] if self.status == 2 else [f"status {self.status}"]),
            *([] if len(self.err.splitlines()) == 1 else ["not one line"]),
            *([] if self.err.startswith("charlm") else ["does not begin with the command"]),
            *([] if self.out == "" else [f"on standard output: {self.out!r}"]),
            *[f"does not say {text!r}" for text in wanted if text not in self.err],
            *(["shows its inside"] if "Error:" in self.err.partition(" failed: ")[0] else []),
            *([] if not Path("runs").exists() else ["left a folder runs"]),
            *([] if not Path("new").exists() else ["left a folder new"]),
        ]


class _TooSlow(BaseException):
    """Not an Exception, which something on the way might catch."""


@contextlib.contextmanager
def _limited_time() -> Iterator[None]:
    def give_up(number: int, frame: FrameType | None) -> None:
        raise _TooSlow

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def ask(command: str) -> Answer:
    """Run a command in this process and in the current folder."""
    out, err = io.StringIO(), io.StringIO()
    status: int | str | None
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("default")  # a command prints them
        try:
            with _limited_time():
                status = main(shlex.split(command))
        except SystemExit as stop:  # argparse's own way out
            status = stop.code
        except _TooSlow:
            status = f"no answer in {SECONDS} s"
        except Exception as error:
            status = f"traceback: {type(error).__name__}: {error}"
    return Answer(status, out.getvalue(), err.getvalue())
