"""Rows survive a torn last line, and nothing else is forgiven."""

import json
from pathlib import Path

import pytest

from charlm_jax.core.errors import CharlmError
from charlm_jax.storage.metrics_log import MetricsLog, MetricsRow, metrics_row


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "metrics.jsonl"


def _row(step: int) -> MetricsRow:
    return metrics_row(
        step=step,
        epoch=1,
        split="train",
        scope="step",
        weights="raw",
        loss_nats=0.1 + 0.2,
        gradient_norm=1.25,
        learning_rate=0.01,
        state_hash="0" * 16,
        chars_per_second=1000.0,
        seconds=1.0,
    )


def _lines(*steps: int) -> str:
    return "".join(json.dumps(_row(step)) + "\n" for step in steps)


def test_rows_come_back_in_order(file: Path) -> None:
    book = MetricsLog(file)
    assert book.rows() == []
    for step in (1, 2, 3):
        book.append(_row(step))
    assert book.rows() == [_row(step) for step in (1, 2, 3)]


def test_going_on_drops_later_rows_and_a_torn_line(file: Path) -> None:
    book = MetricsLog(file)
    for step in (1, 2, 3):
        book.append(_row(step))
    with file.open("ab") as stream:
        stream.write(b'{"step": 4, "loss')
    assert len(book.rows()) == 3
    book.truncate_after(2)
    book.append(_row(3))
    assert file.read_text() == _lines(1, 2, 3)


def test_rows_of_earlier_versions_have_no_gradient_norm(file: Path) -> None:
    old = {name: value for name, value in _row(1).items() if name != "gradient_norm"}
    file.write_text(json.dumps(old) + "\n" + _lines(2))
    assert MetricsLog(file).rows() == [old, _row(2)]


@pytest.mark.parametrize("count", [0, 1, 3, 200])
def test_the_latest_rows_are_the_last_ones_that_are_whole(file: Path, count: int) -> None:
    book = MetricsLog(file)
    assert book.latest() == []
    file.write_text(_lines(*range(1, count + 1)) + '{"step": 4, "lo')
    rows, latest = book.rows(), book.latest()
    assert len(rows) == count and len(latest) == min(count, 4096 // len(_lines(100)))
    assert latest == rows[len(rows) - len(latest) :]
    file.write_text(_lines(*range(1, count + 1)) + "{}\n" + _lines(5))
    with pytest.raises(CharlmError, match=f"line {count + 1}, is not a valid metrics row"):
        book.latest()


BROKEN = {
    "torn": "{torn",
    "number": "3",
    "empty object": "{}",
    "step": json.dumps({**_row(2), "step": "x"}),
    "no weights": json.dumps({key: x for key, x in _row(2).items() if key != "weights"}),
    "no norm": json.dumps({**_row(2), "gradient_norm": None}),
    "no hash": json.dumps({**_row(2), "state_hash": None}),
    "deep": "[" * 100_000,
    "nothing": "",
    "surrogate": "\udcff",
}


@pytest.mark.parametrize("line", BROKEN.values(), ids=BROKEN)
def test_a_line_that_is_no_row_is_an_error_and_stays(file: Path, line: str) -> None:
    data = (_lines(1) + line + "\n" + _lines(2)).encode(errors="surrogateescape")
    file.write_bytes(data)
    with pytest.raises(CharlmError, match="line 2, is not a valid metrics row"):
        MetricsLog(file).truncate_after(2)
    assert file.read_bytes() == data
