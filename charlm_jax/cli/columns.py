"""How drawn texts are laid out for a reader: one below the other, or side by side in columns.

Either way they appear while they are drawn: a text as it comes, columns line by line, each as soon
as it is full in all of them. What is printed does not depend on the pieces in which it was drawn.
"""

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from charlm_jax.core.errors import escape_control_characters
from charlm_jax.sampling.stop_strings import Chunk

LEAST_WIDTH = 24  # of a column, in cells of the terminal: three fit beside one another in 80
_GAP = " | "
_TAB = "    "


class Sheet(Protocol):
    """What is printed of some texts that grow at the same time."""

    rows: Sequence[int]
    """Which of all texts they are."""

    def begin(self) -> str:
        """What stands above them."""

    def add(self, pieces: Sequence[Chunk]) -> str:
        """What can be printed now that they have grown, and not before."""

    def end(self) -> str:
        """What stands below them."""


def lay_out(drawn: Iterable[Sequence[Chunk]], sheets: Sequence[Sheet]) -> Iterator[str]:
    """Lay out texts sheet after sheet; what belongs to a later one waits for its turn.

    Args:
      drawn: each item is the next piece of every text, as from `cut_texts`.
      sheets: every text has its place in one of them.

    Yields:
      What is printed next.
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
    """A text as it is, below its heading and its prompt."""

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
      rows: which texts, from the left.
      title: a line above all of them.
      headings: of the columns.
      prompt: what every text begins with.
      width: of a column, in cells of the terminal; at least `LEAST_WIDTH`.
    """

    def __init__(
        self, rows: Sequence[int], *, title: str, headings: Sequence[str], prompt: str, width: int
    ) -> None:
        self.rows = rows
        self._title, self._headings, self._width = title, headings, width
        self._lines: list[list[str]] = [[] for _ in rows]  # complete, and not yet printed
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
    """The width of each of so many columns; below `LEAST_WIDTH` they are too many."""
    return (terminal_width - len(_GAP) * (columns - 1)) // columns


def wrap(text: str, width: int) -> Iterator[str]:
    r"""The lines of a text in a column. Joined they are the text: nothing is left out or added.

    A line ends behind a newline, or behind spaces, which may stick out, or where a word is longer
    than a line, within it.

    >>> list(wrap("to be, or not\nto be", 6))
    ['to be, ', 'or not\n', 'to be']

    Args:
      text: any.
      width: in cells of the terminal, at least that of the widest character.
    """
    while end := _line_end(text, width):
        yield text[:end]
        text = text[end:]
    if text:
        yield text


def _line_end(text: str, width: int) -> int:
    """How many characters the first line has; 0 where more text could still lengthen it."""
    cells, words = 0, 0
    for place, character in enumerate(text):
        if character == "\n":
            return place + 1
        if character == " ":
            cells, words = cells + 1, place + 1
            continue
        cells += _cells(_shown(character))
        if cells > width:
            return words or max(place, 1)
    return 0


def _shown(text: str) -> str:
    """A text as a terminal can show it: a tab is spaces, and nothing moves the cursor."""
    return "".join(
        _TAB if character == "\t" else escape_control_characters(character) for character in text
    )


def _cells(text: str) -> int:
    """How many cells of a terminal a text takes: East Asian characters two, accents none."""
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    marks = sum(unicodedata.category(character) in ("Mn", "Me") for character in text)
    return len(text) + wide - marks
