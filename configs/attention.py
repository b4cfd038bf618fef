"""A single layer of queries, keys and values, without a block around it: what does it learn?

    charlm train --config=attention
    charlm train --config=attention:1.6M

The textbook's last form, with eight heads and rotary positions. The layer reads the embedding
directly: each key and value depends on one character, and order enters only as relative distance.

Cost: about a minute on a 2-core AMD EPYC with AVX2.

Expected: 1.862 nats per character on the last tenth of the book, window of 64, seed 1, with 815,696
parameters. The larger size has 1,576,016; its loss was not measured.
"""

from ml_collections import ConfigDict

from configs import base, lstm

SIZES = {"0.8M": 432, "1.6M": 608}


def get_config(size: str = "0.8M") -> ConfigDict:
    config = lstm.get_config()
    config.model.layers = ("attention",)
    config.model.embedding_size = config.model.hidden_size = base.pick(size, SIZES)
    config.model.position = "rotary"
    config.model.heads = 8
    config.optimizer.learning_rate = 0.02
    return config
