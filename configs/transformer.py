"""A small transformer with standard modern parts: what does it learn from the same characters?

    charlm train --config=transformer
    charlm train --config=transformer:1.6M

Pre-norm blocks (RMSNorm), squared ReLU, rotary positions, normalized queries and keys, and branches
initialized to zero.

Cost: one to two minutes on a 2-core AMD EPYC with AVX2.

Expected: 1.567 nats per character on the last tenth of the book, window of 64, seed 1, with 808,400
parameters. The larger size has 1,615,312; its loss was not measured.
"""

from ml_collections import ConfigDict

from configs import base, lstm

SIZES = {"0.8M": (4, 128), "1.6M": (2, 256)}


def get_config(size: str = "0.8M") -> ConfigDict:
    config = lstm.get_config()
    layers, width = base.pick(size, SIZES)
    config.model.layers = ("attention",) * layers
    config.model.embedding_size = config.model.hidden_size = width
    config.model.block = "pre_norm"
    config.model.norm = "rms_norm"
    config.model.mlp = "relu2"
    config.model.position = "rotary"
    config.model.heads = width // 32
    config.model.qk_norm = True
    config.model.init = "keras"
    config.model.zero_init = True
    config.optimizer.learning_rate = 0.0025
    return config
