"""Jinja templates of pages; every value is escaped as text, unless it is `Markup`."""

import re
import unicodedata

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

# Format characters that join letters and emoji are part of the text. All others would change the
# page (text direction) or be invisible.
_JOINERS = "\u200c\u200d"


def render(template: str, macro: str | None = None, /, **values: object) -> Markup:
    """Render a file of `templates/`, or one of its macros."""
    loaded = _ENVIRONMENT.get_template(template)
    if macro is None:
        return Markup(loaded.render(**values))
    return Markup(getattr(loaded.module, macro)(**values))


def format_coordinate(value: float) -> str:
    """Format a number for a drawing, with up to two decimals.

    >>> format_coordinate(1.5), format_coordinate(-0.001), format_coordinate(0.126)
    ('1.5', '0', '0.13')
    """
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def show_invisible(text: str) -> str:
    r"""Replace characters that HTML forbids or that are invisible by their escape codes.

    These are control characters, text directions and lone surrogates.
    `core.errors.escape_control_characters` also replaces newlines, joiners and spaces other than
    " ", which a page shows unchanged.

    >>> print(show_invisible("a\x07\u202eb"))
    a\x07\u202eb
    """
    return re.sub(r"[^\n\t -~]", lambda match: _visible(match[0]), text)


def _visible(character: str) -> str:
    category, point = unicodedata.category(character), ord(character)
    is_noncharacter = point & 0xFFFE == 0xFFFE or 0xFDD0 <= point <= 0xFDEF
    is_shown = (
        character.isprintable()
        or character in _JOINERS
        or category == "Zs"
        or (category == "Cn" and not is_noncharacter)
    )
    return character if is_shown else ascii(character)[1:-1]


_ENVIRONMENT = Environment(
    loader=PackageLoader(__package__),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_ENVIRONMENT.filters["coordinate"] = format_coordinate
