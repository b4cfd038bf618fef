"""What do rounds of mutual gating before every step add to an LSTM?

    charlm train --config=mogrifier

One LSTM layer with five rounds (arXiv 1909.01792), with about as many parameters as lstm. The
learning rate is that of lstm; it was not tuned for this layer.
"""

from ml_collections import ConfigDict

from configs import lstm


def get_config() -> ConfigDict:
    config = lstm.get_config()
    config.model.mogrifier_rounds = 5
    config.model.hidden_size = 320
    return config
