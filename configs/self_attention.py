"""What does the chapter's first form of self-attention learn, which has no parameters?

    charlm train --config=self_attention

An embedding, averages of it weighted by its own products, made causal, and an output layer. 82,000
parameters in all: whatever the width, the embedding and the output are all there is to learn.

Cost: half a minute on a 2-core AMD EPYC with AVX2.

Expected: 2.422 nats per character on the last tenth of the book, window of 64, seed 1. A table of
pairs of characters gives 2.423: with no order, there is little to find beyond the last character.
"""

from ml_collections import ConfigDict

from configs import lstm


def get_config() -> ConfigDict:
    config = lstm.get_config()
    config.model.layers = ("self_attention",)
    config.model.embedding_size = 512
    return config
