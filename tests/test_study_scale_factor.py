"""The study of scale factors: its settings, its answer, and the whole of it on tiny runs."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from charlm_jax.calibration import Bin
from charlm_jax.checkpoint import Checkpoints
from charlm_jax.copying import Copy
from charlm_jax.loop import train_and_evaluate
from charlm_jax.report.scale_factor import save_picture, save_reliability
from charlm_jax.run import load_run
from charlm_jax.statistics import Interval
from charlm_jax.studies.scale_factor.answer import answer
from charlm_jax.studies.scale_factor.measures import (
    GRID_A,
    Findings,
    HeldOut,
    Text,
    name_runs,
)
from charlm_jax.studies.scale_factor.page import page, snippets
from charlm_jax.studies.scale_factor.settings import Draws, Setting, load_settings
from charlm_jax.text_judge import Judgement
from charlm_jax.types import CharlmError
from charlm_jax.workdir import Workdir
from experiments.scale_factor import main
from tests.conftest import make_tiny_config

SCALES = (0.5, 1.0, 1.5, 2.0)
DRAWS = Draws("the isle", 2, 60, 0)


def _near(mean: float, half: float = 0.01) -> Interval:
    return Interval(mean, mean - half, mean + half)


def _judgement(*, valid: float, repeated: float, divergence: float, copy: int = 0) -> Judgement:
    shares = {
        "distinct_6grams": 0.9,
        "distinct_word_bigrams": 0.9,
        "compressed_bits_per_char": 4.0,
        "copied": copy / 1000,
        "longest_copy_characters": float(copy),
    }
    return Judgement(
        samples=2,
        characters=60,
        word_validity=_near(valid),
        repeated=_near(repeated),
        divergence_bits=_near(divergence),
        longest_copy=Copy(0, 3, copy, 1234) if copy else None,
        **{name: _near(value) for name, value in shares.items()},
    )


def _text(setting: Setting, judgement: Judgement) -> Text:
    samples = ["and the sea, and the sea was high.\n" * 2] * 2
    nats = 1.5 / max(setting.scale, 0.1)
    entropy_T = np.full(60, nats)
    return Text(setting, samples, judgement, _near(nats), _near(nats), entropy_T, np.full(2, nats))


def _findings(calibrated: float = 0.8, even: Interval | None = None) -> Findings:
    judgements = [
        _judgement(valid=0.3, repeated=0.0, divergence=0.7),
        _judgement(valid=0.8, repeated=0.01, divergence=0.31),
        _judgement(valid=0.95, repeated=0.02, divergence=0.3, copy=30),
        _judgement(valid=0.96, repeated=0.4, divergence=0.5, copy=25),
    ]
    texts = [
        _text(Setting("scale", scale, 0, 1.0, 0.0), judgement)
        for scale, judgement in zip(SCALES, judgements, strict=True)
    ]
    texts.append(_text(Setting("top_k", 1.0, 5, 1.0, 0.0), judgements[1]))
    held_out = HeldOut(
        characters=5_000,
        loss=_near(1.4),
        least_loss=_near(1.35),
        calibrated=_near(calibrated),
        loss_A=1.35 + np.log(GRID_A / calibrated) ** 2,
        bins=[Bin(p, _near(p, p / 10), 10.0) for p in (0.01, 0.1, 0.9)],
        least_loss_N=np.full(5_000, 1.35),
    )
    human = _judgement(valid=0.96, repeated=0.02, divergence=0.2, copy=20)
    return Findings("isle, checkpoint 7", held_out, human, texts, even)


def test_the_answer_says_what_the_numbers_say() -> None:
    words = "\n".join(answer(_findings(even=Interval(1.1, 1.0, 1.2))))
    assert "least at scale 0.800 [0.790, 0.810]: the model is too sure of itself" in words
    assert "1.3500 nats per character there, and 1.4000 at scale 1" in words
    assert "1.3500 nats per character, at scale 1.100 [1.000, 1.200]" in words
    assert "drawn at scale 1.5:" in words and "not clearly farther: 1." in words
    assert "a human's (0.960 [0.950, 0.970]) from scale 1.5 on" in words
    assert "repeats itself more than a human's (0.020 [0.010, 0.030]) from scale 2 on" in words
    assert "Recommended for text like the book's: scale 1.5, with 95% of the words" in words
    assert "At scale 1 it is 80% of the words" in words
    assert "At scale 2 it is 96% of the words" in words
    assert "top_k 5, 0.310 [0.300, 0.320] bits" in words
    assert "The longest copy, 30 characters at scale 1.5 (temperature 0.667), stands" in words
    assert "character 1,234: ' the sea, and the sea was high.'"[:40] in words


@pytest.mark.parametrize(
    ("calibrated", "says"),
    [(0.8, "too sure of itself"), (1.005, "as sure as it should be"), (1.3, "not as sure")],
)
def test_the_verdict_on_how_sure_a_model_is(calibrated: float, says: str) -> None:
    words = "\n".join(answer(_findings(calibrated)))
    assert says in words
    assert "At none of the scales between those that were tried" in words


def test_what_holds_at_some_scales_is_said_of_these_alone() -> None:
    found = _findings()
    valid = (0.97, None, 0.97, 0.3)
    texts = [
        text._replace(judgement=text.judgement._replace(word_validity=share and _near(share)))
        for text, share in zip(found.texts, valid, strict=False)
    ]
    words = "\n".join(answer(found._replace(texts=texts)))
    assert "a human's (0.960 [0.950, 0.970]) at scale 0.5, 1.5;" in words
    assert "At scale 1 it is no whole word and 90% of the 6-grams distinct" in words


def test_runs_of_one_name_are_told_apart(trained: Path, tmp_path: Path) -> None:
    twin = tmp_path / trained.name
    shutil.copytree(trained, twin)
    runs = [load_run(folder) for folder in (trained, twin)]
    names = name_runs(runs)
    assert names == [f"{run.workdir}, checkpoint {run.checkpoint}" for run in runs]
    assert name_runs(runs[:1]) == [f"tiny, checkpoint {runs[0].checkpoint}"]


def test_the_page_and_its_figures(tmp_path: Path) -> None:
    findings = [_findings(), _findings(1.3, Interval(1.1, 1.0, 1.2))]
    pictures = [
        save_picture(findings, tmp_path / "scale_factor.png", about="2 samples"),
        save_reliability(findings, tmp_path / "reliability.png"),
    ]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in pictures)
    written = page(findings, pictures, draws=DRAWS, command="python x")
    rows = [line for line in written.splitlines() if line.startswith("| scale ")]
    assert len(rows) == 2 * len(SCALES)
    assert all(row.count("|") == 13 for row in rows)
    for scale, row in zip(2 * SCALES, rows, strict=True):
        assert row.startswith(f"| scale {scale:g} (temperature {1 / scale:.3g})")
    assert "![scale factor](scale_factor.png)" in written
    columns = snippets(findings[0], DRAWS.prompt).splitlines()
    assert columns[0].split("  ")[0] == "scale 0.5" and "scale 1.5" in columns[0]
    assert columns[2].startswith("the isleand the sea, and the sea was")


def test_the_shipped_sweep_has_the_textbooks_scales_and_as_many_of_each_policy() -> None:
    draws, settings = load_settings("sweeps/scale_factor", ["samples=3"])
    assert draws == Draws("The island", 3, 500, 0)
    assert [setting.varied for setting in settings] == ["scale"] * 11
    assert {0.5, 1.0, 2.0} < {setting.scale for setting in settings}
    _, settings = load_settings("sweeps/scale_factor:policies")
    names = [setting.varied for setting in settings]
    assert {name: names.count(name) for name in names} == dict.fromkeys(Setting._fields[1:], 11)
    assert all(setting.scale == 1.0 for setting in settings if setting.varied != "scale")


@pytest.mark.parametrize(
    ("spec", "overrides", "says"),
    [
        ("quickstart", [], "no sweep of drawing"),
        ("sweeps/scale_factor:x", [], "name one of scales, policies"),
        ("sweeps/scale_factor", ["sampels=3"], "config.sampels"),
    ],
    ids=["training", "argument", "misspelt"],
)
def test_settings_that_cannot_be_read(spec: str, overrides: list[str], says: str) -> None:
    with pytest.raises(CharlmError, match=says):
        load_settings(spec, overrides)


def test_a_point_that_varies_something_else(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    shipped = Path("configs/sweeps/scale_factor.py").read_text(encoding="utf-8")
    file.write_text(shipped.replace('{"scale": scale}', '{"seed": scale}'), encoding="utf-8")
    with pytest.raises(CharlmError, match="must vary one of scale, top_k, top_p, min_p"):
        load_settings(str(file))


FLAGS = ["--config.samples=3", "--config.characters=40", "--config.prompt=abca"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has learned something, with two checkpoints."""
    changes = {"optimizer.learning_rate": 0.05, "train.epochs": 6, "split.valid_fraction": 0.4}
    folder = tmp_path_factory.mktemp("trained") / "tiny"
    train_and_evaluate(make_tiny_config(**changes), folder)
    return folder


