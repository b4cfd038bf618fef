"""Output of a Jupyter notebook's cell that changes while the cell runs."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from typing import Protocol

from charlm_jax.core.progress import Report, report_nothing

_SECONDS_BETWEEN = 0.25


class CellOutput(Protocol):
    """Callback that replaces an output, as HTML and as plain text; `at_once` if it must be seen."""

    def __call__(self, html: str, text: str, *, at_once: bool = False) -> None: ...


def in_notebook() -> bool:
    """Return whether this process is a notebook's kernel; IPython is never imported for it."""
    get_shell = getattr(sys.modules.get("IPython"), "get_ipython", None)
    shell = get_shell() if get_shell else None
    return any(kind.__name__ == "ZMQInteractiveShell" for kind in type(shell).__mro__)


def open_output() -> CellOutput:
    """Return a callback that draws below the running cell, at most four times a second.

    Nothing is drawn before its first call. Only for a notebook's kernel.
    """
    from IPython.display import display

    handle = None
    last = 0.0

    def show(html: str, text: str, *, at_once: bool = False) -> None:
        nonlocal handle, last
        now = time.monotonic()
        if handle is not None and not at_once and now - last < _SECONDS_BETWEEN:
            return
        last = now
        bundle = {"text/html": html, "text/plain": text}
        if handle is None:
            handle = display(bundle, raw=True, display_id=True)
        else:
            handle.update(bundle, raw=True)

    return show


@contextmanager
def notebook_progress() -> Iterator[Report]:
    """Show the progress of a long computation below a notebook's cell; yields its callback.

    The bar is removed when the block ends. Outside a notebook nothing is shown.
    """
    if not in_notebook():
        yield report_nothing
        return
    show = open_output()
    is_shown = False

    def report(phase: str, share: float) -> None:
        nonlocal is_shown
        value, line = (f' value="{share:.3f}"', f"{phase}: {share:.0%}") if share else ("", phase)
        show(f"<progress{value}></progress> {escape(line)}", line)
        is_shown = True

    try:
        yield report
    finally:
        if is_shown:
            show("", "", at_once=True)
