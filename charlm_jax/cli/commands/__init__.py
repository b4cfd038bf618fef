"""The commands, a module each: its flags, and what it does between them and the library.

Each imports what it needs when it runs, so that `charlm --help` and a quick command do not wait for
jax.
"""

import argparse
from collections.abc import Mapping
from typing import Protocol

from charlm_jax.cli.commands import (
    compare,
    corpora,
    evaluate,
    export,
    inspect,
    replay,
    report,
    runs,
    sample,
    score,
    summary,
    sweep,
    train,
    verify,
)


class Command(Protocol):
    """What `charlm_jax.cli.entry_point` knows of a command."""

    HELP: str

    def add_flags(self, command: argparse.ArgumentParser) -> None:
        """Add what it takes."""

    def run(self, options: argparse.Namespace) -> int | None:
        """Carry it out; an exit status other than 0 where it has one."""


COMMANDS: Mapping[str, Command] = {
    "train": train,
    "sweep": sweep,
    "sample": sample,
    "evaluate": evaluate,
    "score": score,
    "compare": compare,
    "report": report,
    "inspect": inspect,
    "runs": runs,
    "verify": verify,
    "replay": replay,
    "summary": summary,
    "export": export,
    "corpora": corpora,
}
