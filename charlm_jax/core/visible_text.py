"""The characters of a text that a reader can see, and escape codes for all others.

The one rule for terminals, error messages, tables and HTML pages. Letters, marks and spaces of any
script are shown unchanged, and so are the format characters that belong to words and emoji. Escaped
are control characters (which include the beginning of terminal commands), changes of the text's
direction, other invisible format characters, line and paragraph separators, characters for private
use, lone surrogates and noncharacters.
"""

import re
import unicodedata

# Format characters (Cf) that are part of words: joiners, and signs that precede numbers in Arabic,
# Syriac and Kaithi (Unicode's Prepended_Concatenation_Mark).
_OF_WORDS = "\u200c\u200d" + (
    "\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd"
)


def visible_text(text: str) -> str:
    r"""Return a text whose newlines and tabs are kept and whose invisible characters are escaped.

    >>> print(visible_text("a\x07\u202eb"))
    a\x07\u202eb
    """
    return re.sub(r"[^\n\t -~]", lambda match: _visible(match[0]), text)


def visible_line(text: str) -> str:
    r"""Return a text on one line: newlines and tabs are escaped too.

    >>> print(visible_line("two\nlines, naïve"))
    two\nlines, naïve
    """
    return re.sub(r"[^ -~]", lambda match: _visible(match[0]), text)


def _visible(character: str) -> str:
    category, point = unicodedata.category(character), ord(character)
    is_noncharacter = point & 0xFFFE == 0xFFFE or 0xFDD0 <= point <= 0xFDEF
    is_shown = (
        character.isprintable()
        or character in _OF_WORDS
        or category == "Zs"
        or (category == "Cn" and not is_noncharacter)  # newer than this Python's tables
    )
    return character if is_shown else ascii(character)[1:-1]
