"""Is a GRU as good as an LSTM of the same size?

    charlm train --config=gru
    charlm train --config=gru:1.6M

Cost: one to two minutes on a 2-core AMD EPYC with AVX2.

Expected: 1.469 nats per character on the last tenth of the book, window of 64, seed 1, with 822,096
parameters. The larger size has 1,611,760; its loss was not measured.
"""

from ml_collections import ConfigDict

from configs import base, lstm

SIZES = {"0.8M": (128, 448), "1.6M": (256, 600)}


def get_config(size: str = "0.8M") -> ConfigDict:
    config = lstm.get_config()
    config.model.layers = ("gru",)
    config.model.embedding_size, config.model.hidden_size = base.pick(size, SIZES)
    config.optimizer.learning_rate = 0.02
    return config
