"""Runs are compared on the same characters or not at all, and every group is what it says."""

import csv
import dataclasses
import errno
import io
import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from charlm_jax.cli import main
from charlm_jax.comparison.compare import compare, comparison_to_json, find_baselines
from charlm_jax.comparison.grouping import group_runs
from charlm_jax.comparison.scores import find_scores
from charlm_jax.config.schema import Config
from charlm_jax.core.errors import CharlmError
from charlm_jax.data.dataset import Dataset, load_dataset
from charlm_jax.evaluation import Sliding, Stream, Window
from charlm_jax.evaluation.bootstrap import difference, mean_interval, std_over_seeds
from charlm_jax.evaluation.ngram import last_characters, tuned_ngram
from charlm_jax.inference.run import Run, load_run
from charlm_jax.storage.workdir import Workdir
from charlm_jax.training.loop import train_and_evaluate
from tests.conftest import SEEDED, make_tiny_config

SIZES, SEEDS = (6, 12), (1, 2)


@pytest.fixture
def runs(seeded_runs: Path) -> list[Run]:
    return [load_run(seeded_runs / f"size_{size}_seed_{seed}") for seed in SEEDS for size in SIZES]


def test_seeds_are_put_together_and_arms_named_by_what_differs(runs: list[Run]) -> None:
    found = compare(runs, Window(5))
    assert [group.name for group in found.groups] == ["hidden_size=6", "hidden_size=12"]
    for group, row, size in zip(found.groups, found.rows(), SIZES, strict=True):
        assert [run.config.model.hidden_size for run in group.runs] == [size, size]
        assert row.seeds == SEEDS
        for run, nll_N in zip(group.runs, group.nll_SN, strict=True):
            np.testing.assert_array_equal(nll_N, run.evaluate(Window(5))[1])
    first, second = (group.nll_SN for group in found.groups)
    rows = found.rows()
    assert rows[0].loss == mean_interval(first) and rows[0].difference is None
    assert rows[1].difference == difference(second, first)
    assert rows[1].spread == std_over_seeds(second)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("sample_every_steps", 7),
        ("log_every_steps", 7),
        ("steps_per_dispatch", 7),
        ("keep", "log"),
        ("microbatches", 2),
        ("devices", 2),
    ],
)
def test_fields_that_change_no_weight_do_not_split_a_group(
    runs: list[Run], field: str, value: object
) -> None:
    first, _, second, _ = runs
    train = dataclasses.replace(second.config.train, **{field: value})
    watched = dataclasses.replace(second, config=dataclasses.replace(second.config, train=train))
    (group,) = group_runs([first, watched]).values()
    assert group == [first, watched]
    same_seed = dataclasses.replace(first, config=dataclasses.replace(first.config, train=train))
    with pytest.raises(CharlmError, match=rf"what differs is ignored \(config\.train\.{field}\)"):
        group_runs([first, same_seed])


def test_fields_that_choose_the_best_checkpoint_split_a_group(runs: list[Run]) -> None:
    first, _, second, _ = runs
    evaluation = dataclasses.replace(second.config.evaluation, context=3)
    config = dataclasses.replace(second.config, evaluation=evaluation)
    assert len(group_runs([first, dataclasses.replace(second, config=config)])) == 2


def test_how_the_same_parts_are_said_does_not_split_a_group(runs: list[Run]) -> None:
    first, _, second, _ = runs
    split = dataclasses.replace(second.config.split, rounding="float", counts="rest/300")
    counted = dataclasses.replace(second, config=dataclasses.replace(second.config, split=split))
    (group,) = group_runs([first, counted]).values()
    assert group == [first, counted]


