"""One program in a process of its own: `python -m benchmarks.worker MODULE BUILD SETTINGS`.

It builds the program and says so. Every line that then comes in is a turn, and every turn is
answered by one line of JSON; in between it sleeps on the pipe. When the pipe closes, it ends.

A program is what a function in MODULE's table PROGRAMS builds from its settings: a callable
without arguments that does one turn, waits for the result, and returns how much it did, as
characters mostly.
"""

import importlib
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

TakeTurn = Callable[[], float]


def main(arguments: Sequence[str]) -> int:
    """Serve turns until standard input ends; the exit status is 1 where the program failed."""
    module, build, settings = arguments
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends us
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints is no answer

    def answer(**facts: Any) -> None:
        print(json.dumps(facts), file=answers, flush=True)

    try:
        take_turn = importlib.import_module(module).PROGRAMS[build](**json.loads(settings))
        answer(kind="ready")
        serve(take_turn, answer)
    except ModuleNotFoundError as error:
        answer(kind="left_out", why=f"{(error.name or str(error)).split('.')[0]} is not installed")
    except Exception as error:
        first_line = next(iter(str(error).strip().splitlines()), "no message")
        answer(kind="left_out", why=f"{type(error).__name__}: {first_line}")
        raise
    return 0


def serve(take_turn: TakeTurn, answer: Callable[..., None]) -> None:
    """A turn for every line."""
    before = time.process_time()
    for _ in sys.stdin:
        waiting_seconds = time.process_time() - before
        start = time.perf_counter()
        amount = take_turn()
        seconds = time.perf_counter() - start
        answer(
            kind="turn",
            amount=amount,
            seconds=seconds,
            waiting_cpu_seconds=waiting_seconds,
            peak_bytes=peak_bytes(),
        )
        before = time.process_time()


def peak_bytes() -> int:
    """The most memory that this process has had so far, compilation included."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
