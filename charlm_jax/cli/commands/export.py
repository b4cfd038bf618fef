"""`charlm export`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from charlm_jax.cli.commands.common_flags import add_run, load
from charlm_jax.cli.output import show
from charlm_jax.cli.parser import nonempty_path

HELP = "Export a model: as safetensors and JSON, or as one HTML page that runs it."


def add_flags(command: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    add_run(command)
    add = command.add_argument
    add(
        "--to",
        choices=("safetensors", "html"),
        default="safetensors",
        help="safetensors: weights, config and vocabulary for other programs (default); html: one "
        "page that runs the model in a browser, without a network",
    )
    add(
        "--out",
        type=nonempty_path,
        metavar="PATH",
        help="output folder, or file for html (default: in export/ of the run's folder); files are "
        "never overwritten",
    )


def run(options: argparse.Namespace) -> None:
    """Export a model at one of its checkpoints and print the files."""
    run = load(options)
    from charlm_jax.core.trees import count_parameters

    files: Sequence[Path]
    if options.to == "html":
        from charlm_jax.report.playground.page import write_playground

        files = [write_playground(run, options.out)]
    else:
        from charlm_jax.inference.export import write_export

        files = write_export(run, options.out)
    show(f"{count_parameters(run.params):,} parameters, {run.checkpoint_label}")
    for file in files:
        show(file)
