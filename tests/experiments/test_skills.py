"""The study of skills: small, and its arms."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

from charlm_jax.config.loading import load_config
from charlm_jax.core.prng import root_key
from charlm_jax.core.trees import count_parameters
from charlm_jax.data.dataset import load_dataset
from charlm_jax.data.skills import END, SkillSource
from charlm_jax.data.synthetic import parse_source
from charlm_jax.evaluation.protocol import all_positions
from charlm_jax.models import build_model
from experiments.recorded_training import RecordedTraining, RecordFolder, settings
from experiments.skills import __main__ as skills
from experiments.skills.arms import PRESETS, Preset
from experiments.tuned_arms import Effort, TunedArm, _run_point, fit_width, train_arms
from tests.experiments.test_recorded_training import Trainer, trainer

__all__ = ["trainer"]

TINY = Preset(
    {"counting": "length=3", "parity": "length=12"},
    ("rnn", "minlstm"),
    parameters=2_000,
    characters=20_000,
    effort=Effort(rates=2, characters=512_000, seeds=(1,)),
)


@pytest.mark.exhaustive
def test_counting_to_three_is_learnt_and_the_parity_of_twelve_bits_is_not(
    trainer: Trainer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(skills.PRESETS, "minutes", TINY)
    assert skills.main([f"--workdir={tmp_path}", "--only=rnn"]) == 0
    assert len(trainer.names) == 2 * 2  # two rates for each of two skills
    first = (tmp_path / "tables.md").read_text()
    assert "| minlstm" not in first and "; missing: counting, minlstm; parity, minlstm." in first
    assert skills.main([f"--workdir={tmp_path}"]) == 0
    assert len(trainer.names) == 2 * 2 * 2
    text = (tmp_path / "tables.md").read_bytes()
    capsys.readouterr()
    assert skills.main([f"--workdir={tmp_path}", "--from_records"]) == 0
    assert (tmp_path / "tables.md").read_bytes() == text
    rows = {
        cells[0]: [float(x.strip("*").split()[0]) for x in cells[1:]]
        for line in text.decode().split("## Best")[0].splitlines()
        if (cells := [x.strip() for x in line.strip("|").split("|")])[0] in TINY.layers
    }
    assert set(rows) == {*TINY.layers}
    assert all(counting < 0.1 and parity > 0.3 for counting, parity in rows.values())


def _write(
    training: RecordedTraining, arm: TunedArm, effort: Effort, runs: dict[tuple[float, int], Any]
) -> None:
    """Put runs on record, by learning rate over the arm's own and seed."""
    for (factor, seed), values in runs.items():
        point = _run_point(arm, effort, arm.fields["optimizer.learning_rate"] * factor, seed)
        training.records.write(f"runs/{point.name}", {**settings(point), **values})


def test_means_that_leave_out_runs_say_so_and_missing_models_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    effort = Effort(rates=2, characters=5_120, seeds=(1, 2, 3))
    preset = TINY._replace(tasks={"parity": ""}, layers=("rnn", "minlstm", "gru"), effort=effort)
    monkeypatch.setitem(skills.PRESETS, "minutes", preset)
    training = RecordedTraining(RecordFolder(tmp_path / "records"), tmp_path / "runs")
    done = {
        "parameters": 9,
        "second": 1.0,
        "excess": [4.0, 5.0],
        "answers": [500, 500],
        "has_more": True,
    }
    rnn, minlstm = preset.arms(["rnn", "minlstm"])
    searched = {(1.0, 1): done, (0.5, 1): {**done, "second": 2.0}}
    _write(training, rnn, effort, {**searched, (1.0, 2): {"diverged": True}, (1.0, 3): done})
    _write(training, minlstm, effort, {**searched, (1.0, 2): done, (1.0, 3): done})
    train_arms(training, [rnn, minlstm], effort, lambda point, run: {})  # none is trained
    assert skills.main([f"--workdir={tmp_path}", "--from_records"]) == 0
    text = (tmp_path / "tables.md").read_text()
    assert "\nOn record: 2 of 3; missing: parity, gru.\n" in text
    partial = "rnn, 2 of 3 seeds (1 diverged)"
    assert f"\nMeans over the seeds that are left: parity, {partial}.\n" in text
    assert f"- parity: {partial} is not distinguishable from minlstm (1 comparison)." in text
    rows = [line for line in text.splitlines() if line.startswith(("| rnn", "| minlstm"))]
    assert rows[0].endswith("], 2 of 3 seeds (1 diverged) |") and "**" not in rows[0]
    assert rows[1].count("**") == 2
    assert rows[2].endswith("seeds: 2 of 3 (1 diverged)) |") and rows[3].endswith("seeds: 3) |")


