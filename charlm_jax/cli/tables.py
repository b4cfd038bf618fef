"""Tables on standard output."""

from collections.abc import Iterable, Mapping, Sequence

from rich.cells import cell_len

from charlm_jax.cli.output import show
from charlm_jax.core.visible_text import visible_line


def print_table(columns: Mapping[str, str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows below headings, in columns as wide as their widest cell, two spaces apart.

    A row is one line: newlines and invisible characters of its cells are escaped everywhere.
    Lines are never wrapped or cut, whereas rich's tables fit themselves to the terminal's width.
    Importing rich's tables would also take a quarter of the time of `charlm runs`.

    Args:
      columns: alignment of each column, "left" or "right", by its heading.
      rows: one cell for each column.
    """
    lines = [[visible_line(cell) for cell in row] for row in (list(columns), *rows)]
    widths = [max(map(cell_len, cells)) for cells in zip(*lines, strict=True)]
    for line in lines:
        padded = []
        for cell, width, side in zip(line, widths, columns.values(), strict=True):
            space = " " * (width - cell_len(cell))
            padded.append(space + cell if side == "right" else cell + space)
        show("  ".join(padded).rstrip())
