"""`charlm <command>`: the parser, messages and exit codes; a command is a module of `commands`."""

import argparse
import io
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from charlm_jax._version import __version__
from charlm_jax.cli.commands import COMMANDS
from charlm_jax.cli.exit_status import open_closed_streams, run_program
from charlm_jax.cli.parser import Parser, nearest, say


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
    open_closed_streams()
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
        return run_program(known.parser.prog, lambda: COMMANDS[known.command].run(known))


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
