"""Shape letters, and types of trees that many modules share.

Array names end in the letters of their dimensions, so `logits_BTV` has three axes:

    B  batch: rows that do not see one another
    T  positions being processed
    S  positions attended to
    V  vocabulary
    D  width of the model's stream
    H  width of a recurrent layer, or attention heads
    K  width of one head
    M  heads of keys and values
    L  places that have a learned vector
    F  width of the feed-forward layer
    G  stacked gates (4H for an LSTM)
    E  steps of one epoch
    N  characters, in the order of the text

Inside a scan over time T falls away: `x_BD`.
"""

import math
from collections.abc import Mapping
from typing import Any

Params = Mapping[str, Any]
"""A tree of arrays, keyed by full words (`embedding`, `output`, ...)."""

ModelState = Any
"""Whatever a model carries from one piece of text to the next; a tree of arrays."""


def bits(nats: float) -> float:
    """The same amount of information in bits: nats / ln 2."""
    return nats / math.log(2.0)
