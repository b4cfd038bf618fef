"""Does a selective state space match an LSTM on characters?

    charlm train --config=mamba2

Three Mamba 2 layers (arXiv 2405.21060), each with an MLP that the paper's blocks do not have, with
about as many parameters as mingru. The learning rate is that of mingru; it was not tuned for this
layer.
"""

from ml_collections import ConfigDict

from configs import mingru


def get_config() -> ConfigDict:
    config = mingru.get_config()
    config.model.layers = ("mamba2",) * 3
    config.model.embedding_size = config.model.hidden_size = 136
    config.model.heads = 4
    config.model.state_size = 32
    return config
