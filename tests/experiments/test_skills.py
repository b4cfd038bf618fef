"""The study of skills: small, and its arms."""

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

from charlm_jax.config.loading import load_config
from charlm_jax.core.errors import CharlmError
from charlm_jax.core.prng import root_key
from charlm_jax.core.trees import count_parameters
from charlm_jax.data.dataset import Dataset, load_dataset
from charlm_jax.data.skills import END, TASKS, SkillSource
from charlm_jax.data.synthetic import parse_source
from charlm_jax.evaluation.families import compare_with_best
from charlm_jax.evaluation.protocol import EvalProtocol, all_positions
from charlm_jax.models import build_model
from charlm_jax.sweeps.points import make_point
from charlm_jax.sweeps.tuning import Trial, Tuned
from experiments.block_records import from_sums
from experiments.recorded_training import RATE, RecordedTraining, RecordFolder, settings
from experiments.skills import __main__ as skills
from experiments.skills import measures
from experiments.skills.arms import PRESETS, Preset
from experiments.skills.results import Results, build_results, tables, unbound_shares
from experiments.tuned_arms import (
    Effort,
    TunedArm,
    _run_point,
    fit_width,
    is_rate_at_edge,
    train_arms,
)
from tests.experiments.test_recorded_training import Trainer, trainer

__all__ = ["trainer"]

TINY = Preset(
    {"counting": "length=3", "parity": ""},
    ("rnn", "minlstm"),
    parameters=2_000,
    characters=20_000,
    effort=Effort(rates=2, characters=512_000, seeds=(1,)),
)


