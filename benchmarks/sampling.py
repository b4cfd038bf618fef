"""Sampling speed of this package, the textbook's sampler and PyTorch, in characters per second.

    make bench
    .venv/bin/python -m benchmarks.sampling --only=one_stream,torch_one_stream

The model is the tutorial's, untrained: the speed does not depend on the text. Ours carries the
state and samples in jitted pieces of 100 characters. PyTorch carries the state too, with one step
per character. The chapter's sampler rereads the last 40 characters for every new one, in eager
Keras. A turn reads a prompt of 40 characters and samples 2,000 characters in one stream or 500 in
each of 64; the chapter's sampler samples 25. Ours is also measured with each truncation, to show
its cost relative to plain sampling.

Cost: about four minutes and 6 GB of memory on an otherwise idle 2-core machine.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence

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

SIZES = {"embedding_size": 256, "hidden_size": 512, "symbols": 80, "prompt": 40}
CHARACTERS = 2_000
STREAMS = {"one_stream": 1, "streams_64": 64}
TRUNCATIONS: Mapping[str, Mapping[str, float]] = {
    "top_k": {"top_k": 20},
    "top_p": {"top_p": 0.9},
    "min_p": {"min_p": 0.05},
}

RATIOS: Ratios = {
    "one_stream_vs_tutorial_sampler": ("one_stream", "tutorial_sampler"),
    "one_stream_vs_torch": ("one_stream", "torch_one_stream"),
    "streams_64_vs_torch": ("streams_64", "torch_streams_64"),
    "one_stream_bfloat16_vs_torch_bfloat16": (
        "one_stream_bfloat16",
        "torch_one_stream_bfloat16",
    ),
    "streams_64_bfloat16_vs_torch_bfloat16": (
        "streams_64_bfloat16",
        "torch_streams_64_bfloat16",
    ),
    "streams_64_bfloat16_vs_streams_64": ("streams_64_bfloat16", "streams_64"),
    **{
        f"{name}_{rule}_vs_{name}": (f"{name}_{rule}", name)
        for name in STREAMS
        for rule in TRUNCATIONS
    },
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print the tables or JSON."""
    parser = build_parser("Compare sampling speeds.", characters=CHARACTERS, **SIZES)
    return run_command(parser, arguments, compare)


def compare(options: argparse.Namespace) -> int:
    sizes = {name: getattr(options, name) for name in SIZES}
    measured = measure(list_programs(sizes, options.characters), options)
    ratios = compute_ratios(measured, RATIOS)
    if options.json:
        print_json(
            "sampling",
            options,
            programs={name: figures(turns) for name, turns in measured.turns.items()},
            ratios=ratios,
            left_out=measured.left_out,
        )
        return finish(measured)
    print_speeds(measured.turns, "characters/s")
    print_ratios("Our characters/s relative to theirs, median ratio over rounds", ratios)
    return finish(measured)


def list_programs(sizes: Mapping[str, int], characters: int) -> dict[str, Program]:
    """Return all programs by name; a turn of each should take about a second."""
    few = max(1, characters // 80)
    programs = {
        "tutorial_sampler": Program("benchmarks.keras_peer", "sample", {**sizes, "characters": few})
    }
    for precision, suffix in {"float32": "", "bfloat16": "_bfloat16"}.items():
        for name in STREAMS:
            turn = turn_of(name, characters)
            programs |= {
                f"{name}{suffix}": ours(sizes, precision, turn),
                f"torch_{name}{suffix}": Program(
                    "benchmarks.torch_peer", "sample", {"precision": precision, **sizes, **turn}
                ),
            }
    for name in STREAMS:
        for rule, truncations in TRUNCATIONS.items():
            turn = turn_of(name, characters)
            programs[f"{name}_{rule}"] = ours(sizes, "float32", turn, truncations)
    return programs


def turn_of(name: str, characters: int) -> dict[str, int]:
    """Return the number of streams and of characters per stream: fewer for many streams."""
    streams = STREAMS[name]
    return {
        "streams": streams,
        "characters": characters if streams == 1 else max(1, characters // 4),
    }


def ours(
    sizes: Mapping[str, int],
    precision: str,
    turn: Mapping[str, int],
    truncations: Mapping[str, float] | None = None,
) -> Program:
    """Return our program for the tutorial's config in these sizes, plain or with truncations."""
    changes = {
        "model.embedding_size": sizes["embedding_size"],
        "model.hidden_size": sizes["hidden_size"],
        "model.precision": precision,
    }
    counts = {"symbols": sizes["symbols"], "prompt": sizes["prompt"], **turn}
    drawn = {"truncations": dict(truncations or {}), **counts}
    return Program(
        "benchmarks.charlm_programs", "sample", {"config": "tutorial", "changes": changes, **drawn}
    )


if __name__ == "__main__":
    sys.exit(main())
