"""The textbook's experiment with the end of the book held out: when does it start to overfit?

    charlm train --config=tutorial_heldout

Cost: 90 to 98 s per epoch on an idle 2-core AMD EPYC with AVX2, so about 32 minutes for all 20.

Expected: held-out loss (window of 40) 2.006 nats per character after the first epoch, 1.347 after
10, 1.334 after 12, best after 15 with 1.331 (training loss 1.102), 1.334 after 16, 1.347 after 20
(training loss 1.030).
"""

from ml_collections import ConfigDict

from configs import tutorial


def get_config() -> ConfigDict:
    config = tutorial.get_config()
    config.split.kind = "tail"
    config.split.valid_fraction = 0.1
    return config
