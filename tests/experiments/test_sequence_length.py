"""The study of sequence lengths: its plan, its records, and the results computed from them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from charlm_jax.core.errors import CharlmError
from charlm_jax.evaluation.block_sums import block_sums
from charlm_jax.evaluation.bootstrap import difference
from charlm_jax.sweeps.points import Point
from charlm_jax.sweeps.tuning import Trial, Tuned
from experiments.block_records import from_sums, to_sums
from experiments.recorded_training import Diverged, RecordedTraining, RecordFolder, settings
from experiments.sequence_length import runs
from experiments.sequence_length.arms import (
    BATCH_CHARACTERS,
    LOADERS,
    PRESETS,
    Arm,
    Model,
    Preset,
    length_schedule,
)
from experiments.sequence_length.records import TEXT, Records, RunRecord, TextRecord
from experiments.sequence_length.results import (
    Results,
    build_results,
)
from experiments.sequence_length.runs import PlannedRun, Study, mean_speed, speed_name
from experiments.sequence_length.tables import TITLE, tables, to_json
from experiments.tuned_arms import Effort, RunCounts

CHARACTERS, BLOCKS = 20_000, 20
PRESET = Preset(
    models={"lstm": Model("lstm", {}, lengths=(5, 40, 160), schedules=((5, 160),))},
    corpus="synthetic:characters=200000",
    effort=Effort(3, 64_000, (1, 2)),
)
SPEEDS = {"lstm-T5": 1_000.0, "lstm-T40": 2_000.0, "lstm-T160": 4_000.0}
COUNTS = [1_000] * BLOCKS
QUALITY = {
    name: {"mean": 0.9, "low": 0.8, "high": 1.0}
    for name in ("word_validity", "distinct_6grams", "copied", "excess_bits")
} | {"distinct_word_bigrams": None}
TEXT_RECORD = TextRecord(
    corpus="a text",
    fingerprint="0",
    symbols=30,
    characters={"train": 160_000, "valid": 20_000, "test": 20_000},
    compressed={"xz": 1.9},
    ngram_order=7,
    ngram={"window": (1_700.0,) * BLOCKS, "stream": (1_600.0,) * BLOCKS},
    ngram_watched={"64": 1.65, "320": 1.55},
    sizes=PRESET.sizes,
    counts=COUNTS,
    class_counts={"first letter": [900] * 5, "space": [800] * 5},
    place_counts={"1": [50] * 5, "2": [50] * 5},
    target_counts=[25] * 5,
    human=QUALITY,
)
ANY = np.random.default_rng(0).normal(0, 1, CHARACTERS)


def _study(preset: Preset, folder: Path = Path()) -> Study:
    return Study(preset, RecordedTraining(RecordFolder(folder / "records"), folder / "runs"))


def _sums(mean: float, seed: int) -> tuple[float, ...]:
    """The block sums of a run that finds hard what all runs find hard."""
    own_N = np.random.default_rng(seed).normal(0, 0.05, CHARACTERS)
    return to_sums(block_sums([mean + 0.3 * ANY + own_N]))[0]


def _record(
    arm: Arm, seed: int = 1, *, mean: float, second: float | None = None, rate: float = 0.01
) -> RunRecord:
    return RunRecord(
        arm=arm,
        seed=seed,
        commit="",
        rate=rate,
        parameters=1_000,
        characters=PRESET.effort.characters,
        curve=[(20_000, mean + 0.5), (40_000, mean + 0.1), (64_000, mean)],
        best_characters=64_000,
        flops=1e9,
        second={"window": mean, "stream": mean if second is None else second},
        window=_sums(mean + 0.1, 100 * arm.length + seed),
        stream=_sums(mean, 100 * arm.length + seed),
        by_class={"first letter": (900 * (mean + 0.2),) * 5, "space": (800 * mean,) * 5},
        by_place={"1": (50 * 2.5,) * 5, "2": (50 * 2.0,) * 5},
        by_context={
            change: {"1": (50.0,) * 5, "4": (25.1,) * 5, "8": (25.0,) * 5}
            for change in ("truncated", "shuffled")
        },
        gradients={"1": 0.5, "2": 0.05},
        quality=QUALITY,
        has_more=True,
    )


def _tuned(arm: Arm, losses: Mapping[float, float]) -> Tuned:
    point = _study(PRESET)._point(arm, arm.name, {})
    trials = {Trial(point, "optimizer.learning_rate", x, 1, 5_120): y for x, y in losses.items()}
    return Tuned(min(losses, key=losses.__getitem__), trials)


def _results(
    means: Mapping[Arm, Sequence[float]], preset: Preset = PRESET, **second: Any
) -> Results:
    """Results of runs with these mean losses."""
    runs = {
        PlannedRun(arm, seed, 0.01, PRESET.effort.characters): _record(
            arm, seed, mean=mean, second=second.get(arm.name.replace("-", "_"))
        )
        for arm, each in means.items()
        for seed, mean in enumerate(each, start=1)
    }
    tuned = {
        Arm("lstm", (5,), "reset"): _tuned(
            Arm("lstm", (5,), "reset"), {0.005: 1.7, 0.01: 1.6, 0.02: 1.8}
        ),
        Arm("lstm", (40,), "reset"): _tuned(
            Arm("lstm", (40,), "reset"), {0.005: 1.7, 0.01: 1.65, 0.02: 1.6}
        ),
    }
    counts = {arm: RunCounts(len(each)) for arm, each in means.items()}
    return build_results(preset, TEXT_RECORD, SPEEDS, tuned, runs, counts)


SHORT, MIDDLE, LONG = (Arm("lstm", (length,), "reset") for length in (5, 40, 160))
CARRIED, BOTH = Arm("lstm", (5,), "carried"), Arm("lstm", (5, 160), "reset")
MEANS = {
    SHORT: (1.7, 1.71),
    MIDDLE: (1.5, 1.51),
    LONG: (1.502, 1.509),
    CARRIED: (1.6, 1.61),
    BOTH: (1.45, 1.46),
}


def test_lengths_are_compared_with_the_best_of_their_family() -> None:
    results = _results(MEANS)
    reset, carried, others = results.families
    assert reset.arms == others.arms == (SHORT, MIDDLE, LONG)
    assert reset.best == others.best == MIDDLE
    for family, best, less in ((reset, 1.5, 0.2), (others, 1.51, 0.2)):
        assert family.loss.mean == pytest.approx(best, abs=0.002)
        shortest = family.comparison.differences[0]
        assert shortest is not None and shortest.mean == pytest.approx(less, abs=0.002)
    assert carried.arms == (CARRIED,)
    (schedules,) = results.schedules
    assert schedules.arms == (MIDDLE, BOTH)
    less_fixed = schedules.comparison.differences[1]
    # Of other seeds: the first run of a fixed length was chosen among several.
    assert less_fixed is not None and less_fixed.mean == pytest.approx(1.46 - 1.51, abs=0.002)
    assert [*results.carried] == ["first seed", "other seeds"]
    for found in results.carried.values():
        assert found["lstm", 5].mean == pytest.approx(-0.1, abs=0.002)
    kinds = results.by_class[reset.name]
    assert {kind: round(x.mean, 3) for kind, x in kinds.items()} == {
        "first letter": 0.2,
        "space": 0.2,
    }


def test_runs_of_equal_standing_are_compared() -> None:
    """The first run of an arm is the best of several: it is not compared with other seeds."""
    some = {SHORT: (1.5,), MIDDLE: (1.5, 1.6), LONG: (1.5, 1.6), CARRIED: (1.5, 1.6)}
    results = _results({**some, BOTH: (1.6,)}, lstm_T40_reset=1.4)
    assert results.schedules == []
    reset, carried, others = results.families
    assert reset.arms == (SHORT, MIDDLE, LONG) and others.arms == (MIDDLE, LONG)
    assert carried.arms == (CARRIED,)
    for family in (reset, others):
        differences = [x for x in family.comparison.differences if x is not None]
        assert all(abs(x.mean) < 0.005 for x in differences)
    assert [*results.carried["first seed"]] == [
        ("lstm", 5)
    ] and "other seeds" not in results.carried
    assert abs(results.carried["first seed"]["lstm", 5].mean) < 0.005


def test_the_best_is_chosen_on_other_characters_than_the_losses_are_of() -> None:
    results = _results({SHORT: (1.4,), MIDDLE: (1.5,)}, lstm_T5_reset=1.6)
    (family,) = results.families
    assert family.best == MIDDLE and set(family.as_good) == {SHORT, MIDDLE}
    assert family.comparison.looked_at == 1


def test_the_time_to_reach_the_ngram_is_that_of_an_idle_machine() -> None:
    carried = SHORT._replace(state="carried")
    found = _results({SHORT: (1.6,), MIDDLE: (1.5, 1.7), BOTH: (1.5,), carried: (1.6,)}).arms
    # With carried state the windows are longer, and the n-gram's loss in them is 1.55.
    assert found[carried].to_reach_ngram == (None,)
    assert found[SHORT].to_reach_ngram == (64_000,)  # 1.70 at 40,000 is above 1.65
    assert found[SHORT].seconds_to_reach_ngram == pytest.approx((64.0,))
    assert found[MIDDLE].to_reach_ngram == (40_000, None)
    assert found[MIDDLE].seconds_to_reach_ngram[1] is None
    # Half of the characters at 1,000 a second, half at 4,000.
    assert found[BOTH].seconds == pytest.approx(32_000 / 1_000 + 32_000 / 4_000)
    assert mean_speed(BOTH, SPEEDS) == pytest.approx(1_600)
    assert found[BOTH].seconds_to_reach_ngram == pytest.approx((32_000 / 1_000 + 8_000 / 4_000,))
    assert found[MIDDLE].less_ngram["stream"].mean == pytest.approx(-0.1, abs=0.01)
    by_seed = [each.mean for each in found[MIDDLE].by_seed]
    assert by_seed == pytest.approx([-0.1, 0.1], abs=0.01)


@pytest.mark.parametrize(
    ("means", "cells"),
    [
        ((1.5, 1.6, 1.9), "64,000 | 32 | 2 of 3"),
        ((1.5, 1.9, 1.9), "- | - | 1 of 3"),
        ((1.9, 1.5), "40,000 | 20 | 1 of 2"),
    ],
)
def test_a_run_that_never_reaches_the_ngram_counts_as_the_longest(
    means: Sequence[float], cells: str
) -> None:
    three = PRESET._replace(effort=PRESET.effort._replace(seeds=(1, 2, 3)))
    text = tables(_results({MIDDLE: means}, three), command="a command")
    assert f"| lstm | reset | characters | 40 | 64 | 1.6500 | {cells} | 64,000 |" in text


def test_intervals_of_several_comparisons_hold_all_at_once() -> None:
    results = _results(MEANS)
    streams = {arm: from_sums([_record(arm, mean=MEANS[arm][0]).stream], COUNTS) for arm in MEANS}
    ngram = from_sums([TEXT_RECORD.ngram["stream"]], COUNTS)
    for arm, compared in ((MIDDLE, 4), (CARRIED, 1)):  # lengths and schedules of a state
        expected = difference(streams[arm], ngram, level=1 - 0.05 / compared)
        assert results.arms[arm].less_ngram["stream"] == expected
    more = {**MEANS, MIDDLE._replace(state="carried"): (1.6,)}
    expected = difference(streams[CARRIED], streams[SHORT], level=1 - 0.05 / 2)
    assert _results(more).carried["first seed"]["lstm", 5] == expected


def test_the_cost_is_of_all_rates_and_first_seeds() -> None:
    slower = {name: speed / 50 for name, speed in SPEEDS.items()}
    # Three runs of 64,000 for each length, and one with the other seed; reset and carried.
    seconds = 2 * 4 * 64_000 * (1 / 20 + 1 / 40 + 1 / 80)
    # A schedule has half a run at 20 and half at 80, once for each seed, with reset state.
    seconds += 2 * 32_000 * (1 / 20 + 1 / 80)
    says = f"26 runs, with 3 learning rates where they are searched: {seconds / 60:.0f} minutes"
    assert _study(PRESET).describe_cost(slower).startswith(says)


def test_records_are_read_as_they_were_written(tmp_path: Path) -> None:
    records = Records(tmp_path)
    assert records.text() is None and records.speeds() is None and records.read("a") is None
    records.write(TEXT, TEXT_RECORD._asdict())
    own = {"config": "lstm", "fields": {"data.corpus": "a text"}}
    records.write("runs/a", {**own, **_record(BOTH, mean=1.5)._asdict()})
    written = {path: path.read_bytes() for path in tmp_path.rglob("*.json")}
    values, text = records.read("runs/a"), records.text()
    assert values is not None and text is not None
    run = records.run("runs/a", values)
    assert run.arm == BOTH
    records.write(TEXT, text._asdict())
    records.write("runs/a", {**own, **run._asdict()})
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.json")} == written
    with pytest.raises(CharlmError, match=r"a\.json is damaged: remove it"):
        records.run("runs/a", {**values, "more": 1})


def _write(study: Study, run: PlannedRun, **values: float) -> None:
    record = _record(run.arm, run.seed, rate=run.rate, **values)._asdict()
    study.records.write(f"runs/{run.name}", {**settings(study.run_point(run)), **record})


def test_a_record_of_other_settings_is_refused(tmp_path: Path) -> None:
    study = _study(PRESET, tmp_path)
    run = PlannedRun(SHORT, 1, 0.01, PRESET.effort.characters)
    _write(study, run, mean=1.5)
    assert [*study.recorded([run])] == [run] and not study.recorded([run._replace(rate=0.02)])
    says = r"of a run with train\.max_steps=25 and not train\.max_steps=50"
    with pytest.raises(CharlmError, match=says):
        study.recorded([run._replace(characters=2 * PRESET.effort.characters)])


def test_the_first_seed_is_trained_with_every_rate(tmp_path: Path) -> None:
    study = _study(PRESET, tmp_path)
    own = study.config(SHORT).optimizer.learning_rate
    runs = [
        PlannedRun(SHORT, 1, rate, PRESET.effort.characters) for rate in (own, own / 2, own / 4)
    ]
    for run, loss in zip(runs, (1.8, 1.5, 1.6), strict=True):
        assert study.tune(train=False) == {}
        _write(study, run, mean=3 - loss, second=loss)
    (tuned,) = study.tune(train=False).values()
    assert tuned.value == own / 2 and not tuned.is_at_edge
    assert tuned.mean_losses() == {own: 1.8, own / 2: 1.5, own / 4: 1.6}
    planned, *_ = study.plan({SHORT: tuned.value}, SPEEDS)
    assert planned == runs[1] and planned in study.recorded([planned])


def test_chosen_lengths_and_schedules_are_repeated() -> None:
    timed = {"lstm": PRESET.models["lstm"]._replace(is_timed=True)}
    preset = PRESET._replace(models=timed)
    rates = {arm: 0.01 for arm in preset.arms() if arm == arm.tuned}

    def repeated(preset: Preset) -> set[Arm]:
        return {run.arm for run in _study(preset).plan(rates, SPEEDS) if run.seed == 2}

    chosen = {MIDDLE, MIDDLE._replace(state="carried"), BOTH}
    assert repeated(preset._replace(repeated=(40,))) == chosen
    assert repeated(preset) == {*preset.arms()}
    once = {"lstm": timed["lstm"]._replace(is_repeated=False)}
    assert not repeated(preset._replace(models=once))


def test_other_seeds_count_once_all_are_on_record() -> None:
    found = _results({SHORT: (1.6,), MIDDLE: (1.5, 1.7)}).arms
    assert found[SHORT].other_seeds is None
    assert found[MIDDLE].other_seeds is not None
    assert found[MIDDLE].other_seeds.mean == pytest.approx(1.7, abs=0.01)
    three = PRESET._replace(effort=PRESET.effort._replace(seeds=(1, 2, 3)))
    results = _results({SHORT: (1.6,), MIDDLE: (1.5, 1.7)}, three)
    assert results.arms[MIDDLE].other_seeds is None and len(results.arms[MIDDLE].by_seed) == 2
    assert results.arms[MIDDLE].losses["stream"].mean == pytest.approx(1.5, abs=0.01)
    found = _results({MIDDLE: (1.5, 1.7, 1.8)}, three).arms
    assert found[MIDDLE].spread == pytest.approx(0.1 / 2**0.5, abs=0.01)


def test_what_is_not_in_the_results_is_named(tmp_path: Path) -> None:
    study = _study(PRESET, tmp_path)
    plan = study.plan({SHORT: 0.01, MIDDLE: 0.01, LONG: 0.01}, SPEEDS)
    for run in plan:
        if (run.arm, run.seed) != (SHORT, 2) and run.arm not in (LONG, BOTH):
            _write(study, run, mean=1.5)
    late = next(run for run in plan if run.arm == SHORT and run.seed == 2)
    point = study.run_point(late)
    study.records.write(f"runs/{late.name}", {**settings(point), "diverged": True})
    runs = study.recorded(plan)
    results = build_results(PRESET, TEXT_RECORD, SPEEDS, {}, runs, study.counts(plan))
    assert results.gaps == [
        "On record: 2 of 7; missing, or diverged at every rate: lstm-T160-reset; lstm-T5-carried; "
        "lstm-T40-carried; lstm-T160-carried; lstm-T5-160-reset.",
        "Other seeds count once all are on record; not so: lstm-T5-reset, 1 of 2 seeds "
        "(1 diverged).",
    ]
    assert results.gaps[0] in tables(results, command="a command").splitlines()


def test_a_run_that_diverges_does_not_end_the_study(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    study = _study(PRESET, tmp_path)
    plan = study.plan({MIDDLE: 0.01}, SPEEDS)

    def diverge(points: Sequence[Point], _: Any) -> None:
        for point in points:
            study.records.write(f"runs/{point.name}", {**settings(point), "diverged": True})
        raise Diverged("it diverged")

    monkeypatch.setattr(study.training, "train", diverge)
    study.train(plan)
    assert study.recorded(plan) == {} == study.counts(plan)


def test_only_new_lengths_are_timed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    timed: list[str] = []

    def measure(configs: Mapping[str, Any], **_: int) -> dict[str, float]:
        timed.extend(configs)
        return dict.fromkeys(configs, 1_000.0)

    monkeypatch.setattr(runs, "measure_speeds", measure)
    study = _study(PRESET, tmp_path)
    study.records.write("speeds", {"lstm-T5": 2_000.0})
    for _ in range(2):
        assert study.speeds() == {"lstm-T5": 2_000.0, "lstm-T40": 1_000.0, "lstm-T160": 1_000.0}
    assert timed == ["lstm-T40", "lstm-T160"]


def test_a_record_of_a_text_measured_at_other_sizes_is_refused(tmp_path: Path) -> None:
    study = _study(PRESET, tmp_path)
    record = TEXT_RECORD._replace(fingerprint=study.dataset.fingerprint)
    study.records.write(TEXT, record._asdict())
    assert study.text() == study.records.text()
    study = _study(PRESET._replace(context_targets=PRESET.context_targets + 1), tmp_path)
    with pytest.raises(CharlmError, match="has measurements of other sizes"):
        study.text()


@pytest.mark.parametrize("name", PRESETS)
def test_both_states_read_every_character(name: str, tmp_path: Path) -> None:
    """A loader of chunks would never train the first character of each."""
    preset = PRESETS[name]._replace(corpus="synthetic:characters=20000")
    for arm in preset.arms():
        assert _study(preset, tmp_path).config(arm).data.loader in ("crops", "streams")


@pytest.mark.parametrize("name", PRESETS)
def test_arms_have_equal_characters_or_equal_seconds(name: str, tmp_path: Path) -> None:
    preset = PRESETS[name]._replace(corpus="synthetic:characters=20000")
    study = _study(preset, tmp_path)
    names = dict.fromkeys(speed_name(arm.model, arm.length) for arm in preset.arms())
    speeds = {name: 10_000.0 + 500 * number for number, name in enumerate(names)}
    rates = {arm: 1 / arm.length for arm in preset.arms() if arm == arm.tuned}
    plan = study.plan(rates, speeds)
    assert len({run.name for run in plan}) == len(plan)
    spent: dict[tuple[str, str], list[float]] = {}
    for run in plan:
        config = study.run_point(run).load()
        phases = config.data.length_schedule.split(",") if config.data.length_schedule else []
        assert config.data.batch_size * run.arm.length == BATCH_CHARACTERS
        assert config.train.max_steps * BATCH_CHARACTERS == run.characters
        assert config.data.loader == LOADERS[run.arm.state]
        assert config.optimizer.learning_rate == run.rate == 1 / run.arm.length
        looks_back = "attention" in config.model.layers
        context = 320 if run.arm.state == "carried" else 64
        assert config.evaluation.context == (
            min(run.arm.length, context) if looks_back else context
        )
        lengths = [int(phase.partition(":")[0]) for phase in phases]
        assert lengths == [*run.arm.lengths[:-1]]
        seconds = run.characters / mean_speed(run.arm, speeds)
        amount = run.characters if run.arm.budget == "characters" else seconds
        spent.setdefault((run.arm.model, run.arm.budget), []).append(amount)
    for (_, budget), amounts in spent.items():
        within = 0 if budget == "characters" else BATCH_CHARACTERS / 10_000
        assert max(amounts) - min(amounts) <= within


def test_the_lengths_of_a_schedule_have_equal_shares() -> None:
    for steps in (3, 100, 1_562):
        shares = [
            int(part.split(":")[1]) for part in length_schedule((5, 40, 160), steps).split(",")
        ]
        shares.append(steps - sum(shares))
        assert max(shares) - min(shares) <= 1
    assert length_schedule((40,), 100) == ""


def test_the_tables_have_the_numbers_with_their_intervals() -> None:
    results = _results(MEANS)
    lines = tables(results, command="python -m experiments.sequence_length").splitlines()
    assert lines[0] == TITLE and "    python -m experiments.sequence_length" in lines
    best, again = results.arms[MIDDLE].losses["stream"], results.arms[MIDDLE].other_seeds
    family = "- lstm, reset state, equal characters"
    says = "It is better than every other length (2 comparisons)."
    assert again is not None and f"{family}: T = 40, loss {best.describe()}. {says}" in lines
    says = "Not worse: 160 (2 comparisons)."
    assert f"{family}, other seeds: T = 40, loss {again.describe()}. {says}" in lines
    assert any(
        "Each arm: 3 learning rates, 64,000 characters in each run. In 1 of 2 arms the chosen"
        in line
        for line in lines
    )
    assert "| lstm | reset | characters | 40 | 4 [4, 4] | 4 [4, 4] |" in lines
    assert "| lstm | reset | 40 | 1.7000 at 0.005, 1.6500 at 0.01, **1.6000 at 0.02** |" in lines
    values = to_json(results, "a command")
    assert values["command"] == "a command" and values["rates_at_edge"] == ["lstm-T40-reset"]
    assert set(values["arms"]) == {arm.name for arm in MEANS}
