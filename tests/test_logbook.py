"""Rows survive a torn last line, and nothing else is forgiven."""

from pathlib import Path

import pytest

from charlm_jax.logbook import Logbook
from charlm_jax.types import CharlmError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "metrics.jsonl"


def test_rows_come_back_in_order(file: Path) -> None:
    book = Logbook(file)
    assert book.rows() == []
    for step in (1, 2, 3):
        book.append({"step": step, "loss_nats": 0.1 + 0.2})
    assert book.rows() == [{"step": step, "loss_nats": 0.1 + 0.2} for step in (1, 2, 3)]


def test_going_on_drops_later_rows_and_a_torn_line(file: Path) -> None:
    book = Logbook(file)
    for step in (1, 2, 3):
        book.append({"step": step})
    with file.open("ab") as stream:
        stream.write(b'{"step": 4, "loss')
    assert len(book.rows()) == 3
    book.keep_up_to(2)
    book.append({"step": 3})
    assert file.read_text() == '{"step": 1}\n{"step": 2}\n{"step": 3}\n'


@pytest.mark.parametrize("line", [b"{torn", b"3", b"{}", b'{"step": "x"}', b"\xff", b""])
def test_a_line_that_is_no_row_is_an_error_and_stays(file: Path, line: bytes) -> None:
    data = b'{"step": 1}\n' + line + b'\n{"step": 2}\n'
    file.write_bytes(data)
    with pytest.raises(CharlmError, match="line 2, is not a row"):
        Logbook(file).keep_up_to(2)
    assert file.read_bytes() == data
