"""Does nanoGPT's CPU recipe reach the same loss here?

    charlm train --config=nanogpt_cpu

Four layers of 128, four heads, learned positions, LayerNorm, GELU, a tied embedding, no biases,
AdamW; 2,000 steps of 12 x 64 characters of tiny Shakespeare, the first 90 % of it. One difference:
here the embedding and position tables have no weight decay.

Cost: 144 s from start to end on a 2-core AMD EPYC with AVX2 in a slow hour, 60 to 69 ms per step.
At the same time, the same recipe in PyTorch 2.13 took 69 to 84 ms per step.

Expected: 1.899 nats per character on the last 10 %, every character scored once in windows of 64,
with 804,096 parameters. The PyTorch program gives 1.899 under the same protocol, and 1.889 by
nanoGPT's own estimate on 15,360 characters; nanoGPT's published figure is 1.88.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.data.corpus = "tiny-shakespeare"
    config.data.loader = "crops"
    config.data.sequence_length = 64
    config.data.batch_size = 12
    config.split.kind = "tail"
    config.split.valid_fraction = 0.1
    config.model.layers = ("attention",) * 4
    config.model.embedding_size = 128
    config.model.hidden_size = 128
    config.model.block = "pre_norm"
    config.model.norm = "layer_norm"
    config.model.mlp = "gelu"
    config.model.mlp_ratio = 4.0
    config.model.position = "learned"
    config.model.max_length = 64
    config.model.heads = 4
    config.model.tied_embedding = True
    config.model.init = "gpt2"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_steps = 100
    config.optimizer.final_learning_rate = 1e-4
    config.optimizer.beta2 = 0.99
    config.optimizer.clip_norm = 1.0
    config.optimizer.weight_decay = 0.1
    config.evaluation.batch_size = 64
    config.train.epochs = 100
    config.train.max_steps = 2000
    config.train.evaluate_every_steps = 500
    return config
