"""The study of sequence lengths, whole and small, on a source whose answer is known."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import pytest

from charlm_jax.config.schema import Config
from charlm_jax.data.synthetic import parse_source
from charlm_jax.sweeps.local import Outcome
from charlm_jax.sweeps.points import Point
from charlm_jax.sweeps.progress_bars import SweepView
from charlm_jax.training.loop import train_and_evaluate
from experiments.sequence_length import __main__ as sequence_length
from experiments.sequence_length import runs
from experiments.sequence_length.runs import Preset, Study
from experiments.sequence_length.tables import TITLE

REACH = 4
CORPUS = f"synthetic:reach={REACH},symbols=3,copy=0.7,characters=60000"
LENGTHS = (2, 16)
PRESET = Preset(
    models={"lstm": {"model.embedding_size": 8, "model.hidden_size": 32}},
    timed=(),
    lengths=LENGTHS,
    seeds=(1,),
    characters=300_000,
    rate_factors=(1.0,),
    reach=64,
    context_reach=16,
    context_targets=500,
)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the points that were trained; here in this process, which compiles once."""
    names: list[str] = []

    def run_here(
        points: Sequence[Point], folder: Path, *, jobs: int, view: SweepView
    ) -> list[Outcome]:
        outcomes = []
        for point in points:
            names.extend([] if point.is_finished(folder) else [point.name])
            result = train_and_evaluate(point.load(), folder / point.name)
            outcomes.append(Outcome(point, "done", result.best_loss_nats))
        return outcomes

    def equally_fast(configs: Mapping[str, Config], **_: int) -> dict[str, float]:
        return dict.fromkeys(configs, 1e5)

    monkeypatch.setattr(runs, "run_points", run_here)
    monkeypatch.setattr(runs, "measure_speeds", equally_fast)
    monkeypatch.setitem(sequence_length.PRESETS, "minutes", PRESET)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(jax.config.jax_compilation_cache_dir))
    return names


@pytest.mark.exhaustive
def test_the_reach_is_found_and_no_loss_is_below_the_entropy_rate(
    trained: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--preset=minutes", f"--corpus={CORPUS}", f"--workdir={tmp_path}"]
    assert sequence_length.main(command) == 0
    found = json.loads((tmp_path / "results.json").read_text())
    assert len(trained) == len(LENGTHS) * 2  # whose rate is the only one that is tried

    rate_nats = parse_source(CORPUS).entropy_rate_nats
    for condition in found["figures"]:
        assert condition["stream"]["high"] > rate_nats - 0.02  # the luck of one text
        assert (condition["stream"]["mean"] < rate_nats + 0.05) == (condition["length"] > REACH)
    assert found["effective"]["lstm"]["truncated"] == REACH
    for by_n in found["looks"]["lstm"].values():
        assert all(look["low"] < look["mean"] < look["high"] for look in by_n.values())
    assert [group["lengths"][group["best"]] for group in found["groups"]] == [16, 16]

    files = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    out = capsys.readouterr().out
    assert {path for path in files if path.endswith((".md", ".json"))} == {
        *("results.json", "tables.md", "speeds.json")
    }
    trained.clear()
    for again in (command, [*command, "--tables_only"]):
        assert sequence_length.main(again) == 0
        assert trained == []
        assert capsys.readouterr().out == out
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()} == files


def test_programs_are_kept_where_nobody_says_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = jax.config.jax_compilation_cache_dir
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "elsewhere")
    sequence_length.keep_programs(tmp_path)
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == "elsewhere"
    assert jax.config.jax_compilation_cache_dir == before
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    try:
        sequence_length.keep_programs(tmp_path)
        assert os.environ["JAX_COMPILATION_CACHE_DIR"] == str(tmp_path)
        assert jax.config.jax_compilation_cache_dir == str(tmp_path)
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


def test_speeds_are_measured_again_where_they_are_of_something_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[list[str]] = []

    def measure(configs: Mapping[str, Config], **_: int) -> dict[str, float]:
        measured.append([*configs])
        return dict.fromkeys(configs, float(len(measured)))

    monkeypatch.setattr(runs, "measure_speeds", measure)
    first = Study(PRESET, CORPUS, tmp_path)
    assert first.speeds() == first.speeds() == {("lstm", 2): 1.0, ("lstm", 16): 1.0}
    wider = {"lstm": {**PRESET.models["lstm"], "model.hidden_size": 64}}
    other = Study(PRESET._replace(models=wider), CORPUS, tmp_path)
    assert other.speeds() == {("lstm", 2): 2.0, ("lstm", 16): 2.0}
    (tmp_path / "speeds.json").write_text("{torn")
    assert set(other.speeds().values()) == {3.0}
    assert measured == [["lstm-T2", "lstm-T16"]] * 3


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("README.md", "# Mine\n"),
        ("tables.md", f"{TITLE}\n\n    python other.py\n"),
        ("loss_by_length.png", "mine"),
        ("results.json", "{}"),
    ],
)
def test_what_something_else_wrote_is_not_replaced(
    name: str, words: str, trained: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_text(words)
    assert sequence_length.main(["--preset=minutes", f"--workdir={tmp_path}"]) == 2
    says = capsys.readouterr().err
    assert says.count("\n") == 1 and "choose another folder" in says
    assert [path.name for path in tmp_path.iterdir()] == [name] and not trained
    assert (tmp_path / name).read_text() == words
