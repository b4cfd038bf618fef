"""Tuning of a number for every arm: equal effort, a range that grows, and exact resumption."""

import itertools
import math
import os
import re
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charlm_jax.cli import main
from charlm_jax.core.errors import CharlmError
from charlm_jax.core.json_files import write_json
from charlm_jax.core.signals import Interrupted
from charlm_jax.data.dataset import load_dataset
from charlm_jax.storage.run_index import run_folders
from charlm_jax.storage.workdir import Workdir
from charlm_jax.sweeps import local, tuning
from charlm_jax.sweeps.local import Outcome, build_undivided
from charlm_jax.sweeps.points import Point
from charlm_jax.sweeps.tuning import (
    Rung,
    Search,
    Trial,
    Tuned,
    default_search,
    train_trials,
    tune,
)
from charlm_jax.training.loop import train_and_evaluate
from tests.conftest import ROOT, TINY
from tests.sweeps.test_local import Log
from tests.sweeps.test_points import write_sweep

RATE = "optimizer.learning_rate"
OVERRIDES = tuple(f"{field}={value}" for field, value in TINY.items())


def _arm(name: str = "a", rate: float = 0.01) -> Point:
    return Point(name, str(ROOT / "configs" / "base.py"), (f"{RATE}={rate}",))


def _search(values: int = 5, kept: int = 2, seeds: int = 2) -> Search:
    return Search(RATE, (Rung(values, 1, 10_000), Rung(kept, seeds, 20_000)))


class Valley:
    """Losses with one minimum, at another value for each arm; remembers what was trained."""

    def __init__(self, best: dict[str, float]) -> None:
        self.best = best
        self.trained: list[Trial] = []

    def __call__(self, trials: Sequence[Trial]) -> list[float]:
        self.trained += trials
        return [self.loss(trial) for trial in trials]

    def loss(self, trial: Trial) -> float:
        return 1.0 + abs(math.log(trial.value / self.best[trial.arm.name]))


@given(
    st.floats(-3, 3),
    st.floats(-3, 3),
    st.integers(1, 9),
    st.integers(1, 3),
    st.integers(1, 3),
)
def test_every_arm_gets_the_same_effort(
    first: float, second: float, values: int, kept: int, seeds: int
) -> None:
    valley = Valley({"a": 0.01 * 2.0**first, "b": 0.01 * 2.0**second})
    search = _search(max(values, kept), kept, seeds)
    found = tune([_arm("a"), _arm("b")], search, valley)
    for name in "ab":
        own = [trial for trial in valley.trained if trial.arm.name == name]
        assert len(own) == len({*own}) == search.runs
        assert sum(trial.characters for trial in own) == search.characters
        assert [*found[name].losses] == own
        tried = [len({t.value for t in own if t.characters == x}) for x in (10_000, 20_000)]
        assert tried == [max(values, kept), kept]


@given(st.floats(-2.9, 2.9), st.integers(6, 9))
def test_the_range_grows_to_the_best_and_then_closes_in_on_it(where: float, values: int) -> None:
    best = 0.01 * 2.0**where
    found = tune([_arm()], _search(values), Valley({"a": best}))["a"]
    assert not found.is_at_edge
    assert abs(math.log2(found.value / best)) <= 1.0
    tried = sorted({trial.value for trial in found.losses})
    assert tried[0] < best < tried[-1]


@pytest.mark.parametrize("where", [-2.2, -1.2, -0.2, 0.2, 1.2])
def test_four_values_go_where_the_loss_falls(where: float) -> None:
    found = tune([_arm()], _search(4), Valley({"a": 0.01 * 2.0**where}))["a"]
    assert not found.is_at_edge


def test_the_gap_towards_the_better_neighbour_is_halved() -> None:
    for best, fourth in ((0.011, 0.01414), (0.009, 0.007071)):
        valley = Valley({"a": best})
        tune([_arm(rate=0.01)], _search(4, 1), valley)
        tried = [trial.value for trial in valley.trained if trial.characters == 10_000]
        assert tried == [0.01, 0.005, 0.02, fourth]


def test_the_own_value_is_tried_with_all_its_digits() -> None:
    valley = Valley({"a": 0.0012345})
    assert tune([_arm(rate=0.0012345)], _search(3, 1), valley)["a"].value == 0.0012345
    assert [trial.value for trial in valley.trained][:2] == [0.0012345, 0.0006172]


def test_a_best_beyond_all_values_is_said_to_be_at_an_edge() -> None:
    found = tune([_arm()], _search(4), Valley({"a": 100.0}))["a"]
    assert found.is_at_edge and found.value == max(trial.value for trial in found.losses)
    assert "at an edge" in found.describe()


