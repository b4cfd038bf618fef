"""What changes when the LSTM becomes self-attention, a transformer, or something between?

    charlm sweep --config=sweeps/variants --jobs=2

Six models of about 0.8 million parameters read the same 749,568 characters, three seeds each, every
one with the learning rate that its own config names. experiments/variants.py chooses these rates as
well, and scores the runs under both rules.
"""

from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from configs import attention, gru, hybrid, lstm, mingru, transformer

MODELS = (lstm, gru, attention, transformer, mingru, hybrid)
SEEDS = (1, 2, 3)


def get_config() -> ConfigDict:
    return lstm.get_config()


def sweep() -> list[dict[str, Any]]:
    return [{**_changes(model.get_config()), "seed": seed} for model in MODELS for seed in SEEDS]


def _changes(config: ConfigDict) -> dict[str, Any]:
    """The layers, and every other field in which a config is not the LSTM's."""
    start = dict(_fields(get_config()))
    changed = {field: value for field, value in _fields(config) if value != start[field]}
    return {"model.layers": config.model.layers, **changed}


def _fields(config: ConfigDict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            yield from _fields(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
