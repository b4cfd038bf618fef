"""Deferred Ctrl-C, SIGTERM and SIGHUP, which the loop polls between dispatches."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


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


@contextmanager
def deferred_signals() -> Iterator[Callable[[], int]]:
    """Defer SIGINT, SIGTERM and SIGHUP; yield a function that returns the first received, or 0.

    A second Ctrl-C acts immediately. SIGHUP stays ignored if it already was (as under nohup).
    Outside the main thread, where Python allows no handlers, the function always returns 0.
    """
    received: list[int] = []

    def handler(number: int, frame: FrameType | None) -> None:
        del frame
        if received and number == signal.SIGINT:  # asked twice: do not wait
            raise KeyboardInterrupt
        received.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield lambda: 0
        return
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    previous = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield lambda: received[0] if received else 0
    finally:
        for number, action in previous.items():
            signal.signal(number, action)
