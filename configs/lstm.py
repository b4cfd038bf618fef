"""What does one LSTM layer learn from three quarters of a million characters of the book?

    charlm train --config=lstm
    charlm train --config=lstm:1.6M

The baseline that other models are set beside: gru, mingru, attention, transformer and hybrid read
the same sequences, have about as many parameters, and their own learning rate, chosen in the same
way (experiments/variants.py has the table with three seeds).

Cost: one to two minutes on a 2-core AMD EPYC with AVX2.

Expected: 1.50 nats per character on the last tenth of the book, window of 64, seed 1, with 829,008
parameters. The larger size has 1,636,432; its loss was not measured.
"""

from ml_collections import ConfigDict

from configs import base

SIZES = {"0.8M": (128, 384), "1.6M": (256, 512)}


def get_config(size: str = "0.8M") -> ConfigDict:
    config = base.get_config()
    config.data.corpus = "mysterious-island"
    config.data.loader = "crops"
    config.data.sequence_length = 64
    config.data.batch_size = 32
    config.split.valid_fraction = 0.1
    config.model.layers = ("lstm",)
    config.model.embedding_size, config.model.hidden_size = base.pick(size, SIZES)
    config.model.init = "flax"
    config.optimizer.learning_rate = 0.04
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_steps = 30
    config.optimizer.clip_norm = 1.0
    # 749,568 characters, three quarters of the text that is trained on.
    config.train.epochs = 1
    config.train.max_steps = 366
    return config
