"""Run a CLI entry point; report user errors in one line and return the exit status."""

import os
import re
import signal
import sys
from collections.abc import Callable
from typing import TextIO

from charlm_jax.cli.parser import USER_ERROR, say
from charlm_jax.core.errors import CharlmError, is_out_of_memory
from charlm_jax.core.jax_variables import named_variables
from charlm_jax.core.signals import Interrupted


def run_program(program: str, work: Callable[[], int | None], *, goes_on: bool = False) -> int:
    """Run a program; errors that a user can fix are reported in one line on standard error.

    Args:
      program: program name, the prefix of that line.
      work: body of the program; returns the exit status, None meaning 0.
      goes_on: whether the same command resumes after Ctrl-C.

    Returns:
      The exit status: that of `work`, 2 after a user error, 128 + the signal number if a signal
      stopped the program.
    """
    open_closed_streams()
    status = _try(program, work, goes_on)
    for stream in (sys.stdout, sys.stderr):
        _let_go(stream)
    return status


def _try(program: str, work: Callable[[], int | None], goes_on: bool) -> int:
    try:
        with named_variables():
            status = work()
        sys.stdout.flush()  # inside the try block, so that a broken pipe is caught
    except BrokenPipeError:  # the reader of our output has exited: no message
        return 128 + signal.SIGPIPE
    except CharlmError as error:
        say(program, error)
        return USER_ERROR
    except OSError as error:
        path = f": {error.filename}" if error.filename else ""
        say(program, f"{error.strerror or error}{path}")
        return USER_ERROR
    except Interrupted as error:
        say(program, error)
        return 128 + error.signal_number
    except KeyboardInterrupt:
        say(program, "interrupted" + ("; run the same command again to resume" if goes_on else ""))
        return 128 + signal.SIGINT
    except (MemoryError, RuntimeError, ValueError) as error:
        if not is_out_of_memory(error):
            raise
        asked = re.search(r"allocating (\d+) bytes", str(error))
        size = f" ({int(asked[1]) / 1e9:.1f} GB requested)" if asked else ""
        hint = "try a smaller model, batch or sequence length, or fewer samples"
        say(program, f"out of memory{size}: {hint}")
        return USER_ERROR
    return status or 0


def open_closed_streams() -> None:
    """Redirect closed standard streams (None in Python) to os.devnull."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_WRONLY)
            setattr(sys, name, os.fdopen(descriptor, "w", encoding="utf-8"))


def _let_go(stream: TextIO) -> None:
    """Flush a stream; a failure must not change the exit status when Python ends."""
    try:
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
