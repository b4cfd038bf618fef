"""Tables that a notebook shows: plain HTML, without styles, scripts or ids."""

import html
from collections.abc import Sequence

from charlm_jax.core.visible_text import visible_line


def html_table(
    rows: Sequence[Sequence[object]], *, columns: Sequence[str] = (), caption: str = ""
) -> str:
    """Return a table as HTML, with every value escaped.

    Args:
      rows: cells of each row; the first is the row's heading.
      columns: headings of the columns; none if empty.
      caption: text above the table; none if empty.

    >>> html_table([["loss", "a < b"]], caption="run")
    '<table><caption>run</caption><tr><th>loss</th><td>a &lt; b</td></tr></table>'
    """
    head = f"<caption>{_escape(caption)}</caption>" if caption else ""
    if columns:
        cells = "".join(f"<th>{_escape(column)}</th>" for column in columns)
        head += f"<thead><tr>{cells}</tr></thead>"
    return f"<table>{head}{''.join(map(_row, rows))}</table>"


def _row(cells: Sequence[object]) -> str:
    first, *others = map(_escape, cells)
    return f"<tr><th>{first}</th>{''.join(f'<td>{cell}</td>' for cell in others)}</tr>"


def _escape(value: object) -> str:
    return html.escape(visible_line(str(value)))
