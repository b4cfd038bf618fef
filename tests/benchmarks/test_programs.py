import argparse
import ast
import json
import os
import subprocess
import sys
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import (
    charlm_programs,
    devices,
    flax_peer,
    harness,
    layers,
    roofline,
    sampling,
    sequence_length,
    startup,
    time_to_loss,
    train_step,
)
from benchmarks.data import cut_batches, load_text
from benchmarks.interleaved import Measured, Program, Turn, median_speed, paired_ratio, take_turns
from benchmarks.time_to_loss import Score, follow
from charlm_jax.sampling.policies import Policy, build_policy
from charlm_jax.training.trainer import Trainer
from tests.conftest import ROOT

TEXT = "synthetic:reach=2,symbols=4,characters=1000"
TINY = {"embedding_size": 5, "hidden_size": 6, "batch_size": 4, "sequence_length": 8}

TOYS = """
import itertools, os

def count(*, amount=1.0, log=os.devnull, word=""):
    def turn():
        with open(log, "a", encoding="utf-8") as file:
            file.write(f"{word or os.getpid()} ")
        return amount
    return turn

def talk():
    print("built")
    return lambda: print("a turn") or 1.0

def import_nothing():
    import no_such_package.part

def refuse():
    raise ValueError("no such luck\\nand more of it")

def fail_in_turn(*, number):
    turns = itertools.count(1)
    def turn():
        if next(turns) == number:
            raise ValueError("enough")
        return 1.0
    return turn

def die():
    def turn():
        os.write(2, b"killed by a toy")
        os._exit(3)
    return turn

PROGRAMS = {f.__name__: f for f in (count, talk, import_nothing, refuse, fail_in_turn, die)}
"""


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Program]:
    """Name and settings of a program that does nothing -> the program."""
    (tmp_path / "toys.py").write_text(TOYS, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return lambda build, **settings: Program("toys", build, settings)


@pytest.fixture
def _compile_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes share the tests' cache of compiled programs."""
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(ROOT / "tests" / ".jax_cache"))
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")


def be_silent(text: str) -> None:
    del text


def turns_of(*speeds: float) -> list[Turn]:
    return [
        Turn(amount=10.0 * speed, seconds=10.0, waiting_cpu_seconds=0.0, peak_bytes=0)
        for speed in speeds
    ]


# Rounds.


def test_programs_take_turns_and_every_second_round_goes_backwards(
    toy: Callable[..., Program], tmp_path: Path
) -> None:
    log = tmp_path / "log"
    programs = {word: toy("count", log=str(log), word=word) for word in "abc"}
    measured = take_turns(programs, rounds=3, note=be_silent)
    assert log.read_text(encoding="utf-8").split() == list("abccbaabc")
    assert list(measured.turns) == list("abc")


def test_the_first_round_does_not_count(toy: Callable[..., Program]) -> None:
    measured = take_turns({"a": toy("count", amount=5.0)}, rounds=4, note=be_silent)
    assert [turn.amount for turn in measured.turns["a"]] == [5.0] * 3
    assert all(turn.seconds > 0 and turn.peak_bytes > 1e6 for turn in measured.turns["a"])


def test_what_cannot_run_is_named_and_left_out(toy: Callable[..., Program]) -> None:
    programs = {
        "absent": toy("import_nothing"),
        "good": toy("count"),
        "refuses": toy("refuse"),
        "fails": toy("fail_in_turn", number=2),
        "dies": toy("die"),
        "other": toy("count"),
    }
    measured = take_turns(programs, rounds=3, note=be_silent)
    assert {name: len(turns) for name, turns in measured.turns.items()} == {"good": 2, "other": 2}
    assert measured.left_out == {
        "absent": "no_such_package is not installed",
        "refuses": "ValueError: no such luck",
        "fails": "ValueError: enough",
        "dies": "the process ended: killed by a toy",
    }


def test_what_a_program_prints_is_no_answer(toy: Callable[..., Program]) -> None:
    measured = take_turns({"a": toy("talk")}, rounds=2, note=be_silent)
    assert not measured.left_out
    assert len(measured.turns["a"]) == 1


