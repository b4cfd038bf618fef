"""The study of sequence lengths: its comparisons, its tables and results.json."""

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest

from charlm_jax.analysis.loss_breakdown import CLASSES
from charlm_jax.comparison.compare import Baseline
from charlm_jax.core.errors import CharlmError
from charlm_jax.core.json_files import write_json
from charlm_jax.evaluation.bootstrap import Difference, Interval, difference, mean_interval
from experiments.results_folder import saved_command
from experiments.sequence_length import runs
from experiments.sequence_length.__main__ import PRESETS
from experiments.sequence_length.figures import figure_names
from experiments.sequence_length.measures import (
    Condition,
    ConditionLosses,
    LengthComparison,
    carried_less_reset,
    compare_lengths,
    measure_condition,
    run_by_run,
)
from experiments.sequence_length.results import Results, read_results, to_json
from experiments.sequence_length.runs import BATCH_CHARACTERS, LOADERS, Study
from experiments.sequence_length.tables import TITLE, tables
from tests.conftest import ROOT

TEXT = "The isle, said he.\nIt is an old one; " * 800
PART = (range(9_000, 29_000),)


def _condition(length: int, *, state: str = "reset", budget: str = "characters") -> Condition:
    facts = {"rate": 0.01, "characters": 9_000, "seconds": 5.0, "flops": 1e9, "seeds": (1, 2)}
    return Condition("lstm", length, state, budget, **facts)


def _losses(
    mean: float, *, seed: int = 0, window: float = 0.1, second: float | None = None
) -> ConditionLosses:
    noise_N = np.random.default_rng(0).gamma(1.0, 1.0, len(PART[0]))  # what all find hard
    runs_S1 = mean - 1.0 + np.random.default_rng(seed).normal(0, 1e-3, (2, 1))
    stream_SN = runs_S1 + noise_N
    far_SN = stream_SN + 2 * window
    return ConditionLosses(
        stream_SN + window, stream_SN, far_SN, mean if second is None else second
    )


def test_lengths_are_compared_with_the_best_of_their_group() -> None:
    losses = {
        _condition(40): _losses(1.5, seed=1),
        _condition(10): _losses(1.7, seed=2),
        _condition(160): _losses(1.5002, seed=3),
        _condition(10, state="carried"): _losses(1.6, seed=4),
        _condition(40, state="carried"): _losses(1.5, seed=1),
    }
    groups = compare_lengths(losses, text=TEXT, part=PART)
    (reset,) = (group for group in groups if group.state == "reset")
    assert reset.lengths == (10, 40, 160) and set(reset.as_good) == {40, 160}
    assert reset.to_best[reset.best] is None
    best = losses[next(condition for condition in losses if reset.is_best(condition))]
    apart = losses[_condition(10)].stream_SN - best.stream_SN
    assert reset.to_best[0] == Difference(*mean_interval(apart))
    assert {*reset.by_class} == {*CLASSES}
    for found in reset.by_class.values():
        assert found.mean == pytest.approx(0.2, abs=0.01) and found.is_significant
    carried = carried_less_reset(losses)
    assert [*carried] == [("lstm", 10), ("lstm", 40)]
    assert carried["lstm", 10].mean == pytest.approx(-0.1, abs=0.01)
    assert not carried["lstm", 40].is_significant


def test_the_best_is_chosen_on_other_characters_than_the_figures_are_of() -> None:
    losses = {
        _condition(10): _losses(1.4, second=1.6),
        _condition(40): _losses(1.5, seed=1, second=1.5),
    }
    (group,) = compare_lengths(losses, text=TEXT, part=PART)
    assert group.best_length == 40 and group.as_good == (10, 40)
    assert group.to_best[0] is not None and group.to_best[0].is_significant
    assert group.to_best[0].mean < 0


def test_what_runs_of_a_seed_share_is_no_reason_for_doubt() -> None:
    rng = np.random.default_rng(0)
    shared_S1, text_N = rng.normal(0, 0.05, (3, 1)), rng.gamma(1.0, 1.0, 20_000)
    a_SN = text_N + shared_S1 + rng.normal(0, 1e-3, (3, 1)) + 0.02
    b_SN = text_N + shared_S1 + rng.normal(0, 1e-3, (3, 1))
    assert run_by_run(a_SN, b_SN).is_significant and not difference(a_SN, b_SN).is_significant


def test_the_figures_of_an_condition() -> None:
    found = measure_condition(_losses(1.5, window=0.25), text=TEXT, part=PART, window=7, reach=32)
    assert found.cold_start.mean == pytest.approx(0.25)
    assert found.cold_start.low == pytest.approx(found.cold_start.high)  # on the same characters
    assert [cell.label for cell in found.by_place][:6] == ["1", "2", "3", "4", "5-6", "7-8"]
    near, far = found.window.mean, found.window.mean + 0.25
    means = [cell.interval.mean for cell in found.by_place]  # whichever characters stand there
    assert means == pytest.approx([near] * 5 + [far] * 5)
    assert [cell.label for cell in found.by_class] == list(CLASSES)


PUBLISHED = ROOT / "docs" / "studies" / "sequence_length"
COMMAND = "python -m experiments.sequence_length --preset=book --corpus=mysterious-island"
MORE = Difference(0.2, 0.1, 0.3)
SOME = Difference(0.05, -0.03, 0.08)


