"""Progress in a notebook: a bar while it trains, and only steps and losses in the end."""

import re
from pathlib import Path

import pytest

import charlm_jax
from charlm_jax.core.notebook import CellOutput
from charlm_jax.storage.metrics_log import MetricsRow, metrics_row
from charlm_jax.training.progress_bar import LogProgress, NotebookView, training_view
from tests.conftest import FakeNotebook, make_tiny_config


def row(
    step: int, loss_nats: float, *, split: str, weights: str = "raw", scope: str = "step"
) -> MetricsRow:
    return metrics_row(
        step=step,
        epoch=1,
        split=split,
        scope=scope,
        weights=weights,
        loss_nats=loss_nats,
        gradient_norm=1.5 if split == "train" else None,
        learning_rate=1e-3,
        state_hash="",
        chars_per_second=1234.0,
        seconds=77.0,
    )


class Clock:
    """A clock that goes on when it is told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("time.monotonic", clock)
    return clock


class Output:
    """The last output, in place of a notebook's."""

    def __call__(self, html: str, text: str, *, at_once: bool = False) -> None:
        self.html, self.text = html, text


def cells(html: str) -> list[list[str]]:
    rows = re.findall(r"<tr>(.*?)</tr>", html)
    return [re.findall(r"<t[hd]>(.*?)</t[hd]>", row) for row in rows]


def test_the_bar_has_step_loss_speed_and_time_left(clock: Clock) -> None:
    output = Output()
    view = NotebookView(output)
    view.begin(10, 1010)
    assert 'value="10" max="1010"' in output.html and "compiling" in output.html
    clock.now = 100.0  # the compilation, which the time left must not count
    view.advance(110, 2.5, 4321.0)
    assert "left" not in output.html
    clock.now = 110.0
    view.advance(210, 2.25, 4321.0)
    assert 'value="210" max="1010"' in output.html
    assert "2.250 nats, 4,321 characters/s, 1:20 left" in output.html  # 800 steps of a tenth
    view.note("a <note>")
    assert "a &lt;note&gt;" in output.html


def test_evaluations_are_rows_of_a_table() -> None:
    output = Output()
    view = NotebookView(output)
    view.begin(0, 20)
    view.row(row(10, 3.0, split="train"), "")
    assert "<table>" not in output.html
    view.row(row(10, 3.5, split="valid"), "")
    view.row(row(10, 3.25, split="valid", weights="average"), "best")
    view.row(row(20, 2.0, split="valid"), "")
    assert cells(output.html) == [
        ["step", "training loss", "held-out loss", "of averaged weights"],
        ["10", "3.0000", "3.5000", "3.2500"],
        ["20", "3.0000", "2.0000", ""],
    ]
    view.row(row(30, 4.0, split="valid"), "no better since step 10")
    assert cells(output.html)[0][-1] == "" and cells(output.html)[-3:] == [
        ["10", "3.0000", "3.5000", "3.2500", "best"],
        ["20", "3.0000", "2.0000", "", ""],
        ["30", "3.0000", "4.0000", "", "no better since step 10"],
    ]
    for step in range(30, 1000):
        view.row(row(step, 1.0, split="valid"), "")
    assert len(cells(output.html)) == 21 and cells(output.html)[-1][0] == "999"


def test_an_epochs_mean_is_not_shown_among_those_of_fewer_updates() -> None:
    output = Output()
    view = NotebookView(output)
    view.begin(0, 20)
    for scope, step, loss in (("step", 10, 3.0), ("step", 19, 2.0), ("epoch", 19, 4.0)):
        view.row(row(step, loss, split="train", scope=scope), "")
        if (scope, step) != ("step", 19):
            view.row(row(step, 1.0, split="valid", scope=scope), "")
    assert cells(output.html)[1:] == [["10", "3.0000", "1.0000"], ["19", "2.0000", "1.0000"]]


