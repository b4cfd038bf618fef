"""How low does tiny Shakespeare get in ten minutes on two cores?"""

from ml_collections import ConfigDict

from configs import speedrun


def get_config() -> ConfigDict:
    config = speedrun.get_config()
    config.data.sequence_length = 128
    config.data.batch_size = 16
    config.model.layers = ("mingru", "attention") * 2
    config.model.embedding_size = config.model.hidden_size = 160
    config.model.heads = 5
    config.model.dropout = 0.1
    config.optimizer.learning_rate = 4e-3
    config.optimizer.warmup_steps = 50
    config.train.max_steps = 2300
    config.train.evaluate_every_steps = 1150
    return config
