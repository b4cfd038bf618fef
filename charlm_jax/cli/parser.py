"""Argument parser with one-line errors and suggestions for unknown flags."""

import argparse
import contextlib
import dataclasses
import sys
from collections.abc import Iterator, Sequence
from typing import NoReturn, get_type_hints

from charlm_jax.cli.output import in_flags
from charlm_jax.core.errors import closest
from charlm_jax.core.foreign_names import suggest_field, suggest_flag
from charlm_jax.core.visible_text import visible_line

USER_ERROR = 2


class Parser(argparse.ArgumentParser):
    """`ArgumentParser` with one-line errors."""

    def error(self, message: str) -> NoReturn:
        say(self.prog, f"{message}; see {self.prog} --help")
        raise SystemExit(USER_ERROR)

    def refuse_unknown(self, arguments: Sequence[str]) -> None:
        """Report the first unrecognised argument, if any, and exit."""
        for argument in arguments:
            flag = argument.partition("=")[0]
            hint = self._hint(flag)
            self.error(f"unknown argument {flag}" + (f", {hint}" if hint else ""))

    def _hint(self, flag: str) -> str | None:
        """Return a suggestion for an unknown flag: ours, or that there is none."""
        known = [name for name in self._option_string_actions if name not in ("-h", "--help")]
        head, dot, field = flag.partition(".")
        if "--config" in known and dot and closest(head, ["--config"]):
            return f"did you mean --config.{field}?"
        if foreign := suggest_flag(flag, known):
            return foreign
        if "--config" in known and flag.startswith("-"):
            name = flag.lstrip("-")
            for field in _fields():
                if field.rpartition(".")[2] == name:
                    return f"did you mean --config.{field}?"
            if foreign := suggest_field(name, known):
                return foreign.replace(" config.", " --config.")
        close = closest(flag, known)
        return f"did you mean {close}?" if close else None


def nonempty_path(text: str) -> str:
    """Return a path as typed; refuse an empty one, which would mean the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("the path is empty")
    return text


def say(program: str, message: object) -> None:
    """Print one line on standard error."""
    with contextlib.suppress(OSError):  # standard error may have no reader
        print(f"{program}: {visible_line(in_flags(message))}", file=sys.stderr)


def _fields() -> Iterator[str]:
    """Yield the dotted names of all fields of a config."""
    from charlm_jax.config.schema import Config

    for section, kind in get_type_hints(Config).items():
        if dataclasses.is_dataclass(kind):
            yield from (f"{section}.{field.name}" for field in dataclasses.fields(kind))
        else:
            yield section
