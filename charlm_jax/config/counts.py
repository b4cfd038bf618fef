"""Sizes of the parts of a text, as a person types them: `90M/5M/5M`."""

import re
from fractions import Fraction

from charlm_jax.core.errors import CharlmError

_UNITS = {"": 1, "K": 1_000, "M": 1_000_000}
_COUNT = re.compile(
    r"(?P<number>(\d{1,3}([,_]\d{3}){1,9}|\d{1,30})(\.\d{1,30})?)(?P<unit>[KM]?)",
    re.IGNORECASE | re.ASCII,
)
_REST = "rest"


def parse_counts(text: str) -> tuple[int | None, ...]:
    """Parse the sizes of train, valid and, if there is a third, test.

    Args:
      text: two or three counts separated by slashes; K is 1,000 and M is 1,000,000. One of them may
        be `rest`, whatever the others leave.

    Returns:
      The counts; None for the rest.

    Raises:
      CharlmError: the text is something else, or a count is zero or not a whole number.

    >>> parse_counts("90M/5M/5M"), parse_counts("rest/50K")
    ((90000000, 5000000, 5000000), (None, 50000))
    """
    counts = tuple(_parse_count(item.strip(), text) for item in text.split("/"))
    if len(counts) not in (2, 3):
        raise _refusal(text, f"it has {len(counts)} {'count' if len(counts) == 1 else 'counts'}")
    if counts.count(None) > 1:
        raise _refusal(text, "only one count may be the rest")
    return counts


def _parse_count(item: str, text: str) -> int | None:
    if item.lower() == _REST:
        return None
    match = _COUNT.fullmatch(item)
    if match is None:
        hint = " (decimals follow a point)" if "," in item else ""
        raise _refusal(text, f"{item!r} is not a count{hint}")
    count = Fraction(re.sub("[,_]", "", match["number"])) * _UNITS[match["unit"].upper()]
    if count < 1 or count.denominator != 1:
        raise _refusal(text, f"{item!r} is not a whole number of characters, at least 1")
    return int(count)


def _refusal(text: str, what: str) -> CharlmError:
    return CharlmError(
        f"config.split.counts={text!r} is not allowed: {what}; write train/valid or "
        f"train/valid/test, such as 90M/5M/5M or rest/50K"
    )