@pytest.mark.exhaustive
def test_counting_to_three_is_learnt_and_the_parity_of_twenty_bits_is_not(
    trainer: Trainer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(skills.PRESETS, "minutes", TINY)
    assert skills.main([f"--workdir={tmp_path}", "--only=rnn"]) == 0
    assert len(trainer.names) == 2 * 2  # two rates for each of two skills
    first = (tmp_path / "tables.md").read_text()
    assert (
        "| minlstm" not in first
        and "; missing, or diverged at every rate: counting, minlstm; parity, minlstm." in first
    )
    assert skills.main([f"--workdir={tmp_path}"]) == 0
    assert len(trainer.names) == 2 * 2 * 2
    text = (tmp_path / "tables.md").read_bytes()
    capsys.readouterr()
    assert skills.main([f"--workdir={tmp_path}", "--from_records"]) == 0
    assert (tmp_path / "tables.md").read_bytes() == text
    rows = {
        cells[0]: [float(x.strip("*").split()[0]) for x in cells[1:]]
        for line in text.decode().split("## Who learns")[0].splitlines()
        if (cells := [x.strip() for x in line.strip("|").split("|")])[0] in TINY.layers
    }
    assert set(rows) == {*TINY.layers}
    assert all(counting < 0.1 and parity > 0.3 for counting, parity in rows.values())


def _write(
    training: RecordedTraining, arm: TunedArm, effort: Effort, runs: dict[tuple[float, int], Any]
) -> None:
    """Put runs on record, by learning rate over the arm's own and seed."""
    for (factor, seed), values in runs.items():
        point = _run_point(arm, effort, arm.fields["optimizer.learning_rate"] * factor, seed)
        training.records.write(f"runs/{point.name}", {**settings(point), **values})


def _record(excess: list[float], **more: Any) -> dict[str, Any]:
    """A record of 1,000 answers, on which the last character alone leaves 0.5 nats each.

    It leaves 0.6 if the state is carried on; at place 1, 0.4, and at place 2, 0.6.
    """
    return {
        "fingerprint": "f",
        "best_loss": 0.5,
        "parameters": 9,
        "second": 1.0,
        "answers": [500, 500],
        "excess": excess,
        "last_character": [250.0, 250.0],
        "stream_answers": [500, 500],
        "stream": excess,
        "stream_last_character": [300.0, 300.0],
        "stream_same": excess,
        "place_counts": {"1-1": [500], "2-2": [500]},
        "by_place": {"1-1": excess[:1], "2-2": excess[1:]},
        "last_character_by_place": {"1-1": [200.0], "2-2": [300.0]},
        "has_more": True,
        **more,
    }


def _results(records: dict[str, list[dict[str, Any]]], folder: Path) -> Results:
    """Results of models whose runs have these records, on one skill."""
    effort = Effort(rates=1, characters=5_120, seeds=(1, 2))
    preset = TINY._replace(tasks={"parity": ""}, layers=tuple(records), effort=effort)
    training = RecordedTraining(RecordFolder(folder / "records"), folder / "runs")
    for arm, runs in zip(preset.arms(), records.values(), strict=True):
        _write(training, arm, effort, {(1.0, n): record for n, record in enumerate(runs, 1)})
    return build_results(preset, skills.run_study(training, preset, (), train=False))


@pytest.mark.parametrize(
    ("excess", "says"),
    [
        # All have the skill: that one is better by a little is not worth a word.
        ({"rnn": [[1.0, 1.0]] * 2, "gru": [[3.0, 3.0]] * 2}, "learnt by rnn, gru"),
        ({"rnn": [[1.0, 1.0]] * 2, "gru": [[200.0, 200.0]] * 2}, "learnt by rnn"),
        (
            {"rnn": [[100.0, 100.0]] * 2, "gru": [[200.0, 200.0]] * 2},
            "learnt by none of 2; rnn comes closest",
        ),
        # One run of the rival is missing.
        (
            {"rnn": [[100.0, 100.0]] * 2, "gru": [[200.0, 200.0]]},
            "learnt by none of 2; rnn comes closest; on fewer seeds: gru, 1 of 2 seeds (1 missing)",
        ),
        # None has learnt anything.
        (
            {"rnn": [[251.0, 251.0]] * 2, "gru": [[260.0, 260.0]] * 2},
            "learnt by none of 2; none is clearly closer than all others",
        ),
        # One of two runs has the skill.
        (
            {"rnn": [[1.0, 1.0], [250.0, 250.0]], "gru": [[240.0, 240.0]] * 2},
            "learnt by none of 2; none is clearly closer than all others",
        ),
        ({"rnn": [[100.0, 100.0]] * 2}, "not learnt by rnn, which alone is on record"),
        ({"rnn": [[1.0, 1.0]] * 2}, "learnt by rnn"),
    ],
)
def test_who_has_learnt_a_skill_is_said_and_not_who_is_best(
    excess: dict[str, list[list[float]]], says: str, tmp_path: Path
) -> None:
    results = _results({name: [*map(_record, runs)] for name, runs in excess.items()}, tmp_path)
    text = tables(results, "x")
    assert f"\n- parity: {says}.\n" in text
    assert "\n| parity | 1,000 | 1,000 | 0.500 | 0.600 |\n" in text
    for name, runs in excess.items():
        found = results.skills["parity"][name]
        assert found.shares == pytest.approx([sum(run) / 1_000 / 0.5 for run in runs])
        assert found.learnt == sum(run[0] < 25 for run in runs)
        assert found.stream_same == found.share
        assert found.stream.mean == pytest.approx(np.mean(found.shares) * 0.5 / 0.6)
        for place, name in enumerate(("1-1", "2-2")):
            assert found.by_place[name] == pytest.approx(np.mean([x[place] for x in runs]) / 500)


@pytest.mark.parametrize(("losses", "is_learnt"), [([7.5, 8.2], True), ([4.0, 12.0], False)])
def test_a_skill_is_learnt_if_its_interval_lies_below_a_twentieth(
    losses: list[float], is_learnt: bool, tmp_path: Path
) -> None:
    found = _results({"rnn": [_record(losses)] * 2}, tmp_path).skills["parity"]["rnn"]
    assert found.share.mean < 0.05 and found.is_learnt == is_learnt == (found.share.high < 0.05)


def test_shares_are_listed_by_place_where_there_are_three(tmp_path: Path) -> None:
    places = {"1-1": [200.0], "2-2": [300.0], "3-4": [100.0], "5-6": [1.0]}
    more = {
        "place_counts": {place: [500] for place in places},
        "last_character_by_place": places,
        "by_place": {place: [50.0] for place in places},
    }
    runs = [_record([10.0, 10.0], **more)] * 2
    text = tables(_results({"rnn": runs}, tmp_path / "four"), "x")
    assert "\n| parity | 1 | 2 | 3-4 | 5-6 |\n" in text
    assert "\n| rnn | 0.250 | 0.167 | 0.500 | - |\n" in text
    two = tables(_results({"rnn": [_record([10.0, 10.0])] * 2}, tmp_path / "two"), "x")
    assert "By place" not in two


@pytest.mark.parametrize(("pairs", "values"), [(1, 2), (3, 4), (4, 3)])
def test_shares_without_keys_are_means_over_all_texts(pairs: int, values: int) -> None:
    often, left = [], []
    for given in itertools.product(range(values), repeat=pairs):
        often.append(np.mean([np.log(pairs / given.count(x)) for x in given]))
        left.append(
            np.mean([np.log((pairs - n) / given[n:].count(x)) for n, x in enumerate(given)])
        )
    expected = np.array([np.mean(often), np.mean(left)]) / np.log(values)
    assert unbound_shares(pairs=pairs, values=values) == pytest.approx(expected)


def test_intervals_of_all_skills_hold_at_once(tmp_path: Path) -> None:
    effort = Effort(rates=1, characters=5_120, seeds=(1, 2))
    preset = TINY._replace(layers=("rnn", "gru", "minlstm"), effort=effort)
    training = RecordedTraining(RecordFolder(tmp_path / "records"), tmp_path / "runs")
    rng = np.random.default_rng(0)
    for number, arm in enumerate(preset.arms()):
        text = {
            **{name: [500] * 9 for name in ("answers", "stream_answers")},
            **{name: [250.0] * 9 for name in ("last_character", "stream_last_character")},
            **{name: {} for name in ("place_counts", "by_place", "last_character_by_place")},
        }
        sums = [(200 + 10 * number + rng.normal(0, 5, 9)).tolist() for _ in effort.seeds]
        runs = {(1.0, seed): {**_record(x), **text} for seed, x in enumerate(sums, 1)}
        _write(training, arm, effort, runs)
    found = skills.run_study(training, preset, (), train=False)
    results = build_results(preset, found)
    for task in preset.tasks:
        groups = [
            from_sums([record["excess"] for record in runs.records.values()], [500] * 9)
            for name, runs in found.items()
            if name.startswith(task)
        ]
        expected = compare_with_best(
            groups,
            best=0,
            is_choice_independent=False,
            is_paired_by_run=False,
            level=1 - 0.05 / 2,
        )
        assert results.comparisons[task] == expected and expected.looked_at == 3


def _complete(preset: Preset) -> dict[str, Any]:
    """A record of a run of the preset's only arm, with the fields of its text."""
    (arm,) = preset.arms()
    text = measures.measure_text(load_dataset(load_config(arm.config, arm.fields)))
    sums = dict.fromkeys(("excess", "stream_same"), text["answers"])
    return {**_record([]), **text, **sums, "stream": text["stream_answers"]}


@pytest.mark.parametrize("field", ["fingerprint", "best_loss", "last_character"])
def test_records_of_a_text_that_has_changed_are_refused(
    field: str, trainer: Trainer, tmp_path: Path
) -> None:
    effort = Effort(rates=2, characters=5_120, seeds=(1,))
    preset = TINY._replace(tasks={"parity": ""}, layers=("rnn",), effort=effort)
    (arm,) = preset.arms()
    training = RecordedTraining(RecordFolder(tmp_path / "records"), tmp_path / "runs")
    done = _complete(preset)
    _write(training, arm, effort, {(1.0, 1): done, (0.5, 1): {**done, "second": 2.0}})
    assert skills.run_study(training, preset, (), train=True)["parity-rnn"].records
    _write(training, arm, effort, {(1.0, 1): {**done, field: "other"}})
    with pytest.raises(CharlmError, match=rf"{field} differs\): remove the records") as caught:
        skills.run_study(training, preset, (), train=True)
    assert "\n" not in str(caught.value) and trainer.names == []


@pytest.mark.parametrize("field", ["stream", "best_loss"])
def test_a_record_that_lacks_a_field_is_damaged(field: str, tmp_path: Path) -> None:
    done = _record([4.0, 5.0])
    torn = {name: value for name, value in done.items() if name != field}
    says = r"parity-gru-rate=0\.01-seed=2\.json is damaged: remove it"
    with pytest.raises(CharlmError, match=says):
        _results({"rnn": [done, done], "gru": [done, torn]}, tmp_path)


@pytest.mark.parametrize("field", ["fingerprint", "best_loss", "answers"])
def test_records_of_different_texts_are_not_compared(field: str, tmp_path: Path) -> None:
    done = _record([4.0, 5.0])
    changes = {"fingerprint": "g", "best_loss": 0.4, "answers": [400, 500]}
    other = {**done, field: changes[field]}
    says = "the records of parity-rnn, seed 1, and parity-gru, seed 2, are of different texts"
    with pytest.raises(CharlmError, match=says):
        _results({"rnn": [done, done], "gru": [done, other]}, tmp_path)


def test_means_that_leave_out_runs_say_so_and_missing_models_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    effort = Effort(rates=2, characters=5_120, seeds=(1, 2, 3))
    preset = TINY._replace(tasks={"parity": ""}, layers=("rnn", "minlstm", "gru"), effort=effort)
    monkeypatch.setitem(skills.PRESETS, "minutes", preset)
    training = RecordedTraining(RecordFolder(tmp_path / "records"), tmp_path / "runs")
    done = _record([4.5, 4.6])
    rnn, minlstm = preset.arms(["rnn", "minlstm"])
    searched = {(1.0, 1): done, (0.5, 1): {**done, "second": 2.0}}
    _write(training, rnn, effort, {**searched, (1.0, 2): {"diverged": True}, (1.0, 3): done})
    _write(training, minlstm, effort, {**searched, (1.0, 2): done, (1.0, 3): done})
    train_arms(training, [rnn, minlstm], effort, lambda run: {}, lambda run: {})  # none is trained
    assert skills.main([f"--workdir={tmp_path}", "--from_records"]) == 0
    text = (tmp_path / "tables.md").read_text()
    assert "\nOn record: 2 of 3; missing, or diverged at every rate: parity, gru.\n" in text
    partial = "rnn, 2 of 3 seeds (1 diverged)"
    assert f"\nMeans over the seeds that are left: parity, {partial}.\n" in text
    assert f"- parity: learnt by minlstm; on fewer seeds: {partial}.\n" in text
    rows = [line for line in text.splitlines() if line.startswith(("| rnn", "| minlstm"))]
    assert rows[0].endswith("], 2 of 3 seeds (1 diverged) |") and "**" not in rows[0]
    assert rows[1].count("**") == 2
    assert "| rnn | 2 of 2, 2 of 3 seeds (1 diverged) |" in rows
    assert "| minlstm | 3 of 3 |" in rows
    assert rows[-2].endswith("seeds: 2 of 3 (1 diverged)) |") and rows[-1].endswith("seeds: 3) |")


def _text(task: str) -> tuple[Dataset, SkillSource]:
    spec = f"synthetic:task={task},characters=20000"
    fields = {"data.corpus": spec, "split.test_fraction": 0.2}
    source = parse_source(spec)
    assert isinstance(source, SkillSource)
    return load_dataset(load_config("lstm", fields)), source


def _measure(
    dataset: Dataset,
    source: SkillSource,
    evaluate: Callable[..., tuple[Any, np.ndarray]],
) -> dict[str, Any]:
    """The record of a model whose losses are given by a function."""
    run = SimpleNamespace(
        config=load_config("lstm", {"data.corpus": source.spec}),
        dataset=lambda: dataset,
        evaluate=evaluate,
        params={"w": np.zeros(3)},
    )
    return measures.measure_run(run)  # type: ignore[arg-type]


@pytest.mark.parametrize("task", ["dyck", "induction"])
def test_the_predictor_from_the_last_character_has_a_share_of_1_everywhere(
    task: str, tmp_path: Path
) -> None:
    """In long episodes, answers that windows leave out are harder than others for it."""
    dataset, source = _text(task)
    last_P = measures.last_character_nats(dataset, source.is_answer(dataset.corpus.text[:]))

    def evaluate(protocol: EvalProtocol, *, split: str) -> tuple[Any, np.ndarray]:
        return SimpleNamespace(loss_nats=1.0), last_P if split == "test" else np.ones(2_000)

    valid = len(all_positions(dataset.part("valid")))
    assert valid == 2_000
    record = _measure(dataset, source, evaluate)
    assert record["fingerprint"] == dataset.fingerprint
    record = {**_record([0.0]), **record, "second": 1.0}
    results = _results({"rnn": [record] * 2}, tmp_path)
    found, reference = results.skills["parity"]["rnn"], results.references["parity"]
    means = [x.mean for x in (found.share, found.stream_same, found.stream)]
    assert [*found.shares, *means] == pytest.approx([1] * 5)
    assert found.by_place == pytest.approx(dict(reference.last_by_place))
    assert reference.stream_answers > 1.1 * reference.answers
    assert reference.stream_last > 1.02 * reference.last
    places = [*reference.last_by_place.values()]
    assert max(places) > 1.5 * min(places)


def test_a_model_that_has_the_skill_has_no_excess() -> None:
    """It cannot know the answers of an episode that began before it read anything."""
    dataset, source = _text("recall")
    text = dataset.corpus.text[:]

    def evaluate(protocol: EvalProtocol, *, split: str) -> tuple[Any, np.ndarray]:
        """Answers that come before the end of an episode was read are not known."""
        nll_N = source.nll_nats(text)
        for stretch in protocol.read_stretches(dataset.part(split)):
            for place in stretch:
                if END not in text[stretch.start - 1 : place]:
                    nll_N[place] += 1.0
        nll_P = nll_N[all_positions(dataset.part(split))]
        return SimpleNamespace(loss_nats=nll_P.mean()), nll_P

    found = _measure(dataset, source, evaluate)
    for name in ("excess", "stream", "stream_same"):
        assert set(found[name]) == {0.0}
    assert found["second"] == 0
    assert sum(found["stream_answers"]) > sum(found["answers"]) > 100
    by_place = [sum(counts) for counts in found["place_counts"].values()]
    assert sum(by_place) == sum(found["answers"]) and set(found["by_place"]) == {
        name for name in found["place_counts"] if int(name.split("-")[1]) > 18
    }
    # Ten values, of which the key alone tells nothing.
    left = sum(found["last_character"]) / sum(found["answers"])
    assert left == pytest.approx(np.log(10), abs=0.1)


def test_parity_counts_after_fifteen_bits_or_more() -> None:
    """Shorter strings occur in the training text."""
    dataset, source = _text("parity")
    text = dataset.corpus.text[:]

    def evaluate(protocol: EvalProtocol, *, split: str) -> tuple[Any, np.ndarray]:
        nll_N = source.nll_nats(text)
        for place in np.flatnonzero(source.is_answer(text)):
            nll_N[place] += len(text[: place - 1].rpartition(END)[2]) < 15
        return SimpleNamespace(), nll_N[all_positions(dataset.part(split))]

    found = _measure(dataset, source, evaluate)
    assert set(found["excess"]) == set(found["stream"]) == {0.0} and found["second"] == 0
    assert [*found["place_counts"]] == ["17-24"] and sum(found["answers"]) > 50


@pytest.mark.parametrize(
    ("losses", "is_at_edge"),
    [
        ({0.01: 1.5, 0.02: 1.6, 0.04: 1.7}, True),
        ({0.01: 1.7, 0.02: 1.6, 0.04: 1.5}, True),
        ({0.01: 1.7, 0.02: 1.5, 0.04: 1.6}, False),
        ({0.01: 0.693, 0.02: 0.694, 0.04: 0.695}, False),  # equally good
        ({0.02: 1.5}, True),
    ],
)
def test_an_edge_counts_if_it_is_better_than_the_next_rate(
    losses: dict[float, float], is_at_edge: bool
) -> None:
    point = TINY.arms(["rnn"])[0]
    arm = make_point(point.name, point.config, point.fields)
    trials = {Trial(arm, RATE, rate, 1, 5_120): loss for rate, loss in losses.items()}
    tuned = Tuned(min(losses, key=losses.__getitem__), trials)
    assert is_rate_at_edge(tuned) == is_at_edge


def test_a_model_that_is_not_there_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert skills.main([f"--workdir={tmp_path}", "--only=lstm", "--only=perceptron"]) == 2
    assert "--only=perceptron is not one of 'lstm', 'minlstm'" in capsys.readouterr().err


@pytest.mark.parametrize("name", PRESETS)
def test_models_differ_and_have_about_as_many_parameters(name: str) -> None:
    preset = PRESETS[name]
    models = [load_config("lstm", preset.model(layers)).model for layers in preset.layers]
    sizeless = {dataclasses.replace(model, embedding_size=64, hidden_size=64) for model in models}
    assert len(sizeless) == len(models)
    for model in models:
        params = jax.eval_shape(build_model(model, 20).init, root_key(0))
        assert 0.95 < count_parameters(params) / preset.parameters < 1.05


def test_the_width_is_the_one_that_comes_closest() -> None:
    fields = {"model.layers": ("rnn",)}

    def count(width: int) -> int:
        sizes = {"model.embedding_size": width, "model.hidden_size": width}
        model = load_config("lstm", {**fields, **sizes}).model
        return count_parameters(jax.eval_shape(build_model(model, 9).init, root_key(0)))

    for parameters in (1, 3_000, count(40), count(40) + 100, count(48) - 1):
        width = fit_width("lstm", fields, parameters=parameters, symbols=9)
        others = [x for x in (width - 8, width + 8) if x]
        assert all(abs(count(width) - parameters) <= abs(count(x) - parameters) for x in others)


def test_every_skill_has_a_text_of_its_length() -> None:
    preset = PRESETS["full"]
    assert len({preset.corpus(task) for task in preset.tasks}) == len(TASKS)
    for arm in preset._replace(characters=50_000).arms(["rnn"]):
        dataset = load_dataset(load_config(arm.config, arm.fields))
        assert len(dataset.corpus.text) == 50_000 and len(dataset.part("test")) == 1
    assert all(f"characters={preset.characters}" in preset.corpus(task) for task in preset.tasks)


@pytest.mark.parametrize("name", PRESETS)
def test_a_text_is_named_with_all_its_parameters(name: str) -> None:
    for arm in PRESETS[name].arms():
        corpus = arm.fields["data.corpus"]
        assert parse_source(corpus).spec == corpus
        for parameter in TASKS[arm.name.partition("-")[0]].defaults:
            assert f",{parameter}=" in corpus