def test_later_rungs_train_only_the_best_of_the_rung_before() -> None:
    valley = Valley({"a": 0.011})
    tune([_arm()], _search(5, 2, seeds=3), valley)
    short = {t.value: valley.loss(t) for t in valley.trained if t.characters == 10_000}
    long = [(t.value, t.seed) for t in valley.trained if t.characters == 20_000]
    best = sorted(short, key=short.__getitem__)[:2]
    assert long == [*itertools.product(best, (1, 2, 3))]


def test_the_last_rung_decides() -> None:
    def train(trials: Sequence[Trial]) -> list[float]:
        return [t.value if t.characters == 10_000 else 1.0 - t.value for t in trials]

    found = tune([_arm(rate=0.1)], _search(4, 2), train)["a"]
    (lower, higher) = sorted({t.value for t in found.losses if t.characters == 20_000})
    assert found.value == higher > lower


def test_a_value_that_diverges_is_the_worst() -> None:
    def train(trials: Sequence[Trial]) -> list[float]:
        return [math.nan if trial.value > 0.006 else 2.0 + trial.value for trial in trials]

    found = tune([_arm(rate=0.02)], _search(5, 1), train)["a"]
    assert found.value < 0.006
    assert math.inf in found.losses.values()


@pytest.mark.parametrize("length", [10_000, 20_000])
def test_an_arm_whose_every_value_diverges_on_a_rung_is_an_error(length: int) -> None:
    trained: list[Trial] = []

    def train(trials: Sequence[Trial]) -> list[float]:
        trained.extend(trials)
        return [math.nan if trial.characters >= length else 2.0 for trial in trials]

    says = r"every config\.optimizer\.learning_rate that was tried for a diverged \(.*0\.01"
    with pytest.raises(CharlmError, match=says):
        tune([_arm()], _search(2, 2), train)
    assert max(trial.characters for trial in trained) == length


def test_losses_of_each_length_are_listed_apart() -> None:
    losses = {
        Trial(_arm(), RATE, value, 1, characters): loss
        for value, characters, loss in ((0.01, 800, 2.5), (0.02, 800, 2.25), (0.02, 1_600, 1.5))
    }
    found = Tuned(0.02, losses)
    assert found.mean_losses() == {0.02: 1.5}
    assert found.mean_losses(800) == {0.01: 2.5, 0.02: 2.25}
    first = "held-out losses after 800 characters: 2.5000 at 0.01, 2.2500 at 0.02"
    assert found.describe().startswith(f"{first}; after 1,600 characters: 1.5000 at 0.02;")


def test_only_a_fault_of_the_trials_own_run_is_divergence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = Trial(_arm(), RATE, 0.01, 1, 25_600)
    point = trial.point()
    failed = Outcome(point, "failed", None, "runs/a holds another run: config.optimizer.clip_norm")
    monkeypatch.setattr(tuning, "run_points", lambda *_, **__: [failed])
    workdir = point.workdir(tmp_path)
    workdir.fault.mkdir(parents=True)
    write_json(workdir.config_file, point.load().to_dict())
    assert train_trials([trial], tmp_path) == [math.inf]
    (workdir.fault / "7").mkdir()
    assert train_trials([trial], tmp_path) == [math.inf]
    (workdir.checkpoints / "7").mkdir(parents=True)  # the run has passed the step since
    with pytest.raises(CharlmError, match=r"a-learning_rate.*: runs/a holds another run"):
        train_trials([trial], tmp_path)
    (workdir.checkpoints / "7").rename(workdir.checkpoints / "6")
    other = point._replace(overrides=(*point.overrides, "optimizer.clip_norm=0.5")).load()
    write_json(workdir.config_file, other.to_dict())
    with pytest.raises(CharlmError, match=r"a-learning_rate.*: runs/a holds another run"):
        train_trials([trial], tmp_path)


def test_the_same_losses_give_the_same_search() -> None:
    """A search that is resumed asks for the same trials in the same order."""
    first, again = Valley({"a": 0.03, "b": 0.004}), Valley({"a": 0.03, "b": 0.004})
    arms = [_arm("a"), _arm("b", rate=0.02)]
    assert tune(arms, _search(), first) == tune(arms, _search(), again)
    assert first.trained == again.trained


class InterruptAtDone(Log):
    """Sends SIGINT when the first trial is done."""

    def note(self, line: str) -> None:
        super().note(line)
        if len(self.notes) == 1:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.usefixtures("child_environment")
