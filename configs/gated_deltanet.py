"""Does a memory that corrects itself match an LSTM on characters?

    charlm train --config=gated_deltanet

Three blocks of Gated DeltaNet (arXiv 2412.06464) and an MLP, with about as many parameters as
mingru. The learning rate is that of mingru; it was not tuned for this layer.
"""

from ml_collections import ConfigDict

from configs import mingru


def get_config() -> ConfigDict:
    config = mingru.get_config()
    config.model.layers = ("gated_deltanet",) * 3
    config.model.embedding_size = config.model.hidden_size = 144
    config.model.heads = 4
    return config
