"""Tables on standard output."""

from collections.abc import Iterable, Mapping, Sequence

from rich.cells import cell_len


def print_table(columns: Mapping[str, str], rows: Iterable[Sequence[str]]) -> None:
    """Prints rows below headings, in columns as wide as their widest cell, two spaces apart.

    Lines are never wrapped or cut, whereas rich's tables fit themselves to the terminal's width.
    Importing rich's tables would also take a quarter of the time of `charlm runs`.

    Args:
      columns: alignment of each column, "left" or "right", by its heading.
      rows: one cell for each column.
    """
    lines = [list(columns), *map(list, rows)]
    widths = [max(map(cell_len, cells)) for cells in zip(*lines, strict=True)]
    for line in lines:
        padded = []
        for cell, width, side in zip(line, widths, columns.values(), strict=True):
            space = " " * (width - cell_len(cell))
            padded.append(space + cell if side == "right" else cell + space)
        print("  ".join(padded).rstrip())