def test_an_interrupted_search_resumes_without_training_a_trial_again(tmp_path: Path) -> None:
    arm = Point("a", str(ROOT / "configs" / "base.py"), (*OVERRIDES, f"{RATE}=0.03"))
    search = Search(RATE, (Rung(2, 1, 1_280), Rung(1, 1, 2_560)))
    first, log, whole = InterruptAtDone(), Log(), []

    def train_here(trials: Sequence[Trial]) -> list[float]:
        whole.extend(trial.name for trial in trials)
        folders = [tmp_path / "whole" / trial.name for trial in trials]
        results = map(train_and_evaluate, (t.point().load() for t in trials), folders)
        return [result.best_loss_nats or math.nan for result in results]

    wanted = tune([arm], search, train_here)["a"]
    with pytest.raises(Interrupted):
        tune([arm], search, lambda trials: train_trials(trials, tmp_path / "runs", view=first))
    assert first.notes[0].startswith(f"{whole[0]}: done")
    found = tune([arm], search, lambda trials: train_trials(trials, tmp_path / "runs", view=log))
    assert log.started == whole[1:] and len(whole) == 3
    assert found["a"].value == wanted.value and [*found["a"].losses] == [*wanted.losses]
    assert [*found["a"].losses.values()] == pytest.approx([*wanted.losses.values()], rel=1e-5)


def test_a_trial_is_the_arm_with_a_value_a_seed_and_fewer_steps() -> None:
    trial = Trial(_arm("T40"), RATE, 0.02, 3, 25_600)
    config = trial.point().load()
    assert trial.point().name == "T40-learning_rate=0.02-characters=25600-seed=3"
    assert (config.optimizer.learning_rate, config.seed, config.train.max_steps) == (0.02, 3, 10)


@pytest.mark.parametrize(
    ("field", "rungs", "says"),
    [
        (RATE, (), "at least one rung"),
        (RATE, (Rung(0, 1, 10_000),), "at least one value"),
        (RATE, (Rung(2, 1, 10_000), Rung(3, 1, 20_000)), "no more values than the one before"),
        (RATE, (Rung(11, 1, 10_000),), "at most 10 values"),
        (RATE, (Rung(2, 1, 20_000), Rung(1, 1, 10_000)), "longer than the one before"),
        (RATE, (Rung(2, 1, 2_000),), "shorter than a batch of a, which has 2,560"),
        ("optimizer.rate", (Rung(2, 1, 9_000),), "config.optimizer.rate of a cannot be tuned"),
        ("model.dropout", (Rung(2, 1, 9_000),), "config.model.dropout=0.0 of a cannot be tuned"),
        ("seed", (Rung(2, 1, 9_000),), "config.seed=1 of a cannot be tuned: it bears on"),
        (
            "split.valid_fraction",
            (Rung(2, 1, 9_000),),
            r"of a cannot be tuned: .* cannot be compared: .* as model\.[^:]*decay_fraction$",
        ),
    ],
)
def test_a_search_that_makes_no_sense_is_refused(
    field: str, rungs: tuple[Rung, ...], says: str
) -> None:
    with pytest.raises(CharlmError, match=says):
        tune([_arm()], Search(field, rungs), Valley({"a": 1.0}))


def test_a_ratio_too_small_to_tell_values_apart_is_refused() -> None:
    with pytest.raises(CharlmError, match=r"factor=1.1 is not allowed: it must be at least 1.5"):
        tune([_arm()], _search()._replace(factor=1.1), Valley({"a": 1.0}))


