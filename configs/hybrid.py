"""hybrid."""

from ml_collections import ConfigDict

from configs import base, transformer

SIZES = {"0.8M": 168, "1.6M": 240}


def get_config(size: str = "0.8M") -> ConfigDict:
    config = transformer.get_config()
    config.model.layers = ("lstm", "attention")
    config.model.embedding_size = config.model.hidden_size = base.pick(size, SIZES)
    config.model.heads = 6
    return config
