"""A page of results in one file, which asks nothing of the network."""

import base64
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from charlm_jax._version import __version__
from charlm_jax.core.errors import CharlmError, write_error
from charlm_jax.core.files import atomic_write, check_writable
from charlm_jax.report.html.markup import Markup, element, markup, table
from charlm_jax.report.html.stylesheet import style

_MARKER = "<!-- A page of charlm_jax:"
_MARKER_BYTES = 200  # of a file, in which it stands
_PNG = b"\x89PNG\r\n\x1a\n"


class Table(NamedTuple):
    """Rows of words; the first cell of each heads it."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str


class Picture(NamedTuple):
    """A figure.

    Attributes:
      png: the bytes of a PNG file.
      alt: what it shows, for those who cannot see it.
      caption: below it.
    """

    png: bytes
    alt: str
    caption: str = ""


Block = str | Table | Picture
"""What a section is made of; a `str` is a paragraph, and `Markup` is HTML already."""


class Section(NamedTuple):
    """A part of a page under a heading."""

    heading: str
    blocks: Sequence[Block]


def write_page(
    path: Path | str, *, title: str, lead: Sequence[Block] = (), sections: Sequence[Section]
) -> Path:
    """Write a page as a whole.

    Args:
      path: where to. A page that this function wrote is replaced, nothing else is.
      title: of the page.
      lead: what comes before the first section.
      sections: one after another.

    Raises:
      CharlmError: a file that is something else or cannot be written; a picture that is no PNG.
    """
    path = Path(path)
    words = _page(title, lead, sections).encode("utf-8")
    check_place(path)
    try:
        atomic_write(path, words)
    except OSError as error:
        raise write_error(path, error) from error
    return path


def check_place(path: Path) -> None:
    """See that a page can be written, or replaced, before anything is computed for it.

    Raises:
      CharlmError: it cannot, or there is something else than a page of `write_page`.
    """
    if "\0" in str(path):
        raise CharlmError(f"{str(path)!r} is not a path: it has a NUL byte")
    try:
        if path.is_dir():
            raise CharlmError(f"{path} is a folder: name a file in it")
        if os.path.lexists(path) and not _is_page(path):
            raise CharlmError(
                f"{path} is not a page that charlm wrote: move it away, or name another file"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        check_writable(path)
    except OSError as error:
        raise write_error(path, error) from error


def _is_page(path: Path) -> bool:
    if not path.is_file() or path.is_symlink():
        return False
    with path.open("rb") as file:
        return _MARKER.encode() in file.read(_MARKER_BYTES)


def _page(title: str, lead: Sequence[Block], sections: Sequence[Section]) -> Markup:
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="generator", content=f"charlm_jax {__version__}"),
        element("title", title),
        element("style", Markup(style())),
    )
    body = element(
        "body",
        element("header", element("h1", title), *map(_block, lead)),
        element("main", *map(_section, sections)),
    )
    marker = Markup(f"<!DOCTYPE html>\n{_MARKER} charlm may replace it. -->\n")
    return markup(marker, element("html", head, "\n", body, lang="en"), "\n")


def _section(section: Section) -> Markup:
    heading = element("h2", section.heading)
    return markup("\n", element("section", heading, *map(_block, section.blocks)))


def _block(block: Block) -> Markup:
    match block:
        case Markup():
            return block
        case str():
            return element("p", block)
        case Table(columns, rows, caption):
            return table(columns, rows, caption=caption)
    if not block.png.startswith(_PNG):
        raise CharlmError("a picture of a page must be the bytes of a PNG file")
    source = Markup("data:image/png;base64," + base64.b64encode(block.png).decode())
    image = element("img", src=source, alt=block.alt)
    caption = element("figcaption", block.caption) if block.caption else Markup("")
    return element("figure", image, caption)
