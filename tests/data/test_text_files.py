"""Our own output is no text, and folders and globs follow links by one rule."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from charlm_jax.cli import main
from charlm_jax.config.loading import as_text
from charlm_jax.core.errors import CharlmError
from charlm_jax.data.corpora import absolute_spec, load_corpus
from charlm_jax.data.text_files import find_text_files
from charlm_jax.report.figures.base import blank_figure, save_figure
from charlm_jax.report.html.page import write_page
from charlm_jax.sweeps.local import check_points
from charlm_jax.sweeps.points import claim, load_sweep
from tests.conftest import TINY, make_tiny_config

WORDS = "the quick brown fox jumps over the lazy dog.\n" * 40


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "texts"
    (folder / "more").mkdir(parents=True)
    (folder / "a.txt").write_text(WORDS)
    (folder / "more" / "b.txt").write_text(WORDS.upper())
    monkeypatch.chdir(folder)
    return folder


def message_of(spec: str) -> str:
    with pytest.raises(CharlmError) as caught:
        load_corpus(spec)
    assert "\n" not in str(caught.value)
    return str(caught.value)


SHORT = {**TINY, "train.max_steps": 4}
del SHORT["data.corpus"]
OVERRIDES = [f"--config.{field}={as_text(value)}" for field, value in SHORT.items()]


def charlm(*arguments: str) -> None:
    assert main([*arguments]) == 0, arguments


def train(workdir: str, spec: str = ".") -> list[str]:
    return ["train", "--config=my_text:" + spec, f"--workdir={workdir}", *OVERRIDES]


# What charlm_jax wrote.


def test_a_second_command_reads_exactly_the_same_text(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Runs, exports, pages and figures in the text's own folder."""
    specs = (".", "**", "*/**/*", "more")
    before = {spec: load_corpus(spec).text for spec in specs}
    charlm(*train("runs/first"))
    assert "left out" not in "".join(capsys.readouterr())
    charlm("export", "--workdir=runs/first", "--out=model")
    write_page("page.html", title="a page", sections=[])
    save_figure(blank_figure(1, 1), "figures/a.png")
    capsys.readouterr()
    charlm(*train("runs/first"))
    printed = "".join(capsys.readouterr())
    for words in ("left out 1 exported model (", "1 figure (", "1 page (", "1 run (", "is done"):
        assert words in printed
    assert {spec: load_corpus(spec).text for spec in specs} == before
    assert load_corpus(".", encoding="latin-1").text == before["."]
    left_out = load_corpus(".").left_out
    for name in ("model", "page.html", "figures", "runs/first"):
        assert name in left_out
    assert load_corpus("more").left_out == ""


@pytest.fixture
def seeds(tmp_path: Path) -> str:
    """Config file of a sweep over seeds, whose text is the current folder."""
    lines = [f"    config.{field} = {value!r}" for field, value in SHORT.items()]
    body = ["    config = base.get_config()", *lines, "    config.data.corpus = '.'"]
    points = "def sweep():\n    return [{'seed': seed} for seed in (1, 2)]\n"
    head = ["from configs import base", "def get_config():"]
    (tmp_path / "seeds.py").write_text("\n".join([*head, *body, "    return config", points]))
    return str(tmp_path / "seeds.py")


def test_a_sweep_is_no_text(here: Path, seeds: str) -> None:
    before = load_corpus(".").text
    sweep, folder = load_sweep(seeds), here / "sweep"
    claim(sweep, folder)
    sweep.points[0].log_file(folder).parent.mkdir()
    sweep.points[0].log_file(folder).write_text("a log")
    for spec in (".", "**", "s*/*", "**/*.log"):
        if spec in (".", "**"):
            assert load_corpus(spec).text == before
            assert load_corpus(spec).left_out == "left out 1 sweep (sweep)"
        else:
            assert "no files to read: left out 1 sweep (sweep)" in message_of(spec)
    assert check_points(sweep.points, folder) == [f"{here}: left out 1 sweep ({here / 'sweep'})"]


