"""`charlm sample --interactive`: a session at the terminal, or one whose lines come from a pipe."""

import contextlib
import io
import sys
from typing import TYPE_CHECKING

from charlm_jax.cli.commands.sample_output import describe_source
from charlm_jax.core.errors import escape_control_characters

if TYPE_CHECKING:
    from charlm_jax.inference.run import Run
    from charlm_jax.sampling.params import SamplingParams

_SIGN = "> "


def interact(
    run: "Run", sampling: "SamplingParams", prompt: str | None, *, characters: int
) -> None:
    """Run a session until /quit, the end of the input, or Ctrl-C where a line is awaited.

    Standard output has the texts and nothing else; everything else goes to standard error.
    """
    from charlm_jax.cli.repl import Session

    session = Session(run, sampling, characters=characters, write=_write, note=_note)
    run.continue_text(  # samples nothing yet: finds a mistake among the flags at the start
        run.vocabulary.symbols[0] if prompt is None else prompt, sampling, characters=characters
    )
    if isinstance(sys.stdin, io.TextIOWrapper):  # what is not text is an unknown character
        sys.stdin.reconfigure(errors="surrogateescape")
    _note(f"{describe_source(run, sampling.mode)}; /help lists the commands")
    if prompt is not None:
        with contextlib.suppress(KeyboardInterrupt):  # it ends the text
            session.begin(prompt)
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        while session.handle_line(_read_line()):
            pass


def _read_line() -> str:
    """The next line without its end; `EOFError` behind the last one."""
    if sys.stdin is None:  # it was closed
        raise EOFError
    if not sys.stdin.isatty():
        from charlm_jax.data.corpora import BYTE_ORDER_MARK

        line = sys.stdin.readline()
        if not line:
            raise EOFError
        return line.removeprefix(BYTE_ORDER_MARK).removesuffix("\n").removesuffix("\r")
    try:
        return _ask()
    except (EOFError, KeyboardInterrupt):
        print(file=sys.stderr)  # the shell's own sign stands on a line of its own
        raise


def _ask() -> str:
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - gives `input` a history and keys to edit with
    if sys.stdout.isatty():
        return input(_SIGN)
    print(_SIGN, end="", file=sys.stderr, flush=True)
    return input()


def _write(text: str) -> None:
    print(text, end="", flush=True)


def _note(line: str) -> None:
    print(escape_control_characters(line), file=sys.stderr, flush=True)
