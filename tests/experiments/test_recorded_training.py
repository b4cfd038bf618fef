"""Training that is put on record."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from charlm_jax.core.errors import CharlmError, NotFinite
from charlm_jax.core.json_files import write_json
from charlm_jax.core.signals import Interrupted
from charlm_jax.inference.run import Run
from charlm_jax.sweeps.local import Outcome
from charlm_jax.sweeps.points import Point, make_point
from charlm_jax.sweeps.progress_bars import SweepView
from charlm_jax.sweeps.tuning import Trial, Tuned
from charlm_jax.training.loop import train_and_evaluate
from experiments import recorded_training
from experiments.recorded_training import RecordedTraining, RecordFolder, settings
from experiments.tuned_arms import Effort, TunedArm, train_arms
from tests.conftest import TINY

POINT = make_point("a", "quickstart", {**TINY, "train.max_steps": 4})


class Trainer:
    """Trains in this process, and stops when told to."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.left = 1_000  # points to train before a signal comes
        self.diverge: Callable[[str], bool] = lambda name: False

    def run_points(
        self, points: Sequence[Point], folder: Path, *, jobs: int = 1, view: SweepView | None = None
    ) -> list[Outcome]:
        outcomes = []
        for point in points:
            if self.diverge(point.name):
                self.names.append(point.name)
                workdir = point.workdir(folder)
                workdir.fault.mkdir(parents=True, exist_ok=True)
                if not workdir.config_file.exists():
                    write_json(workdir.config_file, point.load().to_dict())
                outcomes.append(Outcome(point, "failed", None, "step 1: the loss is nan"))
                continue
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
    return trainer


def _measure(run: Run) -> dict[str, object]:
    return {
        "name": run.workdir.name,
        "step": run.checkpoint,
        "second": run.config.optimizer.learning_rate,
    }


def _tune(
    training: RecordedTraining, *, train: bool = True, arms: Sequence[Point] = (POINT,)
) -> Mapping[str, Tuned]:
    def point_of(trial: Trial) -> Point:
        return trial.point()._replace(name=f"{trial.arm.name}-rate={trial.value:g}")

    return training.tune(
        arms,
        2,
        400,
        point_of,
        _measure,
        lambda record: record["second"],
        more=_more,
        train=train,
    )


def _more(run: Run) -> dict[str, object]:
    return {"weights": sorted(run.params)}


def test_what_is_on_record_is_not_trained_again(trainer: Trainer, tmp_path: Path) -> None:
    training = RecordedTraining(RecordFolder(tmp_path / "records"), tmp_path / "runs")
    trainer.left = 1
    with pytest.raises(Interrupted):
        _tune(training)
    (run,) = (tmp_path / "records" / "runs").iterdir()  # the one that was finished
    assert run.stem == trainer.names[0] and _tune(training, train=False) == {}
    trainer.left = 100
    tuned = _tune(training)["a"]
    assert len(trainer.names) == 2 and tuned.value == min(x.value for x in tuned.losses)
    assert trainer.names[0] == f"a-rate={max(x.value for x in tuned.losses):g}"
    for _ in range(2):
        training.train([POINT], _measure)
        wanted = {**settings(POINT), "name": "a", "step": 4, "second": 0.01}
        assert training.recorded(POINT) == wanted
    assert trainer.names[2:] == ["a"]
    assert _tune(training, train=False)["a"] == tuned
    assert not any((tmp_path / "runs").glob("a*"))  # folders of runs on record are removed


def test_more_is_measured_of_the_best_run_alone(trainer: Trainer, tmp_path: Path) -> None:
    training = RecordedTraining(RecordFolder(tmp_path / "records"), tmp_path / "runs")
    best = f"a-rate={_tune(training)['a'].value:g}"
    records = {file.stem: file for file in (tmp_path / "records" / "runs").iterdir()}
    written = {name: file.read_bytes() for name, file in records.items()}
    assert {name for name, text in written.items() if b'"weights"' in text} == {best}

    # It was interrupted before, and the folder of the run is lost: it is trained again.
    values = training.records.read(f"runs/{best}")
    assert values is not None
    values = {key: x for key, x in values.items() if key not in ("weights", "has_more")}
    training.records.write(f"runs/{best}", values)
    assert _tune(training, train=False) == {}
    trainer.names.clear()
    _tune(training)
    assert trainer.names == [best]
    assert {name: file.read_bytes() for name, file in records.items()} == written
    assert not any((tmp_path / "runs").glob("a*"))


