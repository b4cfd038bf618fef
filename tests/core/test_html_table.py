"""Tables for notebooks: every value is text, whatever it holds."""

from html.parser import HTMLParser

from hypothesis import given
from hypothesis import strategies as st

from charlm_jax.core.html_table import html_table
from charlm_jax.core.visible_text import visible_line


class Cells(HTMLParser):
    """The cells of a table, row by row, and the tags that it has."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: set[str] = set()
        self.rows: list[list[str]] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert not attrs
        self.tags.add(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("th", "td"):
            self.rows[-1].append("")

    def handle_data(self, data: str) -> None:
        if self.rows:
            self.rows[-1][-1] += data


@given(st.lists(st.tuples(st.text(), st.text()), min_size=1))
def test_every_value_is_a_cell_of_printable_text(rows: list[tuple[str, str]]) -> None:
    found = Cells(html_table(rows, columns=["<name>", "&"], caption="<script>"))
    assert found.tags == {"table", "caption", "thead", "tr", "th", "td"}
    assert found.rows[0] == ["<name>", "&"]
    for given_cells, cells in zip(rows, found.rows[1:], strict=True):
        for value, cell in zip(given_cells, cells, strict=True):
            assert cell == visible_line(value)
