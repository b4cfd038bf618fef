"""The atlas: small, and its arms."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from charlm_jax.config.loading import load_config
from charlm_jax.config.schema import Config
from charlm_jax.core.errors import CharlmError
from charlm_jax.data.dataset import load_dataset
from charlm_jax.data.synthetic import parse_source
from charlm_jax.evaluation.families import compare_with_best
from charlm_jax.report.figures.base import save_figure
from experiments.atlas import __main__ as atlas
from experiments.atlas import arms as atlas_arms
from experiments.atlas import results as atlas_results
from experiments.atlas import speeds as atlas_speeds
from experiments.atlas.arms import PRESETS, Preset
from experiments.atlas.results import tables, write_results
from experiments.atlas.speeds import (
    ModelSpeeds,
    Speed,
    measure_models,
    measure_speeds_once,
    read_speeds,
)
from experiments.block_records import from_sums
from experiments.recorded_training import RecordedTraining, RecordFolder, settings
from experiments.tuned_arms import Effort, _run_point
from tests.experiments.test_recorded_training import Trainer, trainer

__all__ = ["trainer"]

CORPUS = "synthetic:reach=1,symbols=3,copy=0.7,characters=40000"
TINY = Preset(
    "tiny",
    ("rnn, bare", "mingru"),
    ("adam", "schedule-free"),
    2_000,
    Effort(2, 204_800, (1, 2), scores=3),
    context_reach=8,
    context_targets=100,
)


def _equal(configs: Mapping[str, Config]) -> dict[str, ModelSpeeds]:
    speeds = ModelSpeeds(Speed(9_000, 8_000, 9_999), Speed(700, 600, 800), 512)
    return dict.fromkeys(configs, speeds)


def _record(
    records: RecordFolder,
    preset: Preset,
    name: str,
    *,
    seed: int = 1,
    loss: float = 1.0,
    stream: Sequence[float] = (800.0, 850.0),
    **changes: Any,
) -> str:
    """Put a run of an arm on record, and return the name of its record."""
    (arm,) = (arm for arm in preset.arms() if arm.name == name)
    point = _run_point(arm, preset.effort, arm.fields["optimizer.learning_rate"], seed)
    values = {
        "commit": "c0ffee",
        "fingerprint": "f1",
        "parameters": 9,
        "second": loss,
        "curve": [[4_096, loss + 0.05], [8_192, loss]],
        "counts": [1_000] * len(stream),
        "window": list(stream),
        "stream": list(stream),
        "context_reach": preset.context_reach,
        "context_targets": preset.context_targets,
        "target_counts": [30, 30],
        "by_context": {"1": [90.0, 90.0], "8": [50.0, 60.0]},
        "has_more": True,
        **changes,
    }
    present = {field: value for field, value in values.items() if value is not None}
    records.write(f"runs/{point.name}", {**settings(point), **present})
    return f"runs/{point.name}"


@pytest.fixture
def training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RecordedTraining:
    monkeypatch.setattr(atlas_speeds, "measure_models", _equal)
    return RecordedTraining(RecordFolder(tmp_path / "records"), tmp_path / "runs")


@pytest.mark.exhaustive
def test_a_model_is_added_to_those_on_record(
    trainer: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(atlas.PRESETS, "minutes", TINY)
    monkeypatch.setattr(atlas_arms, "_TEXT", {**atlas_arms._TEXT, "data.corpus": CORPUS})
    monkeypatch.setattr(atlas_speeds, "measure_models", _equal)
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
    assert len(rows) == 4 + 4 + 4 + 2 and all(abs(x - rate_nats) < 0.05 for x in losses)

    # A preset of layers reads the same runs under the config's own rule, with their contexts.
    monkeypatch.setitem(atlas.PRESETS, "minutes", TINY._replace(rules=()))
    records = f"--records={tmp_path / 'records'}"
    assert atlas.main([f"--workdir={tmp_path / 'layers'}", "--from_records", records]) == 0
    lines = (tmp_path / "layers" / "tables.md").read_text().split("| context |")[1].splitlines()
    contexts = [line.split("|")[6].strip() for line in lines if line.startswith("| ")]
    assert contexts == ["1 [1, 8]"] * 2  # one block of text: the interval is all that was tried
    runs = [json.loads(file.read_text()) for file in (tmp_path / "records" / "runs").iterdir()]
    assert sum("by_context" in run for run in runs) == 2


def test_one_model_on_record_is_no_comparison_and_the_others_are_named(
    training: RecordedTraining,
) -> None:
    effort = Effort(1, 4_096, (1, 2))
    preset = Preset("tiny", ("rnn, bare", "mingru", "gru, bare"), (), 2_000, effort)
    _record(training.records, preset, "mingru")
    with pytest.raises(CharlmError, match=r"speeds-tiny\.json has no speeds of mingru with "):
        atlas.run_study(training, preset, (), train=False)
    measure_speeds_once(training.records, preset, ["mingru"])
    text = tables(atlas.run_study(training, preset, (), train=False), "x")
    assert (
        "\nOn record: 1 of 3; missing, or diverged at every rate: rnn, bare; gru, bare.\n" in text
    )
    assert "\n- stacks: mingru, 1 of 2 seeds (1 missing) is the only group.\n" in text
    assert "| mingru | 1 of 2 (1 missing) | " in text
    assert "| 9,000 [8,000, 10,000] | 700 [600, 800] | 0.5 KB | 8 [8, 8] |" in text


def test_speeds_and_sizes_are_of_each_model() -> None:
    fields = {"data.corpus": CORPUS, "model.embedding_size": 4, "model.hidden_size": 4}
    changes = {
        "a": {"model.layers": ("lstm",)},
        "b": {"model.layers": ("gru",)},
        "muon": {"model.layers": ("gru",), "optimizer.rule": "muon"},
    }
    configs = {name: load_config("lstm", {**fields, **more}) for name, more in changes.items()}
    found = measure_models(configs, rounds=2)
    assert [found[name].state_bytes for name in configs] == [2 * 4 * 4, 4 * 4, 4 * 4]
    for speeds in found.values():
        for speed in (speeds.training, speeds.decoding):
            assert 0 < speed.low <= speed.median <= speed.high
    assert found["b"].decoding == found["muon"].decoding  # measured once


def test_speeds_are_measured_all_together_with_those_on_record(
    training: RecordedTraining, monkeypatch: pytest.MonkeyPatch
) -> None:
    records, measured = training.records, []

    def measure(configs: Mapping[str, Config]) -> dict[str, ModelSpeeds]:
        measured.append([*configs])
        return _equal(configs)

    monkeypatch.setattr(atlas_speeds, "measure_models", measure)
    preset = TINY._replace(rules=())
    measure_speeds_once(records, preset, ["mingru"])
    measure_speeds_once(records, preset, ["rnn-bare", "mingru"])
    measure_speeds_once(records, preset, ["rnn-bare"])
    assert measured == [["mingru"], ["rnn-bare", "mingru"]]
    assert read_speeds(records, preset) == _equal(dict.fromkeys(["rnn-bare", "mingru"]))
    wider = preset._replace(parameters=8_000)
    assert read_speeds(records, wider) == {}
    measure_speeds_once(records, wider, ["mingru"])
    assert measured[2:] == [["mingru"]] and [*read_speeds(records, wider)] == ["mingru"]
    values = records.read("speeds-tiny")
    assert values is not None
    del values["mingru"]["decoding"]
    records.write("speeds-tiny", values)
    with pytest.raises(CharlmError, match=r"speeds-tiny\.json is damaged"):
        read_speeds(records, wider)


def test_models_that_are_asked_for_or_on_record_have_speeds(
    trainer: Trainer, training: RecordedTraining, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(atlas_arms, "_TEXT", {**atlas_arms._TEXT, "data.corpus": CORPUS})
    models = ("rnn, bare", "mingru", "gru, bare")
    preset = TINY._replace(models=models, rules=(), effort=Effort(1, 4_096, (1,)))
    (arm,) = preset.arms(["mingru"])
    fingerprint = load_dataset(load_config(arm.config, arm.fields)).fingerprint
    for name in ("rnn-bare", "mingru"):
        _record(training.records, preset, name, fingerprint=fingerprint)
    results = atlas.run_study(training, preset, ["mingru"], train=True)
    assert [*results.arms] == ["rnn-bare", "mingru"] == [*read_speeds(training.records, preset)]
    assert not trainer.names  # all that is asked for is on record
    for name in ("rnn-bare", "mingru"):
        _record(training.records, preset, name, fingerprint="other")
    with pytest.raises(CharlmError, match=f"has fingerprint=other and not {fingerprint}: remove"):
        atlas.run_study(training, preset, ["gru, bare"], train=True)
    assert not trainer.names  # refused before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window": None}, r"seed=2\.json is damaged"),
        ({"commit": None}, r"seed=2\.json is damaged"),
        ({"fingerprint": "f2"}, r"seed=2\.json has fingerprint=f2 and not f1: remove it"),
        ({"seed": 1, "by_context": None}, r"seed=1\.json is damaged"),
        ({"seed": 1, "context_reach": 64}, r"seed=1\.json has context_reach=64 and not 8: remove"),
        ({"seed": 1, "context_targets": 9}, r"has context_targets=9 and not 100: remove it"),
    ],
)
def test_records_that_cannot_be_used_are_refused(
    changes: dict[str, Any], message: str, training: RecordedTraining
) -> None:
    preset = TINY._replace(rules=(), effort=Effort(1, 4_096, (1, 2)))
    for seed in preset.effort.seeds:
        _record(training.records, preset, "mingru", seed=seed)
    measure_speeds_once(training.records, preset, ["mingru"])
    atlas.run_study(training, preset, (), train=False)
    _record(training.records, preset, "mingru", **{"seed": 2, **changes})
    with pytest.raises(CharlmError, match=message):
        atlas.run_study(training, preset, (), train=False)


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
    seeds: tuple[int, ...],
    training: RecordedTraining,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    effort = Effort(1, 8_192, seeds)
    preset = Preset("tiny", ("rnn, bare", "mingru"), ("adam", "muon"), 2_000, effort)
    losses = {"rnn-bare": 1.5, "rnn-bare-muon": 1.7, "mingru": 1.9, "mingru-muon": 1.8}
    rng = np.random.default_rng(1)
    names: dict[str, list[str]] = {}
    for arm, loss in losses.items():
        for seed in seeds:
            stream = (1_000 * loss + rng.normal(0, 9, 40)).tolist()
            own = {"seed": seed, "loss": loss - 0.06 * (seed - 1), "stream": stream}
            no_context = {"by_context": None, "context_reach": None}
            name = _record(training.records, preset, arm, **own, **no_context)
            names.setdefault(arm, []).append(name)
    measure_speeds_once(training.records, preset, losses)
    results = atlas.run_study(training, preset, (), train=False)
    assert [family.name for family in results.families] == ["rnn, bare", "mingru"]
    for family in results.families:
        sums = [
            from_sums(
                [json.loads(training.records.file(x).read_text())["stream"] for x in names[name]],
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
    assert f"\n- rnn, bare: adam is the best of 2 groups (1 comparison).{caveat}\n" in text
    assert f"\n- mingru: muon is the best of 2 groups (1 comparison).{caveat}\n" in text
    assert ("; nothing is known of other seeds" in text) == bool(caveat)
    rows = [line for line in text.split("## Training until")[1].splitlines() if line[:1] == "|"]
    early, last = "4,096 | 0", "8,192 | 1"
    if len(seeds) > 1:  # the second reaches the last loss of the first at its first evaluation
        early, last = "4,096 [4,096, 4,096] | 0", "6,144 [4,096, 8,192] | 1"
    assert rows[2:6] == [
        f"| rnn, bare, adam | 1.7000 | {early} |",
        f"| rnn, bare, muon | 1.7000 | {last} |",
        f"| mingru, adam | 1.9000 | {last} |",
        f"| mingru, muon | 1.9000 | {early} |",
    ]
    assert rows[-2:] == [f"| {model} | 9 | 700 [600, 800] | 0.5 KB |" for model in preset.models]
    assert "context" not in text.split("## Speeds")[1]
    assert text.count(" (edge) | ") == 4  # the only rate
    save = tmp_path / "figures"
    save.mkdir()
    figures: list[Figure] = []

    def keep(figure: Figure, path: Path) -> None:
        figures.append(figure)
        save_figure(figure, path)

    monkeypatch.setattr(atlas_results, "save_figure", keep)
    write_results(results, save, "x")
    (axes,) = figures[0].axes
    assert "less that of the best of the same model,\n" in axes.get_xlabel()
    assert ("one seed" in axes.get_xlabel()) == bool(caveat)
    assert (save / "atlas.png").stat().st_size > 5_000


def test_bare_layers_and_stacks_are_compared_apart(training: RecordedTraining) -> None:
    models = ("lstm, bare", "lstm", "gru, bare", "mingru", "attention")
    preset = Preset("tiny", models, (), 2_000, Effort(1, 8_192, (1,)))
    losses = {"lstm-bare": 1.4, "gru-bare": 1.5, "lstm": 1.3, "mingru": 1.2, "attention": 1.6}
    rng = np.random.default_rng(1)
    streams = {arm: 1_000 * loss + rng.normal(0, 9, 40) for arm, loss in losses.items()}
    for arm, loss in losses.items():
        _record(training.records, preset, arm, loss=loss, stream=streams[arm].tolist(), commit=arm)
    measure_speeds_once(training.records, preset, losses)
    results = atlas.run_study(training, preset, (), train=False)
    families = {family.name: family for family in results.families}
    assert {name: family.arms for name, family in families.items()} == {
        "bare layers": ("lstm-bare", "gru-bare"),
        "stacks": ("lstm", "mingru", "attention"),
    }
    for family in families.values():
        assert family.comparison == compare_with_best(
            [from_sums([streams[arm]], [1_000] * 40) for arm in family.arms],
            best=family.arms.index(min(family.arms, key=losses.__getitem__)),
            is_choice_independent=True,
            is_paired_by_run=False,
            level=1 - 0.05 / 2,
        )
    text = tables(results, "x")
    assert "\n- bare layers: lstm, bare is the best of 2 groups (1 comparison)." in text
    assert "\n- stacks: mingru is the best of 3 groups (2 comparisons)." in text
    assert "less that of the best of the same kind, bare or stack; the intervals of all" in text
    commits = ", ".join(sorted(losses))
    assert f"\nRuns are of several commits: {commits}.\n" in text
    inner = {name: arm._replace(is_at_edge=False) for name, arm in results.arms.items()}
    one = tables(results._replace(arms=inner, commits=["c0ffee"]), "x")
    assert "several commits" not in one and " (edge) |" in text and " (edge) |" not in one


def test_update_rules_are_described_by_their_settings() -> None:
    preset = PRESETS["optimizers"]
    warm_up = "gradients clipped to a norm of 1; a linear warm-up of 30 steps, then"
    falling = f"{warm_up} a rate that falls to 0 as a cosine."
    lines = [preset.describe_rule(rule) for rule in preset.rules]
    assert lines[0] == f"`adam`: Adam; no weight decay; {falling}"
    assert lines[1].endswith(f"; weight decay 0.1 of kernels; {falling}")
    assert lines[2].endswith(f"norms; no weight decay; {falling}")
    assert lines[3].endswith(f"; no weight decay; {warm_up} a constant rate.")


def test_the_width_of_a_model_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def fit(*args: Any, **options: Any) -> int:
        calls.append(options)
        return 8

    monkeypatch.setattr(atlas_arms, "fit_width", fit)
    atlas_arms._width.cache_clear()
    for _ in range(2):
        TINY.arms()
    atlas_arms._width.cache_clear()
    assert len(calls) == 2  # models, each under two rules
