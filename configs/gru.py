"""GRU."""

from ml_collections import ConfigDict

from configs import base, lstm

SIZES = {"0.8M": (128, 448), "1.6M": (256, 600)}


def get_config(size: str = "0.8M") -> ConfigDict:
    config = lstm.get_config()
    config.model.layers = ("gru",)
    config.model.embedding_size, config.model.hidden_size = base.pick(size, SIZES)
    return config
