"""A first look: does a small LSTM learn to write plays in one pass over Shakespeare?

    charlm train --config=quickstart

Cost: 230 s on a 2-core AMD EPYC with AVX2, at about 22,000 characters per second.

Expected: 1.604 nats (2.314 bits) per character on the last 2 % of the plays, window of 64. Samples
are mostly English words at scale 2, and contain many at scale 1.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.data.corpus = "shakespeare"
    config.data.loader = "crops"
    config.data.sequence_length = 64
    config.data.batch_size = 32
    config.split.valid_fraction = 0.02
    config.model.embedding_size = 64
    config.model.hidden_size = 256
    config.optimizer.learning_rate = 5e-3
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_steps = 50
    config.optimizer.clip_norm = 1.0
    config.train.epochs = 1
    config.train.evaluate_every_steps = 500
    return config
