"""Which folders a study writes into: nothing of anybody else is overwritten."""

import json
from pathlib import Path

import pytest

from charlm_jax.core.errors import CharlmError
from experiments.results_folder import refuse_other_results, write_results_folder

TITLE = "# Mine. Tables"
COMMAND = "python -m experiments.mine --preset=small"
FILES = ("results.json", "tables.md", "loss.png")


def _refuse(folder: Path) -> None:
    refuse_other_results(folder, study="mine", title=TITLE, command=COMMAND, files=FILES)


def _results(command: str) -> str:
    return json.dumps({"command": command, "loss": 1.0})


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"speeds.json": "{}", "notes.txt": "mine"},
        {"results.json": _results(COMMAND)},
        {"results.json": _results(COMMAND), "README.md": "# Mine\n", "loss.png": "x"},
        {"results.json": _results(COMMAND), "index.md": "# A page\n"},
        {"results.json": _results(COMMAND), "tables.md": f"{TITLE}\n\n    {COMMAND}\n"},
        {"results.json": _results(COMMAND), "tables.md": f"{TITLE}\n\n    {COMMAND}\n\n    x\n"},
    ],
    ids=["empty", "others", "results", "readme", "page", "tables", "longer_tables"],
)
def test_results_of_the_same_command_may_be_replaced(files: dict[str, str], tmp_path: Path) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    _refuse(tmp_path)
    _refuse(tmp_path / "not_there_yet")


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"README.md": "# Mine\n"}, "README.md is not from this study"),
        ({"index.md": f"{TITLE}\n\n    {COMMAND}\n"}, "index.md is not from this study"),
        ({"tables.md": f"{TITLE}\n\n    {COMMAND}\n"}, "tables.md is not from this study"),
        ({"loss.png": "x"}, "loss.png is not from this study"),
        ({"results.json": "{}"}, "results.json is not from this study"),
        ({"results.json": "[1]"}, "results.json is not from this study"),
        ({"results.json": "{torn"}, "results.json is not from this study"),
        ({"results.json": '{"command": 1}'}, "results.json is not from this study"),
        ({"results.json": _results("python -m experiments.mine2")}, "is not from this study"),
        ({"results.json": _results(f"{COMMAND} --seed=1")}, "results.json is from another command"),
        (
            {"results.json": _results(COMMAND), "tables.md": ""},
            "tables.md is not from this study",
        ),
        (
            {"results.json": _results(COMMAND), "tables.md": "# My tables\n"},
            "tables.md is not from this study",
        ),
        (
            {"results.json": _results(COMMAND), "tables.md": f"{TITLE}\n\n    {COMMAND}0\n"},
            "tables.md is from another command",
        ),
    ],
)
def test_anything_else_is_refused_in_one_line(
    files: dict[str, str], says: str, tmp_path: Path
) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(CharlmError, match=says) as refusal:
        _refuse(tmp_path)
    assert "choose another folder" in str(refusal.value) and "\n" not in str(refusal.value)
    assert {x.name: x.read_text() for x in tmp_path.iterdir()} == files


def test_links_and_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "results.json").symlink_to(tmp_path / "nowhere")
    with pytest.raises(CharlmError, match=r"results.json is not from this study"):
        _refuse(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(CharlmError, match="file is not a folder: choose another"):
        _refuse(tmp_path / "file")


def test_numbers_do_not_depend_on_the_last_bits_of_a_processor(tmp_path: Path) -> None:
    files = []
    for loss in (1.2345678901234567, 1.2345678901234565):
        values = {"command": COMMAND, "losses": [{"mean": loss, "runs": 3}]}
        write_results_folder(tmp_path, values=values, draw=lambda folder: None, text="")
        files.append((tmp_path / "results.json").read_bytes())
    assert files[0] == files[1]
    assert json.loads(files[0])["losses"] == [{"mean": 1.23456789, "runs": 3}]
