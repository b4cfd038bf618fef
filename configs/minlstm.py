"""Does a second gate help a recurrence that needs no loop in training?

    charlm train --config=minlstm

Three blocks of a minLSTM (arXiv 2410.01201) and an MLP, with about as many parameters as mingru.
The learning rate is that of mingru; it was not tuned for this layer.
"""

from ml_collections import ConfigDict

from configs import mingru


def get_config() -> ConfigDict:
    config = mingru.get_config()
    config.model.layers = ("minlstm",) * 3
    config.model.embedding_size = config.model.hidden_size = 152
    return config
