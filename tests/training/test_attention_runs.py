"""Whole runs of models that attend, and of runs that average their weights."""

import dataclasses
import json
import math
import signal
from pathlib import Path

import jax
import numpy as np
import pytest

from charlm_jax.config.schema import Config
from charlm_jax.core.errors import CharlmError
from charlm_jax.core.signals import Interrupted
from charlm_jax.data.dataset import load_dataset
from charlm_jax.evaluation import Stream, Window
from charlm_jax.inference.run import Run, load_run
from charlm_jax.storage.metrics_log import MetricsLog
from charlm_jax.storage.run_index import list_runs
from charlm_jax.storage.workdir import Workdir
from charlm_jax.training.loop import train_and_evaluate
from charlm_jax.training.reproduce import verify_run
from tests.conftest import make_tiny_config
from tests.training.test_loop import StopAt, _rows

HYBRID: dict[str, object] = {
    "model.layers": ("attention", "lstm"),
    "model.embedding_size": 8,
    "model.hidden_size": 8,
    "model.block": "pre_norm",
    "model.mlp": "relu2",
    "model.heads": 2,
    "model.position": "rotary",
    "model.dropout": 0.1,
    "data.loader": "streams",
    "optimizer.weight_decay": 0.1,
    "optimizer.average_decay": 0.9,
    "optimizer.schedule": "wsd",
}
LEARNED: dict[str, object] = {
    "model.layers": ("attention",),
    "model.heads": 2,
    "model.position": "learned",
    "model.max_length": 12,
}


def _config(**changes: object) -> Config:
    return make_tiny_config(**(HYBRID | changes))


@pytest.fixture(scope="module")
def hybrid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with all that a run can carry, trained without a stop."""
    workdir = tmp_path_factory.mktemp("runs") / "hybrid"
    train_and_evaluate(_config(), workdir)
    return workdir


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run whose model can read twelve characters."""
    workdir = tmp_path_factory.mktemp("runs") / "learned"
    train_and_evaluate(make_tiny_config(**(LEARNED | {"train.max_steps": 3})), workdir)
    return load_run(workdir)


def test_a_stopped_run_goes_on_with_its_positions_and_its_average(
    hybrid: Path, tmp_path: Path
) -> None:
    workdir = tmp_path / "run"
    with pytest.raises(Interrupted):
        train_and_evaluate(_config(), workdir, view=StopAt(22, signal.SIGINT))
    train_and_evaluate(_config(), workdir)
    assert _rows(workdir) == _rows(hybrid)
    for weights in ("raw", "average"):
        runs = [
            load_run(place, checkpoint="latest", weights=weights) for place in (hybrid, workdir)
        ]
        jax.tree.map(np.testing.assert_array_equal, *[run.params for run in runs])
    assert verify_run(workdir, steps=20).first_difference is None


def test_the_average_is_scored_beside_the_weights_and_is_what_counts(hybrid: Path) -> None:
    rows = [row for row in MetricsLog(hybrid / "metrics.jsonl").rows() if row["split"] == "valid"]
    assert [row["weights"] for row in rows] == ["raw", "average"] * 2
    run, raw = load_run(hybrid), load_run(hybrid, weights="raw")
    assert (run.weights, raw.weights) == ("average", "raw")
    by_kind = {row["weights"]: row["loss_nats"] for row in rows if row["step"] == run.checkpoint}
    for one in (run, raw):
        evaluation, nll_N = one.evaluate()
        assert evaluation.key.weights == one.weights
        assert math.isclose(evaluation.loss_nats, by_kind[one.weights], rel_tol=1e-6)
        one.save_evaluation(evaluation, nll_N)
    files = {path.name: json.loads(path.read_text()) for path in hybrid.glob("evaluation/*.json")}
    assert sorted(note["weights"] for note in files.values()) == ["average", "raw"]
    best = min(row["loss_nats"] for row in rows if row["weights"] == "average")
    (listed,) = list_runs(hybrid)
    assert listed.best_loss_nats == best
    with pytest.raises(CharlmError, match=r"has no weights='other'; available: average, raw"):
        load_run(hybrid, weights="other")


def test_a_run_without_an_average_has_none(tmp_path: Path) -> None:
    train_and_evaluate(make_tiny_config(**{"train.max_steps": 2}), tmp_path / "run")
    assert load_run(tmp_path / "run").weights == "raw"
    with pytest.raises(CharlmError, match=r"has no weights='average'; available: raw"):
        load_run(tmp_path / "run", weights="average")


def test_a_stream_says_how_many_positions_attention_kept(hybrid: Path) -> None:
    run = load_run(hybrid)
    assert run.evaluate(Stream())[0].key.protocol.context == run.config.evaluation_context
    evaluation, nll_N = run.evaluate(Stream(3))
    assert evaluation.key.protocol == Stream(3)
    # By hand: character after character, with three positions kept.
    text = run.vocabulary.symbols * 4
    nll_N = run.score(text, Stream(3)).nll_N
    ids_N, state = run.vocabulary.encode(text).astype(np.int32), run.model.initial_state(1, 3)
    read = jax.jit(run.model.apply)
    for place, target in enumerate(ids_N[1:]):
        logits_BTV, state = read(run.params, ids_N[None, place : place + 1], state)
        expected = -jax.nn.log_softmax(logits_BTV[0, 0])[target]
        np.testing.assert_allclose(nll_N[place], expected, atol=1e-5)


