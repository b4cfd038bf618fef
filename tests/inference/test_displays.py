"""What a notebook shows of a run and of its results."""

import dataclasses
import math
from pathlib import Path

import jax
import pytest

import charlm_jax
from charlm_jax.comparison.compare import compare
from charlm_jax.core.errors import CharlmError
from charlm_jax.data.vocabulary import Vocabulary
from charlm_jax.evaluation import Window
from charlm_jax.evaluation.bootstrap import Difference, Interval
from charlm_jax.inference.trained_model import TrainedModel
from tests.core.test_html_table import Cells


def table(shown: object) -> dict[str, str]:
    """The rows of two cells that a notebook shows; attributes in the HTML fail."""
    return dict(Cells(shown._repr_html_()).rows)  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def run(seeded_runs: Path) -> charlm_jax.Run:
    return charlm_jax.load_run(seeded_runs / "size_6_seed_1")


def test_a_run_is_described_without_its_weights(run: charlm_jax.Run) -> None:
    loss_nats = run.evaluate(Window(run.config.evaluation_context))[0].loss_nats
    assert table(run) == {
        "run": str(run.workdir),
        "text": run.config.data.corpus,
        "layers": "lstm",
        "parameters": str(sum(x.size for x in jax.tree.leaves(run.params))),
        "checkpoint": "10",
        "weights": "raw",
        "held-out loss in training": f"{loss_nats:.4f} nats per character",
    }
    assert repr(run) == f"Run({str(run.workdir)!r}, checkpoint=10, weights='raw')"


def test_nothing_is_computed_or_loaded_for_a_display(
    run: charlm_jax.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("dataset", "evaluate"):
        monkeypatch.delattr(charlm_jax.Run, name)
    monkeypatch.delattr(TrainedModel, "_scorer")
    with jax.transfer_guard("disallow"):
        assert "held-out loss in training" in table(run) and repr(run)


def test_a_display_does_not_fail_where_the_metrics_are_damaged(
    run: charlm_jax.Run, tmp_path: Path
) -> None:
    (tmp_path / "metrics.jsonl").write_text("nonsense\n")
    for workdir in (tmp_path, tmp_path / "gone"):
        shown = table(dataclasses.replace(run, workdir=workdir))
        assert shown["run"] == str(workdir) and "held-out loss in training" not in shown


def test_configs_and_vocabularies_are_tables_of_text(run: charlm_jax.Run) -> None:
    rows = Cells(run.config._repr_html_()).rows
    assert rows[0] == ["config.", "value"]
    assert [name for name, _ in rows[1:]] == [*run.config.flatten()]
    assert table(Vocabulary("\n &<")) == {"symbols": "4", "by id": r"'\n &<'"}
    many = table(Vocabulary("".join(map(chr, range(0x4E00, 0x4E00 + 1000)))))
    assert many["symbols"] == "1,000" and many["by id"].endswith("' and 800 more")
    assert len(many["by id"]) < 300


def test_results_are_tables(run: charlm_jax.Run) -> None:
    assert table(Interval(1.5, 1.25, 1.75)) == {"mean": "1.5000", "interval": "[1.2500, 1.7500]"}
    assert table(Interval(1.5, -math.inf, math.inf))["interval"] == "none: one block"
    less = {"difference": "-0.2500", "interval": "[-0.5000, 0.0000]", "significant": "no"}
    assert table(Difference(-0.25, -0.5, 0.0)) == less
    evaluation, _ = run.evaluate()
    shown = table(evaluation)
    assert shown["loss, nats"] == f"{evaluation.loss_nats:.4f}"
    assert shown["protocol"] == "window of 8" and shown["part"] == "valid"
    score = run.score("abcdab")
    shown = table(score)
    assert shown["loss, bits"] == f"{score.bits_per_char:.4f}"
    assert shown["scored"] == "5" and shown["protocol"] == "stream"


def test_a_comparison_shows_the_table_of_the_command(
    seeded_runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [seeded_runs / f"size_{size}_seed_1" for size in (6, 12)]
    comparison = compare([charlm_jax.load_run(folder) for folder in folders])
    columns, *rows = Cells(comparison._repr_html_()).rows
    assert columns[:4] == ["group", "seeds", "parameters", "nats"] and len(rows) > 3
    from charlm_jax.cli import main

    assert main(["compare", *map(str, folders)]) == 0
    printed = [line.split("  ") for line in capsys.readouterr().out.splitlines()]
    lines = [[cell.strip() for cell in line if cell.strip()] for line in printed]
    for row in [columns, *rows]:
        assert [cell for cell in row if cell] in lines
    assert comparison.describe() in str(comparison._repr_html_()).replace("&#x27;", "'")
    assert len(repr(comparison)) < 300 and "array" not in repr(comparison)


def test_names_of_a_strangers_run_are_text(run: charlm_jax.Run, tmp_path: Path) -> None:
    hostile = tmp_path / "<img src=x onerror=alert(1)>"
    assert table(dataclasses.replace(run, workdir=hostile))["run"] == str(hostile)
    with pytest.raises(CharlmError):
        charlm_jax.load_run(hostile)
