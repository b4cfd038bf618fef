"""Training speed with the batch divided over two parts of the CPU, relative to one device.

    .venv/bin/python -m benchmarks.devices

The shipped configs are trained on random ids, both programs of a config with one batch size. XLA
runs one device on all cores already; two devices show what dividing, and adding up gradients,
costs. A turn is 5 steps, including the wait for their result; see benchmarks/interleaved.py for the
order of turns.

Cost: about three minutes on an otherwise idle 2-core machine.
"""

import argparse
import os
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

CONFIGS = ("lstm", "mingru", "transformer")
DEVICES = (1, 2)
SIZES = {"batch_size": 32, "sequence_length": 64}
STEPS = 5
RATIOS: Ratios = {f"{name}_2_vs_1": (f"{name}_2", f"{name}_1") for name in CONFIGS}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print the tables or JSON."""
    parser = build_parser("Compare two devices of a CPU with one, at equal batches.", **SIZES)
    return run_command(parser, arguments, compare)


def compare(options: argparse.Namespace) -> int:
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count={max(DEVICES)}"
    measured = measure(list_programs(options), options)
    ratios = compute_ratios(measured, RATIOS)
    if options.json:
        programs = {name: figures(turns) for name, turns in measured.turns.items()}
        print_json("devices", options, programs=programs, ratios=ratios, left_out=measured.left_out)
        return finish(measured)
    print_speeds(measured.turns, "characters/s")
    print_ratios("Speed of two devices relative to one", ratios)
    return finish(measured)


def list_programs(options: argparse.Namespace) -> dict[str, Program]:
    """Return one program per config and number of devices, with its name."""
    sizes = {f"data.{name}": getattr(options, name) for name in SIZES}

    def program(config: str, devices: int) -> Program:
        changes = {**sizes, "train.devices": devices}
        settings = {"config": config, "changes": changes, "corpus": "", "steps": STEPS}
        return Program("benchmarks.charlm_programs", "train", settings)

    return {f"{name}_{count}": program(name, count) for name in CONFIGS for count in DEVICES}


if __name__ == "__main__":
    sys.exit(main())