def _results() -> Results:
    measured = measure_condition(_losses(1.5), text=TEXT, part=PART, window=4, reach=8)
    rates = {0.01: 1.7, 0.02: 1.6, 0.04: 1.65}
    one_block = Interval(1.2, -math.inf, math.inf)
    return Results(
        tried={
            ("lstm", 5, "reset"): {0.01: 1.7, 0.02: 1.6},
            ("lstm", 40, "reset"): rates,
            ("lstm", 160, "reset"): {**rates, 0.08: 1.5},
        },
        measurements={_condition(length): measured for length in (5, 40, 160)},
        comparisons=[
            LengthComparison(
                model="lstm",
                state="reset",
                budget="characters",
                lengths=(5, 40, 160),
                best=2,
                to_best=[MORE, SOME, None],
                by_class={"first letter": MORE, "space": SOME},
            )
        ],
        carried={("lstm", 5): MORE, ("lstm", 40): Difference(0.1, -math.inf, math.inf)},
        by_context={"lstm": {"truncated": {1: one_block, 2: one_block}}},
        effective={"lstm": {"truncated": 64, "shuffled": 16, "replaced": 8}},
        baselines=[
            Baseline("3-gram", "ngram", Interval(1.55, 1.5, 1.6), 2.2),
            Baseline("gzip", "compressor", None, 2.0),
        ],
        characters=20_000,
    )


def test_the_tables_have_every_number_with_its_interval() -> None:
    lines = tables(_results(), command=COMMAND).splitlines()
    assert lines[0] == TITLE and f"    {COMMAND}" in lines
    stream = _results().measurements[_condition(160)].stream.describe()
    assert (
        f"- lstm, state reset, equal characters: T = 160, loss {stream}. Not significantly worse: "
        "40." in lines
    )
    more, some = "+0.2000 [+0.1000, +0.3000]", "+0.0500 [-0.0300, +0.0800]"
    for row in (
        f"| lstm | reset | characters | {more} | {some} | best |",
        f"| lstm | {more} | +0.1000 |",
        f"| lstm | reset | characters | 5 less 160 | {more} |  | {some} |  |  |  |",
        "| lstm | 64 | 16 | 8 |",
        "| 3-gram |  |  |  |  |  |  |  |  | 1.5500 [1.5000, 1.6000] |  |",
        "| gzip |  |  |  |  |  |  |  |  | 1.3863 |  |",
        "| lstm | 40 | reset | 1.7000 at 0.01 | **1.6000 at 0.02** | 1.6500 at 0.04 |",
    ):
        assert row in lines
    assert any("In 2 of 3 rows it is the lowest or the highest tried." in line for line in lines)


def test_results_are_read_as_they_were_written(tmp_path: Path) -> None:
    results = _results()
    write_json(tmp_path / "results.json", to_json(results, COMMAND))
    read = read_results(tmp_path / "results.json")
    assert json.dumps(to_json(read, COMMAND)) == json.dumps(to_json(results, COMMAND))
    assert tables(read, command=COMMAND) == tables(results, command=COMMAND)
    assert read == results


@pytest.mark.parametrize("content", ["{torn", "[]", "{}", '{"tried": [], "figures": [1]}'])
def test_damaged_results_are_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(CharlmError, match="is damaged: run the study again"):
        read_results(tmp_path / "results.json")


def test_the_published_tables_are_of_the_published_results() -> None:
    published = (PUBLISHED / "tables.md").read_text(encoding="utf-8")
    results = read_results(PUBLISHED / "results.json")
    assert tables(results, command=COMMAND) == published
    assert saved_command(PUBLISHED / "results.json", "sequence_length") == COMMAND
    names = {path.name for path in PUBLISHED.iterdir()}
    figures = figure_names(PRESETS["book"].models)
    assert names == {"index.md", "tables.md", "results.json", *figures}
    page = (PUBLISHED / "index.md").read_text(encoding="utf-8")
    assert all(f"({name})" in page for name in [*figures, "tables.md"])


@pytest.mark.parametrize("name", PRESETS)
def test_arms_have_equal_characters_or_equal_seconds(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "train_flops", lambda *_, **__: 1)  # which traces every model
    preset = PRESETS[name]
    study = Study(preset, "synthetic:characters=20000", Path("nowhere"))
    keys = [(model, length) for model in preset.models for length in preset.lengths]
    speeds = {key: 10_000.0 + 500 * number for number, key in enumerate(keys)}
    rates = {
        (model, length, state): (1 if state == "reset" else 2) / length
        for model, length, state in itertools.product(preset.models, preset.lengths, LOADERS)
    }
    plan = study.plan(rates, speeds)
    points = {point for points in plan.values() for point in points}
    assert len({point.name for point in points}) == len(points)
    by_budget: dict[tuple[str, str], list[Condition]] = {}
    for condition, points in plan.items():
        by_budget.setdefault((condition.model, condition.budget), []).append(condition)
        config = points[0].load()
        assert config.data.batch_size * condition.length == BATCH_CHARACTERS
        assert config.train.max_steps * BATCH_CHARACTERS == condition.characters
        assert config.data.loader == LOADERS[condition.state]
        assert config.optimizer.learning_rate == condition.rate
        assert condition.rate == rates[condition.model, condition.length, condition.state]
    assert {model for model, budget in by_budget if budget == "seconds"} == {*preset.timed}
    for (model, budget), conditions in by_budget.items():
        assert [condition.length for condition in conditions if condition.state == "reset"] == [
            *preset.lengths
        ]
        spent = [getattr(condition, budget) for condition in conditions]
        within = 0 if budget == "characters" else BATCH_CHARACTERS / 10_000
        assert max(spent) - min(spent) <= within, model
