"""Training speed of most kinds of layers relative to the LSTM, at about 0.8M parameters.

    .venv/bin/python -m benchmarks.layers --only=lstm,minlstm,mlstm

The shipped configs are trained on random ids, all with one batch size and sequence length. A turn
is 5 steps, including the wait for their result; see benchmarks/interleaved.py for the order of
turns.

Cost: about ten minutes on an otherwise idle 2-core machine.
"""

import argparse
import sys
from collections.abc import Sequence

from benchmarks.harness import (
    Ratios,
    build_parser,
    compute_ratios,
    figures,
    finish,
    measure,
    print_json,
    print_ratios,
    print_speeds,
    run_command,
)
from benchmarks.interleaved import Program

BASELINE = "lstm"
CONFIGS = (
    BASELINE,
    "gru",
    "mingru",
    "minlstm",
    "rglru",
    "mogrifier",
    "gated_deltanet",
    "mamba2",
    "mlstm",
    "slstm",
    "transformer",
)
SIZES = {"batch_size": 32, "sequence_length": 64}
STEPS = 5
RATIOS: Ratios = {f"{name}_vs_{BASELINE}": (name, BASELINE) for name in CONFIGS[1:]}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print the tables or JSON."""
    parser = build_parser("Compare the training speed of layers at equal parameters.", **SIZES)
    return run_command(parser, arguments, compare)


def compare(options: argparse.Namespace) -> int:
    measured = measure(list_programs(options), options)
    ratios = compute_ratios(measured, RATIOS)
    if options.json:
        programs = {name: figures(turns) for name, turns in measured.turns.items()}
        print_json("layers", options, programs=programs, ratios=ratios, left_out=measured.left_out)
        return finish(measured)
    print_speeds(measured.turns, "characters/s")
    print_ratios(f"Speed relative to {BASELINE}", ratios)
    return finish(measured)


def list_programs(options: argparse.Namespace) -> dict[str, Program]:
    """Return one program per config, with its name."""
    changes = {f"data.{name}": getattr(options, name) for name in SIZES}

    def program(config: str) -> Program:
        settings = {"config": config, "changes": changes, "corpus": "", "steps": STEPS}
        return Program("benchmarks.charlm_programs", "train", settings)

    return {name: program(name) for name in CONFIGS}


if __name__ == "__main__":
    sys.exit(main())
