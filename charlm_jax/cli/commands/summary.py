"""`charlm summary`."""

import argparse
import json

from charlm_jax.cli.commands.common_flags import add_config
from charlm_jax.cli.output import show
from charlm_jax.core.errors import CharlmError

HELP = "Show a model's parameters, layer by layer, and its operations per character."


def add_flags(command: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    add_config(command)
    add = command.add_argument
    add("--symbols", type=int, help="vocabulary size to assume, instead of reading the text")
    add("--json", action="store_true", help="print one JSON object")


def run(options: argparse.Namespace) -> None:
    """Print the table of a model's layers."""
    from charlm_jax.config.loading import load_config

    config = load_config(options.config, options.overrides)
    from charlm_jax.cli.tables import print_table
    from charlm_jax.config.length_schedule import describe_phases
    from charlm_jax.data.dataset import load_dataset
    from charlm_jax.data.download import DownloadProgress
    from charlm_jax.models.flops import forward_flops
    from charlm_jax.models.summary import summarize

    if options.symbols is not None and options.symbols < 1:
        raise CharlmError(f"symbols={options.symbols} is not allowed: it must be at least 1")
    vocab_size = options.symbols
    if vocab_size is None:
        vocab_size = len(load_dataset(config, progress=DownloadProgress()).vocabulary)
    modules = summarize(config.model, vocab_size)
    parameters = sum(module.parameters for module in modules)
    length = config.data.sequence_length
    flops = forward_flops(config.model, symbols=vocab_size, sequence_length=length)
    if options.json:
        listed = [module._asdict() for module in modules]
        facts = {
            "parameters": parameters,
            "forward_flops": flops,
            "sequence_length": length,
            "length_schedule": config.data.length_schedule,
        }
        show(json.dumps({**facts, "modules": listed}))
        return
    rows = [
        (m.name, m.kind, f"({', '.join(map(str, m.output_shape))})", f"{m.parameters:,}")
        for m in modules
    ]
    rows.append(("total", "", "", f"{parameters:,}"))
    print_table({"module": "left", "layer": "left", "output": "left", "parameters": "right"}, rows)
    noun = config.data.unit.removesuffix("s")
    show(f"\nforward FLOPs per {noun} at sequence length {length}: {flops:,}")
    if len(phases := config.data.phases) > 1:
        show(f"sequence lengths in training: {describe_phases(phases)}")
