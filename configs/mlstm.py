"""Does the LSTM with exponential gates and a matrix memory match an LSTM?

    charlm train --config=mlstm

Three mLSTM layers of xLSTM (arXiv 2405.04517), each with an MLP, with about as many parameters as
mingru. The learning rate is that of mingru; it was not tuned for this layer.
"""

from ml_collections import ConfigDict

from configs import mingru


def get_config() -> ConfigDict:
    config = mingru.get_config()
    config.model.layers = ("mlstm",) * 3
    config.model.embedding_size = config.model.hidden_size = 144
    config.model.heads = 4
    return config
