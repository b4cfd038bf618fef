"""Where a run starts: from its last sound checkpoint, or from another run's weights."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest

from charlm_jax.core.errors import CharlmError
from charlm_jax.inference.run import load_run
from charlm_jax.models.transfer import transfer_params
from charlm_jax.storage.checkpoint import Checkpoints
from charlm_jax.storage.workdir import Workdir
from charlm_jax.training.environment import environment
from charlm_jax.training.loop import train_and_evaluate
from tests.conftest import Notes, make_tiny_config
from tests.training.test_loop import StopAt, _params, _rows

pytestmark = pytest.mark.optimised


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two epochs, with checkpoints 19 and 38."""
    workdir = tmp_path_factory.mktemp("runs") / "tiny"
    train_and_evaluate(make_tiny_config(), workdir)
    return workdir


def _damage(workdir: Path, step: int) -> None:
    file = workdir / "checkpoints" / str(step) / "params.npz"
    os.truncate(file, file.stat().st_size // 2)


@pytest.mark.core
def test_a_damaged_checkpoint_gives_way_to_the_one_before_loudly(
    finished: Path, tmp_path: Path
) -> None:
    workdir, notes = tmp_path / "run", Notes()
    shutil.copytree(finished, workdir)
    _damage(workdir, 38)
    with pytest.warns(
        UserWarning, match="checkpoint 38 is damaged: .* using checkpoint 19 instead"
    ):
        assert load_run(workdir, checkpoint="latest").checkpoint == 19
    with pytest.raises(CharlmError, match=r"38 is damaged: .*; checkpoint 19 is valid"):
        load_run(workdir, checkpoint="38")
    train_and_evaluate(make_tiny_config(), workdir, view=notes)
    assert "checkpoint 38 is damaged: params.npz has changed" in notes.lines[0]
    assert "resuming from checkpoint 19" in notes.lines[0]
    assert notes.lines[1] == "resuming from step 19 of 38"
    assert _rows(workdir) == _rows(finished)
    for first, second in zip(_params(finished), _params(workdir), strict=True):
        np.testing.assert_array_equal(first, second)
    assert [path.name for path in (workdir / "damaged").iterdir()] == ["38-1"]
    assert Checkpoints(workdir / "checkpoints").steps() == [19, 38]


def test_a_run_that_was_killed_while_it_replaced_its_latest_checkpoint_has_it(
    finished: Path, tmp_path: Path
) -> None:
    shutil.copytree(finished, tmp_path / "run")
    checkpoints = tmp_path / "run" / "checkpoints"
    (checkpoints / "38").rename(checkpoints / "partial-038")
    assert train_and_evaluate(make_tiny_config(), tmp_path / "run").was_done
    assert Checkpoints(checkpoints).steps() == [19, 38]


def test_no_sound_checkpoint_is_a_refusal_that_touches_nothing(
    finished: Path, tmp_path: Path
) -> None:
    workdir = tmp_path / "run"
    shutil.copytree(finished, workdir)
    for step in (19, 38):
        _damage(workdir, step)
    before = {path: path.stat().st_mtime_ns for path in (workdir / "checkpoints").rglob("*")}
    with pytest.raises(CharlmError, match=r"no checkpoint .* can be used \(.*38.*19.*fresh=True"):
        train_and_evaluate(make_tiny_config(), workdir)
    assert before == {
        path: path.stat().st_mtime_ns for path in (workdir / "checkpoints").rglob("*")
    }


def test_rows_are_not_dropped_because_the_checkpoints_are_gone(
    finished: Path, tmp_path: Path
) -> None:
    workdir = tmp_path / "run"
    shutil.copytree(finished, workdir)
    shutil.rmtree(workdir / "checkpoints")
    for config in (make_tiny_config(), make_tiny_config(**{"train.epochs": 3})):
        with pytest.raises(CharlmError, match="metrics up to step 38 but no checkpoint"):
            train_and_evaluate(config, workdir)
    assert (workdir / "metrics.jsonl").read_bytes() == (finished / "metrics.jsonl").read_bytes()
    assert (workdir / "config.json").read_bytes() == (finished / "config.json").read_bytes()


def test_nor_where_a_checkpoint_was_kept_before_the_first_evaluation(tmp_path: Path) -> None:
    workdir, config = tmp_path / "run", make_tiny_config(**{"train.keep": "log"})
    with pytest.raises(KeyboardInterrupt):
        train_and_evaluate(config, workdir, view=StopAt(12, times=2))
    shutil.rmtree(workdir / "checkpoints")
    with pytest.raises(CharlmError, match=r"metrics up to step \d+ but no checkpoint"):
        train_and_evaluate(config, workdir)


def test_a_session_that_saved_nothing_leaves_no_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workdir = tmp_path / "run"
    train_and_evaluate(make_tiny_config(**{"train.epochs": 1}), workdir)
    here = environment()
    with monkeypatch.context() as elsewhere, pytest.raises(KeyboardInterrupt):
        for module in ("start", "remarks"):
            elsewhere.setattr(f"charlm_jax.training.{module}.environment", lambda: {"threads": 77})
        train_and_evaluate(make_tiny_config(), workdir, view=StopAt(25, times=2))
    notes = Notes()
    train_and_evaluate(make_tiny_config(), workdir, view=notes)
    assert not [line for line in notes.lines if "bit-for-bit" in line]
    sessions = Workdir(workdir).read_facts()["sessions"]
    found = [(session["from_step"], session["environment"]) for session in sessions]
    assert found == [(0, here), (19, here)]


def test_nor_where_they_were_a_finished_runs_only_ones(tmp_path: Path) -> None:
    workdir, config = tmp_path / "run", make_tiny_config(**{"train.epochs": 1})
    train_and_evaluate(config, workdir)
    shutil.rmtree(workdir / "checkpoints")
    with pytest.raises(CharlmError, match="metrics up to step 19 but no checkpoint"):
        train_and_evaluate(config, workdir)


def test_a_run_that_was_killed_before_its_first_save_may_be_watched_otherwise(
    tmp_path: Path,
) -> None:
    with pytest.raises(KeyboardInterrupt):  # asked twice, so nothing is saved
        train_and_evaluate(make_tiny_config(), tmp_path / "run", view=StopAt(15, times=2))
    assert _rows(tmp_path / "run")[-1]["step"] == 10
    config = make_tiny_config(**{"train.evaluate_every_steps": 5})
    assert train_and_evaluate(config, tmp_path / "run").step == 38


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 2}, "belongs to another run: config.seed is 2 there and 1 here"),
        ({"data.corpus": "synthetic:reach=2,symbols=3,characters=3000,seed=1"}, "text"),
    ],
)
def test_another_runs_checkpoint_is_not_gone_on_from(
    finished: Path, tmp_path: Path, change: dict, message: str
) -> None:
    train_and_evaluate(make_tiny_config(**change), tmp_path / "other")
    shutil.copytree(finished, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    shutil.copytree(tmp_path / "other" / "checkpoints", tmp_path / "run" / "checkpoints")
    with pytest.raises(CharlmError, match=message):
        train_and_evaluate(make_tiny_config(), tmp_path / "run")
    if "data.corpus" in change:
        with pytest.raises(CharlmError, match="does not have the symbols"):
            load_run(tmp_path / "run")


def test_a_fresh_start_moves_the_old_run_aside(finished: Path, tmp_path: Path) -> None:
    workdir = tmp_path / "run"
    shutil.copytree(finished, workdir)
    for number in (1, 2):
        notes = Notes()
        config = make_tiny_config(**{"seed": 2, "train.epochs": number})
        train_and_evaluate(config, workdir, fresh=True, view=notes)
        assert notes.lines == [f"moved the run at {workdir} to {workdir}.{number}"]
    assert _rows(tmp_path / "run.1") == _rows(finished)
    assert (tmp_path / "run.2").is_dir() and load_run(workdir).config.train.epochs == 2
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("precious")
    with pytest.raises(CharlmError, match="is not a run"):
        train_and_evaluate(make_tiny_config(), tmp_path / "other", fresh=True)
    assert (tmp_path / "other" / "thesis.tex").read_text() == "precious"


@pytest.mark.parametrize("stop", [3, 22])
def test_a_run_starts_from_the_best_weights_of_another(
    finished: Path, tmp_path: Path, stop: int
) -> None:
    """On another text; and an interruption, before or after the first save, does not show."""
    changes = {"train.init_from": str(finished), "data.corpus": "synthetic:symbols=5,seed=9"}
    config = make_tiny_config(**changes, **{"train.max_steps": 30})
    train_and_evaluate(config, tmp_path / "whole")
    first = _rows(tmp_path / "whole")[0]["loss_nats"]
    with_no_start = make_tiny_config(
        **(changes | {"train.init_from": ""}), **{"train.max_steps": 5}
    )
    train_and_evaluate(with_no_start, tmp_path / "cold")
    assert first != _rows(tmp_path / "cold")[0]["loss_nats"]

    times = 2 if stop < 19 else 1  # asked twice, it stops without saving
    with pytest.raises(KeyboardInterrupt):
        train_and_evaluate(config, tmp_path / "stopped", view=StopAt(stop, times=times))
    train_and_evaluate(config, tmp_path / "stopped")
    assert _rows(tmp_path / "stopped") == _rows(tmp_path / "whole")


def test_a_run_is_not_continued_from_weights_that_have_changed(
    finished: Path, tmp_path: Path
) -> None:
    source, workdir = tmp_path / "source", tmp_path / "run"
    shutil.copytree(finished, source)
    config = make_tiny_config(**{"train.init_from": str(source)})
    with pytest.raises(KeyboardInterrupt):  # asked twice, so nothing is saved
        train_and_evaluate(config, workdir, view=StopAt(10, times=2))
    shutil.rmtree(source)
    train_and_evaluate(make_tiny_config(seed=5), source)
    with pytest.raises(CharlmError, match=r"cannot start from .* it has changed"):
        train_and_evaluate(config, workdir)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model.hidden_size": 7}, "config.model.hidden_size is 6 there, 7 here"),
        ({"model.layers": ("gru",)}, "config.model.layers is "),
        ({"train.init_from": "nowhere"}, "cannot start from /.*nowhere: no run"),
    ],
)
def test_what_does_not_fit_is_no_start(
    finished: Path, tmp_path: Path, change: dict, message: str
) -> None:
    config = make_tiny_config(**({"train.init_from": str(finished)} | change))
    with pytest.raises(CharlmError, match=message):
        train_and_evaluate(config, tmp_path / "run")