def test_the_latest_sample_is_below_and_escaped() -> None:
    output = Output()
    view = NotebookView(output)
    view.begin(0, 10)
    view.sample(2, 1.5, "<b>first")
    view.sample(4, 1.5, "<b>second")
    html, plain = output.html, output.text
    assert (
        html.endswith("<pre>step 4, scale 1.5:\n    &lt;b&gt;second\n</pre>")
        and "first" not in html
    )
    assert plain.endswith("step 4, scale 1.5:\n    <b>second\n")


def test_nothing_is_left_that_changes_from_run_to_run(
    notebook: FakeNotebook, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outputs = []
    for name in ("one", "two"):
        run = charlm_jax.train(make_tiny_config(), tmp_path / name)
        outputs.append(notebook.output)
    assert outputs[0] == outputs[1] and notebook.outputs == 2
    html = outputs[0]["text/html"]
    assert html.startswith("step 38 of 38<table>") and "progress" not in html
    assert cells(html)[-1] == ["38", *(f"{x:.4f}" for x in last_losses(run))]
    assert capsys.readouterr().out == ""


def last_losses(run: charlm_jax.Run) -> list[float]:
    from charlm_jax.comparison.run_facts import read_run_facts
    from charlm_jax.storage.metrics_log import MetricsLog

    rows = MetricsLog(run.workdir / "metrics.jsonl").rows()
    (epoch,) = (x for x in rows if (x["step"], x["scope"], x["split"]) == (38, "epoch", "train"))
    return [epoch["loss_nats"], read_run_facts(run).held_out["raw"][-1][1]]


def test_a_stop_leaves_the_step_that_was_reached(notebook: FakeNotebook) -> None:
    with pytest.raises(KeyboardInterrupt), training_view() as view:
        view.begin(0, 100)
        view.advance(20, 2.0, 1000.0)
        raise KeyboardInterrupt
    assert notebook.output["text/html"] == "step 20 of 100"


def test_a_run_that_is_done_shows_nothing(notebook: FakeNotebook) -> None:
    with training_view():
        pass
    assert notebook.outputs == 0


def test_without_a_notebook_or_a_terminal_there_are_lines() -> None:
    with training_view() as view:
        assert isinstance(view, LogProgress)


def test_a_notebook_view_is_what_an_output_takes() -> None:
    output: CellOutput = Output()
    NotebookView(output).end()
    assert not hasattr(output, "html")


def test_lines_come_by_time_and_not_by_epoch(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of epochs that last an eighth of a second: losses every 10 s, evaluations every 2 s."""
    view = LogProgress()
    view.begin(0, 1000)
    for step in range(1, 1001):
        clock.now = step / 8
        for split in ("train", "valid"):
            view.row(row(step, 2.0, split=split), "")
            if split == "valid":
                view.row(row(step, 2.0, split=split, weights="average"), "best")
    lines = capsys.readouterr().out.splitlines()
    steps = {
        split: [int(line.split()[3]) for line in lines if f" {split} " in line]
        for split in ("train", "valid", "avg'd")
    }
    assert steps["train"] == [1, *range(81, 1001, 80)]
    assert steps["valid"] == [1, *range(17, 1001, 16), 1000]  # the last in any case
    assert steps["avg'd"] == steps["valid"]
    assert all(line.endswith("best") == ("avg'd" in line) for line in lines)


def test_lines_have_the_time_left(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    view = LogProgress()
    view.begin(10, 1010)
    clock.now = 100.0  # the compilation, which the time left must not count
    view.advance(110, 2.5, 4321.0)
    view.row(row(110, 2.5, split="train"), "")
    clock.now = 110.0
    view.advance(210, 2.25, 4321.0)
    view.row(row(210, 2.5, split="train"), "")
    view.row(row(210, 2.5, split="valid"), "no better since step 110")
    lines = capsys.readouterr().out.splitlines()
    assert "left" not in lines[0]
    assert lines[1].endswith("       77 s  1:20 left")
    assert lines[2].endswith("       77 s  1:20 left  no better since step 110")