def test_text_is_drawn_from_the_positions_that_are_kept(hybrid: Path) -> None:
    run = load_run(hybrid)
    prompt = run.vocabulary.symbols * 3
    default = run.generate(prompt, characters=40, seed=2)
    length = run.config.data.sequence_length
    assert default == run.generate(prompt, characters=40, seed=2, mode="carried", context=length)
    assert default != run.generate(prompt, characters=40, seed=2, mode="carried", context=1)
    # An LSTM lies above the attention, so that a window is not the same as what is carried.
    assert len(run.generate(prompt, characters=40, seed=2, mode="window")) == 40


def test_a_model_of_attention_alone_draws_alike_until_its_window_is_full(tmp_path: Path) -> None:
    changes = HYBRID | {"model.layers": ("attention",), "data.loader": "chunks"}
    train_and_evaluate(make_tiny_config(**(changes | {"train.max_steps": 4})), tmp_path / "run")
    run = load_run(tmp_path / "run")
    prompt = run.vocabulary.symbols[0]
    carried = run.generate(prompt, characters=30, mode="carried", context=40)
    assert carried == run.generate(prompt, characters=30, mode="window", context=40)
    # One layer that keeps eight positions sees what a window of nine does.
    carried = run.generate(prompt, characters=60, mode="carried", context=8)
    assert carried == run.generate(prompt, characters=60, mode="window", context=9)


def test_learned_positions_end_where_they_end(learned: Run) -> None:
    prompt = learned.vocabulary.symbols[:2]
    assert learned.default_mode == "window"
    assert len(learned.generate(prompt, characters=50)) == 50  # eight at a time
    text = learned.generate(prompt, characters=11, mode="carried")
    assert text == learned.generate(prompt, characters=11, mode="window", context=12)
    symbols = learned.vocabulary.symbols
    long = (symbols * 13)[:13]
    assert np.isfinite(learned.score(long).nll_N).all()
    for refused in (
        lambda: learned.generate(prompt, characters=12, mode="carried"),
        lambda: learned.generate(prompt, characters=50, mode="window", context=13),
        lambda: learned.evaluate(Stream()),
        lambda: learned.evaluate(Window(13)),
        lambda: learned.score(long + symbols[0]),
    ):
        with pytest.raises(CharlmError, match=r"the model has 12 .*a context of at most 12"):
            refused()


@pytest.mark.parametrize(("characters", "fits"), [(12, True), (13, False)])
def test_a_part_that_begins_inside_the_text_has_a_target_for_every_character(
    characters: int, fits: bool, learned: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = {"valid": (range(100, 100 + characters),)}
    dataset = dataclasses.replace(load_dataset(learned.config), parts=parts)
    monkeypatch.setattr("charlm_jax.inference.run.load_dataset", lambda *_, **__: dataset)
    monkeypatch.setattr(Workdir, "read_fingerprint", lambda _: dataset.fingerprint)
    if fits:
        _, nll_N = learned.evaluate(Stream())
        assert nll_N.shape == (characters,) and np.isfinite(nll_N).all()
    else:
        with pytest.raises(CharlmError, match="the text needs 13 positions, but the model has 12"):
            learned.evaluate(Stream())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data.loader": "streams"}, "reads through the whole text"),
        ({"data.sequence_length": 13}, "fewer than config.data.sequence_length=13"),
        ({"evaluation.context": 13}, "fewer than config.evaluation.context=13"),
    ],
)
def test_training_beyond_the_last_position_is_refused_before_it_begins(
    change: dict[str, object], message: str, tmp_path: Path
) -> None:
    with pytest.raises(CharlmError, match=f"max_length=12 positions.*{message}"):
        train_and_evaluate(make_tiny_config(**(LEARNED | change)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.exhaustive
def test_weights_go_into_no_model_that_reads_them_otherwise(hybrid: Path, tmp_path: Path) -> None:
    train_and_evaluate(
        _config(
            **{"train.init_from": str(hybrid), "model.dropout": 0.0, "model.scan": "sequential"}
        ),
        tmp_path / "run",
    )
    for field, value in (("heads", 4), ("position", "alibi"), ("qk_norm", True), ("window", 3)):
        changes = {"train.init_from": str(hybrid), f"model.{field}": value}
        with pytest.raises(CharlmError, match=f"config.model.{field} is "):
            train_and_evaluate(_config(**changes), tmp_path / "other")


def test_a_text_is_learned_that_only_attention_to_the_right_place_predicts(tmp_path: Path) -> None:
    """The symbols have no order of their own: each is the one that stood four places before."""
    symbols = np.random.default_rng(0).integers(0, 4, (60, 4))
    text = "".join("abcd"[i] for row in symbols for _ in range(6) for i in row)
    (tmp_path / "text.txt").write_text(text)
    changes = {
        "data.corpus": str(tmp_path / "text.txt"),
        "data.loader": "crops",
        "data.sequence_length": 24,
        "model.layers": ("attention", "attention"),
        "model.embedding_size": 16,
        "model.hidden_size": 16,
        "model.block": "pre_norm",
        "model.heads": 2,
        "model.position": "rotary",
        "optimizer.learning_rate": 1e-2,
        "train.epochs": 100,
        "train.max_steps": 200,
        "train.evaluate_every_steps": 200,
    }
    result = train_and_evaluate(make_tiny_config(**changes), tmp_path / "run")
    # Every sixth row of four is a new one: a sixth of ln 4 is what nobody can know.
    assert result.best_loss_nats is not None
    assert result.best_loss_nats < 0.6 * math.log(4)
