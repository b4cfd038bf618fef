"""A folder is visited once, however it is reached, and one that charlm_jax wrote is known."""

import json
import os
from pathlib import Path

import pytest

from charlm_jax.core import folders
from charlm_jax.core.errors import CharlmError
from charlm_jax.core.folders import own_file, own_folder, walk
from tests.conftest import make_tiny_config


def visited(root: Path | str) -> list[str]:
    return [folder.path for folder in walk(str(root), refuse=pytest.fail)]


def own(folder: Path) -> str | None:
    return own_folder(str(folder), os.listdir(folder))


def test_a_folder_is_visited_once_and_by_its_own_path(tmp_path: Path) -> None:
    (tmp_path / "in" / "z" / "deep").mkdir(parents=True)
    (tmp_path / "out" / "more").mkdir(parents=True)
    (tmp_path / "in" / "a").symlink_to("z")  # sorted before what it leads to
    (tmp_path / "in" / "loop").symlink_to(".")
    (tmp_path / "in" / "z" / "up").symlink_to("../..")
    (tmp_path / "in" / "z" / "deep" / "out").symlink_to(tmp_path / "out")
    (tmp_path / "in" / ".hidden").mkdir()
    (tmp_path / "in" / "nowhere").symlink_to("absent")
    found = [os.path.relpath(path, tmp_path) for path in visited(tmp_path / "in")]
    assert found == ["in", "in/z", "in/z/deep", "in/z/up", "in/z/up/out", "in/z/up/out/more"]
    reals = [os.path.realpath(path) for path in visited(tmp_path / "in")]
    assert len({*reals}) == len(reals)


def test_a_folder_may_be_a_thousand_deep(deep_folder: Path) -> None:
    assert len(visited(deep_folder)) == 1001


def test_a_folder_with_too_many_names_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(6):
        (tmp_path / f"{number % 2}").mkdir(exist_ok=True)
        (tmp_path / f"{number % 2}" / f"{number}").touch()
    monkeypatch.setattr(folders, "MOST_NAMES", 8)
    assert len(visited(tmp_path)) == 3
    monkeypatch.setattr(folders, "MOST_NAMES", 7)
    with pytest.raises(CharlmError, match="more than 7 files and folders: name a smaller folder"):
        visited(tmp_path)


CONFIG = json.dumps(make_tiny_config().to_dict())


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        ({"config.json": CONFIG}, "run"),
        ({"config.json": CONFIG, "model.safetensors": ""}, "exported model"),
        ({"vocabulary.json": '{"symbols": "ab", "fingerprint": "0"}'}, "run"),
        ({"config.json": "{", "metrics.jsonl": "", "run.json": "["}, "run"),  # damaged
        ({"lock": "123\n"}, "run"),  # begun
        ({"lock": "123\n", "config.json.01234567.partial": "{"}, "run"),
        ({"manifest.json": '{"config": "", "overrides": [], "points": []}'}, "sweep"),
        ({"params.npz": "", "meta.json": '{"config": {}, "fingerprint": ""}'}, "checkpoint"),
        ({"config.json": '{"model_type": "gpt2"}', "model.safetensors": ""}, None),
        ({"config.json": "{", "notes.txt": "mine"}, None),
        ({"manifest.json": '{"name": "an app"}', "a.txt": ""}, None),
        ({"meta.json": "{}", "params.npz": ""}, None),
        ({"lock": "a poem about a lock"}, None),
        ({"lock": "1", "a.txt": ""}, None),
        ({}, None),
    ],
)
def test_a_folder_is_known_by_the_marks_of_what_wrote_it(
    tmp_path: Path, files: dict[str, str], kind: str | None
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert own(tmp_path) == kind


def test_a_mark_that_is_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    if not hasattr(os, "mkfifo"):
        pytest.skip("this platform has no named pipes")
    for name in ("config.json", "lock", "vocabulary.json"):
        os.mkfifo(tmp_path / name)
    assert own(tmp_path) == "run"  # by three of its names
    assert own_file(str(tmp_path / "lock")) is None


@pytest.mark.parametrize(
    ("name", "text", "kind"),
    [
        ("a.html", "<!DOCTYPE html>\n<!-- A page of charlm_jax: charlm may ...", "page"),
        (
            "a.html",
            "<!DOCTYPE html>\n<!-- A model of charlm_jax: a playground. -->",
            "exported model",
        ),
        ("a.txt", "A page of charlm_jax: quoted", None),
        ("a.html", "<!DOCTYPE html>\n<p>mine", None),
        ("run.json.0123abcd.partial", "{", "temporary file"),
        ("notes.partial", "mine", None),
    ],
)
def test_a_file_is_known_by_its_mark(
    tmp_path: Path, name: str, text: str, kind: str | None
) -> None:
    (tmp_path / name).write_text(text)
    assert own_file(str(tmp_path / name)) == kind
