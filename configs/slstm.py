"""Do exponential gates and a normalizer improve an LSTM?

    charlm train --config=slstm

One sLSTM layer of xLSTM (arXiv 2405.04517), as wide as that of lstm and with as many parameters.
The learning rate is that of lstm; it was not tuned for this layer.
"""

from ml_collections import ConfigDict

from configs import lstm


def get_config() -> ConfigDict:
    config = lstm.get_config()
    config.model.layers = ("slstm",)
    return config
