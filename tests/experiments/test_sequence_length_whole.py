"""The study of sequence lengths, whole and small, on a source whose answer is known."""

import functools
from collections.abc import Mapping
from pathlib import Path

import pytest

from charlm_jax.config.schema import Config
from charlm_jax.data.synthetic import parse_source
from experiments import recorded_training
from experiments.sequence_length import __main__ as sequence_length
from experiments.sequence_length import runs
from experiments.sequence_length.arms import Model, Preset
from experiments.sequence_length.records import Records
from experiments.sequence_length.tables import TITLE
from experiments.tuned_arms import Effort
from tests.experiments.test_recorded_training import Trainer

REACH = 4
CORPUS = f"synthetic:reach={REACH},symbols=3,copy=0.7,characters=60000"
LENGTHS = (2, 16)
PRESET = Preset(
    models={
        "lstm": Model(
            "lstm",
            {
                "model.embedding_size": 8,
                "model.hidden_size": 32,
                "optimizer.learning_rate": 0.04,
            },
            lengths=LENGTHS,
            states=("reset",),
            schedules=(LENGTHS,),
        )
    },
    corpus=CORPUS,
    effort=Effort(2, 300_000, (1,), scores=4),
    watched=5_120,
    reach=64,
    context_reach=16,
    context_targets=500,
    samples=4,
    sample_characters=50,
)


@pytest.fixture
def trainer(monkeypatch: pytest.MonkeyPatch) -> Trainer:
    trainer = Trainer()

    def equally_fast(configs: Mapping[str, Config], **_: int) -> dict[str, float]:
        return dict.fromkeys(configs, 1e5)

    monkeypatch.setattr(recorded_training, "run_points", trainer.run_points)
    monkeypatch.setattr(runs, "measure_speeds", equally_fast)
    monkeypatch.setitem(sequence_length.PRESETS, "minutes", PRESET)
    return trainer


def _files(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.exhaustive
def test_the_reach_is_found_and_an_interrupted_study_ends_with_the_same_bytes(
    trainer: Trainer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main = functools.partial(_main, tmp_path / "whole")
    assert main() == 0
    points = len(trainer.names)
    assert points == len(LENGTHS) * 2 + 1  # two rates for each length, and a schedule
    out = capsys.readouterr().out
    files = _files(tmp_path / "whole")
    assert {name for name in files if name.endswith(".md")} == {"tables.md"}
    assert not any(name.startswith("runs/") and "logs" not in name for name in files)

    rate_nats = parse_source(CORPUS).entropy_rate_nats
    records = Records(tmp_path / "whole" / "records")
    for length in LENGTHS:
        text, means = records.text(), []
        assert text is not None
        for file in (records.folder / "runs").glob(f"lstm-T{length}-reset-rate=*-seed=1.json"):
            values = records.read(f"runs/{file.stem}")
            assert values is not None
            means.append(sum(records.run(file.stem, values).stream) / sum(text.counts))
        mean = min(means)
        assert mean > rate_nats - 0.02  # the luck of one text
        assert (mean < rate_nats + 0.05) == (length > REACH)
    assert "| lstm | reset | characters | 16 | 4 [4, 4] |" in out

    trainer.names.clear()
    assert main("--from_records") == main() == 0
    assert trainer.names == [] and _files(tmp_path / "whole") == files

    for stop in (1, points - 1):  # among the rates, before the schedule
        folder, trainer.left = tmp_path / str(stop), stop
        assert _main(folder) == 143
        trainer.left = 1_000
        assert _main(folder) == 0
        assert _files(folder) == files


def _main(folder: Path, *more: str) -> int:
    return sequence_length.main(["--preset=minutes", f"--workdir={folder}", *more])


def test_nothing_is_computed_without_records(
    trainer: Trainer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _main(tmp_path, "--from_records") == 2
    assert "has no records: run the study first" in capsys.readouterr().err
    assert sequence_length.main(["--preset=second_text", f"--workdir={tmp_path}"]) == 2
    assert "needs --corpus=PATH" in capsys.readouterr().err
    assert trainer.names == []


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
    name: str, words: str, trainer: Trainer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_text(words)
    assert _main(tmp_path) == 2
    says = capsys.readouterr().err
    assert says.count("\n") == 1 and "choose another folder" in says
    assert [path.name for path in tmp_path.iterdir()] == [name] and not trainer.names
    assert (tmp_path / name).read_text() == words
