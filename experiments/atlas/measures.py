"""Measurements of the atlas: the record of a run, and speeds and sizes of its models."""

import statistics
import time
from collections.abc import Mapping
from typing import Any

import jax

from charlm_jax.config.schema import Config
from charlm_jax.core.prng import root_key
from charlm_jax.core.trees import count_parameters
from charlm_jax.data.dataset import load_dataset
from charlm_jax.evaluation.block_sums import block_sums
from charlm_jax.evaluation.protocol import Stream, Window
from charlm_jax.inference.run import Run
from charlm_jax.inference.trained_model import TrainedModel
from charlm_jax.models import build_model
from charlm_jax.training.throughput import measure_speeds
from experiments.atlas.arms import BATCH_SIZE, SEQUENCE_LENGTH, WINDOW, Preset
from experiments.block_records import to_sums
from experiments.run_measures import context_sums, validation_curve

_SAMPLED = 1_000  # characters


def measure_run(run: Run) -> dict[str, Any]:
    """Return the record of a finished run, at its best checkpoint."""
    window_N = run.evaluate(Window(WINDOW), split="test")[1]
    stream_N = run.evaluate(Stream(), split="test")[1]
    second = run.evaluate(Stream(), split="valid")[0].loss_nats
    second_window = run.evaluate(Window(WINDOW), split="valid")[0].loss_nats
    sums = block_sums([window_N])
    return {
        "seed": run.config.seed,
        "parameters": count_parameters(run.params),
        "curve": validation_curve(run, BATCH_SIZE * SEQUENCE_LENGTH),
        "second": round(second, 6),
        "second_window": round(second_window, 6),
        "counts": sums.counts_K.tolist(),
        "window": to_sums(sums)[0],
        "stream": to_sums(block_sums([stream_N]))[0],
    }


def measure_context(run: Run, *, preset: Preset) -> dict[str, Any]:
    """Return losses with all but the nearest n characters cut off; attention looks T back.

    Args:
      run: the run.
      preset: size of the study.
    """
    dataset = run.dataset()
    sums = context_sums(
        run,
        dataset.ids_N,
        dataset.part("test"),
        change="truncated",
        reach=preset.context_reach,
        targets=preset.context_targets,
    )
    return {
        "target_counts": next(iter(sums.values())).counts_K.tolist(),
        "by_context": {n: to_sums(x)[0] for n, x in sums.items()},
    }


def measure_models(configs: Mapping[str, Config], *, rounds: int = 3) -> dict[str, Any]:
    """Measure speeds and sizes of models, when no other process runs.

    Args:
      configs: configs of the models, by any name.
      rounds: number of rounds, in which the models take turns; the median is returned.

    Returns:
      name -> `training` and `decoding` speeds in characters per second, the latter of one text at a
      time, and `state_bytes`, the memory of a text's state; attention keeps T positions.
    """
    training = measure_speeds(configs, rounds=rounds, steps=10)
    models = {name: _untrained(config) for name, config in configs.items()}
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(1 + rounds):  # one that compiles precedes them
        for name, model in models.items():
            prompt, start = model.vocabulary.symbols[-1], time.monotonic()
            for _ in model.sample(prompt, characters=_SAMPLED):
                pass
            seconds[name].append(time.monotonic() - start)
    return {
        name: {
            "training": round(training[name]),
            "decoding": round(_SAMPLED / statistics.median(seconds[name][1:])),
            "state_bytes": _state_bytes(model),
        }
        for name, model in models.items()
    }


def _untrained(config: Config) -> TrainedModel:
    vocabulary = load_dataset(config).vocabulary
    model = build_model(config.model, len(vocabulary))
    return TrainedModel(config, vocabulary, model, model.init(root_key(config.seed)))


def _state_bytes(model: TrainedModel) -> int:
    state = jax.eval_shape(lambda: model.model.initial_state(1, SEQUENCE_LENGTH))
    return int(sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state)))
