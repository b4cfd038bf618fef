"""The atlas: small, and its arms."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from charlm_jax.config.loading import load_config
from charlm_jax.config.schema import Config
from charlm_jax.core.errors import CharlmError
from charlm_jax.data.synthetic import parse_source
from charlm_jax.evaluation.families import compare_with_best
from charlm_jax.report.figures.base import save_figure
from charlm_jax.sweeps.points import Point
from experiments.atlas import __main__ as atlas
from experiments.atlas import arms as atlas_arms
from experiments.atlas import results as atlas_results
from experiments.atlas.arms import PRESETS, Preset
from experiments.atlas.measures import measure_models
from experiments.atlas.results import tables, write_results
from experiments.block_records import from_sums
from experiments.recorded_training import RecordedTraining, RecordFolder, settings
from experiments.tuned_arms import Effort, _run_point
from tests.experiments.test_recorded_training import Trainer, trainer

__all__ = ["trainer"]

CORPUS = "synthetic:reach=1,symbols=3,copy=0.7,characters=40000"
TINY = Preset(
    ("rnn, bare", "mingru"),
    ("adam", "schedule-free"),
    2_000,
    Effort(2, 204_800, (1, 2), scores=3),
    context_reach=8,
    context_targets=100,
)


def _equal(configs: Mapping[str, Config], **_: int) -> dict[str, Any]:
    return {name: {"training": 9_000, "decoding": 700, "state_bytes": 512} for name in configs}


@pytest.mark.exhaustive
def test_a_model_is_added_to_those_on_record(
    trainer: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(atlas.PRESETS, "minutes", TINY)
    monkeypatch.setattr(atlas_arms, "_TEXT", {**atlas_arms._TEXT, "data.corpus": CORPUS})
    monkeypatch.setattr(atlas, "measure_models", _equal)
    assert atlas.main([f"--workdir={tmp_path}", "--only=mingru"]) == 0
    assert len(trainer.names) == 2 * (2 + 1)  # two rates and another seed, under two rules
    first = (tmp_path / "tables.md").read_text()
    assert (
        "| rnn" not in first
        and "On record: 2 of 4; missing, or diverged at every rate: rnn, bare, adam; rnn" in first
    )
    assert atlas.main([f"--workdir={tmp_path}"]) == 0
    assert len(trainer.names) == 2 * 2 * (2 + 1)
    text = (tmp_path / "tables.md").read_bytes()
    assert atlas.main([f"--workdir={tmp_path}", "--from_records"]) == 0
    assert (tmp_path / "tables.md").read_bytes() == text
    assert len(trainer.names) == 2 * 2 * (2 + 1)

    rate_nats = parse_source(CORPUS).entropy_rate_nats
    lines = text.decode().splitlines()
    rows = [line.split("|") for line in lines if line.startswith(("| rnn", "| mingru"))]
    losses = [float(cells[5].split()[0]) for cells in rows[:4]]
    assert len(rows) == 12 and all(abs(x - rate_nats) < 0.05 for x in losses)
    contexts = [cells[6].strip() for cells in rows[8:]]
    assert contexts == ["1 [1, 8]"] * 4  # one block of text: the interval is all that was tried


def test_one_model_on_record_is_no_comparison_and_the_others_are_named(tmp_path: Path) -> None:
    effort = Effort(1, 4_096, (1, 2))
    preset = Preset(("rnn, bare", "mingru", "gru, bare"), (), 2_000, effort)
    training = RecordedTraining(RecordFolder(tmp_path), tmp_path / "runs")
    (arm,) = preset.arms(["mingru"])
    sums = {"window": [900.0, 950.0], "stream": [800.0, 850.0], "counts": [1_000, 1_000]}
    context = {"by_context": {"1": [90.0, 90.0], "8": [50.0, 60.0]}, "target_counts": [30, 30]}
    first = {"parameters": 9, "second": 1.0, "curve": [[4_096, 1.0]], "has_more": True}
    point = _run_point(arm, effort, arm.fields["optimizer.learning_rate"], 1)
    training.records.write(f"runs/{point.name}", {**settings(point), **sums, **context, **first})
    speeds = {"training": 9, "decoding": 7, "state_bytes": 5}
    training.records.write("speeds", {arm.name: speeds})
    text = tables(atlas.run_study(training, preset, (), train=False), "x")
    assert (
        "\nOn record: 1 of 3; missing, or diverged at every rate: rnn, bare; gru, bare.\n" in text
    )
    assert "\n- mingru, 1 of 2 seeds (1 missing) is the only group.\n" in text
    assert "| mingru | 1 of 2 (1 missing) | " in text
    training.records.file("speeds").unlink()
    with pytest.raises(CharlmError, match=r"speeds\.json has no speeds of mingru: the command"):
        atlas.run_study(training, preset, (), train=False)


def test_speeds_and_sizes_are_of_each_model(tmp_path: Path) -> None:
    fields = {"data.corpus": CORPUS, "model.embedding_size": 4, "model.hidden_size": 4}
    configs = {
        name: load_config("lstm", {**fields, "model.layers": (layer,)})
        for name, layer in (("a", "lstm"), ("b", "gru"))
    }
    found = measure_models(configs, rounds=1)
    assert [found[name]["state_bytes"] for name in configs] == [2 * 4 * 4, 4 * 4]
    assert all(found[name][x] > 0 for name in configs for x in ("training", "decoding"))
    records = RecordFolder(tmp_path)
    records.write("speeds", found)
    assert atlas.measure_speeds_once(records, []) == found


def test_a_model_that_is_not_there_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert atlas.main([f"--workdir={tmp_path}", "--only=perceptron"]) == 2
    assert "--only=perceptron is not one of 'lstm, bare', 'minlstm'" in capsys.readouterr().err
    assert atlas.main([f"--workdir={tmp_path}", "--from_records"]) == 2
    assert "has no records: run the study first" in capsys.readouterr().err


@pytest.mark.parametrize("name", PRESETS)
def test_every_arm_has_a_valid_config_and_a_name_of_its_own(name: str) -> None:
    preset = PRESETS[name]
    arms = preset.arms()
    assert len({arm.name for arm in arms}) == len(arms) == len(preset.names())
    for arm in arms:
        config = load_config(arm.config, arm.fields)
        assert config.data.batch_size * config.data.sequence_length == 2_048
    rules = {arm.fields.get("optimizer.rule", "adam") for arm in arms}
    assert rules == ({"adam", "muon", "schedule_free"} if preset.rules else {"adam"})
    decays = {arm.fields.get("optimizer.weight_decay", 0.0) for arm in arms}
    assert decays == ({0.0, 0.1} if preset.rules else {0.0})


def test_runs_of_adam_are_those_of_the_comparison_of_layers() -> None:
    small, optimizers = PRESETS["small"], PRESETS["optimizers"]
    shared = [arm.fields for arm in optimizers.arms() if arm in small.arms()]
    assert shared == [optimizers.fields(model, "adam") for model in optimizers.models]
    assert small.effort == optimizers.effort
    reach = (small.context_reach, small.context_targets)
    assert reach == (optimizers.context_reach, optimizers.context_targets)


@pytest.mark.parametrize("seeds", [(1,), (1, 2)])
def test_update_rules_are_compared_within_each_model(
    seeds: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    effort = Effort(1, 8_192, seeds)
    preset = Preset(("rnn, bare", "mingru"), ("adam", "muon"), 2_000, effort)
    training = RecordedTraining(RecordFolder(tmp_path), tmp_path / "runs")
    losses = {"rnn-bare": 1.5, "rnn-bare-muon": 1.7, "mingru": 1.9, "mingru-muon": 1.8}
    rng = np.random.default_rng(1)
    points: dict[str, list[Point]] = {}
    for arm in preset.arms():
        for seed in effort.seeds:
            stream = (1_000 * losses[arm.name] + rng.normal(0, 9, 40)).tolist()
            point = _run_point(arm, effort, arm.fields["optimizer.learning_rate"], seed)
            points.setdefault(arm.name, []).append(point)
            values = {
                "parameters": 9,
                "second": losses[arm.name],
                "curve": [[4_096, losses[arm.name] + 0.05], [8_192, losses[arm.name]]],
                "counts": [1_000] * 40,
                "window": stream,
                "stream": stream,
                "target_counts": [30] * 2,
                "by_context": {"1": [90.0, 90.0], "8": [50.0, 60.0]},
                "has_more": True,
            }
            training.records.write(f"runs/{point.name}", {**settings(point), **values})
    speeds = {"training": 4_096, "decoding": 7, "state_bytes": 5}
    training.records.write("speeds", dict.fromkeys(losses, speeds))
    results = atlas.run_study(training, preset, (), train=False)
    assert [family.name for family in results.families] == ["rnn, bare", "mingru"]
    for family in results.families:
        sums = [
            from_sums(
                [training.records.read(f"runs/{x.name}")["stream"] for x in points[name]],
                [1_000] * 40,
            )
            for name in family.arms
        ]
        best = family.comparison.best
        expected = compare_with_best(
            sums,
            best=best,
            is_choice_independent=seeds == (1,),
            is_paired_by_run=False,
            level=1 - 0.05 / 2,  # two models
        )
        assert family.comparison == expected
    text = tables(results, "x")
    caveat = " One seed each: another may change the order." if seeds == (1,) else ""
    assert f"\n- rnn, bare, adam is the best of 2 groups (1 comparison).{caveat}\n" in text
    assert f"\n- mingru, muon is the best of 2 groups (1 comparison).{caveat}\n" in text
    assert ("; nothing is known of other seeds" in text) == bool(caveat)
    rows = [line for line in text.split("## Training until")[1].splitlines() if line[:1] == "|"]
    assert rows[2:6] == [
        "| rnn, bare, adam | 1.5000 | 8,192 | 2 |",
        "| rnn, bare, muon | 1.5000 | - | - |",
        "| mingru, adam | 1.9000 | 8,192 | 2 |",
        "| mingru, muon | 1.9000 | 4,096 | 1 |",
    ]
    save = tmp_path / "figures"
    save.mkdir()
    figures: list[Figure] = []

    def keep(figure: Figure, path: Path) -> None:
        figures.append(figure)
        save_figure(figure, path)

    monkeypatch.setattr(atlas_results, "save_figure", keep)
    write_results(results, save, "x")
    (axes,) = figures[0].axes
    assert ("one seed" in axes.get_xlabel()) == bool(caveat)
    assert (save / "atlas.png").stat().st_size > 5_000
