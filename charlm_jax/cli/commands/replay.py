"""`charlm replay`."""

import argparse

from charlm_jax.cli.output import show
from charlm_jax.cli.parser import nonempty_path

HELP = "Repeat the step at which a run failed and find the first non-finite array."


def add_flags(command: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    add = command.add_argument
    add("--workdir", required=True, type=nonempty_path, metavar="DIR", help="the run's folder")


def run(options: argparse.Namespace) -> None:
    """Repeat the step at which a run failed and print a summary of its arrays."""
    from charlm_jax.cli.tables import print_table
    from charlm_jax.training.nan_replay import replay_fault

    result = replay_fault(options.workdir)
    show(f"step {result.step}: loss {result.loss_nats:g}, gradient norm {result.gradient_norm:g}\n")
    first = result.first_bad
    shown = result.arrays[: result.arrays.index(first) + 1] if first else result.arrays
    print_table(
        {"array, in order of computation": "left", "largest": "right", "non-finite": "left"},
        [
            (
                array.name,
                f"{array.largest:.3g}",
                f"{array.bad:,} of {array.size:,}" if array.bad else "-",
            )
            for array in shown
        ],
    )
    if first is None:
        show("\nall arrays are finite; the failure did not reproduce")
        return
    show(f"\nfirst non-finite array: {first.name}, at index {first.first}")
    text = result.text_before(first)
    if text is not None:
        show(f"text read by that row: {text!r}")