@pytest.mark.parametrize("is_interrupted", [False, True], ids=["done", "interrupted"])
def test_no_worker_outlives_the_rounds(
    toy: Callable[..., Program], tmp_path: Path, is_interrupted: bool
) -> None:
    log = tmp_path / "log"

    def note(text: str) -> None:
        if is_interrupted and text.startswith("round 2"):
            raise KeyboardInterrupt

    programs = {name: toy("count", log=str(log)) for name in "ab"}
    try:
        take_turns(programs, rounds=2, note=note)
    except KeyboardInterrupt:
        assert is_interrupted
    pids = {int(word) for word in log.read_text(encoding="utf-8").split()}
    assert len(pids) == 2
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_worker_ends_when_its_parent_is_gone(toy: Callable[..., Program]) -> None:
    program = toy("count")
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks.worker", program.module, program.build, "{}"],
        cwd=ROOT,
        input="\n\n",
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    kinds = [json.loads(line)["kind"] for line in result.stdout.splitlines()]
    assert kinds == ["ready", "turn", "turn"]


# Figures.


def test_a_median_is_that_of_the_speeds() -> None:
    assert median_speed(turns_of(1.0, 100.0, 7.0)) == 7.0
    assert median_speed(turns_of(1.0, 3.0)) == 2.0


def test_a_ratio_pairs_the_turns_of_a_round() -> None:
    # The machine is ten times as slow in the second round and twice as fast in the third.
    ours, theirs = turns_of(30.0, 3.0, 60.0), turns_of(10.0, 1.0, 40.0)
    assert paired_ratio(ours, theirs) == 3.0
    assert median_speed(ours) / median_speed(theirs) == 3.0
    assert paired_ratio(turns_of(30.0, 3.0, 60.0), turns_of(10.0, 3.0, 6.0)) == 3.0
    assert median_speed(turns_of(30.0, 3.0, 60.0)) / median_speed(turns_of(10.0, 3.0, 6.0)) == 5.0


def test_a_ratio_without_its_program_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    measured = Measured(
        turns={"ours": turns_of(6.0), "theirs": turns_of(3.0)},
        left_out={"absent": "torch is not installed"},
    )
    ratios = {
        "ours_vs_theirs": ("ours", "theirs"),
        "ours_vs_torch": ("ours", "absent"),
        "ours_vs_unasked": ("ours", "unasked"),
    }
    assert harness.compute_ratios(measured, ratios) == {"ours_vs_theirs": 2.0}
    line = "absent is left out: torch is not installed (so no ours_vs_torch)\n"
    assert capsys.readouterr().err == line


# Data.


def test_a_text_is_cut_to_whole_batches() -> None:
    text = load_text(TEXT, batch_size=4, sequence_length=8)
    assert len(text.symbols) == 4
    assert len(text.ids_N) == 1000 // 36 * 36
    batches_EBN = cut_batches(text, batch_size=4, sequence_length=8)
    assert batches_EBN.shape == (27, 4, 9)
    chunks = sorted(map(tuple, batches_EBN.reshape(-1, 9)))
    assert chunks == sorted(map(tuple, text.ids_N.reshape(-1, 9)))


def test_random_ids_are_as_many_as_the_books() -> None:
    text = load_text("", batch_size=64, sequence_length=40)
    assert len(text.symbols) == 80
    assert len(text.ids_N) == 1_112_350 // 2624 * 2624
    assert np.array_equal(np.unique(text.ids_N), np.arange(80))


# Programs.


def test_our_training_makes_its_steps_and_keeps_to_epochs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[tuple[int, int]] = []
    dispatch = Trainer.dispatch

    def spy(trainer: Trainer, state: Any, ids_N: Any, step: int, count: int) -> Any:
        made.append((step, count))
        return dispatch(trainer, state, ids_N, step, count)

    monkeypatch.setattr(Trainer, "dispatch", spy)
    changes = train_step.our_changes(TINY)
    turn = charlm_programs.train(config="tutorial", changes=changes, corpus=TEXT, steps=16)
    assert turn() == 16 * 4 * 8
    assert turn() == 16 * 4 * 8
    assert made == [(0, 16), (16, 4), (20, 7), (27, 5)]  # an epoch has 27, a dispatch at most 20


