"""self."""

from ml_collections import ConfigDict

from configs import lstm


def get_config() -> ConfigDict:
    config = lstm.get_config()
    config.model.layers = ("self_attention",)
    config.model.embedding_size = 512
    return config
