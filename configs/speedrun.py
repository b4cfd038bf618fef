"""Speedrun: how fast can a 2-core CPU beat 1.88, the loss of nanoGPT's CPU recipe?

    charlm train --config=speedrun

One minGRU block and one attention block, trained on 307,200 characters, a fifth of what
nanogpt_cpu.py reads.

Cost: 27 to 28 s for the whole command on a 2-core AMD EPYC with AVX2, of which 11 s are training
and the rest start-up, compilation and scoring of the held-out text; the recipe of nanogpt_cpu.py in
PyTorch took 95 to 99 s on that machine (whose speed varies by half from hour to hour).

Expected: 1.862 nats per character, every held-out character scored once in windows of 64, with
378,113 parameters. With 340 steps it is 1.889, with 440 it is 1.847.
"""

from ml_collections import ConfigDict

from configs import nanogpt_cpu


def get_config() -> ConfigDict:
    config = nanogpt_cpu.get_config()
    config.model.layers = ("mingru", "attention")
    config.model.norm = "rms_norm"
    config.model.mlp = "relu2"
    config.model.position = "rotary"
    config.model.qk_norm = True
    config.model.tied_embedding = False
    config.model.init = "keras"
    config.model.zero_init = True
    config.optimizer.learning_rate = 6e-3
    config.optimizer.warmup_steps = 20
    config.optimizer.final_learning_rate = 0.0
    config.train.max_steps = 400
    config.train.evaluate_every_steps = 400
    return config
