"""Training speed of this package, Flax's own layers, PyTorch and Keras.

    make bench
    .venv/bin/python -m benchmarks.train_step --only=float32,torch_float32

The tutorial's model is trained with its batch size and sequence length, on random ids or on a text
(--corpus=NAME); the transformer of configs/transformer.py is compared with its PyTorch version. A
turn is 20 steps, including the wait for their result; see benchmarks/interleaved.py for the order
of turns.

The last rows show the machine's roofline (products of large matrices, and the product in the LSTM's
recurrence) and our share of it. Operations are counted from the model as written
(charlm_jax/models/flops.py). We project the embedding table instead of every character, which saves
a third of them, so the share can exceed 1.

Cost: about eight minutes and 8 GB of memory on an otherwise idle 2-core machine. --only=... selects
a part.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence

from benchmarks.data import load_text
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
from benchmarks.interleaved import Measured, Program, paired_ratio
from charlm_jax.config.loading import load_config
from charlm_jax.models.flops import train_flops

SIZES = {"embedding_size": 256, "hidden_size": 512, "batch_size": 64, "sequence_length": 40}
STEPS = 20

RATIOS: Ratios = {
    "float32_vs_torch_float32": ("float32", "torch_float32"),
    "float32_vs_flax_rnn": ("float32", "flax_rnn"),
    "float32_vs_keras": ("float32", "keras"),
    "float32_vs_keras_jit": ("float32", "keras_jit"),
    "bfloat16_vs_torch_bfloat16": ("bfloat16", "torch_bfloat16"),
    "bfloat16_vs_torch_float32": ("bfloat16", "torch_float32"),
    "bfloat16_vs_float32": ("bfloat16", "float32"),
    "transformer_vs_torch": ("transformer", "torch_transformer"),
}

ROOFS: Ratios = {
    "float32_of_large": ("float32", "roof_large_float32"),
    "float32_of_recurrent": ("float32", "roof_recurrent_float32"),
    "bfloat16_of_large": ("bfloat16", "roof_large_bfloat16"),
    "bfloat16_of_recurrent": ("bfloat16", "roof_recurrent_bfloat16"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print the tables or JSON."""
    parser = build_parser("Compare training speeds.", steps=STEPS, **SIZES)
    parser.add_argument(
        "--corpus", default="", help="a text (default: random ids of the same length)"
    )
    return run_command(parser, arguments, compare)


def compare(options: argparse.Namespace) -> int:
    sizes = {name: getattr(options, name) for name in SIZES}
    text = load_text(
        options.corpus,
        batch_size=options.batch_size,
        sequence_length=options.sequence_length,
    )
    measured = measure(list_programs(sizes, options.corpus, options.steps), options)
    ratios = compute_ratios(measured, RATIOS)
    flops = train_flops(
        load_config("tutorial", our_changes(sizes)).model,
        symbols=len(text.symbols),
        sequence_length=options.sequence_length,
    )
    shares = compute_shares(measured, flops)
    roofs = {name: turns for name, turns in measured.turns.items() if name.startswith("roof_")}
    programs = {name: turns for name, turns in measured.turns.items() if name not in roofs}
    if options.json:
        print_json(
            "train_step",
            options,
            corpus=options.corpus or "random ids",
            programs={name: figures(turns) for name, turns in programs.items()},
            ratios=ratios,
            flops_per_character=flops,
            roof_flops_per_second={name: figures(turns) for name, turns in roofs.items()},
            shares_of_roof=shares,
            left_out=measured.left_out,
        )
        return finish(measured)
    print_speeds(programs, "characters/s")
    print_speeds(roofs, "GFLOP/s", 1e9)
    print_ratios("Our characters/s relative to theirs, median ratio over rounds", ratios)
    print_ratios(f"Fraction of the roofline, at {flops:,} FLOPs per character", shares)
    return finish(measured)


def compute_shares(measured: Measured, flops: int) -> dict[str, float]:
    """Return our share of each roof: FLOPs per second in training over those of the product."""
    return {
        name: flops * paired_ratio(measured.turns[ours], measured.turns[roof])
        for name, (ours, roof) in ROOFS.items()
        if ours in measured.turns and roof in measured.turns
    }


def our_changes(sizes: Mapping[str, int], precision: str = "float32") -> dict[str, object]:
    """Return the sizes as config fields."""
    return {
        "model.embedding_size": sizes["embedding_size"],
        "model.hidden_size": sizes["hidden_size"],
        "data.batch_size": sizes["batch_size"],
        "data.sequence_length": sizes["sequence_length"],
        "model.precision": precision,
    }


def list_programs(sizes: Mapping[str, int], corpus: str, steps: int) -> dict[str, Program]:
    """Return all programs by name."""
    common = {"corpus": corpus, "steps": steps}
    peer = {**sizes, **common}

    def ours(config: str, changes: Mapping[str, object]) -> Program:
        return Program(
            "benchmarks.charlm_programs", "train", {"config": config, "changes": changes, **common}
        )

    def torch(precision: str) -> Program:
        return Program("benchmarks.torch_peer", "train", {"precision": precision, **peer})

    def keras(jit: bool) -> Program:
        return Program("benchmarks.keras_peer", "train", {"jit": jit, **peer})

    def roof(precision: str, rows: int, inner: int, columns: int, repeats: int) -> Program:
        shape = {"rows": rows, "inner": inner, "columns": columns, "repeats": repeats}
        return Program("benchmarks.roofline", "product", {"precision": precision, **shape})

    rows, hidden = sizes["batch_size"], sizes["hidden_size"]
    recurrent = (rows, hidden, 4 * hidden, steps * sizes["sequence_length"])
    return {
        "float32": ours("tutorial", our_changes(sizes)),
        "torch_float32": torch("float32"),
        "flax_rnn": Program("benchmarks.flax_peer", "train", peer),
        "keras": keras(jit=False),
        "keras_jit": keras(jit=True),
        "bfloat16": ours("tutorial", our_changes(sizes, "bfloat16")),
        "torch_bfloat16": torch("bfloat16"),
        "transformer": ours("transformer", {}),
        "torch_transformer": Program(
            "benchmarks.torch_peer", "train_transformer", {"config": "transformer", **common}
        ),
        "roof_large_float32": roof("float32", 2048, 2048, 2048, 10),
        "roof_recurrent_float32": roof("float32", *recurrent),
        "roof_large_bfloat16": roof("bfloat16", 2048, 2048, 2048, 10),
        "roof_recurrent_bfloat16": roof("bfloat16", *recurrent),
    }


if __name__ == "__main__":
    sys.exit(main())
