"""One LSTM layer: what does it learn from three quarters of a million characters of the book?

    charlm train --config=lstm
    charlm train --config=lstm:1.6M

The baseline for other models: gru, mingru, attention, transformer and hybrid read the same
sequences and have about as many parameters; each has its own learning rate, chosen in the same way
(sweeps/variants trains them with three seeds).

Cost: one to two minutes on a 2-core AMD EPYC with AVX2.

Expected: 1.50 nats per character on the last tenth of the book, window of 64, seed 1, with 829,008
parameters.

`lstm:1.6M` is the textbook's model (1,636,432 parameters) with a better recipe: random crops, half
the batch, a learning rate that rises to twelve times the book's and falls to zero, and gradient
clipping. Loss after N steps on the last tenth of the book, in windows of 40
(--config.evaluation.context=40), seed 1, and seconds of the whole command, on the same machine with
no other work:

    charlm train --config=lstm:1.6M --config.train.epochs=10 --config.train.max_steps=N

    N          characters   nats    seconds
    450           921,600   1.4644     102
    900         1,843,200   1.3592     170
    1,800       3,686,400   1.3087     362

The book's recipe reaches 1.331 at best, after 15 epochs (configs/tutorial_heldout.py). With
attention above the LSTM, hybrid.py reaches 1.325 in 208 s (benchmarks/time_to_loss.py).
"""

from ml_collections import ConfigDict

from configs import base

# Embedding width, hidden units and peak learning rate.
SIZES = {"0.8M": (128, 384, 0.04), "1.6M": (256, 512, 0.012)}


def get_config(size: str = "0.8M") -> ConfigDict:
    config = base.get_config()
    config.data.corpus = "mysterious-island"
    config.data.loader = "crops"
    config.data.sequence_length = 64
    config.data.batch_size = 32
    config.split.valid_fraction = 0.1
    config.model.layers = ("lstm",)
    embedding_size, hidden_size, learning_rate = base.pick(size, SIZES)
    config.model.embedding_size, config.model.hidden_size = embedding_size, hidden_size
    config.model.init = "flax"
    config.optimizer.learning_rate = learning_rate
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_steps = 30
    config.optimizer.clip_norm = 1.0
    # 749,568 characters, three quarters of the training text.
    config.train.epochs = 1
    config.train.max_steps = 366
    return config
