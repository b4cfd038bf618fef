"""How fast does a 2-core CPU pass the figure of nanoGPT's CPU recipe?"""

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
