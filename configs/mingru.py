"""Does a recurrence that needs no loop in training match an LSTM?

    charlm train --config=mingru
    charlm train --config=mingru:1.6M

Three blocks of a minGRU (arXiv 2410.01201) and an MLP. Neither its gate nor its candidate depends
on the state.

Cost: one to two minutes on a 2-core AMD EPYC with AVX2.

Expected: 1.626 nats per character on the last tenth of the book, window of 64, seed 1, with 795,760
parameters. The larger size has 1,565,680; its loss was not measured.
"""

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
    config.optimizer.learning_rate = 0.02
    return config