def test_values_that_a_field_may_not_have_are_left_out_with_the_same_effort() -> None:
    """No beta2 is 1: the range ends there, and gaps below are halved."""
    arm = _arm()._replace(overrides=("optimizer.beta2=0.9",))
    search = _search(5, 1)._replace(field="optimizer.beta2")
    for best in (0.99, 0.1):
        valley = Valley({"a": best})
        found = tune([arm], search, valley)["a"]
        tried = [trial.value for trial in valley.trained if trial.characters == 10_000]
        assert tried[:2] == [0.9, 0.45] and len({*tried}) == 5 and max(tried) == 0.9
        assert found.value == min(tried, key=lambda value: abs(math.log(value / best)))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"data.length_schedule": "4:30"},
            r"characters of a, .* config.data.length_schedule='4:30'",
        ),
        ({"optimizer.warmup_steps": 6}, "steps=6 of a is more than half of the 10 steps"),
    ],
)
def test_a_search_whose_first_runs_could_not_be_trained_takes_no_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, object], says: str
) -> None:
    changes = {"train.epochs": 8, "train.max_steps": 80, **changes}
    texts = tuple(f"{field}={value}" for field, value in changes.items())
    arm = Point("a", str(ROOT / "configs" / "base.py"), (*OVERRIDES, *texts))
    with pytest.raises(CharlmError, match=says):
        default_search([arm], RATE)
    spec, folder = (
        write_sweep(tmp_path / "one.py", "return [{'seed': 1}]", **changes),
        tmp_path / "s",
    )
    assert main(["sweep", f"--config={spec}", f"--workdir={folder}", f"--tune={RATE}"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1 and not folder.exists()


def test_arms_with_other_batches_read_equally_many_characters() -> None:
    base = ("train.epochs=400", "data.corpus=synthetic:characters=20000")
    arms = [
        Point(f"{rows}", str(ROOT / "configs" / "base.py"), (*base, f"data.batch_size={rows}"))
        for rows in (4, 6)
    ]
    search = default_search(arms, RATE)
    for rung in search.rungs:
        read = set()
        for arm in arms:
            config = Trial(arm, RATE, 0.01, 1, rung.characters).point().load()
            data = config.data
            read.add(config.train.max_steps * data.batch_size * data.sequence_length)
        assert read == {rung.characters}


def test_a_text_without_a_held_out_part_is_refused_before_anything_is_trained() -> None:
    arm = Point("tiny", str(ROOT / "configs" / "base.py"), (*OVERRIDES, "split.kind=none"))
    with pytest.raises(CharlmError, match="tiny holds out no text"):
        default_search([arm], RATE)


def test_the_usual_search_costs_one_and_a_half_times_the_training() -> None:
    arm = Point("tiny", str(ROOT / "configs" / "base.py"), (*OVERRIDES, "train.epochs=40"))
    search = default_search([arm], RATE)
    config = arm.load()
    batch = config.data.batch_size * config.data.sequence_length
    whole = build_undivided(config, load_dataset(config)).total_steps * batch
    assert search.characters == pytest.approx(1.625 * whole, rel=0.02)


@pytest.mark.parametrize("when", ["in the search", "after the search"])
def test_a_text_that_changes_while_a_sweep_is_tuned_is_refused(
    when: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text, folder = tmp_path / "text.txt", tmp_path / "sweep"
    text.write_text("abcd" * 400)
    changes = {"train.epochs": 8, "data.corpus": str(text)}
    spec = write_sweep(tmp_path / "one.py", "return [{'data.sequence_length': 10}]", **changes)

    def search(arms: Sequence[Point], *_: object) -> dict[str, Tuned]:
        trial = Trial(arms[0], RATE, 0.01, 1, 400)
        train_and_evaluate(trial.point().load(), folder / ".tuning" / trial.name)
        if when == "in the search":
            text.write_text("dcba" * 400)
        return {arms[0].name: Tuned(0.01, {trial: 1.5})}

    def train(points: Sequence[Point], *_: object, **__: object) -> list[Outcome]:
        text.write_text("dcba" * 400)
        return [Outcome(point, "done", 1.25) for point in points]

    monkeypatch.setattr(tuning, "tune", search)
    monkeypatch.setattr(local, "run_points", train)
    assert main(["sweep", f"--config={spec}", f"--workdir={folder}", f"--tune={RATE}"]) == 2
    out, err = capsys.readouterr()
    assert ("held-out losses" in out) == (when == "after the search")
    assert "done" not in out
    assert re.search(r"^charlm sweep: point .*-learning_rate=0\.01-.*: the text of ", err)


@pytest.mark.exhaustive
@pytest.mark.usefixtures("child_environment")
def test_a_tuned_sweep_trains_each_point_with_its_best(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = write_sweep(
        tmp_path / "one.py", "return [{'data.sequence_length': 10}]", **{"train.epochs": 8}
    )
    folder = tmp_path / "sweep"
    words = ["sweep", f"--config={spec}", f"--workdir={folder}", f"--tune={RATE}", "--jobs=2"]
    assert main(words) == 0
    shown = capsys.readouterr().out
    name = "sequence_length=10"
    (line,) = [x for x in shown.splitlines() if x.startswith(f"{name}: {RATE}=")]
    rate = Workdir(folder / name).read_config().optimizer.learning_rate
    assert line.startswith(f"{name}: {RATE}={rate:g}; held-out losses ")
    assert len([*(folder / ".tuning").glob(f"{name}-*")]) == 9
    assert run_folders(folder) == [folder / name]  # what `compare` takes
    assert main(words) == 0  # all is done
    assert capsys.readouterr().out.count("held-out losses") == 1
    assert main([x for x in words if "--tune" not in x]) == 2
    assert "tuned was 'optimizer.learning_rate' and is now ''" in capsys.readouterr().err
