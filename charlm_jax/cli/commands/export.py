"""`charlm export`."""

import argparse
from typing import TYPE_CHECKING

from charlm_jax.cli.commands.common_flags import add_corpus, add_run, load
from charlm_jax.cli.output import show, shown_progress
from charlm_jax.cli.parser import nonempty_path
from charlm_jax.core.errors import CharlmError

if TYPE_CHECKING:
    from charlm_jax.inference.run import Run

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
    add(
        "--precision",
        choices=("float32", "bfloat16", "int8"),
        default="float32",
        help="precision in which an html page stores matrices; the loss that it costs on held-out "
        "text is printed (default: float32)",
    )
    add(
        "--no_baselines",
        action="store_true",
        help="for html: name the held-out loss that training recorded, without scoring the text "
        "again, and leave out n-gram, xz and the cost of --precision",
    )
    add_corpus(command)


def run(options: argparse.Namespace) -> None:
    """Export a model at one of its checkpoints and print the files."""
    for flag in ("precision", "no_baselines", "corpus"):
        if options.to != "html" and getattr(options, flag) != options.parser.get_default(flag):
            options.parser.error(f"--{flag} is for --to=html")
    run = load(options)
    from charlm_jax.core.trees import count_parameters

    if options.to == "html":
        lines = _write_page(run, options)
    else:
        from charlm_jax.inference.export import write_export

        lines = list(map(str, write_export(run, options.out)))
    show(f"{count_parameters(run.params):,} parameters, {run.checkpoint_label}")
    for line in lines:
        show(line)


def _write_page(run: "Run", options: argparse.Namespace) -> list[str]:
    """Write the page that runs a model; return its losses, its hash and its file, as lines."""
    from charlm_jax.data.download import DownloadProgress, sha256_of
    from charlm_jax.report.playground.held_out import (
        describe_held_out,
        measure_held_out,
        recorded_held_out,
    )
    from charlm_jax.report.playground.model_data import check_model
    from charlm_jax.report.playground.page import page_file, write_playground

    check_model(run.config.model)
    precision = options.precision
    file = page_file(run, options.out, precision=precision)
    if options.no_baselines and options.corpus:
        raise CharlmError("--corpus is not read with --no_baselines: remove one of them")
    if options.no_baselines:
        held_out = recorded_held_out(run)
    else:
        with shown_progress() as report:
            held_out = measure_held_out(
                run, precision=precision, progress=DownloadProgress(), report=report
            )
    write_playground(run, file, precision=precision, held_out=held_out)
    losses = describe_held_out(held_out, precision=precision, unit=run.vocabulary.noun)
    if held_out.reason:
        losses.append(f"The text was not scored: {held_out.reason}")
    return [*losses, f"sha256 {sha256_of(file.read_bytes())}", str(file)]
