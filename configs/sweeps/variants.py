"""Model variants: what changes when the LSTM becomes attention, a transformer or a mixture?

    charlm sweep --config=sweeps/variants --jobs=2
    charlm compare runs/variants
    charlm compare runs/variants --mode=stream

Six models of about 0.8 million parameters read the same 749,568 characters of The Mysterious
Island, with three seeds each and the learning rate of the model's own config. The last tenth of the
book is held out. Each rate is the best of the seven in sweeps/learning_rate, in runs of a third of
the length; for the LSTM:

    charlm sweep --config=sweeps/learning_rate:lstm --config.train.max_steps=122
    charlm runs runs/learning_rate-lstm

Cost: one to two minutes per run on a 2-core AMD EPYC with AVX2; about 50 minutes including the
learning-rate sweeps.

Expected: held-out loss in windows of 64, in nats per character, mean of three seeds: hybrid 1.428,
GRU 1.476, LSTM 1.526, transformer 1.581, minGRU 1.626, one layer of attention 1.859.
"""

from typing import Any

from ml_collections import ConfigDict

from charlm_jax.config.schema import flatten
from configs import attention, gru, hybrid, lstm, mingru, transformer

MODELS = (lstm, gru, attention, transformer, mingru, hybrid)
SEEDS = (1, 2, 3)


def get_config() -> ConfigDict:
    return lstm.get_config()


def sweep() -> list[dict[str, Any]]:
    return [{**_changes(model.get_config()), "seed": seed} for model in MODELS for seed in SEEDS]


def _changes(config: ConfigDict) -> dict[str, Any]:
    """Return the layers, and every other field in which a config differs from the LSTM's."""
    start = dict(flatten(get_config().to_dict()))
    changed = {field: value for field, value in flatten(config.to_dict()) if value != start[field]}
    return {"model.layers": config.model.layers, **changed}