@pytest.mark.parametrize("rule", [None, *sampling.TRUNCATIONS])
def test_our_sampling_draws_in_every_stream(
    rule: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[dict[str, Any]] = []

    def spy(**numbers: Any) -> Policy:
        told.append(numbers)
        return build_policy(**numbers)

    monkeypatch.setattr(charlm_programs, "build_policy", spy)
    changes = {"model.embedding_size": 5, "model.hidden_size": 6}
    truncations = {} if rule is None else sampling.TRUNCATIONS[rule]
    turn = charlm_programs.sample(
        config="tutorial",
        changes=changes,
        symbols=7,
        streams=3,
        prompt=4,
        characters=30,
        truncations=truncations,
    )
    assert turn() == 3 * 30
    assert told == [{"scale": [1.0] * 3, **truncations}]


def test_every_truncation_is_set_beside_plain_draws_of_the_same_size() -> None:
    programs = sampling.list_programs(sampling.SIZES, 80)
    for name in sampling.STREAMS:
        for rule, truncations in sampling.TRUNCATIONS.items():
            truncated, plain = sampling.RATIOS[f"{name}_{rule}_vs_{name}"]
            settings = dict(programs[truncated].settings)
            assert settings.pop("truncations") == truncations
            assert settings | {"truncations": {}} == programs[plain].settings


def test_a_roof_counts_its_operations() -> None:
    turn = roofline.product(precision="bfloat16", rows=2, inner=3, columns=6, repeats=5)
    assert turn() == 2 * 2 * 3 * 6 * 5


@pytest.mark.exhaustive
def test_flaxs_own_layers_take_a_turn() -> None:
    assert flax_peer.train(**TINY, corpus=TEXT, steps=3)() == 3 * 4 * 8


def all_programs() -> dict[str, Program]:
    options = argparse.Namespace(**TINY, corpus="")
    return {
        **train_step.list_programs(TINY, "", 1),
        **sampling.list_programs(sampling.SIZES, 80),
        **sequence_length.list_programs([4], options),
        **layers.list_programs(options),
        **devices.list_programs(options),
    }


@pytest.mark.parametrize("name", all_programs())
def test_a_program_is_built_from_its_settings(name: str) -> None:
    # Read, not imported: PyTorch and Keras need not be there.
    program = all_programs()[name]
    tree = ast.parse((ROOT / f"{program.module.replace('.', '/')}.py").read_text(encoding="utf-8"))
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    asked = {argument.arg for argument in functions[program.build].args.kwonlyargs}
    assert set(program.settings) == asked
    tables = [node for node in tree.body if isinstance(node, ast.AnnAssign)]
    entries = {ast.literal_eval(key) for key in tables[-1].value.keys}
    assert program.build in entries


@pytest.mark.parametrize(
    "command",
    [train_step, sampling, layers, devices],
    ids=["train_step", "sampling", "layers", "devices"],
)
def test_ratios_are_of_programs_that_exist(command: Any) -> None:
    pairs = [*command.RATIOS.values(), *getattr(command, "ROOFS", {}).values()]
    assert {name for pair in pairs for name in pair} <= set(all_programs())


# Commands.


def last_object(text: str) -> dict[str, Any]:
    *_, last = text.splitlines()
    return json.loads(last)


def test_train_step_ends_with_one_object(
    toy: Callable[..., Program], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {name for pair in train_step.RATIOS.values() for name in pair}
    roofs = {roof for _, roof in train_step.ROOFS.values()}
    programs = {name: toy("count", amount=9.0) for name in [*sorted(names), *sorted(roofs)]}
    programs["keras"] = toy("import_nothing")
    monkeypatch.setattr(train_step, "list_programs", lambda *_: programs)
    assert train_step.main(["--json", "--rounds=3", "--steps=1"]) == 0
    facts = last_object(capsys.readouterr().out)
    assert set(facts["ratios"]) == set(train_step.RATIOS) - {"float32_vs_keras"}
    assert set(facts["shares_of_roof"]) == set(train_step.ROOFS)
    assert set(facts["programs"]) == names - {"keras"}
    assert set(facts["roof_flops_per_second"]) == roofs
    assert facts["left_out"] == {"keras": "no_such_package is not installed"}
    assert facts["flops_per_character"] == 3 * 3_227_648
    assert (facts["benchmark"], facts["rounds"], facts["steps"]) == ("train_step", 3, 1)
    assert facts["machine"]["cores"] >= 1
    assert {"charlm_jax", "jax", "numpy"} <= set(facts["machine"]["versions"])
    program = facts["programs"]["float32"]
    assert len(program["rounds"]) == 2
    assert program["least"] <= program["median"] <= program["most"]


def test_shares_are_of_the_models_operations() -> None:
    measured = Measured(
        turns={"float32": turns_of(3.0, 4.0), "roof_large_float32": turns_of(60.0, 40.0)},
        left_out={},
    )
    shares = train_step.compute_shares(measured, flops=10)
    assert shares == {"float32_of_large": 10 * (3.0 / 60.0 + 4.0 / 40.0) / 2}


def test_sampling_ends_with_one_object(
    toy: Callable[..., Program], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    programs = {name: toy("count") for pair in sampling.RATIOS.values() for name in pair}
    monkeypatch.setattr(sampling, "list_programs", lambda *_: programs)
    only = "--only=one_stream,torch_one_stream"
    assert sampling.main(["--json", "--rounds=2", only]) == 0
    facts = last_object(capsys.readouterr().out)
    assert set(facts["programs"]) == {"one_stream", "torch_one_stream"}
    assert set(facts["ratios"]) == {"one_stream_vs_torch"}
    only = "--only=streams_64,streams_64_top_k,one_stream_min_p"
    assert sampling.main(["--json", "--rounds=2", only]) == 0
    assert set(last_object(capsys.readouterr().out)["ratios"]) == {"streams_64_top_k_vs_streams_64"}


def test_a_sequence_length_is_set_beside_the_first(
    toy: Callable[..., Program], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    programs = {name: toy("count") for name in ("T4", "T8")}
    monkeypatch.setattr(sequence_length, "list_programs", lambda *_: programs)
    assert sequence_length.main(["--json", "--rounds=2", "--lengths=4,8"]) == 0
    facts = last_object(capsys.readouterr().out)
    assert facts["lengths"] == [4, 8]
    fast, slow = facts["programs"]["T4"]["median"], facts["programs"]["T8"]["median"]
    assert facts["ratios"] == {"T4_over_T4": 1.0, "T8_over_T4": pytest.approx(fast / slow)}


def test_every_length_reads_as_many_characters() -> None:
    options = argparse.Namespace(**TINY, corpus="")
    programs = sequence_length.list_programs([10, 40, 160], options)
    assert {name: program.settings["steps"] for name, program in programs.items()} == {
        "T10": 16,
        "T40": 4,
        "T160": 1,
    }


@pytest.mark.exhaustive
@pytest.mark.usefixtures("_compile_once")
def test_a_table_has_a_row_for_every_program(
    capsys: pytest.CaptureFixture[str],
) -> None:
    sizes = [f"--{name}={size}" for name, size in TINY.items()]
    only = "--only=float32,roof_recurrent_float32"
    assert train_step.main(["--rounds=2", "--steps=2", only, *sizes]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split()[0] for line in lines if line[:1].isalpha()]
    assert rows == ["float32", "roof_recurrent_float32", "Fraction"]
    assert lines[-1].split()[0] == "float32_of_recurrent"


def test_nothing_to_measure_is_a_failure(
    toy: Callable[..., Program], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sampling, "list_programs", lambda *_: {"one_stream": toy("refuse")})
    assert sampling.main(["--rounds=2"]) == 1
    assert not capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "argument", "message"),
    [
        (train_step, "--only=float32,keres", "unknown program 'keres': choose from float32,"),
        (train_step, "--rounds=1", "--rounds=1 must be 2 or more"),
        (train_step, "--steps=0", "--steps=0 must be 1 or more"),
        (train_step, "--corpus=nowhere", "'nowhere' is not a registered corpus"),
        (train_step, "--batch_size=9999999", "a batch takes 409,999,959"),
        (sampling, "--charcters=5", "unknown argument --charcters, did you mean --char"),
        (sampling, "--rounds=few", "argument --rounds: invalid int value: 'few'"),
        (sequence_length, "--lengths=40,40", "must be distinct positive integers"),
        (sequence_length, "--lengths=40,", "must be distinct positive integers"),
        (startup, "--rounds=1", "--rounds=1 must be 2 or more"),
        (time_to_loss, "--target=-1", "--target=-1.0 must be above 0"),
        (time_to_loss, "--config=nowhere", "no config 'nowhere'"),
        (time_to_loss, "--config.model.hiden_size=8", "did you mean config.model.hidden_size"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_mistake_is_told_in_one_line(
    command: Any,
    argument: str,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    has_corpus = command not in (sampling, startup)
    corpus = ["--corpus=synthetic:characters=3000"] if has_corpus else []
    try:
        status = command.main([*corpus, argument])
    except SystemExit as error:
        status = error.code
    out, err = capsys.readouterr()
    assert status == 2
    assert not out
    assert message in err
    assert err.count("\n") == 1


# Time to a loss, and to the first sign of life.


def scores_of(*losses: float, closed: list[bool]) -> Generator[Score]:
    try:
        for number, loss in enumerate(losses, start=1):
            yield Score(float(number), loss)
    finally:
        closed.append(True)


@pytest.mark.parametrize(
    ("stop", "count"),
    [({"target": 1.5}, 3), ({"patience": 2}, 6), ({"patience": 1}, 3), ({"target": 0.1}, 7)],
    ids=["target", "patience", "impatience", "end"],
)
def test_scores_are_followed_until_they_are_good_or_no_longer_fall(
    stop: Mapping[str, Any], count: int
) -> None:
    closed: list[bool] = []
    scores = scores_of(3.0, 1.2, 1.4, 1.1, 1.1, 1.3, 0.9, closed=closed)
    if stop.get("target") == 1.5:
        scores = scores_of(3.0, 1.6, 1.5, 1.1, closed=closed)
    assert len(follow("toy", scores, **stop)) == count
    assert closed == [True]


@pytest.mark.exhaustive
@pytest.mark.usefixtures("_compile_once")
def test_a_run_is_stopped_where_it_reaches_the_loss(
    capsys: pytest.CaptureFixture[str],
) -> None:
    changes = {
        "model.embedding_size": 5,
        "model.hidden_size": 6,
        "train.max_steps": 1000,
        "train.evaluate_every_steps": 1,
        "train.steps_per_dispatch": 1,
    }
    overrides = [f"--config.{name}={value}" for name, value in changes.items()]
    arguments = ["--json", f"--corpus={TEXT}", "--config=lstm", "--target=99", *overrides]
    assert time_to_loss.main(arguments) == 0
    facts = last_object(capsys.readouterr().out)
    assert facts["reached"]
    assert facts["scores"] == [[facts["ours"]["seconds"], facts["ours"]["loss_nats"]]]
    assert facts["overrides"] == overrides


def test_startup_tells_medians_of_all_rounds_but_the_first(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seconds = iter([50.0, 3.0, 1.0, 2.5])
    monkeypatch.setattr(startup, "train_one_step", be_silent)
    monkeypatch.setattr(startup, "timers", lambda run: {"help": lambda: next(seconds)})
    monkeypatch.setattr(startup, "time_parts", lambda name, value: {"import": 1.0})
    assert startup.main(["--json", "--rounds=4"]) == 0
    facts = last_object(capsys.readouterr().out)
    figures = {"median": 2.5, "least": 1.0, "most": 3.0, "rounds": [3.0, 1.0, 2.5]}
    assert facts["seconds"] == {"help": figures}
    assert set(facts["parts"]) == {"train", "sample"}


def test_help_can_be_timed() -> None:
    assert startup.time_command("--help") > 0
