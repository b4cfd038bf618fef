"""`charlm evaluate`."""

import argparse
import json

from charlm_jax.cli.commands.common_flags import (
    add_corpus,
    add_protocol,
    add_run,
    load,
    read_protocol,
)
from charlm_jax.cli.output import show, shown_progress
from charlm_jax.cli.parser import say
from charlm_jax.core.errors import CharlmError

HELP = "Compute the loss of a run on a held-out split."


def add_flags(command: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    add_run(command)
    add_corpus(command)
    add_protocol(command)
    command.add_argument("--json", action="store_true", help="print one JSON object")


def run(options: argparse.Namespace) -> None:
    """Evaluate a run on a split, save the per-character losses and print the mean."""
    from charlm_jax.data.download import DownloadProgress

    run = load(options)
    protocol = read_protocol(options, [run])
    with shown_progress() as report:
        evaluation, nll_N = run.evaluate(
            protocol, split=options.split, progress=DownloadProgress(), report=report
        )
    unit = run.vocabulary.unit
    per_byte = f" ({evaluation.bits_per_byte:.4f} per byte)" if unit == "characters" else ""
    if options.json:
        show(json.dumps({**evaluation.to_json(), "unit": unit}))
    else:
        show(
            f"{evaluation.key.split}: {evaluation.loss_nats:.4f} nats, "
            f"{evaluation.bits_per_char:.4f} bits per {run.vocabulary.noun}{per_byte} over "
            f"{evaluation.characters:,} {unit} "
            f"({evaluation.protocol_description}, {run.checkpoint_label})"
        )
    try:
        file = run.save_evaluation(evaluation, nll_N)
    except CharlmError as error:  # a figure that took minutes is not lost to a full disk
        say(options.parser.prog, f"{error}: the losses are not saved")
        return
    if not options.json:
        show(file)
