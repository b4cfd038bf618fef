"""transformer."""

from ml_collections import ConfigDict

from configs import base, lstm

SIZES = {"0.8M": (4, 128), "1.6M": (2, 256)}


def get_config(size: str = "0.8M") -> ConfigDict:
    config = lstm.get_config()
    layers, width = base.pick(size, SIZES)
    config.model.layers = ("attention",) * layers
    config.model.embedding_size = config.model.hidden_size = width
    config.model.block = "pre_norm"
    config.model.norm = "rms_norm"
    config.model.mlp = "relu2"
    config.model.position = "rotary"
    config.model.heads = width // 32
    config.model.qk_norm = True
    config.model.init = "keras"
    config.model.zero_init = True
    return config
