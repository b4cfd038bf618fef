"""The error for mistakes that a user can fix, and helpers that raise it."""

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

from charlm_jax.core.visible_text import visible_line


class CharlmError(ValueError):
    """A mistake that the user can fix.

    Its message is one line: what was wrong, which value, and what would be right. The command
    line prints it without a traceback and exits with status 2; a notebook sees a `ValueError`.
    """

    def __init__(self, message: str) -> None:
        super().__init__(visible_line(message))


class NotFinite(CharlmError):
    """Numbers that a model computed and that are not finite."""


def read_error(path: object, error: OSError) -> CharlmError:
    """Return the error for a path that cannot be read."""
    return CharlmError(f"cannot read {path}: {error.strerror or error}")


def write_error(path: object, error: OSError) -> CharlmError:
    """Return the error for a path that cannot be written to."""
    return CharlmError(f"cannot write to {path}: {error.strerror or error}")


def describe_exception(error: BaseException) -> str:
    """Return an exception's type and the first line of its message.

    >>> describe_exception(ValueError("not a number"))
    'ValueError: not a number'
    """
    first = str(error).strip().splitlines()[:1]
    return f"{type(error).__name__}: {first[0] if first else 'no message'}"


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory, of the host or of a device, does not suffice."""
    said = ("Out of memory", "RESOURCE_EXHAUSTED")  # by XLA, in errors of either class
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError | ValueError) and any(words in str(error) for words in said)
    )


Entry = TypeVar("Entry")


def lookup(table: Mapping[str, Entry], name: str, source: str) -> Entry:
    """Return the entry for a user-supplied name; an error for an unknown one lists the names.

    Args:
      table: entries by name.
      name: name to look up.
      source: origin of the name: a field such as `config.model.norm`, or an argument.
    """
    if name not in table:
        known = ", ".join(table)
        raise CharlmError(f"{source}={name!r} is not known: it must be one of {known}")
    return table[name]


def closest(word: str, known: Iterable[str]) -> str | None:
    """Return the known name that was probably meant, to suggest it in an error message.

    >>> closest("model.laers", ["model.layers", "optimizer.learning_rate"])
    'model.layers'
    >>> closest("model.learning_rate", ["model.layers", "optimizer.learning_rate"])
    'optimizer.learning_rate'
    >>> closest("--json", ["--to", "--out"]) is None
    True
    """
    names = list(known)
    same = same_leaf(word, names)
    if same is not None:
        return same
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.75)
    return close[0] if close else None


def same_leaf(word: str, known: Iterable[str]) -> str | None:
    """Return the first known name with the last dotted part of a word; None if there is none.

    >>> same_leaf("model.learning_rate", ["model.layers", "optimizer.learning_rate"])
    'optimizer.learning_rate'
    """
    last = word.rpartition(".")[2]
    return next((name for name in known if name.rpartition(".")[2] == last), None)
