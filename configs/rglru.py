"""Does Griffin's recurrent block without its attention match an LSTM?

    charlm train --config=rglru

Three recurrent blocks (arXiv 2402.19427) and MLPs, like the paper's Hawk, with about as many
parameters as mingru. The learning rate is that of mingru; it was not tuned for this layer.
"""

from ml_collections import ConfigDict

from configs import mingru


def get_config() -> ConfigDict:
    config = mingru.get_config()
    config.model.layers = ("rglru",) * 3
    config.model.embedding_size = config.model.hidden_size = 148
    config.model.heads = 4
    return config
