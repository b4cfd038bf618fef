"""Training speed of several models on this machine, in characters per second."""

import statistics
import time
from collections.abc import Mapping
from typing import TypeVar

import jax.numpy as jnp

from charlm_jax.config.schema import Config
from charlm_jax.core.numerics import fixed_numerics
from charlm_jax.data.dataset import load_dataset
from charlm_jax.training.trainer import build_trainer

Name = TypeVar("Name")


def measure_speeds(
    configs: Mapping[Name, Config], *, rounds: int = 5, steps: int = 20
) -> dict[Name, float]:
    """Return the median of `speeds_by_round` for every config."""
    found = speeds_by_round(configs, rounds=rounds, steps=steps)
    return {name: statistics.median(speeds) for name, speeds in found.items()}


@fixed_numerics()
def speeds_by_round(
    configs: Mapping[Name, Config], *, rounds: int, steps: int
) -> dict[Name, list[float]]:
    """Return characters per second in training, without start-up, scoring and saving.

    Models take turns in every round, so that drift in the machine's speed affects all equally. The
    machine must be idle otherwise.

    Args:
      configs: configs to train, by any name.
      rounds: number of rounds, each with a speed; one more, which compiles, precedes them.
      steps: number of updates in a turn, at most all of the last phase, which is the whole run
        unless there is a schedule of lengths.
    """
    trainers = {
        name: build_trainer(config, load_dataset(config)) for name, config in configs.items()
    }
    states = {name: trainer.init_state() for name, trainer in trainers.items()}
    ids = {
        name: trainer.devices.put_text(trainer.dataset.ids_N) for name, trainer in trainers.items()
    }
    speeds: dict[Name, list[float]] = {name: [] for name in trainers}
    for _ in range(1 + rounds):
        for name, trainer in trainers.items():
            first = step = trainer.phases[-1].first_step
            last = min(first + steps, trainer.total_steps)
            # Turns share their batches; the weights carry over, as a dispatch donates its arrays.
            state = states[name]._replace(step=jnp.int32(first))
            start = time.monotonic()
            while step < last:
                count = min(trainer.steps_to_next_stop(step), last - step)
                state, _ = trainer.dispatch(state, ids[name], step, count)
                step = int(state.step)  # waits for the updates
            seconds = time.monotonic() - start
            states[name], data = state, trainer.config.data
            characters = (step - first) * data.batch_size * data.sequence_length
            speeds[name].append(characters / seconds)
    return {name: values[1:] for name, values in speeds.items()}
