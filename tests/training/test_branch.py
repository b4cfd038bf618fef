"""Runs of other lengths that share their first steps: extended in place, or branched off."""

import json
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charlm_jax.core.errors import CharlmError
from charlm_jax.core.signals import Interrupted
from charlm_jax.inference.run import load_run
from charlm_jax.storage.checkpoint import Checkpoints
from charlm_jax.storage.metrics_log import MetricsLog
from charlm_jax.storage.workdir import Workdir
from charlm_jax.training.loop import train_and_evaluate
from charlm_jax.training.loop_state import LoopState
from charlm_jax.training.optimizer import make_schedule
from tests.conftest import Notes, make_tiny_config
from tests.training.test_loop import TIMING, StopAt, StopInScoring

WSD = {
    "optimizer.schedule": "wsd",
    "optimizer.warmup_steps": 3,
    "optimizer.decay_fraction": 0.25,
    "optimizer.final_learning_rate": 1e-4,
    "train.epochs": 9,
}


def same(one: Path, other: Path) -> None:
    """Rows, weights and optimizer of two finished runs are equal, bit for bit."""
    rows = [MetricsLog(workdir / "metrics.jsonl").rows() for workdir in (one, other)]
    first, second = (
        [{k: v for k, v in row.items() if k not in TIMING} for row in found] for found in rows
    )
    assert first == second  # with the hash of the whole state
    weights = (load_run(workdir, checkpoint="latest").params for workdir in (one, other))
    for a, b in zip(*map(jax.tree.leaves, weights), strict=True):
        np.testing.assert_array_equal(a, b)


