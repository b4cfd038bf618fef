"""LSTM."""

from ml_collections import ConfigDict

from configs import base

SIZES = {"0.8M": (128, 384), "1.6M": (256, 512)}


def get_config(size: str = "0.8M") -> ConfigDict:
    config = base.get_config()
    config.data.corpus = "mysterious-island"
    config.data.loader = "crops"
    config.data.sequence_length = 64
    config.data.batch_size = 32
    config.split.valid_fraction = 0.1
    config.model.layers = ("lstm",)
    config.model.embedding_size, config.model.hidden_size = base.pick(size, SIZES)
    config.model.init = "flax"
    config.optimizer.learning_rate = 4e-3
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_steps = 30
    config.optimizer.clip_norm = 1.0
    config.train.epochs = 3
    return config
