"""`charlm <command>`: parser, messages and exit codes; each command is a module of `commands`."""

import argparse
import io
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from charlm_jax._version import __version__
from charlm_jax.cli.commands import COMMANDS, WITHOUT_MODEL
from charlm_jax.cli.commands.common_flags import add_allow_module
from charlm_jax.cli.exit_status import open_closed_streams, run_program
from charlm_jax.cli.parser import Parser, say
from charlm_jax.core import foreign_names
from charlm_jax.core.errors import closest


def _build_parser(arguments: Sequence[str]) -> Parser:
    """Return a parser for all commands, with the flags of the called one only."""
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
        if [name] == [*arguments[:1]]:
            module.add_flags(command)
            if name not in WITHOUT_MODEL:
                add_allow_module(command)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    open_closed_streams()
    swept, rest = _split(sys.argv[1:] if arguments is None else arguments, "--sweep.")
    overrides, rest = _split(rest, "--config.")
    parser = _build_parser(rest)
    _refuse_unknown_command(parser, rest)
    known, unknown = parser.parse_known_args(rest)
    if known.command is None:
        parser.error(f"no command given: choose one of {', '.join(COMMANDS)}")
    for text in overrides:
        if not hasattr(known, "config"):
            known.parser.error(f"--config.{text} does not apply to this command")
        if "=" not in text:
            known.parser.error(f"--config.{text} has no value: write --config.{text}=VALUE")
    for text in swept:
        if known.command != "sweep":
            known.parser.error(f"--sweep.{text} does not apply to this command: use charlm sweep")
        if "=" not in text:
            known.parser.error(f"--sweep.{text} has no value: write --sweep.{text}=VALUE,VALUE")
    known.parser.refuse_unknown(unknown)
    known.overrides, known.swept = overrides, swept
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal may lack some characters
        sys.stdout.reconfigure(errors="backslashreplace")
    with _warnings_of_one_line(known.parser.prog):
        return run_program(known.parser.prog, lambda: _run(known))


def _run(options: argparse.Namespace) -> int | None:
    """Import the modules that the user allows, and run the command."""
    if modules := getattr(options, "allow_module", ()):
        from charlm_jax.models.external import allow_module

        for module in modules:
            allow_module(module)
    return COMMANDS[options.command].run(options)


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
        meant = foreign_names.COMMANDS.get(name) or closest(name, COMMANDS)
        hint = f"did you mean {meant}?" if meant else f"choose one of {', '.join(COMMANDS)}"
        parser.error(f"unknown command {name!r}, {hint}")


def _split(arguments: Sequence[str], prefix: str) -> tuple[list[str], list[str]]:
    """Return the values of arguments with a prefix, and the other arguments."""
    texts = [a.removeprefix(prefix) for a in arguments if a.startswith(prefix)]
    return texts, [a for a in arguments if not a.startswith(prefix)]
