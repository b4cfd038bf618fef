"""The textbook's experiment: what does an LSTM learn from The Mysterious Island in 20 epochs?"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.data.corpus = "mysterious-island"
    config.data.loader = "chunks"
    config.data.sequence_length = 40
    config.data.batch_size = 64
    config.split.kind = "none"
    config.model.layers = ("lstm",)
    config.model.embedding_size = 256
    config.model.hidden_size = 512
    config.model.init = "keras"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.epsilon = 1e-7
    config.optimizer.epsilon_hat = True
    config.train.epochs = 20
    return config
