"""The study of skills: small, and its arms."""

from pathlib import Path

import jax
import pytest

from charlm_jax.config.loading import load_config
from charlm_jax.core.prng import root_key
from charlm_jax.core.trees import count_parameters
from charlm_jax.data.dataset import load_dataset
from charlm_jax.models import build_model
from experiments.skills import __main__ as skills
from experiments.skills.arms import PRESETS, Preset
from experiments.tuned_arms import Effort, fit_width
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
    assert "minlstm" not in (tmp_path / "tables.md").read_text()
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
