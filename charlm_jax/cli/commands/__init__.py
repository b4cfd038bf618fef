"""Commands, one module each: their flags, and the calls into the library.

Each command imports its dependencies when it runs, so that `charlm --help` and quick commands do
not wait for jax.
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
    """Interface of a command module, as used by `charlm_jax.cli.entry_point`."""

    HELP: str

    def add_flags(self, command: argparse.ArgumentParser) -> None:
        """Add what it takes."""

    def run(self, options: argparse.Namespace) -> int | None:
        """Run the command; returns the exit status, None meaning 0."""


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

# All others build a model, and take `--allow_module`.
WITHOUT_MODEL = frozenset({"runs", "corpora"})
