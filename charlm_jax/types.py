"""Names shared by every module: the dimension letters and the one error that a person can mend.

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
from typing import Any, TypeVar

Params = Mapping[str, Any]
"""A tree of arrays, keyed by full words (`embedding`, `output`, ...)."""

ModelState = Any
"""Whatever a model carries from one piece of text to the next; a tree of arrays."""


class CharlmError(ValueError):
    """A mistake that the user can mend.

    Its message is one line: what was wrong, which value, and what would be right. The command
    line prints it without a traceback and exits with status 2; a notebook sees a `ValueError`.
    """

    def __init__(self, message: str) -> None:
        super().__init__(visible(message))


def visible(text: str) -> str:
    r"""The same in one line, with whatever a terminal would act upon made visible.

    >>> print(visible("two\nlines, naïve"))
    two\nlines, naïve
    """
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def cannot_write(path: object, error: OSError) -> CharlmError:
    """The error of a place that cannot be written to."""
    return CharlmError(f"cannot write to {path}: {error.strerror or error}")


def bits(nats: float) -> float:
    """The same amount of information in bits: nats / ln 2."""
    return nats / math.log(2.0)


Entry = TypeVar("Entry")


def look_up(table: Mapping[str, Entry], name: str, source: str) -> Entry:
    """The table's entry for a name that somebody gave, or a `CharlmError` that lists the names.

    Args:
      table: entries by their names.
      name: of one of them.
      source: what gave the name: a field such as `config.model.norm`, or an argument.
    """
    if name not in table:
        known = ", ".join(table)
        raise CharlmError(f"{source}={name!r} is not known: it must be one of {known}")
    return table[name]
