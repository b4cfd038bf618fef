"""Worker process of one program: `python -m benchmarks.worker MODULE BUILD SETTINGS`.

The worker builds the program and reports that it is ready. Each input line then triggers one turn,
which is answered by one line of JSON; between turns the worker blocks on the pipe. It exits when
the pipe closes.

A program is built from its settings by a function in MODULE's table PROGRAMS. It is a callable
without arguments that runs one turn, waits for the result and returns the amount of work done,
usually in characters.
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
    """Serve turns until standard input ends; the exit status is 1 if the program fails."""
    module, build, settings = arguments
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C and ends us
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # keeps libraries' output out of the answers

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
    """Run one turn per input line."""
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
    """Return the peak memory of this process so far, including compilation."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
