"""Ctrl-C, SIGTERM and SIGHUP: a process leaves with one line, or defers them until it has saved."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

_ASKS_TO_STOP = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_WAITS_SECONDS = 1.0  # before a word about a stop that is deferred


class Interrupted(KeyboardInterrupt):
    """A run was stopped by a signal, after saving its state.

    Neither `except CharlmError` nor `except Exception` catches it, so that a loop over runs that
    skips failures still ends at Ctrl-C.

    Attributes:
      signal_number: SIGINT, SIGTERM or SIGHUP.
    """

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.signal_number = signal_number


def leave_at_signals(program: str) -> None:
    """Make SIGINT, SIGTERM and SIGHUP end the process, with one line and status 128 + number.

    No exception is raised: one would end in a traceback while modules are imported, and a callback
    of JAX would drop it or abort. A thread acts on the signal, so that neither an import nor a
    compilation delays it. Files are written whole or not at all, so nothing is lost. A signal that
    is ignored stays ignored (as SIGHUP under nohup).

    While `deferred_signals` are in force the thread says that the program saves first, if it does.

    Args:
      program: program name, the prefix of the line.
    """

    def leave(number: int, frame: FrameType | None) -> None:
        del frame
        _leave(program, number)

    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    for number in _ASKS_TO_STOP:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, leave)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)

    def watch() -> None:
        while True:
            for number in os.read(reader, 1):
                if signal.getsignal(number) is leave:
                    _leave(program, number)
                time.sleep(_WAITS_SECONDS)
                if getattr(signal.getsignal(number), "saves", False):
                    write_line(
                        f"{program}: {signal.Signals(number).name}: saving before it stops\n"
                    )

    threading.Thread(target=watch, daemon=True, name="signals").start()


_leaving = threading.Lock()


def _leave(program: str, number: int) -> None:
    """End the process at once, from the main thread or the watching one, whichever is first."""
    if not _leaving.acquire(blocking=False):
        return
    said = "interrupted" if number == signal.SIGINT else f"stopped by {signal.Signals(number).name}"
    with contextlib.suppress(OSError):
        if os.isatty(1):
            os.write(1, b"\x1b[?25h\n")  # a progress bar hides the cursor
    write_line(f"{program}: {said}\n")
    os._exit(128 + number)


def write_line(line: str) -> None:
    """Write to standard error, past Python's buffer, which the main thread may be using."""
    with contextlib.suppress(OSError):
        os.write(2, line.encode())


@contextmanager
def deferred_signals(
    numbers: Sequence[int] = _ASKS_TO_STOP,
    *,
    second: Callable[[int, FrameType | None], object] | None = None,
    saves: bool = True,
) -> Iterator[Callable[[], int]]:
    """Defer signals; yield a function that returns the first received, or 0.

    A second Ctrl-C acts immediately. A signal that is ignored stays ignored (SIGHUP under nohup,
    SIGINT in the background of a shell script). Outside the main thread, where Python allows no
    handlers, the function always returns 0.

    Args:
      numbers: signals to defer.
      second: handler of a second Ctrl-C; if None, the one of the first before this call.
      saves: whether the program saves before it stops, so that `leave_at_signals` may say so.
    """
    received: list[int] = []

    def handler(number: int, frame: FrameType | None) -> None:
        if received and number == signal.SIGINT:  # asked twice: do not wait
            act = second or previous.get(number)
            if callable(act):
                act(number, frame)
        received.append(number)

    handler.saves = saves  # type: ignore[attr-defined]
    if threading.current_thread() is not threading.main_thread():
        yield lambda: 0
        return
    deferred = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]
    previous = {number: signal.signal(number, handler) for number in deferred}
    try:
        yield lambda: received[0] if received else 0
    finally:
        for number, action in previous.items():
            signal.signal(number, action)


@contextmanager
def interruptible() -> Iterator[None]:
    """Make Ctrl-C raise `KeyboardInterrupt`, as Python does, where it ends a line of input."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