def test_the_whole_study_of_two_checkpoints(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "three.py"
    shipped = Path("configs/sweeps/scale_factor.py").read_text(encoding="utf-8")
    file.write_text(shipped.replace("0.25, 0.35, 0.5, 0.7, 0.85,", "").replace("3.0, ", ""))
    steps = Checkpoints(Workdir(trained).checkpoints).steps()
    command = [*(f"--workdir={trained}@{step}" for step in steps), f"--config={file}", *FLAGS]
    assert main([*command, f"--out={tmp_path / 'out'}"]) == 0
    assert f"## tiny, checkpoint {steps[-1]}" in capsys.readouterr().out
    results = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    drawn = json.loads((tmp_path / "out" / "samples.json").read_text(encoding="utf-8"))
    assert len(steps) > 1
    for step, found, texts in zip(steps, results["runs"], drawn.values(), strict=True):
        own = load_run(trained, checkpoint=step)
        evaluation, _ = own.evaluate(mode="stream")
        assert found["held_out"]["loss"]["mean"] == pytest.approx(evaluation.loss_nats, abs=1e-5)
        assert found["held_out"]["least_loss"]["mean"] <= found["held_out"]["loss"]["mean"] + 1e-6
        want = own.draw("abca", characters=40, scales=[1.5], samples=3, seed=0)
        assert texts["scale 1.5 (temperature 0.667)"] == [
            "".join(pieces) for pieces in zip(*want, strict=True)
        ]
        entropies = [text["entropy"]["mean"] for text in found["settings"]]
        assert entropies == sorted(entropies, reverse=True)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("README.md", "results.json", "samples.json"),
        *("scale_factor.png", "reliability.png", "entropy_by_place.png"),
    }


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--workdir=nowhere"], "nowhere"),
        (["--workdir=RUN", "--temperature=2"], "unknown argument --temperature"),
        (["--workdir=RUN", "--split=test"], "test"),
        (["--workdir=RUN", "--config.samples=1000"], "has room for"),
        (["--workdir=RUN@7"], "7"),
        (["--workdir=RUN", "--out=docs/sequence_length"], "is not of this study"),
    ],
    ids=["run", "flag", "split", "much", "checkpoint", "page"],
)
def test_mistakes_are_told_in_a_line(
    trained: Path, flags: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = [flag.replace("RUN", str(trained)) for flag in flags]
    try:
        status = main(typed)
    except SystemExit as stop:
        status = int(str(stop.code))
    printed = capsys.readouterr().err
    assert status == 2 and says in printed.splitlines()[-1]
    assert len(printed.splitlines()) == 1
