"""Programs of this package: training in whole dispatches, sampling with carried state."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from benchmarks.data import Text, load_text
from benchmarks.worker import TakeTurn
from charlm_jax.config.loading import load_config
from charlm_jax.config.schema import Config
from charlm_jax.data.corpora import Corpus
from charlm_jax.data.dataset import Dataset
from charlm_jax.data.vocabulary import Vocabulary
from charlm_jax.models import build_model
from charlm_jax.sampling.categorical import sample_keys
from charlm_jax.sampling.decoding import SampleBatch, make_decoder
from charlm_jax.sampling.policies import build_policy
from charlm_jax.training.trainer import build_trainer

# Training never ends, whatever the config says.
ENDLESS = {"train.epochs": 10_000, "train.max_steps": 0}


def train(*, config: str, changes: Mapping[str, Any], corpus: str, steps: int) -> TakeTurn:
    """Build a program whose turn is `steps` updates, run in the same way as by `charlm train`.

    Batches are gathered from the text during the turn, and dispatches have the config's length.

    Args:
      config: name of a shipped config.
      changes: dotted field -> value.
      corpus: corpus name passed to `load_text`; empty for random ids.
      steps: number of updates per turn.
    """
    loaded = load_config(config, {**changes, **ENDLESS})
    data = loaded.data
    text = load_text(corpus, batch_size=data.batch_size, sequence_length=data.sequence_length)
    trainer = build_trainer(loaded, as_dataset(text))
    ids_N = trainer.devices.put_text(trainer.dataset.ids_N)
    state, step = trainer.init_state(), 0

    def turn() -> float:
        nonlocal state, step
        end = step + steps
        while step < end:
            count = min(trainer.steps_to_next_stop(step), end - step)
            state, _ = trainer.dispatch(state, ids_N, step, count)
            step += count
        jax.block_until_ready(state)
        return steps * data.batch_size * data.sequence_length

    return turn


def as_dataset(text: Text) -> Dataset:
    """Return the text as a dataset without held-out parts."""
    corpus = Corpus("benchmark", "", source="benchmarks/data.py", sha256="")
    parts = {"train": (range(len(text.ids_N)),)}
    return Dataset(corpus, Vocabulary(text.symbols), text.ids_N, parts)


def sample(
    *,
    config: str,
    changes: Mapping[str, Any],
    symbols: int,
    streams: int,
    prompt: int,
    characters: int,
    truncations: Mapping[str, Any],
) -> TakeTurn:
    """Build a program whose turn reads a prompt and samples `characters` characters per stream.

    Args:
      config: name of a shipped config.
      changes: dotted field -> value.
      symbols: vocabulary size, V.
      streams: number of texts sampled at once.
      prompt: length of the prompt, in characters.
      characters: number of sampled characters per text.
      truncations: arguments of `build_policy` other than the scale.
    """
    loaded: Config = load_config(config, changes)
    model = build_model(loaded.model, symbols)
    params = jax.jit(model.init)(jax.random.key(loaded.seed))
    decode = make_decoder(model, mode="carried", context=loaded.data.sequence_length)
    policy = build_policy(scale=[1.0] * streams, **truncations)
    rows = SampleBatch(sample_keys(loaded.seed, streams), policy)
    prompt_N = np.arange(prompt) % symbols

    def turn() -> float:
        drawn = sum(ids_BT.size for ids_BT in decode(params, prompt_N, rows, characters))
        assert drawn == streams * characters
        return drawn

    return turn


PROGRAMS: Mapping[str, Callable[..., TakeTurn]] = {"train": train, "sample": sample}
