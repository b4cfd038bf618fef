"""Model-scale sweep: how much does a larger model gain from the same amount of text?

    charlm sweep --config=sweeps/model_scale --jobs=2
    charlm sweep --config=sweeps/model_scale:transformer --jobs=2

Four widths, each twice the previous one; the third is that of the config of the same name. The best
learning rate falls with the width, so every width gets three rates, around the one chosen for the
third; the best of them counts.
"""

from typing import Any

from ml_collections import ConfigDict

from configs import base, lstm, mingru, transformer

MODELS = {"lstm": lstm, "transformer": transformer, "mingru": mingru}
RATE_FACTORS = (0.5, 1.0, 2.0)


def get_config(model: str = "lstm") -> ConfigDict:
    return base.pick(model, MODELS).get_config()


def sweep(model: str = "lstm") -> list[dict[str, Any]]:
    config = get_config(model)
    return [
        {**_width(config, factor), "optimizer.learning_rate": rate * config.optimizer.learning_rate}
        for factor in (0.25, 0.5, 1.0, 2.0)
        for rate in RATE_FACTORS
    ]


def _width(config: ConfigDict, factor: float) -> dict[str, Any]:
    fields = {
        "model.hidden_size": int(factor * config.model.hidden_size),
        "model.embedding_size": int(factor * config.model.embedding_size),
    }
    if "attention" in config.model.layers:  # heads keep their width
        fields["model.heads"] = int(factor * config.model.heads)
    return fields
