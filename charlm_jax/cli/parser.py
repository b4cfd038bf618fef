"""A parser of flags that says what is wrong in one line, and what would be right."""

import argparse
import contextlib
import dataclasses
import difflib
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import NoReturn, get_type_hints

from charlm_jax.core.errors import escape_control_characters

USER_ERROR = 2

# argparse's own words, and ours: {flag} and {value} are what it names.
_REWORDED = (
    (r"argument (?P<flag>\S+): ignored explicit argument '.*'", "{flag} takes no value"),
    (r"argument (?P<flag>\S+): expected one argument", "{flag} has no value: write {flag}=..."),
    (
        r"argument (?P<flag>\S+): invalid int value: (?P<value>.*)",
        "{flag}={value} is not an integer",
    ),
    (
        r"argument (?P<flag>\S+): invalid float value: (?P<value>.*)",
        "{flag}={value} is not a number",
    ),
    (
        r"argument (?P<flag>\S+): invalid choice: (?P<value>'.*?') \(choose from (?P<known>.*)\)",
        "{flag}={value} is not known: it must be one of {known}",
    ),
    (r"argument (?P<flag>\S+): (?P<value>'.*' is not .*)", "{flag}={value}"),
    (r"the following arguments are required: (?P<flag>.*)", "missing: {flag}"),
)


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` for whom every mistake is worth a sentence."""

    def error(self, message: str) -> NoReturn:
        for pattern, words in _REWORDED:
            if found := re.fullmatch(pattern, message, flags=re.DOTALL):
                message = words.format(**found.groupdict())
                break
        say(self.prog, f"{message}; see {self.prog} --help")
        raise SystemExit(USER_ERROR)

    def refuse_unknown(self, arguments: Sequence[str]) -> None:
        """Refuse the first of the arguments that no flag has taken."""
        for argument in arguments:
            flag = argument.partition("=")[0]
            meant = self._nearest(flag)
            self.error(f"unknown argument {flag}" + (f", did you mean {meant}?" if meant else ""))

    def _nearest(self, flag: str) -> str | None:
        if flag == "--temperature" and "--scale" in self._option_string_actions:
            return "--scale (1 / temperature)"
        known = [name for name in self._option_string_actions if name not in ("-h", "--help")]
        if "--config" in known:
            head, dot, field = flag.partition(".")
            if dot and nearest(head, ["--config"]):
                return f"--config.{field}"
            name = flag.lstrip("-")
            for field in _fields():
                if field.rpartition(".")[2] == name:
                    return f"--config.{field}"
        return nearest(flag, known)


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that was probably meant."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.75)
    return close[0] if close else None


def say(program: str, message: object) -> None:
    """Print one line on standard error."""
    with contextlib.suppress(OSError):  # nobody may be there to read it
        print(f"{program}: {escape_control_characters(str(message))}", file=sys.stderr)


def _fields() -> Iterator[str]:
    """The dotted names of all fields of a config."""
    from charlm_jax.config.schema import Config

    for section, kind in get_type_hints(Config).items():
        if dataclasses.is_dataclass(kind):
            yield from (f"{section}.{field.name}" for field in dataclasses.fields(kind))
        else:
            yield section