@pytest.mark.exhaustive
def test_a_sweep_may_be_started_in_the_folder_of_its_text(
    here: Path, seeds: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = load_corpus(".").text
    command = ["sweep", f"--config={seeds}", "--workdir=sweep"]
    charlm(*command)
    assert "2 of 2 points are done" in capsys.readouterr().out
    files = here.glob("sweep/*/vocabulary.json")
    assert len({json.loads(file.read_text())["fingerprint"] for file in files}) == 1
    assert load_corpus(".").text == before
    charlm(*command)


def test_a_users_own_files_hide_nothing(here: Path) -> None:
    (here / "config.json").write_text('{"model_type": "mine"}')
    (here / "run.json").write_text("{}")
    (here / "metrics.jsonl").write_text("")
    (here / "more" / "manifest.json").write_text('{"name": "mine"}')
    corpus = load_corpus(".")
    assert corpus.left_out == "" and corpus.source == "6 files, a.txt to run.json"


def test_a_folder_of_nothing_else_says_what_it_is(here: Path) -> None:
    run = here / "runs" / "x"
    run.mkdir(parents=True)
    (run / "config.json").write_text(json.dumps(make_tiny_config().to_dict()))
    (run / "notes.txt").write_text("mine")
    says = "has no files to read: left out 1 run (runs/x)"
    for spec in ("runs", "runs/x", "runs/x/*.txt", "runs/*/*.txt", "runs/**", "*/x/*"):
        assert message_of(spec) == f"{spec!r} {says}"
    assert load_corpus("runs/x/notes.txt").text == "mine"  # a file that is named is read
    (here / "link").symlink_to("runs/x/inside")
    (run / "inside").mkdir()
    (run / "inside" / "more.txt").write_text("inside")
    assert "inside" not in load_corpus(".").text  # not through a link either


# Links.


@pytest.mark.parametrize("spec", [".", "**", "./**", "**/*.txt", "*"])
def test_folders_and_globs_follow_links_by_one_rule(here: Path, spec: str) -> None:
    other = here.parent / "other"
    other.mkdir()
    (other / "c.txt").write_text("linked")
    (here / "link").symlink_to(other)
    (here / "loop").symlink_to(here.parent)
    (here / "again.txt").symlink_to("a.txt")
    (here / "again").symlink_to("more")
    text = load_corpus(spec).text
    assert text.count(WORDS) == 1  # each real file once
    if spec != "*":
        assert text.count("linked") == 1
        assert text.count(WORDS.upper()) == 1


def test_a_link_to_a_text_that_is_there_changes_nothing(here: Path) -> None:
    before = [load_corpus(spec).text for spec in (".", "**/*.txt")]
    (here / "0").symlink_to("more")
    (here / "more" / "0.txt").symlink_to("../a.txt")
    assert [load_corpus(spec).text for spec in (".", "**/*.txt")] == before


# Patterns.


@pytest.mark.parametrize(
    "pattern",
    ["**", "*", "more/*", "**/b.*", "*/b.txt", "../texts/*", "**/more/*", "m*/**", "[ma]*"],
)
@pytest.mark.parametrize("place", [lambda spec: spec, absolute_spec], ids=["relative", "absolute"])
def test_a_pattern_matches_what_it_matches_in_the_shell(
    here: Path, pattern: str, place: Callable[[str], str]
) -> None:
    import glob

    (here / ".hidden").mkdir()
    (here / ".hidden" / "b.txt").write_text("hidden")
    spec = place(pattern)
    expected = {p for p in glob.glob(spec, recursive=True) if os.path.isfile(p)}
    assert {*find_text_files(spec).paths} == expected != set()


def test_brackets_are_a_pattern_unless_such_a_name_is_there(here: Path) -> None:
    message = message_of("[v1] novels/*.txt")
    assert "[...] stands for one of the characters in it" in message
    assert "'[[]v1] novels/*.txt'" in message
    folder = here / "[v1] novels"
    folder.mkdir()
    (folder / "c.txt").write_text("bracket")
    (folder / "[d].txt").write_text("inner")
    for spec in ("[v1] novels/c*", "[[]v1] novels/c*", "**/[v1] novels/c.txt", "*/c.txt"):
        assert load_corpus(spec).text == "bracket"
        assert load_corpus(absolute_spec(spec)).text == "bracket"
    assert load_corpus("[v1] novels/[d].txt").text == "inner"
    (here / "v novels").mkdir()
    (here / "v novels" / "c.txt").write_text("one character")
    os.rename(folder, here / "renamed")
    assert load_corpus("[v1] novels/c*").text == "one character"


def test_a_pattern_in_a_folder_with_brackets(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.rename(here / "more", here / "more [2]")
    monkeypatch.chdir(here / "more [2]")
    assert load_corpus(absolute_spec("*.txt")).text == WORDS.upper()


def test_a_folder_that_a_pattern_cannot_list_is_an_error(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: str) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "listdir", refuse)
    assert message_of("mor*/*.txt") == "cannot read folder .: Permission denied"


def test_a_file_of_the_kernel_is_not_waited_for(here: Path) -> None:
    if not Path("/proc/kmsg").exists():
        pytest.skip("this system has no such file")
    assert "is empty" in message_of("/proc/kmsg")
