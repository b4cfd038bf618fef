"""Training that is put on record."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from charlm_jax.core.errors import CharlmError
from charlm_jax.core.signals import Interrupted
from charlm_jax.inference.run import Run
from charlm_jax.sweeps import tuning
from charlm_jax.sweeps.local import Outcome
from charlm_jax.sweeps.points import Point, make_point
from charlm_jax.sweeps.progress_bars import SweepView
from charlm_jax.sweeps.tuning import Rung, Search, Trial
from charlm_jax.training.loop import train_and_evaluate
from experiments import recorded_training
from experiments.recorded_training import (
    NotOnRecord,
    RecordedTraining,
    RecordFolder,
    WholeRuns,
    settings,
)
from tests.conftest import TINY

POINT = make_point("a", "quickstart", {**TINY, "train.max_steps": 4})
SEARCH = Search("optimizer.learning_rate", (Rung(2, 1, 400),))


def _no_losses(trials: Sequence[Trial]) -> list[float]:
    raise AssertionError(f"{trials[0].name} is not a run of the study")


WHOLE = WholeRuns(800, _no_losses)


class Trainer:
    """Trains in this process, and stops when told to."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.left = 1_000  # points to train before a signal comes

    def run_points(
        self, points: Sequence[Point], folder: Path, *, jobs: int = 1, view: SweepView | None = None
    ) -> list[Outcome]:
        outcomes = []
        for point in points:
            if not point.is_finished(folder):
                if not self.left:
                    raise Interrupted("stopped", 15)
                self.left -= 1
                self.names.append(point.name)
            result = train_and_evaluate(point.load(), folder / point.name)
            outcomes.append(Outcome(point, "done", result.best_loss_nats))
        return outcomes


@pytest.fixture
def trainer(monkeypatch: pytest.MonkeyPatch) -> Trainer:
    trainer = Trainer()
    monkeypatch.setattr(recorded_training, "run_points", trainer.run_points)
    monkeypatch.setattr(tuning, "run_points", trainer.run_points)
    return trainer


def _measure(point: Point, run: Run) -> dict[str, object]:
    return {"name": point.name, "step": run.checkpoint}


def test_what_is_on_record_is_not_trained_again(trainer: Trainer, tmp_path: Path) -> None:
    training = RecordedTraining(RecordFolder(tmp_path / "records"), tmp_path / "runs", jobs=2)
    trainer.left = 1
    with pytest.raises(Interrupted):
        training.tune([POINT], SEARCH, WHOLE)
    (trial,) = (tmp_path / "records" / "trials").iterdir()  # the one that was finished
    trainer.left = 100
    assert training.tune([POINT], SEARCH, WHOLE, train=False) == {}
    tuned = training.tune([POINT], SEARCH, WHOLE)["a"]
    assert len(trainer.names) == 2 and len(tuned.losses) == 2
    assert trial.stem in trainer.names[0]
    wanted = {"a": {**settings(POINT), "name": "a", "step": 4}}
    assert training.train([POINT], _measure) == training.train([POINT], _measure) == wanted
    assert trainer.names[2:] == ["a"]
    assert training.tune([POINT], SEARCH, WHOLE, train=False)["a"] == tuned
    assert training.require([POINT]) == [wanted["a"]]
    with pytest.raises(NotOnRecord):
        training.require([POINT, POINT._replace(name="b")])
    assert not any((tmp_path / "runs").glob("a*"))  # folders of runs on record are removed


def test_records_of_other_settings_are_refused(trainer: Trainer, tmp_path: Path) -> None:
    records = RecordFolder(tmp_path)
    training = RecordedTraining(records, tmp_path / "runs")
    assert training.tune([POINT], SEARCH, WHOLE, train=False) == {}
    for change, says in (
        ({"config": "lstm"}, "is of a run with lstm and not quickstart"),
        ({"overrides": [*POINT.overrides[:-1], "train.max_steps=5"]}, "max_steps=5 and not train"),
        ({"overrides": [*POINT.overrides, "seed=2"]}, "with seed=2 and not fewer fields"),
        ({"overrides": []}, "with fewer fields and not "),
    ):
        records.write("runs/a", {**settings(POINT), **change})
        with pytest.raises(CharlmError, match=says):
            training.recorded(POINT)
    assert trainer.names == []


def test_the_last_trials_may_be_runs_of_the_study(trainer: Trainer, tmp_path: Path) -> None:
    training = RecordedTraining(RecordFolder(tmp_path / "records"), tmp_path / "runs")
    asked: list[Trial] = []

    def losses(trials: Sequence[Trial]) -> list[float]:
        asked.extend(trials)
        return [trial.value for trial in trials]

    search = SEARCH._replace(rungs=(*SEARCH.rungs, Rung(1, 1, 800, added=1)))
    tuned = training.tune([POINT], search, WholeRuns(800, losses))["a"]
    assert len(trainer.names) == len(asked) == 2 and tuned.value == min(x.value for x in asked)
    assert {trial.characters for trial in asked} == {800}


@pytest.mark.parametrize("content", ["{torn", "[]", '{"config": "quickstart"}'])
def test_damaged_records_are_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "a.json").write_text(content)
    with pytest.raises(CharlmError, match=r"a\.json is damaged: remove it"):
        RecordedTraining(RecordFolder(tmp_path), tmp_path).recorded(POINT)


def test_a_record_does_not_name_the_folder_of_its_text() -> None:
    point = Point("a", "lstm", ("data.corpus=/home/me/book.txt", "seed=1"))
    assert settings(point) == {"config": "lstm", "overrides": ["data.corpus=book.txt", "seed=1"]}
