"""`charlm export`."""

import argparse

from charlm_jax.cli.commands.common_flags import add_run, load
from charlm_jax.cli.output import show
from charlm_jax.cli.parser import nonempty_path

HELP = "Export a model: weights as safetensors, config and vocabulary as JSON."


def add_flags(command: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    add_run(command)
    add = command.add_argument
    add("--to", choices=("safetensors",), default="safetensors", help="format of the weights")
    add(
        "--out",
        type=nonempty_path,
        metavar="DIR",
        help="output folder (default: export/ in the run's folder); files are never overwritten",
    )


def run(options: argparse.Namespace) -> None:
    """Export a model at one of its checkpoints and print the files."""
    run = load(options)
    from charlm_jax.core.trees import count_parameters
    from charlm_jax.inference.export import write_export

    files = write_export(run, options.out)
    show(f"{count_parameters(run.params):,} parameters, {run.checkpoint_label}")
    for file in files:
        show(file)
