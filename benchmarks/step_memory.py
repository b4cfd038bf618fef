r"""Memory of a training step on each device, as XLA plans it; nothing is trained.

    .venv/bin/python -m benchmarks.step_memory --config=transformer --microbatches=1,4,16
    .venv/bin/python -m benchmarks.step_memory --config=transformer --devices=2 \
        --config.data.batch_size=2 --config.model.{hidden,embedding}_size=1024

`state` is the memory of the arguments: weights, optimizer's state and text. `step` is that of
everything else: activations, gradients, and weights that are gathered from other devices. With
several devices, weights are whole first and sharded then. The text is small and synthetic, with 60
symbols.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

import jax

from benchmarks.harness import add_counts, print_json, run_command
from charlm_jax.cli.parser import Parser
from charlm_jax.config.loading import load_config
from charlm_jax.core.numerics import fixed_numerics
from charlm_jax.data.dataset import load_dataset
from charlm_jax.training.trainer import build_trainer

TEXT = "synthetic:reach=2,symbols=60,characters=300000,seed=1"


def main(arguments: Sequence[str] | None = None) -> int:
    """Compile, and print the table or JSON."""
    parser = Parser(description="Measure the memory of a training step.", allow_abbrev=False)
    add = parser.add_argument
    add("--config", default="transformer", help="config (default: %(default)s)")
    add("--microbatches", default="1", help="numbers, such as 1,4,16 (default: %(default)s)")
    add("--devices", type=int, default=1, help="devices of the CPU (default: %(default)s)")
    add("--json", action="store_true", help="print the results as one line of JSON")
    add_counts(parser)
    return run_command(parser, arguments, measure)


def measure(options: argparse.Namespace) -> int:
    """Compile a step for each number of microbatches, with whole and with sharded weights."""
    if options.devices > 1:  # read when JAX is first used
        flag = f"--xla_force_host_platform_device_count={options.devices}"
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()
    rows = [
        step_memory(options, count, shards=shards)
        for count in options.microbatches.split(",")
        for shards in ((False, True) if options.devices > 1 else (False,))
    ]
    if options.json:
        print_json("step_memory", options, rows=rows)
        return 0
    print("microbatches  weights  parameters  state, MB  step, MB")
    for row in rows:
        print(
            f"{row['microbatches']:>12}  {'sharded' if row['shards'] else 'whole':7}  "
            f"{row['parameters']:10,}  {row['state'] / 1e6:9.1f}  {row['step'] / 1e6:8.1f}"
        )
    return 0


@fixed_numerics()
def step_memory(options: argparse.Namespace, microbatches: str, *, shards: bool) -> dict[str, Any]:
    """Return the bytes of a step on each device."""
    changes = [
        f"data.corpus={TEXT}",
        f"train.microbatches={microbatches}",
        f"train.devices={options.devices}",
        f"train.shard_params={shards}",
        *(text.removeprefix("--config.") for text in options.overrides),
    ]
    config = load_config(options.config, changes)
    trainer = build_trainer(config, load_dataset(config))
    state, parts = trainer.init_state(), trainer.parts_at(0)
    ids_N = trainer.devices.put_text(trainer.dataset.ids_N)
    steps: Any = parts.train_steps
    memory = steps.lower(state, ids_N, parts.plan(0), 0, 0, 1).compile().memory_analysis()
    return {
        "microbatches": microbatches,
        "shards": shards,
        "parameters": sum(x.size for x in jax.tree.leaves(state.params)),
        "state": memory.argument_size_in_bytes,
        "step": memory.temp_size_in_bytes,
    }


if __name__ == "__main__":
    sys.exit(main())
