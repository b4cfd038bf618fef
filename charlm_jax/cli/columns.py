"""Layout of samples while they are generated: one below the other, or side by side in columns.

A single text is printed as it arrives. Columns are printed line by line, each line once it is
complete in every column. The output does not depend on how the texts are split into chunks.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from rich.cells import cell_len

from charlm_jax.core.visible_text import visible_line
from charlm_jax.sampling.stop_strings import Chunk

LEAST_WIDTH = 24  # minimum column width in terminal cells: three columns fit in 80
_GAP = " | "
_TAB = "    "


class Sheet(Protocol):
    """Layout of a group of texts that grow at the same time."""

    rows: Sequence[int]
    """Indices of the texts."""

    def begin(self) -> str:
        """Return the lines above the texts."""

    def add(self, pieces: Sequence[Chunk]) -> str:
        """Return the output that the new pieces complete."""

    def end(self) -> str:
        """Return the lines below the texts."""


def lay_out(drawn: Iterable[Sequence[Chunk]], sheets: Sequence[Sheet]) -> Iterator[str]:
    """Lay out texts sheet by sheet; text of later sheets is buffered until their turn.

    Args:
      drawn: chunks of all texts, one item per step, such as those from `apply_stop_strings`.
      sheets: partition of the texts.

    Yields:
      The next text to print.
    """
    waiting = [Chunk("")] * sum(len(sheet.rows) for sheet in sheets)
    turn = 0
    yield sheets[turn].begin()
    for pieces in drawn:
        waiting = [
            new._replace(text=old.text + new.text) for old, new in zip(waiting, pieces, strict=True)
        ]
        while turn < len(sheets):
            sheet = sheets[turn]
            yield sheet.add([waiting[row] for row in sheet.rows])
            for row in sheet.rows:
                waiting[row] = waiting[row]._replace(text="")
            if not all(waiting[row].has_ended for row in sheet.rows):
                break
            turn += 1
            yield sheet.end() + (sheets[turn].begin() if turn < len(sheets) else "")


class Plain:
    """A single unwrapped text, below its heading and its prompt."""

    def __init__(self, row: int, *, above: str, below: str) -> None:
        self.rows: Sequence[int] = [row]
        self._above, self._below = above, below

    def begin(self) -> str:
        return self._above

    def add(self, pieces: Sequence[Chunk]) -> str:
        return pieces[0].text

    def end(self) -> str:
        return self._below


class Columns:
    """Texts side by side, wrapped between words to columns of equal width.

    Args:
      rows: indices of the texts, from the left.
      title: line above all columns.
      headings: column headings.
      prompt: beginning of every text.
      width: column width in terminal cells, at least `LEAST_WIDTH`.
    """

    def __init__(
        self, rows: Sequence[int], *, title: str, headings: Sequence[str], prompt: str, width: int
    ) -> None:
        self.rows = rows
        self._title, self._headings, self._width = title, headings, width
        self._lines: list[list[str]] = [[] for _ in rows]  # complete, not yet printed
        self._rests = [prompt] * len(rows)

    def begin(self) -> str:
        columns = [list(wrap(heading, self._width)) for heading in self._headings]
        deep = max(map(len, columns))
        padded = [lines + [""] * (deep - len(lines)) for lines in columns]
        rule = ["-" * self._width] * len(columns)
        return f"{self._title}\n" + "".join(map(self._row, [*zip(*padded, strict=True), rule]))

    def add(self, pieces: Sequence[Chunk]) -> str:
        for column, piece in enumerate(pieces):
            self._grow(column, piece)
        ready = [len(lines) for lines in self._lines]
        growing = [n for n, piece in zip(ready, pieces, strict=True) if not piece.has_ended]
        count = min(growing) if growing else max(ready)
        rows = [
            [lines[number] if number < len(lines) else "" for lines in self._lines]
            for number in range(count)
        ]
        self._lines = [lines[count:] for lines in self._lines]
        return "".join(map(self._row, rows))

    def end(self) -> str:
        return "\n"

    def _grow(self, column: int, piece: Chunk) -> None:
        text = self._rests[column] + piece.text
        while end := _line_end(text, self._width):
            self._lines[column].append(text[:end])
            text = text[end:]
        if piece.has_ended and text:
            self._lines[column].append(text)
            text = ""
        self._rests[column] = text

    def _row(self, cells: Sequence[str]) -> str:
        shown = [_shown(cell.rstrip(" \n")) for cell in cells]
        padded = [text + " " * (self._width - _cells(text)) for text in shown]
        return _GAP.join(padded).rstrip() + "\n"


def column_width(columns: int, terminal_width: int) -> int:
    """Return the width of each column; below `LEAST_WIDTH` there are too many columns."""
    return (terminal_width - len(_GAP) * (columns - 1)) // columns


def wrap(text: str, width: int) -> Iterator[str]:
    r"""Yield the lines of a text wrapped to a column; joined, they equal the text.

    A line ends after a newline, after spaces, which may exceed the width, or inside a word that is
    longer than a line.

    >>> list(wrap("to be, or not\nto be", 6))
    ['to be, ', 'or not\n', 'to be']

    Args:
      text: any text.
      width: column width in terminal cells, at least that of the widest character.
    """
    while end := _line_end(text, width):
        yield text[:end]
        text = text[end:]
    if text:
        yield text


def _line_end(text: str, width: int) -> int:
    """Return the length of the first line in characters; 0 if more text could lengthen it."""
    cells, words = 0, 0
    for index, character in enumerate(text):
        if character == "\n":
            return index + 1
        if character == " ":
            cells, words = cells + 1, index + 1
            continue
        cells += _cells(_shown(character))
        if cells > width:
            return words or max(index, 1)
    return 0


def _shown(text: str) -> str:
    """Return a text that is safe to print: tabs as spaces, control characters escaped."""
    return "".join(_TAB if character == "\t" else visible_line(character) for character in text)


def _cells(text: str) -> int:
    """Return the width in cells, summed over characters as in `_line_end`."""
    return sum(map(cell_len, text))
