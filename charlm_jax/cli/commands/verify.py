"""`charlm verify`."""

import argparse

from charlm_jax.cli.commands.common_flags import add_corpus
from charlm_jax.cli.output import show
from charlm_jax.cli.parser import nonempty_path

HELP = "Repeat a run's first steps and check that they match bit for bit."


def add_flags(command: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    add = command.add_argument
    add("--workdir", required=True, type=nonempty_path, metavar="DIR", help="the run's folder")
    add_corpus(command)
    add(
        "--steps",
        type=int,
        default=100,
        help="number of steps to repeat, rounded down to the last row of metrics, or up to the "
        "first (default: 100)",
    )


def run(options: argparse.Namespace) -> int:
    """Repeat a run's first steps; the exit status is 1 if they differ."""
    from charlm_jax.data.download import DownloadProgress
    from charlm_jax.training.reproduce import verify_run

    result = verify_run(
        options.workdir, steps=options.steps, corpus=options.corpus, progress=DownloadProgress()
    )
    for change in result.changes:
        show(change)
    if result.first_difference is None:
        count = len(result.compared)
        compared = "1 hash compared, equal" if count == 1 else f"{count} hashes compared, all equal"
        show(f"{options.workdir}: {result.steps} steps repeated, {compared}")
        return 0
    show(
        f"{options.workdir}: differs at step {result.first_difference}: "
        f"{result.recorded} recorded, {result.found} now"
    )
    return 1
