"""Sequence-length sweep: how long should training sequences be?

    charlm sweep --config=sweeps/sequence_length --jobs=2
    charlm sweep --config=sweeps/sequence_length:transformer --jobs=2

Eight lengths from 5 to 640 characters, three seeds each. A batch holds 2,560 characters whatever
the length (64 sequences of 40, as in the textbook), so that all runs make the same number of steps
on the same number of characters. The length changes how far gradients and attention reach, and how
many different positions of the text are in a batch. Every run is scored in windows of 64
characters, since windows of the training length would make the task differ between lengths.

All use the learning rate of the model's own config, which was chosen at length 64.
"""

from typing import Any

from ml_collections import ConfigDict

from configs import base, lstm, mingru, transformer

MODELS = {"lstm": lstm, "transformer": transformer, "mingru": mingru}
LENGTHS = (5, 10, 20, 40, 80, 160, 320, 640)
SEEDS = (1, 2, 3)
BATCH_CHARACTERS = 2_560


def get_config(model: str = "lstm") -> ConfigDict:
    config = base.pick(model, MODELS).get_config()
    config.data.sequence_length = 40
    config.data.batch_size = BATCH_CHARACTERS // 40
    config.evaluation.context = 64
    # 750,080 characters, within one batch of what the other configs read.
    config.train.max_steps = 293
    return config


def sweep() -> list[dict[str, Any]]:
    return [
        {
            "data.sequence_length": length,
            "data.batch_size": BATCH_CHARACTERS // length,
            "seed": seed,
        }
        for length in LENGTHS
        for seed in SEEDS
    ]