def test_blocks_of_sparse_targets_are_blocks_of_text(runs: list[Run]) -> None:
    found = compare([runs[0], runs[1]], Sliding(3, 210))
    block = 100  # of 2,100 characters one in ten is scored
    first, second = (group.nll_SN for group in found.groups)
    rows = found.rows()
    assert rows[0].loss == mean_interval(first, block=block)
    assert rows[1].difference == difference(second, first, block=block)
    unigram = found.baselines[1].loss
    assert unigram is not None and np.isfinite(unigram.low)
    assert "blocks of 1,000 characters" in found.describe()


@pytest.mark.parametrize(("targets", "block"), [(3, 700), (4, 1050), (1050, 1000)])
def test_the_size_of_a_block_is_that_of_whole_targets(
    runs: list[Run], targets: int, block: int
) -> None:
    found = compare(runs[:1], Sliding(3, targets), baselines=False)
    evaluation = found.groups[0].evaluations[0]
    assert block == round(evaluation.block * 2100 / targets) == evaluation.block_characters
    assert f"blocks of {block:,} characters" in found.describe()
    assert find_scores(found, load_dataset(runs[0].config)).block_characters == block


def test_losses_are_computed_once(runs: list[Run], monkeypatch: pytest.MonkeyPatch) -> None:
    before = compare(runs[:1], Sliding(3, 40))
    monkeypatch.setattr(
        "charlm_jax.inference.trained_model._shared_scorer", lambda *_, **__: pytest.fail
    )
    after = compare(runs[:1], Sliding(3, 40))
    np.testing.assert_array_equal(before.groups[0].nll_SN, after.groups[0].nll_SN)
    assert after.groups[0].evaluations == before.groups[0].evaluations


