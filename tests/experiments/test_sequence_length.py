"""The study of sequence lengths says what its numbers say, and finds a reach that is known."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from charlm_jax.analysis.loss_breakdown import CLASSES
from charlm_jax.evaluation.bootstrap import Difference, Interval, difference, mean_interval
from experiments.sequence_length import runs
from experiments.sequence_length.__main__ import PRESETS
from experiments.sequence_length.answer import answer
from experiments.sequence_length.measures import (
    Arm,
    Figures,
    Group,
    Losses,
    carried_less_reset,
    group_arms,
    measure_arm,
    run_by_run,
)
from experiments.sequence_length.runs import BATCH_CHARACTERS, LOADERS, Study

TEXT = "The isle, said he.\nIt is an old one; " * 800
PART = (range(9_000, 29_000),)


def _arm(length: int, *, state: str = "reset", budget: str = "characters") -> Arm:
    facts = {"rate": 0.01, "characters": 9_000, "seconds": 5.0, "flops": 1e9, "seeds": (1, 2)}
    return Arm("lstm", length, state, budget, **facts)


def _losses(
    mean: float, *, seed: int = 0, window: float = 0.1, second: float | None = None
) -> Losses:
    noise_N = np.random.default_rng(0).gamma(1.0, 1.0, len(PART[0]))  # what all find hard
    runs_S1 = mean - 1.0 + np.random.default_rng(seed).normal(0, 1e-3, (2, 1))
    stream_SN = runs_S1 + noise_N
    far_SN = stream_SN + 2 * window
    return Losses(stream_SN + window, stream_SN, far_SN, mean if second is None else second)


def test_lengths_are_compared_with_the_best_of_their_group() -> None:
    losses = {
        _arm(40): _losses(1.5, seed=1),
        _arm(10): _losses(1.7, seed=2),
        _arm(160): _losses(1.5002, seed=3),
        _arm(10, state="carried"): _losses(1.6, seed=4),
        _arm(40, state="carried"): _losses(1.5, seed=1),
    }
    groups = group_arms(losses, text=TEXT, part=PART)
    (reset,) = (group for group in groups if group.state == "reset")
    assert reset.lengths == (10, 40, 160) and set(reset.as_good) == {40, 160}
    assert reset.to_best[reset.best] is None
    best = losses[next(arm for arm in losses if reset.is_best(arm))]
    apart = losses[_arm(10)].stream_SN - best.stream_SN
    assert reset.to_best[0] == Difference(*mean_interval(apart))
    assert {*reset.by_class} == {*CLASSES}
    for found in reset.by_class.values():
        assert found.mean == pytest.approx(0.2, abs=0.01) and found.is_significant
    carried = carried_less_reset(losses)
    assert [*carried] == [("lstm", 10), ("lstm", 40)]
    assert carried["lstm", 10].mean == pytest.approx(-0.1, abs=0.01)
    assert not carried["lstm", 40].is_significant


def test_the_best_is_chosen_on_other_characters_than_the_figures_are_of() -> None:
    losses = {_arm(10): _losses(1.4, second=1.6), _arm(40): _losses(1.5, seed=1, second=1.5)}
    (group,) = group_arms(losses, text=TEXT, part=PART)
    assert group.best_length == 40 and group.as_good == (10, 40)
    assert group.to_best[0] is not None and group.to_best[0].is_significant
    assert group.to_best[0].mean < 0


def test_what_runs_of_a_seed_share_is_no_reason_for_doubt() -> None:
    rng = np.random.default_rng(0)
    shared_S1, text_N = rng.normal(0, 0.05, (3, 1)), rng.gamma(1.0, 1.0, 20_000)
    a_SN = text_N + shared_S1 + rng.normal(0, 1e-3, (3, 1)) + 0.02
    b_SN = text_N + shared_S1 + rng.normal(0, 1e-3, (3, 1))
    assert run_by_run(a_SN, b_SN).is_significant and not difference(a_SN, b_SN).is_significant


def test_the_figures_of_an_arm() -> None:
    found = measure_arm(_losses(1.5, window=0.25), text=TEXT, part=PART, window=7, reach=32)
    assert found.cold_start.mean == pytest.approx(0.25)
    assert found.cold_start.low == pytest.approx(found.cold_start.high)  # on the same characters
    assert [cell.label for cell in found.by_place][:6] == ["1", "2", "3", "4", "5-6", "7-8"]
    near, far = found.window.mean, found.window.mean + 0.25
    means = [cell.interval.mean for cell in found.by_place]  # whichever characters stand there
    assert means == pytest.approx([near] * 5 + [far] * 5)
    assert [cell.label for cell in found.by_class] == list(CLASSES)


def _figures() -> Figures:
    return measure_arm(_losses(1.5), text=TEXT, part=PART, window=4, reach=8)


def _group(first: Difference, later: Difference) -> Group:
    by_class = {"first letter": first, "later letter": later}
    return Group(
        "lstm", "reset", "characters", (5, 40), 1, (Difference(0.1, 0.05, 0.2), None), by_class
    )


NONE = Difference(0.001, -0.01, 0.012)
MORE = Difference(0.2, 0.1, 0.3)
SOME = Difference(0.05, 0.03, 0.08)


@pytest.mark.parametrize(
    ("first", "later", "says"),
    [
        (MORE, NONE, "as the chapter says"),
        (MORE, SOME, "loses more than the rest of it: the claim holds in part"),
        (MORE, MORE, "loses not clearly more"),
        (NONE, SOME, "the claim is not seen"),
        (MORE, Difference(-0.05, -0.08, -0.03), "spelt better"),
    ],
    ids=["as_said", "in_part", "alike", "not", "better"],
)
def test_the_verdict_on_the_chapters_claim(first: Difference, later: Difference, says: str) -> None:
    figures = {_arm(length): _figures() for length in (5, 40)}
    counted = ("3-gram", Interval(1.55, 1.5, 1.6))
    words = "\n".join(answer([_group(first, later)], figures, {}, {}, counted, {}))
    assert says in words
    assert "a 3-gram fitted to the same training text, pays 1.5500 nats; 2 of the 2 arms" in words


COUNTED = ("3-gram", Interval(1, 1, 1))
TRIED = {
    ("lstm", 5, "reset"): {0.01: 1.7, 0.02: 1.6},
    ("lstm", 40, "reset"): {0.01: 1.7, 0.02: 1.65, 0.04: 1.6},
    ("lstm", 160, "reset"): {0.01: 1.7, 0.02: 1.6, 0.04: 1.65},
}


def test_the_answer_names_what_is_as_good_and_what_carrying_changes() -> None:
    figures = {_arm(length): _figures() for length in (5, 40, 160)}
    to_best = (MORE, SOME, None)
    group = Group("lstm", "reset", "characters", (5, 40, 160), 2, to_best, {})
    carried = {("lstm", 5): Difference(-0.1, -0.2, -0.05), ("lstm", 40): NONE}
    effective = {"lstm": {"truncated": 64, "shuffled": 16}}
    words = "\n".join(answer([group], figures, carried, effective, COUNTED, TRIED))
    assert "the best on the second part is T = 160" in words
    assert "Not shown to be worse" not in words
    assert "For 2 of 3 choices of a learning rate" in words
    assert words.count("state reset, at T = 5 and 40 (the highest)") == 1
    assert "The textbook's T = 40 pays +0.0500 [+0.0300, +0.0800] more." in words
    assert "lowers the loss at T = 5 by 0.1000; changes nothing that is shown at T = 40." in words
    assert "beyond 64 characters nothing is gained by reading more; beyond 16 their order" in words
    assert "none of the arms pay less" in words


@pytest.mark.parametrize(("seeds", "says"), [(1, "One run"), (2, "Two runs"), (3, None)])
def test_few_seeds_are_said_to_be_few(seeds: int, says: str | None) -> None:
    figures = {_arm(length)._replace(seeds=tuple(range(seeds))): _figures() for length in (5, 40)}
    words = answer([_group(MORE, NONE)], figures, {}, {}, COUNTED, {})
    found = [line for line in words if line.startswith(("One run of each", "Two runs of each"))]
    assert [line.split(" of ")[0] for line in found] == ([says] if says else [])


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
    by_budget: dict[tuple[str, str], list[Arm]] = {}
    for arm, points in plan.items():
        by_budget.setdefault((arm.model, arm.budget), []).append(arm)
        config = points[0].load()
        assert config.data.batch_size * arm.length == BATCH_CHARACTERS
        assert config.train.max_steps * BATCH_CHARACTERS == arm.characters
        assert config.data.loader == LOADERS[arm.state]
        assert config.optimizer.learning_rate == arm.rate
        assert arm.rate == rates[arm.model, arm.length, arm.state]
    assert {model for model, budget in by_budget if budget == "seconds"} == {*preset.timed}
    for (model, budget), arms in by_budget.items():
        assert [arm.length for arm in arms if arm.state == "reset"] == [*preset.lengths]
        spent = [getattr(arm, budget) for arm in arms]
        within = 0 if budget == "characters" else BATCH_CHARACTERS / 10_000
        assert max(spent) - min(spent) <= within, model
