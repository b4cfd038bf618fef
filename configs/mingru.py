"""mingru."""

from ml_collections import ConfigDict

from configs import base, lstm

SIZES = {"0.8M": 3, "1.6M": 6}


def get_config(size: str = "0.8M") -> ConfigDict:
    config = lstm.get_config()
    config.model.layers = ("mingru",) * base.pick(size, SIZES)
    config.model.embedding_size = config.model.hidden_size = 160
    config.model.block = "pre_norm"
    config.model.norm = "rms_norm"
    config.model.mlp = "relu2"
    config.model.init = "keras"
    config.model.zero_init = True
    return config