def test_a_model_that_has_the_skill_has_no_excess() -> None:
    """It reads the third part from within an episode, whose answers it cannot know."""
    fields = {"data.corpus": "synthetic:task=recall,characters=3000", "split.test_fraction": 0.1}
    config = load_config("lstm", fields)
    dataset = load_dataset(config)
    source = parse_source(config.data.corpus)
    assert isinstance(source, SkillSource)
    text, places_N = dataset.corpus.text[:], all_positions(dataset.part("test"))
    nll_N, is_answer_N = source.nll_nats(text)[places_N], source.is_answer(text)[places_N]
    cut = text.index(END, places_N[0]) + 1 - places_N[0]
    assert is_answer_N[:cut].any() and text[places_N[0] - 1] != END
    nll_N[:cut] += 1.0
    run = SimpleNamespace(
        config=config,
        dataset=lambda: dataset,
        model=SimpleNamespace(keeps_positions=False),
        evaluate=lambda protocol, split: (SimpleNamespace(loss_nats=nll_N.mean()), nll_N),
        params={"w": np.zeros(3)},
    )
    found = skills.measure_run(run, length=8)  # type: ignore[arg-type]
    assert found["excess"] == (0.0,) * len(found["excess"])
    assert sum(found["answers"]) == is_answer_N[cut:].sum() > 50


def test_a_model_that_is_not_there_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert skills.main([f"--workdir={tmp_path}", "--only=lstm", "--only=perceptron"]) == 2
    assert "--only=perceptron is not one of 'lstm', 'minlstm'" in capsys.readouterr().err


@pytest.mark.parametrize("name", PRESETS)
def test_models_have_about_as_many_parameters(name: str) -> None:
    preset = PRESETS[name]
    task = next(iter(preset.tasks))
    for layers in preset.layers:
        fields = preset.fields(task, layers)
        model = load_config("lstm", fields).model
        params = jax.eval_shape(build_model(model, 20).init, root_key(0))
        assert 0.8 < count_parameters(params) / preset.parameters < 1.2


def test_the_width_is_the_one_that_comes_closest() -> None:
    fields = {"model.layers": ("rnn",)}

    def count(width: int) -> int:
        sizes = {"model.embedding_size": width, "model.hidden_size": width}
        model = load_config("lstm", {**fields, **sizes}).model
        return count_parameters(jax.eval_shape(build_model(model, 9).init, root_key(0)))

    for parameters in (1, 3_000, count(40), count(40) + 100, count(48) - 1):
        width = fit_width("lstm", fields, parameters=parameters, symbols=9)
        others = [x for x in (width - 8, width + 8) if x]
        assert all(abs(count(width) - parameters) <= abs(count(x) - parameters) for x in others)


def test_every_skill_has_a_text_of_its_length() -> None:
    preset = PRESETS["full"]
    for arm in preset.arms(["rnn"]):
        config = load_config(arm.config, {**arm.fields, "data.corpus": "synthetic:task=counting"})
        assert load_dataset(config).part("test")
        assert f"characters={preset.characters}" in arm.fields["data.corpus"]
