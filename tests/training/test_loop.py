"""A whole run: its rows, its checkpoints, and going on after a stop."""

import contextlib
import dataclasses
import json
import math
import os
import shutil
import signal
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from charlm_jax.config.loading import ConfigSource
from charlm_jax.config.schema import Config
from charlm_jax.core.errors import CharlmError
from charlm_jax.core.signals import Interrupted
from charlm_jax.core.types import Params
from charlm_jax.data.dataset import load_dataset
from charlm_jax.evaluation import Sliding, Stream, Window
from charlm_jax.inference.run import load_run
from charlm_jax.storage.checkpoint import Checkpoints
from charlm_jax.storage.metrics_log import MetricsLog, MetricsRow
from charlm_jax.storage.workdir import Workdir
from charlm_jax.training.batch_gradient import (
    count_characters,
    initial_batch_state,
    loss_of_batch,
)
from charlm_jax.training.loop import train_and_evaluate
from charlm_jax.training.progress_bar import LogProgress, NullProgress
from charlm_jax.training.train_step import checkpointed_params
from charlm_jax.training.trainer import build_trainer
from tests.conftest import Notes, make_tiny_config

TIMING = {"seconds", "chars_per_second"}


def _rows(workdir: Path, *, timing: bool = False) -> list[MetricsRow]:
    rows = MetricsLog(workdir / "metrics.jsonl").rows()
    return [{k: v for k, v in row.items() if timing or k not in TIMING} for row in rows]


def _params(workdir: Path) -> list[np.ndarray]:
    return jax.tree.leaves(load_run(workdir, checkpoint="latest").params)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole tiny run, trained without a stop."""
    workdir = tmp_path_factory.mktemp("runs") / "tiny"
    train_and_evaluate(make_tiny_config(), workdir)
    return workdir


class StopAt(NullProgress):
    """Sends this process a signal when a step is reached, as a person at the keyboard would."""

    def __init__(self, step: int, number: int = signal.SIGINT, times: int = 1) -> None:
        self.step, self.number, self.times = step, number, times

    def advance(self, step: int, loss_nats: float, chars_per_second: float) -> None:
        if step >= self.step:
            for _ in range(self.times):
                os.kill(os.getpid(), self.number)
            self.times = 0


@pytest.mark.core
def test_rows_say_what_happened(finished: Path) -> None:
    rows = _rows(finished, timing=True)
    steps_per_epoch = math.ceil(2700 // 9 / 16)
    assert steps_per_epoch == 19
    names = "step epoch split scope weights loss_nats bits_per_char learning_rate state_hash"
    names += " chars_per_second seconds"
    for row in rows:
        assert [name for name in row if name != "gradient_norm"] == names.split()
        assert ("gradient_norm" in row) == (row["split"] == "train")
    kinds = [(r["step"], r["epoch"], r["split"]) for r in rows if r["scope"] == "epoch"]
    assert kinds == [(19, 1, "train"), (19, 1, "valid"), (38, 2, "train"), (38, 2, "valid")]
    steps = [(row["step"], row["epoch"]) for row in rows if row["scope"] == "step"]
    assert steps == [(5, 1), (10, 1), (15, 1), (20, 2), (25, 2), (30, 2), (35, 2)]
    for row in rows:
        assert row["bits_per_char"] == pytest.approx(row["loss_nats"] / math.log(2))
        assert row["learning_rate"] == pytest.approx(1e-3)
    seconds = [row["seconds"] for row in rows]
    assert seconds == sorted(seconds)


def test_an_epoch_row_is_the_mean_over_its_characters(tmp_path: Path) -> None:
    """With a row every step, the epoch's mean is theirs, the short last batch counting less."""
    config = make_tiny_config(**{"train.epochs": 1, "train.log_every_steps": 1})
    train_and_evaluate(config, tmp_path / "run")
    rows = _rows(tmp_path / "run")
    losses = [row["loss_nats"] for row in rows if row["scope"] == "step"]
    sizes = [16] * 18 + [300 - 18 * 16]
    (epoch,) = [r for r in rows if r["scope"] == "epoch" and r["split"] == "train"]
    assert epoch["loss_nats"] == pytest.approx(np.average(losses, weights=sizes), rel=1e-12)


def test_a_row_has_the_largest_gradient_norm_of_its_steps(finished: Path, tmp_path: Path) -> None:
    """Before clipping, which makes the second run's steps shorter but not its first norm."""
    singly, clipped = tmp_path / "singly", tmp_path / "clipped"
    train_and_evaluate(make_tiny_config(**{"train.log_every_steps": 1}), singly)
    norms = {r["step"]: r["gradient_norm"] for r in _rows(singly) if r["scope"] == "step"}
    spans = {"step": 5, "epoch": 19}
    for row in _rows(finished):
        if row["split"] == "train":
            first = row["step"] - spans[row["scope"]] + 1
            assert row["gradient_norm"] == max(norms[n] for n in range(first, row["step"] + 1))
    config = make_tiny_config(**{"train.log_every_steps": 1, "optimizer.clip_norm": 1e-3})
    train_and_evaluate(config, clipped)
    assert _rows(clipped)[0]["gradient_norm"] == norms[1] > 1e-3


