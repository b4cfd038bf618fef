r"""Text typed on the command line: one rule for prompts, stop strings, replacements and texts.

`\n` is a newline, `\t` a tab and `\\` a backslash; any other character after a backslash is an
error. Text of a file or of standard input has no escapes.
"""

import argparse
import re

from charlm_jax.core.errors import CharlmError

ESCAPES_HELP = "\\n is a newline, \\t a tab, \\\\ a backslash"

_ESCAPES = {r"\n": "\n", r"\t": "\t", r"\\": "\\"}


def unescape(text: str) -> str:
    r"""Return the text that was meant by what was typed.

    >>> unescape(r"end\n")
    'end\n'

    Raises:
      CharlmError: another character, or none, follows a backslash.
    """

    def character(escape: re.Match[str]) -> str:
        if escape[0] not in _ESCAPES:
            raise CharlmError(
                f"{escape[0]} is not an escape: a backslash must be followed by n (newline), "
                f"t (tab) or another backslash (\\\\ is one backslash)"
            )
        return _ESCAPES[escape[0]]

    return re.sub(r"\\.?", character, text, flags=re.DOTALL)


def typed_text(text: str) -> str:
    """Return the text of a flag; the type of such flags for `add_argument`."""
    try:
        return unescape(text)
    except CharlmError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def needs_escapes(text: str) -> bool:
    r"""Return whether a text cannot be seen as it is: it has a newline, a tab, a backslash, ...

    >>> needs_escapes("two\nlines"), needs_escapes("naïve")
    (True, False)
    """
    return "\\" in repr(text.replace("'", ""))  # both quotes in a text would be escaped too
