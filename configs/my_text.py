"""A small LSTM on your own text: how good does it get?

    charlm train --config=my_text:path/to/text.txt

The path may be a file, a folder or a quoted glob, with about 50 KB of text or more.

Cost: 2,000 steps of 2,048 characters, whatever the text's length: about three minutes (192 s) on a
2-core AMD EPYC with AVX2.

Expected: depends on the text, so no figure is given. A held-out loss that rises again does no
harm: the best checkpoint is kept, and `sample` uses it.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(path: str) -> ConfigDict:
    config = base.get_config()
    config.data.corpus = path
    config.data.loader = "crops"
    config.data.sequence_length = 64
    config.data.batch_size = 32
    config.split.kind = "tail"
    config.split.valid_fraction = 0.1
    config.model.embedding_size = 64
    config.model.hidden_size = 256
    config.model.dropout = 0.2
    config.optimizer.learning_rate = 5e-3
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_steps = 50
    config.optimizer.clip_norm = 1.0
    # 2,000 steps for a text of any length: many epochs of a short one, whose best checkpoint is
    # the one to use, or part of one epoch of a very long one.
    config.train.epochs = 100_000
    config.train.max_steps = 2000
    config.train.evaluate_every_steps = 250
    return config
