"""`charlm evaluate`."""

import argparse
import dataclasses
import json

from charlm_jax.cli.commands.common_flags import add_rule, add_run, load

HELP = "Score every character of a held-out text once."


def add_flags(command: argparse.ArgumentParser) -> None:
    """What it takes."""
    add_run(command)
    add_rule(command)
    command.add_argument("--json", action="store_true", help="one JSON object")


def run(options: argparse.Namespace) -> None:
    """Score a part of the text, keep the losses, print the figure."""
    from charlm_jax.data.download import DownloadProgress

    run = load(options)
    evaluation, nll_N = run.evaluate(
        split=options.split,
        mode=options.mode,
        context=options.context,
        targets=options.targets,
        progress=DownloadProgress(),
    )
    file = run.save_evaluation(evaluation, nll_N)
    if options.json:
        print(json.dumps(dataclasses.asdict(evaluation)))
        return
    print(
        f"{evaluation.split}: {evaluation.loss_nats:.4f} nats, "
        f"{evaluation.bits_per_char:.4f} bits per character over {evaluation.characters:,} "
        f"characters ({evaluation.rule}, {run.checkpoint_label})\n{file}"
    )
