"""Ctrl-C, SIGTERM and SIGHUP as a question that the loop asks between dispatches."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from charlm_jax.core.errors import CharlmError


class Interrupted(CharlmError):
    """A run was asked to stop, and has saved itself.

    Attributes:
      signal_number: SIGINT, SIGTERM or SIGHUP.
    """

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.signal_number = signal_number


@contextmanager
def deferred_signals() -> Iterator[Callable[[], int]]:
    """Hold SIGINT, SIGTERM and SIGHUP back; the function yielded gives the one received, or 0.

    A second Ctrl-C acts at once. SIGHUP stays ignored where it was (as under nohup).
    Outside the main thread, where Python allows no handlers, it always gives 0.
    """
    received: list[int] = []

    def handler(number: int, frame: FrameType | None) -> None:
        del frame
        if received and number == signal.SIGINT:  # a person who asks twice cannot wait
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
