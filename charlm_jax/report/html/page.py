"""Pages of results: self-contained HTML files that load nothing from the network."""

import base64
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from markupsafe import Markup

from charlm_jax._version import __version__
from charlm_jax.core.errors import CharlmError, write_error
from charlm_jax.core.files import atomic_write, check_writable, user_path
from charlm_jax.core.folders import PAGE, PAGE_MARK, own_file
from charlm_jax.core.visible_text import visible_text
from charlm_jax.report.html.rendering import render
from charlm_jax.report.palette import PAGE_SERIES, SURPRISE

_PNG = b"\x89PNG\r\n\x1a\n"


class Table(NamedTuple):
    """A table of text cells.

    Attributes:
      columns: headings.
      rows: cells of each row; the first is the row's heading.
      caption: text above the table.
      more_rows: rows of a second kind, in a softer colour.
      text_columns: number of leading columns that hold text, aligned to the left.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str
    more_rows: Sequence[Sequence[str]] = ()
    text_columns: int = 1


class Picture(NamedTuple):
    """A PNG picture with its caption.

    Attributes:
      png: bytes of a PNG file.
      alt: text alternative for screen readers.
      caption: text below it.
    """

    png: bytes
    alt: str
    caption: str = ""


PageBlock = str | Table | Picture
"""A part of a section; a `str` is a paragraph, except `Markup`, which is HTML."""


class Section(NamedTuple):
    """A part of a page under a heading."""

    heading: str
    blocks: Sequence[PageBlock]


def block_html(block: PageBlock) -> Markup:
    """Render a block.

    Raises:
      CharlmError: a table's rows and columns differ in number, or a picture is not a PNG.
    """
    match block:
        case Markup():
            return block
        case str():
            return Markup("<p>{}</p>").format(block)
        case Table():
            for row in (*block.rows, *block.more_rows):
                if len(row) != len(block.columns):
                    raise CharlmError(
                        f"a table of {len(block.columns)} columns has a row of {len(row)} cells"
                    )
            return render("blocks.html.j2", "table", table=block)
    if not block.png.startswith(_PNG):
        raise CharlmError("a picture of a page must be the bytes of a PNG file")
    png = base64.b64encode(block.png).decode()
    return render("blocks.html.j2", "picture", png=png, alt=block.alt, caption=block.caption)


def details(summary: str, *blocks: PageBlock, is_open: bool = False) -> Markup:
    """Render blocks that the reader can collapse."""
    body = [block_html(block) for block in blocks]
    return render("blocks.html.j2", "details", summary=summary, blocks=body, is_open=is_open)


def figure(caption: str, drawing: Markup) -> Markup:
    """Render a drawing with its caption above it."""
    return render("blocks.html.j2", "figure", caption=caption, drawing=drawing)


def write_page(
    path: Path | str,
    *,
    title: str,
    lead: Sequence[PageBlock] = (),
    sections: Sequence[Section],
) -> Path:
    """Write a page atomically.

    Args:
      path: file to write. Only a page that this function wrote is replaced.
      title: title of the page.
      lead: blocks before the first section.
      sections: sections in order.

    Raises:
      CharlmError: the file is something else or cannot be written, or a block cannot be rendered.
    """
    path = user_path(path)
    html = page_html(title, lead, sections)
    check_page_path(path)
    try:
        atomic_write(path, html.encode("utf-8"))
    except OSError as error:
        raise write_error(path, error) from error
    return path


def page_html(title: str, lead: Sequence[PageBlock], sections: Sequence[Section]) -> str:
    """Render a whole page.

    Args:
      title: title of the page.
      lead: blocks before the first section.
      sections: sections in order.

    Raises:
      CharlmError: a block cannot be rendered.
    """
    html = render(
        "page.html.j2",
        marker=PAGE_MARK,
        version=__version__,
        series=PAGE_SERIES,
        surprise=SURPRISE,
        title=title,
        lead=map(block_html, lead),
        sections=[(heading, map(block_html, blocks)) for heading, blocks in sections],
    )
    return visible_text(html)


def check_page_path(path: Path) -> None:
    """Check that a page can be written or replaced, before anything is computed for it.

    Raises:
      CharlmError: the path cannot be written, or the file is not a page of `write_page`.
    """
    if "\0" in str(path):
        raise CharlmError(f"{str(path)!r} is not a path: it has a NUL byte")
    try:
        if path.is_dir():
            raise CharlmError(f"{path} is a folder: give a file name")
        if os.path.lexists(path) and not is_page(path):
            raise CharlmError(
                f"{path} was not written by charlm: move it away or choose another file"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        check_writable(path)
    except OSError as error:
        raise write_error(path, error) from error


def is_page(path: Path) -> bool:
    """Return whether a file is a page of `write_page`."""
    return not path.is_symlink() and own_file(str(path)) == PAGE
