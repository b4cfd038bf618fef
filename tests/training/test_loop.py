"""A whole run: its rows, its checkpoints, and going on after a stop."""

import contextlib
import dataclasses
import json
import math
import os
import signal
from pathlib import Path

import jax
import numpy as np
import pytest

from charlm_jax.config.schema import Config
from charlm_jax.core.errors import CharlmError
from charlm_jax.core.signals import Interrupted
from charlm_jax.data.dataset import load_dataset
from charlm_jax.evaluation import Sliding, Stream, Window
from charlm_jax.inference.run import load_run
from charlm_jax.storage.checkpoint import Checkpoints
from charlm_jax.storage.metrics_log import MetricsLog, MetricsRow
from charlm_jax.storage.workdir import Workdir
from charlm_jax.training.loop import train_and_evaluate
from charlm_jax.training.progress_bar import LogProgress, NullProgress
from charlm_jax.training.trainer import build_trainer
from tests.conftest import make_tiny_config

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
    assert all(list(row) == [*names.split(), "chars_per_second", "seconds"] for row in rows)
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


class Samples(NullProgress):
    """Collects the samples that are shown."""

    def __init__(self) -> None:
        self.texts: dict[int, str] = {}

    def sample(self, step: int, text: str) -> None:
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


def test_a_sample_is_a_paragraph_under_its_step() -> None:
    lines: list[str] = []
    LogProgress(lines.append).sample(20, "\nTo be,\n\nor not\n")
    assert lines == ["step 20:\n    To be,\n\n    or not\n"]


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
    checkpoints.save(20, **state, loss_nats=None)
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
    assert sliding.protocol_description == "sliding, 4 read before each of 50 among 300"
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
        ({"samples": 0}, "num=0"),
        ({"characters": -1}, "chars=-1"),
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

    def row(self, row: MetricsRow) -> None:
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


def test_plain_lines_show_epochs_and_not_every_step(finished: Path) -> None:
    lines: list[str] = []
    view = LogProgress(lines.append)
    for row in MetricsLog(finished / "metrics.jsonl").rows():
        view.row(row)
    assert sum("valid" in line for line in lines) == 2
    assert len(lines) == 5  # the first step row, and four of epochs
    assert "nats/char" in lines[0] and "bits/char" in lines[0]


class Notes(NullProgress):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, line: str) -> None:
        self.notes.append(line)


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
    assert not [line for line in view.notes if "parts" in line]
    glob = make_tiny_config(**{"data.corpus": f"{folder}/**", "train.max_steps": 1})
    train_and_evaluate(glob, tmp_path / "glob", view=view)
    (remark,) = [line for line in view.notes if "parts" in line]
    assert remark.endswith(
        "in the order test.txt, train.txt: --config.split.kind=files keeps them apart"
    )