def test_a_best_run_that_diverges_on_other_text_is_left_for_the_next(
    trainer: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = RecordedTraining(RecordFolder(tmp_path / "records"), tmp_path / "runs")

    def more(run: Run) -> dict[str, object]:
        if run.workdir.name == "a-rate=0.005":
            raise NotFinite("the model computes numbers that are not finite on this text")
        return {"weights": sorted(run.params)}

    monkeypatch.setattr(f"{__name__}._more", more)
    tuned = _tune(training)["a"]
    assert tuned.value == 0.01 and sorted(tuned.losses.values()) == [0.01, math.inf]
    assert _tune(training, train=False)["a"] == tuned
    assert sorted(trainer.names) == ["a-rate=0.005", "a-rate=0.01"]
    assert not any((tmp_path / "runs").glob("a*"))


def test_a_search_measures_its_best_run_and_other_seeds_in_whole(
    trainer: Trainer, tmp_path: Path
) -> None:
    training = RecordedTraining(RecordFolder(tmp_path / "records"), tmp_path / "runs")
    measured = []

    def search(run: Run) -> dict[str, object]:
        return {"second": run.config.optimizer.learning_rate}

    def measure(run: Run) -> dict[str, object]:
        measured.append(run.workdir.name)
        return {**search(run), "name": run.workdir.name}

    arm = TunedArm("a", "quickstart", TINY)
    found = train_arms(training, [arm], Effort(2, 400, (1, 2)), search, measure, more=_more)
    assert measured == ["a-rate=0.005-seed=1", "a-rate=0.005-seed=2"]
    records = found["a"].records
    assert [record["name"] for record in records.values()] == measured
    assert ["weights" in record for record in records.values()] == [True, False]


def test_reading_records_leaves_the_folders_of_runs(trainer: Trainer, tmp_path: Path) -> None:
    records, runs = RecordFolder(tmp_path / "records"), tmp_path / "runs"
    tuned = _tune(RecordedTraining(records, runs, keep=True))
    kept = sorted(runs.glob("a*"))
    assert len(kept) == 2
    assert _tune(RecordedTraining(records, runs), train=False) == tuned
    assert sorted(runs.glob("a*")) == kept
    _tune(RecordedTraining(records, runs))
    assert not any(runs.glob("a*"))


def test_a_run_whose_loss_on_another_part_is_not_finite_has_diverged(
    trainer: Trainer, tmp_path: Path
) -> None:
    training = RecordedTraining(RecordFolder(tmp_path / "records"), tmp_path / "runs")

    def measure(run: Run) -> dict[str, object]:
        if run.workdir.name == "a":
            raise NotFinite("the model computes numbers that are not finite on this text")
        return _measure(run)

    points = [POINT._replace(name=name) for name in "ab"]
    for _ in range(2):
        with pytest.raises(CharlmError, match="a diverged: its loss was not finite"):
            training.train(points, measure)
    assert trainer.names == ["a", "b"] and training.has_diverged(points[0])
    assert training.recorded(points[1]) is not None


def test_a_rate_that_diverges_is_the_worst_and_any_other_run_that_does_is_named(
    trainer: Trainer, tmp_path: Path
) -> None:
    training = RecordedTraining(RecordFolder(tmp_path / "records"), tmp_path / "runs", jobs=2)
    trainer.diverge = lambda name: name in ("a-rate=0.01", "b")
    tuned = _tune(training)["a"]
    assert tuned.value == 0.005 and [*tuned.losses.values()] == [math.inf, 0.005]
    assert _tune(training)["a"] == _tune(training, train=False)["a"] == tuned
    assert trainer.names == ["a-rate=0.01", "a-rate=0.005"]
    points = [POINT._replace(name=name) for name in "bc"]
    for _ in range(2):
        with pytest.raises(CharlmError, match="b diverged: its loss was not finite"):
            training.train(points, _measure)
    assert trainer.names[2:] == ["b", "c"]
    assert [training.recorded(point) is None for point in points] == [True, False]
    assert [training.has_diverged(point) for point in points] == [True, False]


def test_an_arm_whose_rates_all_diverge_is_left_out_and_the_others_are_tuned(
    trainer: Trainer, tmp_path: Path
) -> None:
    training = RecordedTraining(RecordFolder(tmp_path / "records"), tmp_path / "runs", jobs=2)
    trainer.diverge = lambda name: name.startswith("a")
    arms = [POINT, POINT._replace(name="b")]
    for train in (True, True, False):
        assert {*_tune(training, train=train, arms=arms)} == {"b"}
    assert sorted(trainer.names) == ["a-rate=0.005", "a-rate=0.01", "b-rate=0.005", "b-rate=0.01"]
    assert not any((tmp_path / "runs").glob("b*"))


def test_a_fault_of_other_settings_is_not_put_on_record(trainer: Trainer, tmp_path: Path) -> None:
    training = RecordedTraining(RecordFolder(tmp_path / "records"), tmp_path / "runs")
    workdir = POINT.workdir(tmp_path / "runs")
    workdir.fault.mkdir(parents=True)
    other = POINT._replace(overrides=(*POINT.overrides, "optimizer.clip_norm=0.5"))
    write_json(workdir.config_file, other.load().to_dict())
    trainer.diverge = lambda name: True
    with pytest.raises(CharlmError, match="a: step 1: the loss is nan; the same command resumes"):
        training.train([POINT], _measure)
    assert not training.has_diverged(POINT)


def test_records_of_other_settings_are_refused(trainer: Trainer, tmp_path: Path) -> None:
    records = RecordFolder(tmp_path)
    training = RecordedTraining(records, tmp_path / "runs")
    fields = settings(POINT)["fields"]
    for change, says in (
        ({"config": "lstm"}, "is of a run with lstm and not quickstart"),
        ({"fields": {**fields, "train.max_steps": 5}}, r"max_steps=5 and not train\.max_steps=4"),
        ({"fields": {**fields, "seed": 2}}, "with seed=2 and not seed=1"),
        ({"fields": {**fields, "a.b": 2}}, r"with a\.b=2 and not a\.b=None"),
        ({"fields": {}}, r"is of a run with data\.corpus="),
    ):
        records.write("runs/a", {**settings(POINT), **change})
        with pytest.raises(CharlmError, match=says):
            training.recorded(POINT)
    assert trainer.names == []


@pytest.mark.parametrize("second", [{}, {"second": None}, {"second": "low"}])
def test_a_loss_that_cannot_be_read_is_damage(
    second: dict[str, object], trainer: Trainer, tmp_path: Path
) -> None:
    training = RecordedTraining(RecordFolder(tmp_path), tmp_path / "runs")
    _tune(training)
    (file, _) = sorted((tmp_path / "runs").glob("*.json"))
    values = training.records.read(f"runs/{file.stem}")
    assert values is not None
    del values["second"]
    training.records.write(f"runs/{file.stem}", {**values, **second})
    with pytest.raises(CharlmError, match=r"json is damaged: remove it"):
        _tune(training)


@pytest.mark.parametrize(
    "content", ["{torn", "[]", '{"config": "quickstart"}', '{"config": "a", "fields": []}']
)
def test_damaged_records_are_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "a.json").write_text(content)
    with pytest.raises(CharlmError, match=r"a\.json is damaged: remove it"):
        RecordedTraining(RecordFolder(tmp_path), tmp_path).recorded(POINT)


