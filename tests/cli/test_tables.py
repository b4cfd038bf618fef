"""Tables on standard output."""

import pytest
from rich.cells import cell_len

from charlm_jax.cli.tables import print_table


def test_columns_are_aligned_and_nothing_is_cut_or_coloured(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setenv("FORCE_COLOR", "1")
    path = "runs/" + "x" * 200
    columns = {"run": "left", "nats": "right", "corpus": "left"}
    print_table(columns, [(path, "1.5", "a [b] text"), ("中", "12.25", "")])
    head, *lines = capsys.readouterr().out.splitlines()
    assert head == "run" + " " * 202 + "   nats  corpus"
    assert lines == [f"{path}    1.5  a [b] text", "中" + " " * 203 + "  12.25"]
    assert [line.split() for line in lines] == [[path, "1.5", "a", "[b]", "text"], ["中", "12.25"]]
    assert cell_len(lines[1]) == cell_len(path) + 7


def test_a_table_without_rows_is_its_headings(capsys: pytest.CaptureFixture[str]) -> None:
    print_table({"a": "left", "b": "right"}, [])
    assert capsys.readouterr().out == "a  b\n"


def test_a_row_with_a_cell_too_many_is_an_error() -> None:
    with pytest.raises(ValueError):
        print_table({"a": "left"}, [("1", "2")])