def test_the_gradient_norm_is_that_of_all_parameters_together(tmp_path: Path) -> None:
    config = make_tiny_config(**{"train.log_every_steps": 1, "train.max_steps": 1})
    train_and_evaluate(config, tmp_path / "run")
    trainer = build_trainer(config, load_dataset(config))
    state = trainer.init_state()
    batch = trainer.batch(jnp.asarray(trainer.dataset.ids_N), 0)
    start = initial_batch_state(trainer.model, (), batch.fresh_B, context=0)

    def loss_nats(params: Params) -> jax.Array:
        return loss_of_batch(trainer.model, params, start, batch, count_characters(batch))[0]

    leaves = jax.tree.leaves(jax.jit(jax.grad(loss_nats))(state.params))
    norm = math.sqrt(sum(float(np.sum(np.square(x, dtype=np.float64))) for x in leaves))
    assert _rows(tmp_path / "run")[0]["gradient_norm"] == pytest.approx(norm, rel=1e-5)


def test_a_run_that_kept_no_gradient_norms_goes_on(finished: Path, tmp_path: Path) -> None:
    """Its checkpoints and rows are those of earlier versions; the next rows have the norms."""
    workdir = tmp_path / "run"
    train_and_evaluate(make_tiny_config(**{"train.epochs": 1}), workdir)
    checkpoints = Checkpoints(workdir / "checkpoints")
    opened = checkpoints.open(19)
    assert all(len(opened.meta["tally"][name]) == 4 for name in ("epoch", "window"))
    old = {name: opened.meta["tally"][name][:3] for name in ("epoch", "window")}
    rows = [
        {k: v for k, v in r.items() if k != "gradient_norm"} for r in _rows(workdir, timing=True)
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    (workdir / "metrics.jsonl").write_bytes(lines)
    shutil.rmtree(workdir / "checkpoints" / "19")
    state = build_trainer(make_tiny_config(), load_dataset(make_tiny_config())).init_state()
    like = checkpointed_params(state), (state.step, state.opt_state, state.carried)
    checkpoints.save(
        19,
        params=opened.params(like[0]),
        training=opened.training(like[1]),
        meta=opened.meta | {"tally": opened.meta["tally"] | old},
        loss_nats=opened.meta["loss_nats"],
        rows=lines,
    )
    train_and_evaluate(make_tiny_config(), workdir)
    without = [{k: v for k, v in row.items() if k != "gradient_norm"} for row in _rows(finished)]
    found = _rows(workdir)
    assert [{k: v for k, v in row.items() if k != "gradient_norm"} for row in found] == without
    # The row of steps 16 to 20 has the norm of the last alone.
    assert [r["step"] for r in found if "gradient_norm" in r] == [20, 25, 30, 35, 38]
    assert found[-2]["gradient_norm"] == _rows(finished)[-2]["gradient_norm"]


def test_the_same_config_gives_the_same_run(finished: Path, tmp_path: Path) -> None:
    train_and_evaluate(make_tiny_config(), tmp_path / "again")
    assert _rows(tmp_path / "again") == _rows(finished)
    for first, second in zip(_params(finished), _params(tmp_path / "again"), strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.mark.core
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("step", [3, 19, 22])
def test_a_stopped_run_goes_on_as_if_nothing_had_happened(
    finished: Path, tmp_path: Path, step: int, number: int
) -> None:
    workdir, handler = tmp_path / "run", signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted, match="run the same command again to resume") as caught:
        train_and_evaluate(make_tiny_config(), workdir, view=StopAt(step, number))
    assert caught.value.signal_number == number
    assert not isinstance(caught.value, Exception)  # nobody who skips failures swallows it
    assert signal.getsignal(signal.SIGINT) is handler
    with (workdir / "metrics.jsonl").open("a") as file:
        file.write('{"step": 23, "torn')  # as a killed process may leave it
    result = train_and_evaluate(make_tiny_config(), workdir)
    assert result.step == 38 and not result.was_done
    assert _rows(workdir) == _rows(finished)
    for first, second in zip(_params(finished), _params(workdir), strict=True):
        np.testing.assert_array_equal(first, second)


class StopAtScore(NullProgress):
    """Sends a signal when a step has been scored."""

    def __init__(self, step: int) -> None:
        self.step = step

    def row(self, row: MetricsRow, mark: str) -> None:
        if (row["split"], row["step"]) == ("valid", self.step):
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_signal_at_the_end_is_raised_and_the_run_is_done(tmp_path: Path) -> None:
    config, run = make_tiny_config(), Workdir(tmp_path / "run")
    with pytest.raises(Interrupted, match="after step 38, the last: the run is done") as caught:
        train_and_evaluate(config, run.path, view=StopAtScore(38))
    assert caught.value.signal_number == signal.SIGTERM
    assert run.read_facts()["finished"] == "done"
    assert train_and_evaluate(config, run.path).was_done


class StopInScoring(NullProgress):
    """Sends a signal when a share of the held-out text is scored, the n-th time that one is."""

    def __init__(self, share: float, time: int = 1) -> None:
        self.share, self.time = share, time
        self.shares: list[float] = []

    def scoring(self, share: float) -> None:
        self.shares.append(share)
        if share >= self.share and self.shares.count(share) == self.time:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.core
@pytest.mark.parametrize(
    ("time", "average_decay"), [(1, 0.0), (2, 0.0), (1, 0.5), (2, 0.5), (4, 0.5)]
)
def test_a_signal_ends_scoring_which_is_done_on_going_on(
    tmp_path: Path, time: int, average_decay: float
) -> None:
    """At the first step that is scored and at the last, in scoring raw and averaged weights."""
    config = make_tiny_config(**{"optimizer.average_decay": average_decay})
    train_and_evaluate(config, tmp_path / "whole")
    workdir, view = tmp_path / "run", StopInScoring(2 / 6, time)
    with pytest.raises(Interrupted, match="and saved; run the same command again to resume"):
        train_and_evaluate(config, workdir, view=view)
    assert view.shares[-1] == 2 / 6  # at once: no further batch
    step = 19 if time <= 1 + (average_decay > 0) else 38
    checkpoints = Checkpoints(workdir / "checkpoints")
    opened = checkpoints.open(step)
    assert checkpoints.steps()[-1] == step and opened.meta["loss_nats"] is None
    assert not [r for r in _rows(workdir) if (r["step"], r["split"]) == (step, "valid")]
    with pytest.raises(Interrupted):  # and once more, when scoring is all that is left
        train_and_evaluate(config, workdir, view=StopInScoring(1 / 6))
    # As a process leaves it that is killed after scoring, before it has saved.
    row = {**MetricsLog(workdir / "metrics.jsonl").rows()[-1], "split": "valid", "step": step}
    MetricsLog(workdir / "metrics.jsonl").append(row)
    result = train_and_evaluate(config, workdir)
    assert result.step == 38 and not result.was_done
    assert _rows(workdir) == _rows(tmp_path / "whole")
    for first, second in zip(_params(tmp_path / "whole"), _params(workdir), strict=True):
        np.testing.assert_array_equal(first, second)
    whole = Checkpoints(tmp_path / "whole" / "checkpoints")
    for kept in checkpoints.steps():
        assert checkpoints.open(kept).meta["loss_nats"] == whole.open(kept).meta["loss_nats"]
    assert checkpoints.choose("best") == whole.choose("best") == result.best_step


def test_a_part_of_the_held_out_text_is_watched(finished: Path, tmp_path: Path) -> None:
    """Some of the windows that `evaluate` scores, to the bit; training is the same."""
    config, view = make_tiny_config(**{"evaluation.max_characters": 70}), Notes()
    result = train_and_evaluate(config, tmp_path / "run", view=view)
    assert view.lines == [
        "held-out losses are of 64 of the 300 held-out characters, evenly spread; "
        "charlm evaluate scores all"
    ]
    assert result.watched == "of 64 of the 300 held-out characters, evenly spread"
    run = load_run(tmp_path / "run", checkpoint="latest")
    evaluation, nll_N = run.evaluate()
    assert evaluation.characters == 300
    watched = build_trainer(config, load_dataset(config)).watched
    mean = np.mean(np.concatenate([nll_N[x.start - 2700 : x.stop - 2700] for x in watched]))
    found, others = _rows(tmp_path / "run"), _rows(finished)
    assert found[-1]["loss_nats"] == pytest.approx(mean, rel=1e-6)
    assert found[-1]["loss_nats"] != others[-1]["loss_nats"]
    assert [r for r in found if r["split"] == "train"] == [
        r for r in others if r["split"] == "train"
    ]


def test_how_much_is_watched_may_change_where_it_is_all_the_same(tmp_path: Path) -> None:
    """Runs of earlier versions have no limit: they go on under any that is not below their text."""
    workdir, none = tmp_path / "run", {"evaluation.max_characters": 0}
    train_and_evaluate(make_tiny_config(**none, **{"train.epochs": 1}), workdir)
    train_and_evaluate(make_tiny_config(**{"evaluation.max_characters": 300}), workdir)
    with pytest.raises(CharlmError, match="max_characters is 300 there and 299 here"):
        train_and_evaluate(make_tiny_config(**{"evaluation.max_characters": 299}), workdir)


class Samples(NullProgress):
    """Collects the samples that are shown."""

    def __init__(self) -> None:
        self.texts: dict[int, str] = {}

    def sample(self, step: int, scale: float, text: str) -> None:
        self.texts[step] = text


def test_samples_are_those_of_the_weights_and_change_nothing(
    finished: Path, tmp_path: Path
) -> None:
    view, config = Samples(), make_tiny_config(**{"train.sample_every_steps": 7})
    train_and_evaluate(config, tmp_path / "run", view=view)
    assert list(view.texts) == [7, 14, 21, 28, 35]
    assert _rows(tmp_path / "run") == _rows(finished)
    for first, second in zip(_params(finished), _params(tmp_path / "run"), strict=True):
        np.testing.assert_array_equal(first, second)
    short = make_tiny_config(**{"train.max_steps": 14})
    train_and_evaluate(short, tmp_path / "short")
    # A resumed run may have another interval.
    again = Samples()
    short = make_tiny_config(**{"train.sample_every_steps": 21})
    train_and_evaluate(short, tmp_path / "short", view=again)
    assert again.texts == {21: view.texts[21]}


def test_a_sample_continues_the_first_symbol(tmp_path: Path) -> None:
    """After a rate so high that the prompt makes a difference."""
    changes = {"train.max_steps": 14, "train.sample_every_steps": 14}
    view, config = Samples(), make_tiny_config(**changes, **{"optimizer.learning_rate": 0.3})
    train_and_evaluate(config, tmp_path / "run", view=view)
    run = load_run(tmp_path / "run", checkpoint="latest")
    first, *_, last = (
        run.generate(symbol, characters=200, scale=1.5, seed=1) for symbol in run.vocabulary.symbols
    )
    assert view.texts == {14: first} and first != last


def test_a_sample_is_a_paragraph_under_its_step(capsys: pytest.CaptureFixture[str]) -> None:
    LogProgress().sample(20, 1.5, "\nTo be,\n\nor not\n")
    assert capsys.readouterr().out == "step 20, scale 1.5:\n    To be,\n\n    or not\n\n"


def test_a_second_ctrl_c_acts_at_once_and_a_second_sigterm_does_not(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train_and_evaluate(make_tiny_config(), tmp_path / "a", view=StopAt(3, times=2))
    with pytest.raises(Interrupted):
        view = StopAt(3, signal.SIGTERM, times=2)
        train_and_evaluate(make_tiny_config(), tmp_path / "b", view=view)


def test_a_finished_run_is_left_alone_and_a_longer_one_goes_on(
    finished: Path, tmp_path: Path
) -> None:
    workdir = tmp_path / "run"
    train_and_evaluate(make_tiny_config(**{"train.epochs": 1}), workdir)
    before = (workdir / "metrics.jsonl").read_bytes()
    assert train_and_evaluate(make_tiny_config(**{"train.epochs": 1}), workdir).was_done
    assert (workdir / "metrics.jsonl").read_bytes() == before
    train_and_evaluate(make_tiny_config(), workdir)
    assert _rows(workdir) == _rows(finished)


def test_another_config_or_text_in_the_same_workdir_is_refused(
    finished: Path, text_file: Path, tmp_path: Path
) -> None:
    with pytest.raises(CharlmError, match=r"train.epochs is 2 there and 1 here"):
        train_and_evaluate(make_tiny_config(**{"train.epochs": 1}), finished)
    message = r"config.seed is 1 there and 2 here; .*sequence_length is 8 there and 9 here"
    changes = {"seed": 2, "data.sequence_length": 9}
    with pytest.raises(CharlmError, match=message):
        train_and_evaluate(make_tiny_config(**changes), finished)
    corpus = {"data.corpus": str(text_file)}
    train_and_evaluate(make_tiny_config(**corpus), tmp_path / "run")
    text_file.write_text(text_file.read_text() + "more of the same\n")
    with pytest.raises(CharlmError, match="is not the one that"):
        train_and_evaluate(make_tiny_config(**corpus), tmp_path / "run")


def test_a_folder_with_other_files_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(CharlmError, match="is not a run"):
        train_and_evaluate(make_tiny_config(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.core
def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_checkpoint(
    tmp_path: Path,
) -> None:
    workdir = tmp_path / "run"
    good = make_tiny_config(**{"train.epochs": 1})
    train_and_evaluate(good, workdir)
    checkpoints = Checkpoints(workdir / "checkpoints")
    state = make_wild(checkpoints, good)
    rows = (workdir / "metrics.jsonl").read_bytes()
    checkpoints.save(20, **state, loss_nats=None, rows=rows)
    with pytest.raises(CharlmError, match=r"step 21: .*checkpoint 20 is the last good one"):
        train_and_evaluate(make_tiny_config(), workdir)
    assert checkpoints.steps()[-1] == 20
    assert max(row["step"] for row in _rows(workdir)) <= 20


def test_parameters_ruined_by_the_last_update_are_not_saved(tmp_path: Path) -> None:
    """Loss and gradient are measured before the update, so they alone do not tell."""
    config = make_tiny_config(**{"train.max_steps": 1, "optimizer.learning_rate": 1e38})
    for split in ("tail", "none"):
        workdir = tmp_path / split
        wild = dataclasses.replace(config, split=dataclasses.replace(config.split, kind=split))
        with pytest.raises(CharlmError, match=r"step 1: .*no checkpoint was saved"):
            train_and_evaluate(wild, workdir)
        assert Checkpoints(workdir / "checkpoints").steps() == []


def make_wild(checkpoints: Checkpoints, config: Config) -> dict:
    """The latest checkpoint one step on, with weights so large that the next loss is not finite."""
    state = build_trainer(config, load_dataset(config)).init_state()
    meta = checkpoints.open(19).meta
    tally = meta["tally"] | {"step": 20, "epoch": [1.0, 1, 1.0]}
    params = jax.tree.map(lambda w: np.full_like(w, 1e38), state.params)
    training = (np.int32(20), state.opt_state, state.carried)
    return {"params": params, "training": training, "meta": meta | {"tally": tally}}


def test_the_best_and_the_latest_checkpoints_are_kept(tmp_path: Path) -> None:
    workdir = tmp_path / "run"
    # A rate that ruins what the first steps learnt: the best checkpoint is an early one.
    config = make_tiny_config(
        **{"train.evaluate_every_steps": 4, "optimizer.learning_rate": 0.5, "train.epochs": 3}
    )
    result = train_and_evaluate(config, workdir)
    valid = [row for row in _rows(workdir) if row["split"] == "valid"]
    best = min(valid, key=lambda row: row["loss_nats"])
    checkpoints = Checkpoints(workdir / "checkpoints")
    kept = checkpoints.steps()
    assert checkpoints.choose("best") == best["step"] == result.best_step
    assert checkpoints.choose("latest") == 57
    assert kept == sorted({best["step"], 56, 57})
    assert load_run(workdir).checkpoint == best["step"]
    evaluation, _ = load_run(workdir).evaluate()
    assert evaluation.loss_nats == pytest.approx(best["loss_nats"], rel=1e-6)


@pytest.mark.parametrize(
    ("keep", "series"), [("log", [1, 2, 4, 8, 16, 32]), ("40", [40, 80]), ("", [])]
)
def test_a_series_of_checkpoints_is_kept(tmp_path: Path, keep: str, series: list[int]) -> None:
    """Also by a run that was stopped; the weights are those of a run of that many steps."""
    last, end = series[-1] if series else 38, 95 if keep == "40" else 45
    config = make_tiny_config(**{"train.keep": keep, "train.epochs": 5, "train.max_steps": end})
    workdir = tmp_path / "run"
    for stop in (3, 25):
        with pytest.raises(Interrupted):
            train_and_evaluate(config, workdir, view=StopAt(stop))
    result = train_and_evaluate(config, workdir)
    checkpoints = Checkpoints(workdir / "checkpoints")
    latest = {last, end} if keep == "40" else {38, end}
    assert set(checkpoints.steps()) == {*series, *latest, result.best_step}
    fields = {"train.epochs": 5, "train.max_steps": last}
    train_and_evaluate(make_tiny_config(**fields), tmp_path / "short")
    kept = jax.tree.leaves(load_run(workdir, checkpoint=last).params)
    for first, second in zip(kept, _params(tmp_path / "short"), strict=True):
        np.testing.assert_array_equal(first, second)
    assert load_run(workdir, checkpoint=last).evaluate()[0].key.checkpoint == last


def test_a_series_may_begin_later_and_does_not_change(tmp_path: Path) -> None:
    workdir, short = tmp_path / "run", {"train.epochs": 1}
    train_and_evaluate(make_tiny_config(**short), workdir)
    train_and_evaluate(make_tiny_config(**{"train.keep": "log"}), workdir)
    assert Checkpoints(workdir / "checkpoints").steps() == [32, 38]
    for other in ("", "40"):
        with pytest.raises(CharlmError, match=f"train.keep is 'log' there and '{other}' here"):
            train_and_evaluate(make_tiny_config(**{"train.keep": other}), workdir)


def test_a_series_has_a_bound(tmp_path: Path) -> None:
    for keep, epochs, least in [("39", 20, 40), ("40", 200, 75), ("74", 200, 75)]:
        config = make_tiny_config(**{"train.keep": keep, "train.epochs": epochs})
        message = f"train.keep={keep} is not allowed .*at least {least}, for at most 50"
        with pytest.raises(CharlmError, match=message):
            build_trainer(config, load_dataset(config))
    config = make_tiny_config(**{"train.keep": "75", "train.epochs": 200})
    trainer = build_trainer(config, load_dataset(config))
    assert sum(map(config.train.keeps, range(1, trainer.total_steps + 1))) == 50


def test_an_interval_in_steps_takes_the_place_of_epochs(tmp_path: Path) -> None:
    config = make_tiny_config(**{"train.evaluate_every_steps": 30, "train.epochs": 4})
    train_and_evaluate(config, tmp_path / "run")
    scores = [r for r in _rows(tmp_path / "run") if r["split"] == "valid"]
    assert [(r["step"], r["scope"]) for r in scores] == [(30, "step"), (60, "step"), (76, "epoch")]
    assert Checkpoints(tmp_path / "run" / "checkpoints").steps()[-2:] == [60, 76]


@pytest.mark.core
@pytest.mark.parametrize("stop", [None, 30, 57])
def test_a_run_stops_early_when_it_no_longer_gets_better(tmp_path: Path, stop: int | None) -> None:
    """The count survives an interruption, at the last score as well."""
    changes = {"train.evaluate_every_steps": 19, "train.epochs": 20, "optimizer.learning_rate": 3.0}
    config = make_tiny_config(**changes, **{"train.patience": 2})
    workdir = tmp_path / "run"
    if stop is not None:
        with contextlib.suppress(Interrupted):
            train_and_evaluate(config, workdir, view=StopAt(stop))
    result = train_and_evaluate(config, workdir)
    losses = [row["loss_nats"] for row in _rows(workdir) if row["split"] == "valid"]
    stale = next(n for n in range(2, 20) if min(losses[n - 1 : n + 1]) >= min(losses[: n - 1]))
    assert len(losses) == stale + 1 and result.step == 19 * (stale + 1) < 380
    assert result.stopped_early and result.best_loss_nats == min(losses)
    again = train_and_evaluate(config, workdir)
    assert again.was_done and again.stopped_early and again.step == result.step
    patient = make_tiny_config(**changes, **{"train.patience": 3})
    assert train_and_evaluate(patient, workdir).step > result.step
    with pytest.raises(CharlmError, match="patience is 3 there and 2 here"):
        train_and_evaluate(config, workdir)


def test_steps_can_be_limited(tmp_path: Path) -> None:
    config = make_tiny_config(**{"train.max_steps": 7})
    assert train_and_evaluate(config, tmp_path / "run").step == 7
    rows = _rows(tmp_path / "run")
    assert [(row["step"], row["split"], row["scope"]) for row in rows] == [
        (5, "train", "step"),
        (7, "valid", "step"),
    ]


def test_without_a_held_out_part_there_is_no_held_out_figure(tmp_path: Path) -> None:
    config = make_tiny_config(**{"split.kind": "none", "train.epochs": 1})
    result = train_and_evaluate(config, tmp_path / "run")
    assert result.best_loss_nats is None
    assert {row["split"] for row in _rows(tmp_path / "run")} == {"train"}
    run = load_run(tmp_path / "run")  # best falls back to the latest
    assert run.checkpoint == result.step
    with pytest.raises(CharlmError, match="has no held-out text"):
        run.evaluate()
    evaluation, nll_N = run.evaluate(split="train")
    assert evaluation.characters == len(nll_N) == 2999  # nothing predicts the first


def test_a_run_is_picked_up_for_scoring(finished: Path) -> None:
    run = load_run(finished)
    evaluation, nll_N = run.evaluate(Window(5))
    assert (evaluation.key.protocol, evaluation.key.split) == (Window(5), "valid")
    assert evaluation.characters == len(nll_N) == 300
    file = run.save_evaluation(evaluation, nll_N)
    np.testing.assert_array_equal(np.load(file, allow_pickle=False), nll_N)
    assert json.loads(file.with_suffix(".json").read_text())["fingerprint"] == (
        Workdir(finished).read_fingerprint()
    )
    sliding, nll_P = run.evaluate(Sliding(4, 50))
    assert sliding.protocol_description == "sliding window of 4, 50 of 300 scored"
    assert (len(nll_P), sliding.characters) == (50, 50)
    stream, _ = run.evaluate(Stream())
    assert stream.key.protocol == Stream() and stream.characters == 300
    with pytest.raises(CharlmError, match="mode=stream takes no context"):
        run.evaluate(Stream(5))


def test_a_run_is_picked_up_for_drawing(finished: Path) -> None:
    run = load_run(finished)
    prompt = run.vocabulary.symbols[:2]

    def text(scales: list[float], samples: int, characters: int = 30) -> list[str]:
        pieces = run.sample(prompt, characters=characters, scales=scales, samples=samples, seed=3)
        return ["".join(x.text for x in chunks) for chunks in zip(*pieces, strict=True)]

    four = text([0.5, 2.0], 2)
    assert len(four) == 4 and all(len(t) == 30 for t in four)
    assert text([2.0], 1) == [four[2]]  # scales outside, samples inside; neither sees the other
    assert text([0.5], 2)[1] == four[1]
    wrong: list[tuple[dict, str]] = [
        ({"prompt": ""}, "the prompt is empty"),
        ({"prompt": "@"}, r"the prompt has the character '@' \(U\+0040\)"),
        ({"scales": [-1.0]}, "scale=-1"),
        ({"samples": 0}, "samples=0"),
        ({"characters": -1}, "characters=-1"),
        ({"seed": -1}, "seed=-1"),
        ({"context": 0, "mode": "window"}, "context=0"),
        ({"context": 4}, "takes no context"),
    ]
    right = {"prompt": prompt, "characters": 1, "scales": [1.0], "samples": 1, "seed": 0}
    for change, message in wrong:
        with pytest.raises(CharlmError, match=message):
            run.sample(**(right | change))


def test_no_run_is_a_clear_error(tmp_path: Path, finished: Path) -> None:
    with pytest.raises(CharlmError, match="there is no such folder"):
        load_run(tmp_path / "nothing")
    with pytest.raises(CharlmError, match=r"it has no config\.json"):
        load_run(tmp_path)
    with pytest.raises(CharlmError, match="name best, latest or one of 19, 38"):
        load_run(finished, checkpoint="20")


class Gone(NullProgress):
    """A terminal that was closed in the third step: it says so, and nothing is printed any more."""

    def advance(self, step: int, loss_nats: float, chars_per_second: float) -> None:
        if step >= 3:
            os.kill(os.getpid(), signal.SIGTERM)

    def row(self, row: MetricsRow, mark: str) -> None:
        raise OSError(5, "Input/output error")


def test_a_view_that_can_no_longer_print_does_not_end_a_run(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(Interrupted, match="stopped at step"):
        train_and_evaluate(make_tiny_config(), tmp_path / "run", view=Gone())
    assert Checkpoints(tmp_path / "run" / "checkpoints").steps()
    train_and_evaluate(make_tiny_config(), tmp_path / "run")
    assert _rows(tmp_path / "run") == _rows(finished)


def test_when_to_look_may_not_change_where_it_decides_when_to_end(tmp_path: Path) -> None:
    patient = {"train.patience": 3, "train.epochs": 5}
    with pytest.raises(Interrupted):
        train_and_evaluate(make_tiny_config(**patient), tmp_path / "run", view=StopAt(22))
    with pytest.raises(CharlmError, match="evaluate_every_steps is 0 there and 1 here"):
        config = make_tiny_config(**patient, **{"train.evaluate_every_steps": 1})
        train_and_evaluate(config, tmp_path / "run")


class Marks(NullProgress):
    """Collects the marks of rows."""

    def __init__(self) -> None:
        self.marks: dict[tuple[int, str, str], str] = {}

    def row(self, row: MetricsRow, mark: str) -> None:
        self.marks[row["step"], row["split"], row["weights"]] = mark


def test_rows_are_marked_that_are_the_best_or_no_better(tmp_path: Path) -> None:
    """Also by a run that was stopped in between, and of averaged weights if they count."""
    config = make_tiny_config(
        **{"train.evaluate_every_steps": 4, "optimizer.learning_rate": 0.5, "train.epochs": 3}
    )
    view = Marks()
    with pytest.raises(Interrupted):
        train_and_evaluate(config, tmp_path / "run", view=StopAt(22))
    train_and_evaluate(config, tmp_path / "run", view=view)
    rows = [row for row in _rows(tmp_path / "run") if row["split"] == "valid"]
    losses = {row["step"]: row["loss_nats"] for row in rows}
    expected = {}
    for step in losses:
        best = min(range(4, step + 1), key=lambda n: losses.get(n, math.inf))
        expected[step] = "best" if best == step else f"no better since step {best}"
    found = {step: mark for (step, split, _), mark in view.marks.items() if split == "valid"}
    assert found == {step: mark for step, mark in expected.items() if step > 22}
    assert not any(mark for (_, split, _), mark in view.marks.items() if split == "train")
    assert any(mark.startswith("no better") for mark in found.values())
    averaged = Marks()
    config = make_tiny_config(**{"optimizer.average_decay": 0.5})
    train_and_evaluate(config, tmp_path / "averaged", view=averaged)
    assert averaged.marks[19, "valid", "raw"] == ""
    assert averaged.marks[19, "valid", "average"] == "best"


def test_a_small_text_is_told(tmp_path: Path) -> None:
    """Of ten times as many parameters as characters: once, before the first step."""
    view, config = Notes(), make_tiny_config(**{"model.hidden_size": 90, "train.epochs": 1})
    train_and_evaluate(config, tmp_path / "run", view=view)
    (line,) = view.lines
    parameters = json.loads((tmp_path / "run" / "run.json").read_text())["parameters"]
    assert parameters > 27_000
    assert line.startswith(
        f"a small text for this model: 2,700 characters to train on and 300 held out for "
        f"{parameters:,} parameters; expect the model to memorize it"
    )
    again = Notes()
    config = make_tiny_config(**{"model.hidden_size": 90, "train.log_every_steps": 7})
    train_and_evaluate(config, tmp_path / "run", view=again)
    assert again.lines == ["resuming from step 19 of 38"]


def test_a_field_that_comes_too_late_is_told(tmp_path: Path) -> None:
    short = {"train.epochs": 1}
    train_and_evaluate(make_tiny_config(**short), tmp_path / "run")
    view = Notes()
    late = make_tiny_config(**short, **{"train.sample_every_steps": 5})
    result = train_and_evaluate(late, tmp_path / "run", view=view)
    assert result.was_done
    assert view.lines == [
        "config.train.sample_every_steps=5 is recorded, but trains no further: the run is done",
    ]
    assert result.extension == "raise config.train.epochs to train further"


@pytest.mark.parametrize(
    ("field", "first", "second"),
    [("train.patience", 5, 10), ("train.epochs", 1, 2), ("train.keep", "", "log")],
)
def test_a_done_run_keeps_a_config_that_could_not_be_taken_back(
    tmp_path: Path, field: str, first: object, second: object
) -> None:
    run, view = Workdir(tmp_path / "run"), Notes()

    def train(value: object) -> None:
        config = make_tiny_config(**{"train.max_steps": 3, field: value})
        source = ConfigSource("lstm", overrides=(f"{field}={value}",))
        assert train_and_evaluate(config, run.path, view=view, source=source).step == 3

    train(first)
    before = [file.read_bytes() for file in (run.config_file, run.facts_file)]
    view.lines.clear()
    train(second)
    assert view.lines == [f"config.{field}={second} changes nothing: the run is done"]
    train(first)
    assert before == [file.read_bytes() for file in (run.config_file, run.facts_file)]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"train.max_steps": 5}, ["raise config.train.max_steps to"]),
        ({"train.epochs": 1, "train.max_steps": 30}, ["raise config.train.epochs to"]),
        (
            {"train.epochs": 1, "train.max_steps": 19},
            ["raise config.train.epochs and config.train.max_steps to"],
        ),
        ({"train.patience": 1, "optimizer.learning_rate": 3.0}, ["raise config.train.patience"]),
        ({"optimizer.schedule": "cosine"}, ["has decayed (cosine): --init_from="]),
        (
            {"optimizer.schedule": "wsd", "train.keep": "log"},
            ["has decayed (wsd): --init_from=", "--branch_from="],
        ),
        (
            {"optimizer.schedule": "wsd"},
            [
                "has decayed (wsd): --init_from=",
                "; config.train.keep keeps checkpoints before the decay",
            ],
        ),
    ],
)
def test_how_a_run_is_trained_further_is_told(
    tmp_path: Path, fields: dict[str, object], words: list[str]
) -> None:
    config = make_tiny_config(**({"train.max_steps": 0, "train.epochs": 9} | fields))
    result = train_and_evaluate(config, tmp_path / "run")
    assert all(word in result.extension for word in words)
    assert ("--branch_from=" in result.extension) == ("--branch_from=" in words)


def test_files_that_are_the_parts_of_a_text_are_joined_only_knowingly(tmp_path: Path) -> None:
    """A new run is refused before anything is written; one that has begun goes on."""
    folder = tmp_path / "text"
    folder.mkdir()
    for name, text in (("a.txt", "abcab" * 20), ("b.txt", "abcba" * 60)):
        (folder / name).write_text(text)
    config = make_tiny_config(**{"data.corpus": str(folder), "train.max_steps": 2})
    begun = dataclasses.replace(config, train=dataclasses.replace(config.train, max_steps=1))
    train_and_evaluate(begun, tmp_path / "begun")
    (folder / "a.txt").rename(folder / "test.txt")
    (folder / "b.txt").rename(folder / "train.txt")

    with pytest.raises(CharlmError, match=r"in the order test\.txt, train\.txt: "):
        train_and_evaluate(config, tmp_path / "new")
    assert not (tmp_path / "new").exists()
    with pytest.raises(CharlmError, match=r"in the order test\.txt, train\.txt: "):
        train_and_evaluate(config, tmp_path / "begun", fresh=True)
    view = Notes()
    assert train_and_evaluate(config, tmp_path / "begun", view=view).step == 2
    assert not [line for line in view.lines if "parts" in line]
    glob = make_tiny_config(**{"data.corpus": f"{folder}/**", "train.max_steps": 1})
    train_and_evaluate(glob, tmp_path / "glob", view=view)
    (remark,) = [line for line in view.lines if "parts" in line]
    assert remark.endswith("in the order test.txt, train.txt")