@given(
    st.sampled_from(["constant", "wsd", "cosine"]),
    st.sampled_from(["constant", "wsd", "cosine"]),
    st.integers(0, 9),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_rates_agree_in_the_steps_that_are_shared(
    one: str, other: str, warmup: int, totals: tuple[int, int], fractions: tuple[float, float]
) -> None:
    rates, stable = [], []
    for schedule, total, fraction in zip((one, other), totals, fractions, strict=True):
        fields = {"schedule": schedule, "warmup_steps": warmup, "decay_fraction": fraction}
        config = make_tiny_config(**{f"optimizer.{name}": x for name, x in fields.items()})
        stable.append(config.optimizer.stable_steps(total))
        rate = make_schedule(
            **fields, learning_rate=1e-3, final_learning_rate=1e-5, total_steps=total
        )
        rates.append([np.float32(rate(step)) for step in range(min(min(totals), *stable))])
    shared = min(*totals, *stable)
    assert rates[0][:shared] == rates[1][:shared]
    if (one, other) == ("wsd", "wsd") and warmup == 0:
        assert stable == [t - max(round(f * t), 1) for t, f in zip(totals, fractions, strict=True)]


@pytest.mark.core
def test_a_wsd_run_is_extended_in_its_stable_phase(tmp_path: Path) -> None:
    """Stopped at step 30 at the latest of 40, 10 of which decay; then as if 60 from the start."""
    short, long = ({"train.max_steps": steps} for steps in (40, 60))
    train_and_evaluate(make_tiny_config(**WSD, **long), tmp_path / "whole")
    with pytest.raises(Interrupted):
        train_and_evaluate(make_tiny_config(**WSD, **short), tmp_path / "run", view=StopAt(28))
    assert Checkpoints(tmp_path / "run" / "checkpoints").steps()[-1] <= 30
    train_and_evaluate(make_tiny_config(**WSD, **long), tmp_path / "run")
    same(tmp_path / "run", tmp_path / "whole")


@pytest.mark.parametrize("way", ["extended", "extended in scoring", "branched"])
def test_a_longer_run_has_no_evaluation_where_the_shorter_one_ended(
    tmp_path: Path, way: str
) -> None:
    """The best of the shorter run is at its end, step 17, which no evaluation every 5 steps is."""
    fields = {"train.evaluate_every_steps": 5, "train.patience": 3, "train.epochs": 9}
    short, long = (make_tiny_config(**fields, **{"train.max_steps": n}) for n in (17, 31))
    whole, run = tmp_path / "whole", tmp_path / "run"
    if way == "extended in scoring":
        with pytest.raises(Interrupted):
            view = StopInScoring(1 / 6, time=4)  # the fourth time is at the end, after 5, 10, 15
            train_and_evaluate(short, run, view=view)
        assert Checkpoints(run / "checkpoints").steps()[-1] == 17
    else:
        assert train_and_evaluate(short, run).best_step == 17
        assert Checkpoints(run / "checkpoints").steps() == [15, 17]
    first = train_and_evaluate(long, whole)
    if way == "branched":
        second = train_and_evaluate(long, tmp_path / "branched", branch_from=run)
        run = tmp_path / "branched"
    else:
        second = train_and_evaluate(long, run)
    same(run, whole)
    assert first == second._replace(extension=first.extension)
    assert load_run(run).checkpoint == load_run(whole).checkpoint == first.best_step


def test_the_scores_before_an_evaluation_are_those_of_a_run_that_did_not_make_it() -> None:
    state = LoopState(step=5)
    for step, loss in ((5, 1.5), (10, 1.6)):
        state.step = step
        state.add_score(loss)
    before, scores = state.to_json(), state.scores
    state.step = 12
    state.add_score(1.4)
    assert (state.best_step, state.scores_since_best) == (12, 0)
    again = state.with_scores(json.loads(json.dumps(scores)))
    assert again.to_json() == before | {"step": 12, "score_is_due": True}


def test_the_best_before_the_end_outlives_a_longer_run_that_is_worse(tmp_path: Path) -> None:
    """Without the loss at the end, the best checkpoint is an earlier one, which must be there."""
    run = Checkpoints(tmp_path / "checkpoints")
    arrays: dict[str, Any] = {"params": {"x": np.zeros(1)}, "training": {"y": np.zeros(1)}}
    arrays["meta"] = {}
    losses = {10: 1.5, 20: 1.6, 30: 1.7}
    for step, loss in losses.items():
        run.save(step, **arrays, loss_nats=loss, best_step=10)
    before = {"best_loss_nats": 1.5, "best_step": 10, "scores_since_best": 2}
    run.save(34, **arrays, loss_nats=1.4, best_step=34, scores_before_end=before)
    assert run.steps() == [10, 30, 34] and run.choose("best") == 34
    run.save(34, **arrays, loss_nats=None, best_step=10, replace=True)
    assert run.steps() == [10, 30, 34] and run.choose("best") == 10


def test_a_run_in_its_decay_is_branched_and_not_extended(tmp_path: Path) -> None:
    fields = WSD | {"train.keep": "log"}
    short, long = (make_tiny_config(**fields, **{"train.max_steps": n}) for n in (40, 60))
    run, branched = tmp_path / "run", tmp_path / "branched"
    train_and_evaluate(short, run)
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    message = (
        f"cannot be changed at checkpoint 40: .* after step 30; --branch_from={run} .*checkpoint 16"
    )
    with pytest.raises(CharlmError, match=message):
        train_and_evaluate(long, run)
    assert {file: file.read_bytes() for file in before} == before
    train_and_evaluate(long, branched, branch_from=run)
    train_and_evaluate(long, tmp_path / "whole")
    same(branched, tmp_path / "whole")
    facts = json.loads((branched / "run.json").read_text())
    assert facts["branched_from"] == {"run": str(run.resolve()), "checkpoint": 16}
    assert [session["from_step"] for session in facts["sessions"]] == [0, 16]
    assert {file: file.read_bytes() for file in before} == before
    again = train_and_evaluate(long, branched, branch_from=run)
    assert again.was_done


@pytest.mark.parametrize("stop", [None, 34])
def test_a_decay_is_branched_off_a_run_of_constant_rate(tmp_path: Path, stop: int | None) -> None:
    """A shorter run, stopped or not, ends as if it had been trained alone."""
    constant = WSD | {"optimizer.schedule": "constant", "train.max_steps": 57}
    decay = make_tiny_config(**WSD, **{"train.max_steps": 52})  # of which the last 13 decay
    train_and_evaluate(make_tiny_config(**constant, **{"train.keep": "log"}), tmp_path / "run")
    train_and_evaluate(decay, tmp_path / "whole")
    branched = tmp_path / "branched"
    if stop is not None:
        with pytest.raises(Interrupted):
            view = StopAt(stop)
            train_and_evaluate(decay, branched, branch_from=tmp_path / "run", view=view)
    train_and_evaluate(decay, branched, branch_from=tmp_path / "run")
    same(branched, tmp_path / "whole")
    assert json.loads((branched / "run.json").read_text())["branched_from"]["checkpoint"] == 38


def test_a_branch_that_was_killed_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a warm-up, whose rates are recorded in another precision under `constant`."""
    plain = WSD | {"optimizer.warmup_steps": 0, "train.max_steps": 57}
    constant = make_tiny_config(**(plain | {"train.keep": "log", "optimizer.schedule": "constant"}))
    decay, branched = make_tiny_config(**plain), tmp_path / "branched"
    train_and_evaluate(constant, tmp_path / "run")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("shutil.copytree", _interrupt)
        train_and_evaluate(decay, branched, branch_from=tmp_path / "run")
    assert Checkpoints(branched / "checkpoints").steps() == []
    train_and_evaluate(decay, branched, branch_from=tmp_path / "run")
    train_and_evaluate(decay, tmp_path / "whole")
    same(branched, tmp_path / "whole")


def _interrupt(*arguments: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("steps", [32, 38])
def test_a_branch_that_ends_on_a_checkpoint_of_its_source_is_whole(
    tmp_path: Path, steps: int
) -> None:
    """The source kept step 32 without a score, and scored step 38."""
    constant = WSD | {"optimizer.schedule": "constant"}
    source = make_tiny_config(**constant, **{"train.max_steps": 57, "train.keep": "log"})
    short, branched = make_tiny_config(**constant, **{"train.max_steps": steps}), tmp_path / "short"
    train_and_evaluate(source, tmp_path / "run")
    first = train_and_evaluate(short, tmp_path / "whole")
    second = train_and_evaluate(short, branched, branch_from=tmp_path / "run")
    same(branched, tmp_path / "whole")
    assert (first.best_step, first.best_loss_nats) == (second.best_step, second.best_loss_nats)
    facts, wanted = (Workdir(path).read_facts() for path in (branched, tmp_path / "whole"))
    for name in ("corpus", "parameters", "steps_per_epoch", "total_steps", "finished"):
        assert facts[name] == wanted[name] is not None


@pytest.mark.parametrize(("removed", "start"), [(16, 38), (38, 57)])
def test_a_run_in_training_may_be_branched_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, removed: int, start: int
) -> None:
    """A checkpoint is removed while it is copied: an older one, or the last of those shared."""
    fields = WSD | {"optimizer.schedule": "constant", "train.keep": "log"}
    run, later, branched = tmp_path / "run", tmp_path / "later", tmp_path / "branched"
    for workdir, steps in ((run, 38), (later, 57)):
        train_and_evaluate(make_tiny_config(**fields, **{"train.max_steps": steps}), workdir)
    copytree, last = shutil.copytree, later / "checkpoints" / "57"

    def copy(source: Path, target: Path) -> Path:
        if source == run / "checkpoints" / str(removed):
            if removed == 38:
                copytree(last, source.with_name("57"))
                shutil.copy(later / "metrics.jsonl", run)
            shutil.rmtree(source)
        return copytree(source, target)

    longer, notes = make_tiny_config(**fields, **{"train.max_steps": 76}), Notes()
    with monkeypatch.context() as patch:
        patch.setattr("shutil.copytree", copy)
        train_and_evaluate(longer, branched, branch_from=run, view=notes)
    assert f"starting from checkpoint {start} of {run}" in notes.lines
    train_and_evaluate(longer, tmp_path / "whole")
    same(branched, tmp_path / "whole")


def test_a_branch_that_was_killed_between_two_copies_is_completed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = WSD | {"optimizer.schedule": "constant", "train.keep": "log"}
    run, branched = tmp_path / "run", tmp_path / "branched"
    train_and_evaluate(make_tiny_config(**fields, **{"train.max_steps": 38}), run)
    longer, copytree = make_tiny_config(**fields, **{"train.max_steps": 57}), shutil.copytree

    def copy(source: Path, target: Path) -> Path:
        if source.name == "32":
            raise KeyboardInterrupt
        return copytree(source, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("shutil.copytree", copy)
        train_and_evaluate(longer, branched, branch_from=run)
    assert Checkpoints(branched / "checkpoints").steps() == [1, 2, 4, 8, 16]
    notes = Notes()
    train_and_evaluate(longer, branched, branch_from=run, view=notes)
    assert f"starting from checkpoint 38 of {run}" in notes.lines
    assert {16, 32} <= {*Checkpoints(branched / "checkpoints").steps()}


@pytest.mark.parametrize("records", [True, False])
def test_a_branch_that_is_divided_otherwise_says_so(tmp_path: Path, records: bool) -> None:
    """Also off a run of an earlier version, which did not record it with its sessions."""
    run, constant = Workdir(tmp_path / "run"), WSD | {"optimizer.schedule": "constant"}
    train_and_evaluate(make_tiny_config(**constant, **{"train.max_steps": 20}), run.path)
    if not records:
        facts = run.read_facts()
        del facts["sessions"][0]["division"]
        run.write_facts(facts)
    notes, fields = Notes(), {"train.max_steps": 25, "train.microbatches": 2}
    config = make_tiny_config(**constant, **fields)
    train_and_evaluate(config, tmp_path / "branched", branch_from=run.path, view=notes)
    change = "uninterrupted run: config.train.microbatches was 1 and is 2"
    assert sum(line.endswith(change) for line in notes.lines) == 1


def test_a_branch_does_not_read_the_weights_that_its_source_started_from(tmp_path: Path) -> None:
    first, run, branched = (tmp_path / name for name in ("first", "run", "branched"))
    train_and_evaluate(make_tiny_config(**{"train.max_steps": 1}), first)
    fields = WSD | {"train.init_from": str(first), "train.keep": "log"}
    train_and_evaluate(make_tiny_config(**fields, **{"train.max_steps": 20}), run)
    first.rename(tmp_path / "gone")
    longer = make_tiny_config(**fields, **{"train.max_steps": 25})
    assert train_and_evaluate(longer, branched, branch_from=run).step == 25
    started = [Workdir(path).read_facts()["started_from"] for path in (run, branched)]
    assert started[0] == started[1] is not None
    with pytest.raises(CharlmError, match="init_from and the workdir are the same run"):
        train_and_evaluate(longer, first, branch_from=run)


def test_a_run_that_has_begun_is_not_branched_anew(tmp_path: Path) -> None:
    short, long = (make_tiny_config(**WSD, **{"train.max_steps": n}) for n in (20, 60))
    train_and_evaluate(make_tiny_config(**WSD, **{"train.max_steps": 40}), tmp_path / "other")
    with pytest.raises(Interrupted):
        train_and_evaluate(long, tmp_path / "run", view=StopAt(22))
    train_and_evaluate(long, tmp_path / "run", branch_from=tmp_path / "other")
    assert "branched_from" not in json.loads((tmp_path / "run" / "run.json").read_text())
    with pytest.raises(CharlmError, match="max_steps is 60 there and 20 here"):
        train_and_evaluate(short, tmp_path / "run", branch_from=tmp_path / "other")


def test_a_branch_is_refused_where_it_cannot_be(tmp_path: Path) -> None:
    run = tmp_path / "run"
    train_and_evaluate(make_tiny_config(**WSD, **{"train.max_steps": 40}), run)
    cosine = {"optimizer.schedule": "cosine", "train.max_steps": 60}
    refused: list[tuple[dict, str]] = [
        ({"train.max_steps": 60}, "no checkpoint to start from: .* up to step 30, .* are 38, 40"),
        ({"model.hidden_size": 7}, "is another run: config.model.hidden_size is 6 there and 7"),
        ({"train.evaluate_every_steps": 5}, "config.train.evaluate_every_steps is 0 there and 5"),
        ({"optimizer.beta1": 0.8}, "is another run: config.optimizer.beta1 is 0.9 there and 0.8"),
        ({"optimizer.learning_rate": 0.1}, "is another run: config.optimizer.learning_rate"),
        ({"split.valid_fraction": 0.2}, "is another run: its text is different"),
        (cosine, "no checkpoint to start from: .* up to step 3, "),
    ]
    for change, message in refused:
        with pytest.raises(CharlmError, match=message) as caught:
            config = make_tiny_config(**(WSD | change))
            train_and_evaluate(config, tmp_path / "new", branch_from=run)
        assert "\n" not in str(caught.value) and not (tmp_path / "new").exists()
    with pytest.raises(CharlmError, match="--branch_from and --workdir are the same run"):
        config = make_tiny_config(**WSD, **{"train.max_steps": 40})
        train_and_evaluate(config, run, branch_from=run)
    with pytest.raises(CharlmError, match="after step 30; no checkpoint up to that step is left"):
        train_and_evaluate(make_tiny_config(**WSD, **{"train.max_steps": 60}), run)


def test_a_cosine_run_says_why_it_cannot_be_longer(tmp_path: Path) -> None:
    fields = {"optimizer.schedule": "cosine", "train.epochs": 5}
    train_and_evaluate(make_tiny_config(**fields, **{"train.max_steps": 20}), tmp_path / "run")
    message = r"max_steps is 20 there and 40 here \(under .*=cosine the rate .* --init_from=RUN"
    with pytest.raises(CharlmError, match=message):
        train_and_evaluate(make_tiny_config(**fields, **{"train.max_steps": 40}), tmp_path / "run")
