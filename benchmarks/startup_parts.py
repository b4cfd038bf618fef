"""Breakdown of the start-up time, measured within the process.

    .venv/bin/python -m benchmarks.startup_parts train CORPUS
    .venv/bin/python -m benchmarks.startup_parts sample WORKDIR

The output is one JSON object, part -> seconds. `benchmarks/startup.py` runs this module.
"""

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any


class Stopwatch:
    """Stopwatch that records lap times in seconds, by name."""

    def __init__(self) -> None:
        self.parts: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        """Record the time since the previous lap."""
        now = time.perf_counter()
        self.parts[name], self._last = now - self._last, now


def train(corpus: str) -> Mapping[str, float]:
    """Time the parts of `charlm train --config=tutorial` up to its first row of metrics."""
    watch = Stopwatch()
    import jax
    import jax.numpy as jnp

    from charlm_jax.cli import commands  # noqa: F401, as the command imports them
    from charlm_jax.config.loading import load_config
    from charlm_jax.data.dataset import load_dataset
    from charlm_jax.training import (
        loop,  # noqa: F401, as the command imports them
        progress_bar,  # noqa: F401, as the command imports them
    )
    from charlm_jax.training.trainer import build_trainer

    watch.lap("import")
    config = load_config("tutorial", {"data.corpus": corpus})
    trainer = build_trainer(config, load_dataset(config))
    watch.lap("config_and_text")
    state = jax.block_until_ready(trainer.init_state())
    watch.lap("initial_state")
    parts = trainer.by_length[config.data.sequence_length]
    ids_N, plan = jnp.asarray(trainer.dataset.ids_N), jax.block_until_ready(parts.plan(0))
    watch.lap("first_epochs_order")
    count = trainer.steps_to_next_stop(0)
    train_steps: Any = parts.train_steps  # jitted, which its type hides
    traced = train_steps.trace(state, ids_N, plan, 0, 0, count)
    watch.lap("trace")
    lowered = traced.lower()
    watch.lap("lower")
    compiled = lowered.compile()
    watch.lap("compile")
    jax.block_until_ready(compiled(state, ids_N, plan, 0, 0, count))
    watch.lap(f"first_{count}_steps")
    return watch.parts


def sample(workdir: str) -> Mapping[str, float]:
    """Time the parts of `charlm sample` up to its first character."""
    watch = Stopwatch()
    from charlm_jax.cli import commands  # noqa: F401, as the command imports it
    from charlm_jax.inference.run import load_run

    watch.lap("import")
    run = load_run(workdir)
    watch.lap("load_run")
    next(run.sample("a", characters=50))
    watch.lap("first_characters")
    return watch.parts


PARTS: Mapping[str, Callable[[str], Mapping[str, float]]] = {"train": train, "sample": sample}


def main(arguments: Sequence[str]) -> int:
    """Time the parts of one command."""
    name, value = arguments
    print(json.dumps(PARTS[name](value)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
