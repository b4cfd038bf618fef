"""Shape letters, and types of trees shared by many modules.

Array names end in the letters of their dimensions, so `logits_BTV` has three axes:

    B  batch: independent rows
    T  positions being processed
    S  positions attended to
    V  vocabulary
    D  width of the model's stream
    H  width of a recurrent layer, or attention heads
    K  width of one head
    M  heads of keys and values
    L  positions with a learned vector
    F  width of the feed-forward layer
    G  stacked gates (4H for an LSTM)
    E  steps of one epoch
    N  characters, in the order of the text

Inside a scan over time, T is dropped: `x_BD`.
"""

import math
from collections.abc import Mapping
from typing import Any

Params = Mapping[str, Any]
"""A tree of arrays, keyed by full words (`embedding`, `output`, ...)."""

ModelState = Any
"""State that a model carries from one piece of text to the next; a tree of arrays."""


def bits(nats: float) -> float:
    """Convert an amount of information from nats to bits: nats / ln 2."""
    return nats / math.log(2.0)