def test_weights_of_another_shape_are_refused_by_name() -> None:
    there = {"embedding": np.zeros((3, 2)), "layer_0": np.zeros((2, 4), np.float32)}
    here = {"embedding": np.zeros((5, 2)), "layer_0": np.zeros((3, 4), np.float32)}
    message = r"layer_0 is float32 of shape \(2, 4\) there and float32 of shape \(3, 4\) here"
    with pytest.raises(CharlmError, match=message):
        transfer_params(there, "abc", here, "abcde")


@pytest.mark.core
def test_symbols_keep_their_weights_wherever_they_stand() -> None:
    def params(symbols: str, base: float) -> dict:
        size = len(symbols)
        return {
            "embedding": base + np.arange(2.0 * size, dtype=np.float32).reshape(size, 2),
            "layer_0": {"kernel": np.full((2, 3), base, np.float32)},
            "output": {
                "kernel": base + np.arange(3.0 * size, dtype=np.float32).reshape(3, size),
                "bias": base + np.arange(size, dtype=np.float32),
            },
        }

    there, here = params("abxz", 0.0), params("ayz", 100.0)
    found = jax.tree.map(np.asarray, transfer_params(there, "abxz", here, "ayz"))
    np.testing.assert_array_equal(found["layer_0"]["kernel"], there["layer_0"]["kernel"])
    moves: list[tuple[str, Callable[[dict, int], np.ndarray]]] = [
        ("embedding", lambda tree, n: tree["embedding"][n]),
        ("kernel", lambda tree, n: tree["output"]["kernel"][:, n]),
        ("bias", lambda tree, n: tree["output"]["bias"][n]),
    ]
    for name, of in moves:
        np.testing.assert_array_equal(of(found, 0), of(there, 0), err_msg=f"a of {name}")
        np.testing.assert_array_equal(of(found, 1), of(here, 1), err_msg=f"y of {name}: new")
        np.testing.assert_array_equal(of(found, 2), of(there, 3), err_msg=f"z of {name}")
