"""`charlm sample --interactive`: a session whose lines come from the terminal or a pipe."""

import contextlib
import io
import sys
from typing import TYPE_CHECKING

from charlm_jax.cli.commands.sample_output import describe_source
from charlm_jax.cli.output import note, show
from charlm_jax.core.signals import interruptible

if TYPE_CHECKING:
    from charlm_jax.inference.run import Run
    from charlm_jax.sampling.params import SamplingParams

_SIGN = "> "


def interact(
    run: "Run", sampling: "SamplingParams", prompt: str | None, *, characters: int
) -> None:
    """Run a session until /quit, the end of the input, or Ctrl-C at the prompt.

    Only the texts go to standard output; everything else goes to standard error.
    """
    from charlm_jax.cli.repl import Session

    session = Session(run, sampling, characters=characters, write=_write, note=note)
    first = run.vocabulary.to_text(run.vocabulary.symbols[0])
    run.continue_text(  # samples nothing yet: reports invalid flags at the start
        first if prompt is None else prompt, sampling, characters=characters
    )
    if isinstance(sys.stdin, io.TextIOWrapper):  # undecodable bytes become unknown characters
        sys.stdin.reconfigure(errors="surrogateescape")
    note(f"{describe_source(run, sampling.mode)}; /help lists the commands")
    with interruptible():
        if prompt is not None:
            with contextlib.suppress(KeyboardInterrupt):  # ends the text, not the session
                session.begin(prompt)
        with contextlib.suppress(EOFError, KeyboardInterrupt):
            while session.handle_line(_read_line()):
                pass


def _read_line() -> str:
    """Return the next line without its newline; raise `EOFError` after the last one."""
    if sys.stdin is None:  # closed
        raise EOFError
    if not sys.stdin.isatty():
        from charlm_jax.data.decoding import BYTE_ORDER_MARK

        line = sys.stdin.readline()
        if not line:
            raise EOFError
        return line.removeprefix(BYTE_ORDER_MARK).removesuffix("\n").removesuffix("\r")
    try:
        return _ask()
    except (EOFError, KeyboardInterrupt):
        note("")  # the shell's prompt gets a line of its own
        raise


def _ask() -> str:
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - gives `input` a history and editing keys
    if sys.stdout.isatty():
        return input(_SIGN)
    print(_SIGN, end="", file=sys.stderr, flush=True)
    return input()


def _write(text: str) -> None:
    show(text, end="")
