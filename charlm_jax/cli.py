"""`charlm <command>`: the parser, messages and exit codes; a command is a module of `commands`."""

import argparse
import io
import os
import re
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TextIO

from charlm_jax import __version__
from charlm_jax.commands import COMMANDS
from charlm_jax.flags import USER_ERROR, Parser, nearest, say
from charlm_jax.types import CharlmError


def _build_parser() -> Parser:
    parser = Parser(
        prog="charlm",
        description="Character-level language models: train on a book, sample, measure.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"charlm_jax {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)
    for name, module in COMMANDS.items():
        text = module.HELP
        command = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        command.set_defaults(parser=command)
        module.add_flags(command)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    _open_closed_streams()
    parser = _build_parser()
    overrides, rest = _split_overrides(sys.argv[1:] if arguments is None else arguments)
    _refuse_unknown_command(parser, rest)
    known, unknown = parser.parse_known_args(rest)
    if known.command is None:
        parser.error(f"no command: name one of {', '.join(COMMANDS)}")
    for text in overrides:
        if not hasattr(known, "config"):
            known.parser.error(f"--config.{text} means nothing to this command")
        if "=" not in text:
            known.parser.error(f"--config.{text} has no value: write --config.{text}=VALUE")
    known.parser.refuse_unknown(unknown)
    _refuse_empty_names(known)
    known.overrides = overrides
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal may not have every character
        sys.stdout.reconfigure(errors="backslashreplace")
    with _warnings_of_one_line(known.parser.prog):
        status = _run_command(known)
    for stream in (sys.stdout, sys.stderr):
        _let_go(stream)
    return status


def _run_command(known: argparse.Namespace) -> int:
    program = known.parser.prog
    try:
        status = COMMANDS[known.command].run(known)
        sys.stdout.flush()  # here, where a reader that went away is noticed
    except BrokenPipeError:  # the reader of our output went away; nothing is left to say to it
        return 128 + signal.SIGPIPE
    except CharlmError as error:
        say(program, error)
        number = getattr(error, "signal_number", None)
        return USER_ERROR if number is None else 128 + number
    except OSError as error:
        place = f": {error.filename}" if error.filename else ""
        say(program, f"{error.strerror or error}{place}")
        return USER_ERROR
    except KeyboardInterrupt:
        say(program, "interrupted")
        return 128 + signal.SIGINT
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and "Out of memory" not in str(error):  # XLA's words
            raise
        asked = re.search(r"allocating (\d+) bytes", str(error))
        size = f" ({int(asked[1]) / 1e9:.1f} GB asked for)" if asked else ""
        hint = "a smaller model, batch or sequence length, or fewer samples, may do"
        say(program, f"out of memory{size}: {hint}")
        return USER_ERROR
    return status or 0


def _open_closed_streams() -> None:
    """What nobody reads goes nowhere: where a stream is closed Python has None in its place."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_WRONLY)
            setattr(sys, name, os.fdopen(descriptor, "w", encoding="utf-8"))


def _let_go(stream: TextIO) -> None:
    """What can no longer be printed must not change the exit status when Python ends."""
    try:
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@contextmanager
def _warnings_of_one_line(program: str) -> Iterator[None]:
    def show(message: Warning | str, *_: object, **__: object) -> None:
        say(program, message)

    before, warnings.showwarning = warnings.showwarning, show
    try:
        yield
    finally:
        warnings.showwarning = before


def _refuse_unknown_command(parser: Parser, arguments: Sequence[str]) -> None:
    name = arguments[0] if arguments else ""
    if name and not name.startswith("-") and name not in COMMANDS:
        meant = nearest(name, COMMANDS)
        hint = f"did you mean {meant}?" if meant else f"name one of {', '.join(COMMANDS)}"
        parser.error(f"no command {name!r}, {hint}")


def _refuse_empty_names(known: argparse.Namespace) -> None:
    """An empty name would be taken for the current folder."""
    is_page = known.command == "report"
    places = ("workdir", "init_from", "folder", "folders", "out", "beside")
    kinds = dict.fromkeys(places, "folder") | dict.fromkeys(("html", "file", "prompt_file"), "file")
    for flag, kind in kinds.items():
        value = getattr(known, flag, None)
        if value == "" or (isinstance(value, list) and "" in value):
            name = {"folder": "DIR", "folders": "DIR", "file": "FILE"}.get(flag, f"--{flag}")
            kind = "file" if is_page and flag == "out" else kind
            known.parser.error(f"{name} is an empty text: name a {kind}")


def _split_overrides(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    prefix = "--config."
    overrides = [a.removeprefix(prefix) for a in arguments if a.startswith(prefix)]
    return overrides, [a for a in arguments if not a.startswith(prefix)]
