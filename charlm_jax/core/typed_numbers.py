"""Numbers in text that a person typed or a file holds."""

import re

# Python refuses to convert more than 4,300 digits; no count here has more than eighteen.
_WHOLE_NUMBER = re.compile("[0-9]{1,18}")


def parse_whole_number(text: str) -> int | None:
    """Return the number that the text's digits are, or None if it is anything else.

    >>> parse_whole_number("40"), parse_whole_number("-1"), parse_whole_number("9" * 5000)
    (40, None, None)
    """
    return int(text) if _WHOLE_NUMBER.fullmatch(text) else None
