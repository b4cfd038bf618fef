"""Training cost per character by sequence length.

    .venv/bin/python -m benchmarks.sequence_length --lengths=40,160,640,2560

The tutorial's model is trained in batches of 64. A turn reads the same number of characters at
every length: one step at the longest, more at the others. Every length has its own process, so peak
memory is measured per length.

Cost: about seven minutes on an otherwise idle 2-core machine.
"""

import argparse
import sys
from collections.abc import Sequence

from benchmarks.data import load_text
from benchmarks.harness import (
    build_parser,
    figures,
    finish,
    measure,
    note,
    print_json,
    print_ratios,
    print_speeds,
    run_command,
)
from benchmarks.interleaved import Program, paired_ratio
from charlm_jax.core.errors import CharlmError

SIZES = {"embedding_size": 256, "hidden_size": 512, "batch_size": 64}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print the tables or JSON."""
    parser = build_parser("Measure the training cost per character by sequence length.", **SIZES)
    add = parser.add_argument
    add("--lengths", default="40,160,640,2560", metavar="T[,T...]", help="default: %(default)s")
    add("--corpus", default="", help="a text (default: random ids, as long as the book)")
    return run_command(parser, arguments, compare)


def compare(options: argparse.Namespace) -> int:
    lengths = parse_lengths(options.lengths)
    for length in lengths:
        load_text(options.corpus, batch_size=options.batch_size, sequence_length=length)
    measured = measure(list_programs(lengths, options), options)
    for name, why in measured.left_out.items():
        note(f"{name} is left out: {why}")
    first = next(iter(measured.turns), "")
    costs = {
        f"{name}_over_{first}": paired_ratio(measured.turns[first], turns)
        for name, turns in measured.turns.items()
    }
    if options.json:
        print_json(
            "sequence_length",
            options,
            lengths=lengths,
            corpus=options.corpus or "random ids",
            programs={name: figures(turns) for name, turns in measured.turns.items()},
            ratios=costs,
            left_out=measured.left_out,
        )
        return finish(measured)
    print_speeds(measured.turns, "characters/s")
    print_ratios("Seconds per character relative to the first length", costs)
    return finish(measured)


def parse_lengths(text: str) -> list[int]:
    """Parse a comma-separated list of distinct positive integers."""
    try:
        lengths = [int(item) for item in text.split(",")]
    except ValueError:
        lengths = []
    if not lengths or min(lengths) < 1 or len(set(lengths)) < len(lengths):
        raise CharlmError(f"--lengths={text} must be distinct positive integers such as 40,160")
    return lengths


def list_programs(lengths: Sequence[int], options: argparse.Namespace) -> dict[str, Program]:
    """Return one program per length, named T followed by the length."""
    changes = {
        "model.embedding_size": options.embedding_size,
        "model.hidden_size": options.hidden_size,
        "data.batch_size": options.batch_size,
    }

    def program(length: int) -> Program:
        settings = {
            "config": "tutorial",
            "changes": {**changes, "data.sequence_length": length},
            "corpus": options.corpus,
            "steps": max(lengths) // length,
        }
        return Program("benchmarks.charlm_programs", "train", settings)

    return {f"T{length}": program(length) for length in lengths}


if __name__ == "__main__":
    sys.exit(main())
