"""A text is the same text wherever it is: its content decides, not its place."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from charlm_jax.cli import main
from charlm_jax.comparison.compare import compare
from charlm_jax.config.schema import Config
from charlm_jax.core.errors import CharlmError
from charlm_jax.data.corpora import absolute_spec
from charlm_jax.data.moved_text import is_gone, likely_places
from charlm_jax.inference.run import load_run
from charlm_jax.storage.workdir import Workdir
from charlm_jax.training.loop import train_and_evaluate
from charlm_jax.training.reproduce import verify_run
from tests.conftest import make_tiny_config

TEXT = "the quick brown fox jumps over the lazy dog, naïvely.\n" * 40
OTHER = TEXT.replace("quick", "quiet")


def config_of(corpus: Path | str, encoding: str = "utf-8", **changes: object) -> Config:
    fields = {"data.corpus": str(corpus), "data.encoding": encoding, "train.epochs": 1}
    return make_tiny_config(**{**fields, **changes})


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a run whose text is gone: each test puts it somewhere."""
    project = tmp_path_factory.mktemp("project")
    (project / "data").mkdir()
    (project / "data" / "book.txt").write_text(TEXT, encoding="utf-8")
    train_and_evaluate(config_of(project / "data" / "book.txt"), project / "runs" / "a")
    (project / "data" / "book.txt").unlink()
    return project


@pytest.fixture
def project(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    copy = tmp_path / "copy"
    shutil.copytree(trained, copy)
    monkeypatch.chdir(tmp_path)
    return copy


def put(file: Path, text: str = TEXT, encoding: str = "utf-8") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding=encoding)
    return file


def test_a_text_that_has_moved_is_named(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, moved = project / "runs" / "a", put(project / "library" / "old book.txt")
    says = rf"the text of {run} is no longer at .*book\.txt: name its place with --corpus=PATH"
    for ask in (load_run(run).evaluate, lambda: verify_run(run), lambda: compare([load_run(run)])):
        with pytest.raises(CharlmError, match=says):
            ask()
    assert main(["evaluate", f"--workdir={run}"]) == 2
    capsys.readouterr()
    for command in (
        ["evaluate", f"--workdir={run}"],
        ["compare", f"{run}"],
        ["report", f"{run}"],
        ["verify", f"--workdir={run}", "--steps=2"],
    ):
        assert main([*command, f"--corpus={moved}"]) == 0
    assert capsys.readouterr().err == ""


def test_the_place_that_is_named_must_have_the_same_text(project: Path) -> None:
    run, other = project / "runs" / "a", put(project / "other.txt", OTHER)
    for ask in (
        load_run(run, corpus=str(other)).evaluate,
        lambda: verify_run(run, corpus=str(other)),
    ):
        with pytest.raises(CharlmError, match=r"other\.txt is not the text that .*a was"):
            ask()
    with pytest.raises(CharlmError, match="'absent' is not a registered corpus"):
        load_run(run, corpus="absent").evaluate()


@pytest.mark.parametrize("place", ["data/book.txt", "book.txt", "runs/book.txt", "../book.txt"])
def test_a_text_of_the_same_name_near_the_run_is_found_by_its_content(
    project: Path, place: str
) -> None:
    run = project / "runs" / "a"
    put(Path("data/book.txt"), OTHER)  # more likely, but another text
    put(project / place)
    with pytest.warns(UserWarning, match=r"the same text is read from .*book\.txt"):
        evaluation, nll_N = load_run(run).evaluate()
    with pytest.warns(UserWarning, match="is no longer at"):
        assert verify_run(run, steps=2).first_difference is None
    expected = load_run(run, corpus=str(project / place)).evaluate()
    assert expected[0] == evaluation
    np.testing.assert_array_equal(expected[1], nll_N)


def test_a_text_of_the_same_name_with_other_content_is_not_taken(project: Path) -> None:
    put(project / "data" / "book.txt", OTHER)
    put(Path("book.txt"), OTHER)
    with pytest.raises(CharlmError, match="is no longer at"):
        load_run(project / "runs" / "a").evaluate()


def test_a_run_is_resumed_on_its_text_wherever_it_is(project: Path) -> None:
    run = project / "runs" / "a"
    steps = Workdir(run).read_facts()["total_steps"]
    place = put(project / "new" / "livre.txt", encoding="latin-1")
    config = config_of(place, "latin-1")
    assert train_and_evaluate(config, run).was_done
    recorded = json.loads((run / "config.json").read_text())["data"]
    assert recorded["corpus"] == str(place) and recorded["encoding"] == "latin-1"
    longer = config_of(place, "latin-1", **{"train.epochs": 2})
    result = train_and_evaluate(longer, run)
    assert result.step == 2 * steps and not result.was_done
    whole = train_and_evaluate(longer, project / "runs" / "whole")
    assert result.best_loss_nats == whole.best_loss_nats
    with pytest.raises(CharlmError, match=r"config\.data\.corpus is .*livre\.txt' there"):
        train_and_evaluate(config_of(put(project / "o.txt", OTHER), **{"train.epochs": 2}), run)


def test_runs_of_one_text_are_one_group_wherever_each_has_read_it(project: Path) -> None:
    first, second = put(project / "x" / "one.txt"), put(project / "y" / "two.txt")
    run = project / "runs" / "a"
    train_and_evaluate(config_of(first), run)
    train_and_evaluate(config_of(second, seed=2), project / "runs" / "b")
    found = compare([load_run(run), load_run(project / "runs" / "b")])
    assert [len(group.runs) for group in found.groups] == [2]


def test_a_file_may_begin_like_a_registered_name(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(project / "shakespeare:act.txt")
    monkeypatch.chdir(project)
    spec = absolute_spec("shakespeare:act.txt")
    assert spec == str(project / "shakespeare:act.txt") and not is_gone(spec)
    assert is_gone(str(project / "shakespeare:scene.txt"))
    assert absolute_spec("synthetic:reach=2") == "synthetic:reach=2"


def test_a_glob_is_gone_with_its_files(tmp_path: Path) -> None:
    put(tmp_path / "src" / "a.txt")
    pattern = f"{tmp_path}/src/**/*.txt"
    assert not is_gone(pattern) and not is_gone(f"{tmp_path}/src")
    (tmp_path / "src").rename(tmp_path / "moved")
    assert is_gone(pattern) and is_gone(f"{tmp_path}/src")
    assert not is_gone("shakespeare") and not is_gone("synthetic:symbols=4")
    put(tmp_path / "here" / "src" / "a.txt")
    assert likely_places(pattern, [tmp_path / "here"]) == [f"{tmp_path}/here/src/**/*.txt"]
    assert likely_places(f"{tmp_path}/src", [tmp_path / "here"]) == [f"{tmp_path}/here/src"]
    assert likely_places(pattern, [tmp_path]) == []