def test_a_text_is_loaded_once_for_a_figure(
    runs: list[Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = []

    def load(config: Config, **how: Any) -> Dataset:
        loaded.append(config)
        return load_dataset(config, **how)

    monkeypatch.setattr("charlm_jax.inference.run.load_dataset", load)
    runs[0].evaluate(Window(9), cache=True)
    assert len(loaded) == 1


def test_a_figure_that_cannot_be_kept_is_given_all_the_same(
    runs: list[Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(runs[0].workdir, tmp_path / "run")
    run = load_run(folder)
    shutil.rmtree(folder / "evaluation", ignore_errors=True)
    (folder / "evaluation").write_text("in the way")
    with pytest.warns(
        UserWarning, match="cannot write to .*evaluation.*: the losses are not saved"
    ):
        evaluation, nll_N = run.evaluate(Window(7), cache=True)
    np.testing.assert_array_equal(nll_N, run.evaluate(Window(7))[1])
    assert evaluation.characters == len(nll_N)

    (folder / "evaluation").unlink()

    def is_full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", is_full)
    with pytest.warns(UserWarning, match="No space left on device: the losses are not saved"):
        run.evaluate(Window(7), cache=True)
    assert not [*(folder / "evaluation").iterdir()]


def test_processes_that_keep_the_same_figure_do_not_meet(
    runs: list[Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one writes all of it between the first one's writing and renaming."""
    evaluation, nll_N = runs[0].evaluate(Window(11))
    replace = os.replace

    def late(partial: Path, target: Path) -> None:
        with monkeypatch.context() as other:
            other.setattr(os, "replace", replace)
            runs[0].save_evaluation(evaluation, nll_N)
        replace(partial, target)

    monkeypatch.setattr(os, "replace", late)
    file = runs[0].save_evaluation(evaluation, nll_N)
    np.testing.assert_array_equal(np.load(file), nll_N)
    assert not [*file.parent.glob("*.partial")]


def test_what_was_kept_is_not_taken_for_another(runs: list[Run]) -> None:
    run = runs[0]
    evaluation, nll_N = run.evaluate(Window(7), cache=True)
    file = run.save_evaluation(evaluation, nll_N)
    np.save(file, nll_N[:-1])  # torn
    np.testing.assert_array_equal(run.evaluate(Window(7), cache=True)[1], nll_N)
    note = file.with_suffix(".json")
    others = {"fingerprint": "other", "checkpoint": 1, "mode": "stream", "weights_hash": "other"}
    for field, value in others.items():
        note.write_text(json.dumps({**json.loads(note.read_text()), field: value}))
        np.save(file, nll_N + 1.0)
        np.testing.assert_array_equal(run.evaluate(Window(7), cache=True)[1], nll_N)
    file.write_bytes(b"not an array")
    np.testing.assert_array_equal(run.evaluate(Window(7), cache=True)[1], nll_N)


def test_what_cannot_be_compared_is_refused(runs: list[Run], tmp_path: Path) -> None:
    changes: list[tuple[dict, str]] = [
        (
            {"split.valid_fraction": 0.2},
            "valid_fraction is 0.2 and .*; losses are compared on the same",
        ),
        ({"evaluation.context": 4}, r"different contexts \(4, 8\): give one context for all"),
    ]
    for number, (fields, message) in enumerate(changes):
        place = tmp_path / str(number)
        train_and_evaluate(make_tiny_config(**{**SEEDED, "train.max_steps": 2, **fields}), place)
        with pytest.raises(CharlmError, match=message):
            compare([runs[0], load_run(place)])
    compare([runs[0], load_run(tmp_path / "1")], Stream())  # has no context
    with pytest.raises(CharlmError, match="the same run: same config, same seed"):
        compare([runs[0], runs[1], runs[0]])
    with pytest.raises(CharlmError, match="no runs to compare"):
        compare([])


def test_baselines_pay_for_the_same_characters(runs: list[Run]) -> None:
    dataset = load_dataset(runs[0].config)
    for protocol in (None, Sliding(4, 60)):
        evaluation, _ = runs[0].evaluate(protocol)
        found = {baseline.name: baseline for baseline in find_baselines(dataset, evaluation)}
        (ngram,) = (name for name in found if name.endswith("-gram (Kneser-Ney)"))
        assert [*found] == ["uniform", "unigram", ngram, "gzip", "bz2", "xz"]
        assert found["uniform"].loss.mean == pytest.approx(np.log(len(dataset.vocabulary)))
    # Under `window` an n-gram begins anew with every window, as a model does.
    evaluation, _ = runs[0].evaluate(Window(5))
    (valid,) = dataset.part("valid")
    windows = tuple(range(x, min(x + 5, valid.stop)) for x in range(valid.start, valid.stop, 5))
    counted = tuned_ngram(
        dataset.ids_N, dataset.part("train"), symbols=len(dataset.vocabulary), orders=range(1, 7)
    )
    expected = counted.nll(dataset.ids_N, windows).mean()
    (found_here,) = (b for b in find_baselines(dataset, evaluation) if b.kind == "ngram")
    assert found_here.loss.mean == pytest.approx(expected)
    # By hand: the unigram on the characters that sliding chose.
    train = dataset.ids_N[dataset.part("train")[0].start : dataset.part("train")[0].stop]
    symbols = len(dataset.vocabulary)
    p_V = (np.bincount(train, minlength=symbols) + 1) / (len(train) + symbols)
    places = valid.start + (2 * np.arange(60) + 1) * len(valid) // 120
    expected = -np.log(p_V[dataset.ids_N[places]]).mean()
    assert found["unigram"].loss.mean == pytest.approx(expected)


def test_of_a_long_part_as_many_characters_are_scored_as_fit_into_memory(
    runs: list[Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = runs[0]
    run.evaluate(Window(5), cache=True)  # all of it, as earlier versions saved it
    monkeypatch.setattr("charlm_jax.data.dataset.MOST_SCORED", 200)
    monkeypatch.setattr("charlm_jax.evaluation.results.MOST_SCORED", 200)
    monkeypatch.setattr("charlm_jax.comparison.compare.MOST_COMPRESSED", 300)
    monkeypatch.setattr("charlm_jax.analysis.loss_breakdown._PIECE", 7)
    dataset = load_dataset(run.config)
    part = dataset.thinned_part("valid")
    assert sum(map(len, part)) == 200 and len(part) == 100
    for protocol in (Window(5), Stream(), Sliding(4, 0)):
        comparison = compare(run, protocol)
        evaluation = comparison.groups[0].evaluations[0]
        assert (evaluation.characters, evaluation.block) == (200, 1000)
        assert "2,100" in comparison.describe()
        _, nll_N = run.evaluate(protocol, cache=True)
        np.testing.assert_array_equal(comparison.groups[0].nll_SN[0], nll_N)
        scores = find_scores(comparison, dataset)
        assert sum(cell.characters for cell in scores.classes[0]) == 200
    names = [baseline.name for baseline in comparison.baselines]
    assert names[-1] == "xz (after the last 300 characters)"
    (valid,) = dataset.part("valid")
    every_N = run._scorer(Sliding(4, 0))(run.params, dataset.ids_N, dataset.part("valid"))
    chosen = [place - valid.start for stretch in part for place in stretch]
    np.testing.assert_array_equal(nll_N, every_N[chosen])


def test_it_is_said_what_baselines_have_read(
    seeded_runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sliding = ("--mode=sliding", "--context=3", "--targets=40")
    for flags, whole, fitted in (
        ((), False, False),
        (sliding, True, False),
        (("--split=train",), False, True),
        ((*sliding, "--split=train"), True, True),
    ):
        page = tmp_path / "page.html"
        for asked in ("compare",), ("report", f"--out={page}"):
            assert main([*asked, str(seeded_runs / "size_6_seed_1"), *flags]) == 0
        for said in capsys.readouterr().out, page.read_text():
            assert "compressors are primed with the training part" in said
            assert ("compress the whole scored part" in said) == whole
            assert ("fitted to the text that they are scored on" in said) == fitted


def test_runs_that_differ_in_much_are_called_as_their_folders(
    runs: list[Run], tmp_path: Path
) -> None:
    other = {"model.layers": ("gru",), "model.embedding_size": 3, "data.batch_size": 2}
    config = make_tiny_config(**{**SEEDED, "optimizer.learning_rate": 0.5, **other})
    train_and_evaluate(config, tmp_path / "mine")
    groups = compare([runs[0], load_run(tmp_path / "mine")]).groups
    assert [group.name for group in groups] == ["size_6_seed_1", "mine"]
    groups = compare([runs[0], runs[2], load_run(tmp_path / "mine")]).groups
    assert [len(group.runs) for group in groups] == [2, 1] and "seed" not in groups[0].name


def test_the_command_prints_a_table(seeded_runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["compare", str(seeded_runs), "--context=5"]
    assert main(asked) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:4]] == [
        "hidden_size=12",
        "hidden_size=6",
        "uniform",
    ]
    assert "2,100 characters, window of 5" in lines[-1]
    assert main([*asked, "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    found = json.loads(line)
    assert found["groups"][1]["name"] == "hidden_size=6" and found["context"] == 5
    assert found["groups"][1]["difference"].keys() == {"mean", "low", "high", "is_significant"}
    assert main([*asked, "--csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["name"] for row in rows[:2]] == ["hidden_size=12", "hidden_size=6"]
    for row, group in zip(rows, found["groups"], strict=False):
        assert float(row["loss_nats"]) == group["loss"]["mean"]
        assert float(row["loss_low"]) == group["loss"]["low"]
    alone = comparison_to_json(compare([load_run(seeded_runs / "size_6_seed_1")]))
    assert alone["groups"][0]["name"] == "size_6_seed_1"


def test_a_run_that_is_not_finished_is_named(
    seeded_runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in SEEDS:
        shutil.copytree(seeded_runs / f"size_6_seed_{seed}", tmp_path / f"{seed}")
    asked = ["compare", str(tmp_path), "--context=5", "--no_baselines"]
    assert main(asked) == 0
    printed = capsys.readouterr()
    assert not printed.err and "ot finished" not in printed.out
    workdir = Workdir(tmp_path / "2")
    workdir.write_facts({**workdir.read_facts(), "finished": None})
    assert main(asked) == 0
    printed = capsys.readouterr()
    (line,) = printed.err.splitlines()
    assert line.endswith(f"{tmp_path / '2'} is not finished: it is scored at checkpoint 10")
    assert printed.out.endswith(" Not finished: seed 2 of 1.\n")
    assert main([*asked, "--json"]) == 0
    (group,) = json.loads(capsys.readouterr().out)["groups"]
    assert (group["seeds"], group["unfinished_seeds"]) == ([1, 2], [2])
    assert main([*asked, "--csv"]) == 0
    (row,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert (row["seeds"], row["unfinished_seeds"]) == ("1 2", "2")


def test_a_description_is_true_of_every_group(runs: list[Run]) -> None:
    """As if the second model had attention, which alone has a context under `stream`."""
    found = compare(runs[:2], Stream(), baselines=False)
    first, second = found.groups
    (evaluation,) = second.evaluations
    key = dataclasses.replace(evaluation.key, protocol=Stream(64))
    second = second._replace(evaluations=[dataclasses.replace(evaluation, key=key)])
    for groups, contexts in (([first, second], [None, 64]), ([second, first], [64, None])):
        comparison = found._replace(groups=groups)
        rules = [str(Stream(context)) for context in contexts]
        assert f"2,100 characters, {'; '.join(rules)}. " in comparison.describe()
        values = comparison_to_json(comparison)
        assert values["context"] is None
        assert [group["context"] for group in values["groups"]] == contexts


def test_a_part_of_one_block_has_no_interval(
    seeded_runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["compare", str(seeded_runs), "--split=train"]  # 900 characters
    assert main(asked) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.count("none: one block") for line in lines[1:6]] == [1] * 5
    assert main([*asked, "--json"]) == 0
    found = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert [group["loss"]["low"] for group in found["groups"]] == [None, None]
    assert found["groups"][1]["difference"]["high"] is None
    assert main([*asked, "--csv"]) == 0
    row, *others = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert (row["loss_low"], row["loss_high"]) == ("", "") and float(row["loss_nats"])
    assert not any("inf" in cell for other in (row, *others) for cell in other.values())


def test_a_folder_without_runs_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in (tmp_path, tmp_path / "absent"):
        assert main(["compare", str(folder)]) == 2
        assert f"no run in {folder}" in capsys.readouterr().err


def test_a_text_shorter_than_the_longest_order_has_baselines(tmp_path: Path) -> None:
    text = tmp_path / "short.txt"
    text.write_text("abcabbcaab" * 4)
    changes = {
        "data.corpus": str(text),
        "data.sequence_length": 3,
        "split.valid_fraction": 0.75,
        "train.max_steps": 1,
    }
    train_and_evaluate(make_tiny_config(**changes), tmp_path / "run")
    comparison = compare([load_run(tmp_path / "run")], Stream())
    (ngram,) = (b for b in comparison.baselines if b.kind == "ngram")
    assert math.isfinite(ngram.bits_per_char)


def test_baselines_are_left_out_and_their_text_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_and_evaluate(make_tiny_config(**{"train.max_steps": 1}), tmp_path / "run")
    runs = [load_run(tmp_path / "run")]
    bare = compare(runs, Stream(), baselines=False)
    assert bare.baselines == [] and "n-gram" not in bare.describe()
    monkeypatch.setattr(
        "charlm_jax.comparison.compare.last_characters",
        lambda part, most=100: last_characters(part, min(most, 100)),
    )
    names = [baseline.name for baseline in compare(runs, Stream()).baselines]
    assert any(name.endswith("-gram (Kneser-Ney, of the last 100 characters)") for name in names)
