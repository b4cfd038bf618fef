"""attention."""

from ml_collections import ConfigDict

from configs import base, lstm

SIZES = {"0.8M": 432, "1.6M": 608}


def get_config(size: str = "0.8M") -> ConfigDict:
    config = lstm.get_config()
    config.model.layers = ("attention",)
    config.model.embedding_size = config.model.hidden_size = base.pick(size, SIZES)
    config.model.position = "rotary"
    config.model.heads = 8
    return config