def test_a_field_that_a_record_lacks_is_damage(tmp_path: Path) -> None:
    records = RecordFolder(tmp_path)
    records.write("runs/a", {"second": 1.0, "by_place": {"1": 2.0}})
    record = records.read("runs/a")
    assert record == {"second": 1.0, "by_place": {"1": 2.0}} and "third" not in record
    for values, field in ((record, "third"), (record["by_place"], "2")):
        with pytest.raises(CharlmError, match=r"a\.json is damaged: remove it"):
            values[field]


def test_a_record_does_not_name_the_folder_of_its_text() -> None:
    point = Point("a", "lstm", ("data.corpus=/home/me/book.txt", "seed=2"))
    found = settings(point)
    assert found["config"] == "lstm" and found["fields"]["data.corpus"] == "book.txt"
    assert found["fields"]["seed"] == 2


def test_a_record_made_before_its_config_changed_is_refused(tmp_path: Path) -> None:
    """The overrides are the same: the config file is another."""
    file, training = tmp_path / "mine.py", RecordedTraining(RecordFolder(tmp_path), tmp_path)
    text = "from configs import base\n\n\ndef get_config():\n    config = base.get_config()\n"
    for clip_norm in (1.0, 0.5):
        change = f"    config.optimizer.clip_norm = {clip_norm}\n    return config\n"
        file.write_text(text + change)
        recorded_training._fields.cache_clear()
        point = Point("a", str(file), ("seed=2",))
        if clip_norm == 1.0:
            training.records.write("runs/a", settings(point))
            assert training.recorded(point) is not None
    with pytest.raises(CharlmError, match=r"of a run with optimizer\.clip_norm=1\.0 and not"):
        training.recorded(point)
