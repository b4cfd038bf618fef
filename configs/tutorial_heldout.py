"""The textbook's experiment with the end of the book held out: when does it start to overfit?"""

from ml_collections import ConfigDict

from configs import tutorial


def get_config() -> ConfigDict:
    config = tutorial.get_config()
    config.split.kind = "tail"
    config.split.valid_fraction = 0.1
    return config
