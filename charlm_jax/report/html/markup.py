"""HTML by small functions: whatever is not HTML already is escaped, wherever it comes from."""

import html
import unicodedata
from collections.abc import Iterable, Sequence

_VOID = frozenset({"br", "img", "meta", "wbr"})

# Of the format characters, those that join letters and emoji belong to the text's look; the others
# would act upon the page (directions) or not be seen at all.
_JOINERS = "\u200c\u200d"


class Markup(str):
    """HTML. Other strings are text, and `element` escapes them."""

    __slots__ = ()


def escape(text: str) -> Markup:
    r"""Text as HTML, for a place between tags or in quotes.

    What HTML does not allow, or a reader could not see (control characters, directions, lone
    surrogates), is written as its code.

    >>> print(escape('<a title="x">\x07 & \u202e'))
    &lt;a title=&quot;x&quot;&gt;\x07 &amp; \u202e
    """
    if text.isascii() and text.isprintable():
        return Markup(html.escape(text))
    shown = (c if is_shown(c) else ascii(c)[1:-1] for c in text)
    return Markup(html.escape("".join(shown)))


def is_shown(character: str) -> bool:
    """Whether a character may stand in a page as it is."""
    if character.isprintable() or character in "\n\t" or character in _JOINERS:
        return True
    category, point = unicodedata.category(character), ord(character)
    is_noncharacter = point & 0xFFFE == 0xFFFE or 0xFDD0 <= point <= 0xFDEF
    return category == "Zs" or (category == "Cn" and not is_noncharacter)


def markup(*children: str) -> Markup:
    """One piece of HTML out of many; text among them is escaped."""
    return Markup("".join(x if isinstance(x, Markup) else escape(x) for x in children))


def element(tag: str, /, *children: str, **attributes: str | float | bool | None) -> Markup:
    """An element.

    Args:
      tag: its name.
      *children: HTML, or text, which is escaped.
      **attributes: an underscore in a name stands for a hyphen, and one at its end for nothing
        (`class_`). Numbers are written with two digits behind the point; True is an attribute
        without a value; False and None leave it out.

    >>> print(element("p", "a < b", class_="note"))
    <p class="note">a &lt; b</p>
    """
    words = [tag]
    for key, value in attributes.items():
        key = key.rstrip("_").replace("_", "-")
        if value is True:
            words.append(key)
        elif value is not None and value is not False:
            words.append(f'{key}="{value if isinstance(value, Markup) else _value(value)}"')
    start = f"<{' '.join(words)}>"
    if tag in _VOID:
        return Markup(start)
    return Markup(f"{start}{markup(*children)}</{tag}>")


def _value(value: str | float) -> str:
    return escape(value) if isinstance(value, str) else number(value)


def number(value: float) -> str:
    """A number for a drawing, in as few characters as two digits behind the point take.

    >>> number(1.5), number(2.0), number(-0.001), number(0.126)
    ('1.5', '2', '0', '0.13')
    """
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def table(
    columns: Sequence[str],
    *bodies: Iterable[Sequence[str]],
    caption: str,
    text_columns: int = 1,
) -> Markup:
    """A table in a box of its own, which scrolls where the screen is too narrow.

    Args:
      columns: headings.
      *bodies: rows, in groups; a row's first cell heads it.
      caption: above it.
      text_columns: so many of the first columns are words, aligned to the left.
    """
    looks = ["t" if n < text_columns else None for n in range(len(columns))]

    def row(first: str, *others: str) -> Markup:
        cells = (element("td", x, class_=c) for x, c in zip(others, looks[1:], strict=True))
        return element("tr", element("th", first, scope="row", class_="t"), *cells)

    heads = (element("th", x, scope="col", class_=c) for x, c in zip(columns, looks, strict=True))
    whole = element(
        "table",
        element("caption", element("span", caption)),
        element("thead", element("tr", *heads)),
        *(element("tbody", *(row(*cells) for cells in body)) for body in bodies),
    )
    return element("div", whole, class_="scroll", tabindex="0", role="region", aria_label=caption)


def details(summary: str, *children: str, is_open: bool = False) -> Markup:
    """What can be folded."""
    return element("details", element("summary", summary), *children, open=is_open)
