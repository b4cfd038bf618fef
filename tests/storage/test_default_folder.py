"""A command without --workdir finds its own run again, and no other's."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from charlm_jax.cli import main
from charlm_jax.config.loading import ConfigSource, as_text, load_config
from charlm_jax.data.dataset import load_dataset, with_absolute_paths
from charlm_jax.storage.default_folder import default_run_folder
from charlm_jax.storage.workdir import Workdir
from charlm_jax.sweeps.points import claim, default_sweep_folder, load_sweep
from tests.conftest import TINY

WORDS = "the quick brown fox jumps over the lazy dog.\n" * 40
SHORT = {**TINY, "train.max_steps": 2}
del SHORT["data.corpus"]
FIELDS = [f"{field}={as_text(value)}" for field, value in SHORT.items()]
SIZED = (
    "from configs import base\n\n\ndef get_config(size):\n    config = base.get_config()\n"
    "    config.data.corpus = 'synthetic:symbols=4,characters=3000'\n"
    "    config.model.hidden_size = {'0.8M': 4, '0.9M': 5}[size]\n    return config\n\n\n"
    "def sweep():\n    return [{'seed': 1}]\n"
)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "input.txt").write_text(WORDS.replace("fox", f"fox {name}"))
    (tmp_path / "sized.py").write_text(SIZED)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def folder_of(spec: str) -> str:
    """Return the default folder of a run's command."""
    return str(default_run_folder(spec, load_config(spec, FIELDS)))


def begin(spec: str, folder: str | None = None, *, records_spec: bool = True) -> str:
    """Begin the run of a command, without training; returns its folder."""
    config = with_absolute_paths(load_config(spec, FIELDS))
    folder = folder or folder_of(spec)
    run_dir = Workdir(folder)
    with run_dir.held():
        run_dir.claim(config, load_dataset(config))
        if records_spec:
            run_dir.write_facts(
                {"config_spec": ConfigSource(spec).with_absolute_paths(config).spec}
            )
    return folder


@pytest.mark.parametrize(
    ("specs", "folders"),
    [
        (["my_text:a/input.txt", "my_text:b/input.txt"], ["my_text-input", "my_text-b-input"]),
        (["my_text:b/*.txt", "my_text:a/*.txt"], ["my_text-b-txt", "my_text-a-txt"]),
        (["my_text:?/*.txt", "my_text:[ab]/*.txt"], ["my_text-txt", "my_text-ab-txt"]),
        (["my_text:a/../b", "my_text:*/"], ["my_text-b", "my_text"]),
        (["sized.py:0.8M", "sized.py:0.9M"], ["sized-0-8M", "sized-0-9M"]),
    ],
)
@pytest.mark.parametrize("records_spec", [True, False], ids=["spec", "from Python"])
def test_two_texts_or_sizes_have_two_folders_and_find_them_again(
    here: Path, specs: Sequence[str], folders: Sequence[str], records_spec: bool
) -> None:
    expected = [f"runs/{folder}" for folder in folders]
    assert [begin(spec, records_spec=records_spec) for spec in specs] == expected
    assert [folder_of(spec) for spec in specs] == expected
    assert [folder_of(spec) for spec in reversed(specs)] == expected[::-1]


def test_names_that_are_all_taken_have_a_hash(here: Path) -> None:
    for parent in ("x", "y", "z"):
        shutil.copytree("a", f"{parent}/a")
    folders = [begin(f"my_text:{parent}/a/input.txt") for parent in ("x", "y", "z")]
    assert folders[:2] == ["runs/my_text-input", "runs/my_text-a-input"]
    assert folders[2].startswith("runs/my_text-input-") and len({*folders}) == 3
    assert [folder_of(f"my_text:{parent}/a/input.txt") for parent in "xyz"] == folders
    shutil.rmtree(folders[0])  # a shorter name has become free
    assert folder_of("my_text:z/a/input.txt") == folders[2]
    assert folder_of("my_text:./y/../y/a/input.txt") == folders[1]


@pytest.mark.parametrize(
    ("spec", "former"),
    [
        ("my_text:a/*.txt", "runs/my_text"),
        ("sized.py:0.8M", "runs/sized-0"),
        ("my_text:a/input.txt", "runs/my_text-input"),
    ],
)
def test_a_run_in_a_folder_of_an_earlier_version_is_found(
    here: Path, spec: str, former: str
) -> None:
    begin(spec, former)
    assert folder_of(spec) == former
    assert folder_of(spec.replace("a/", "b/").replace("0.8", "0.9")) != former


def test_a_text_that_has_moved_keeps_its_run(here: Path) -> None:
    folder = begin("my_text:a/input.txt")
    (here / "a").rename(here / "moved")
    assert folder_of("my_text:moved/input.txt") == folder
    assert folder_of("my_text:b/input.txt") != folder


def test_a_command_trains_where_the_last_one_did_not(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [f"--config.{text}" for text in FIELDS]
    for name, folder in (("a", "my_text-input"), ("b", "my_text-b-input")):
        for says in (": trained 2 steps", " is done: 2 steps"):
            assert main(["train", f"--config=my_text:{name}/input.txt", *flags]) == 0
            assert f"runs/{folder}{says}" in capsys.readouterr().out
    recorded = json.loads(Path("runs/my_text-b-input/config.json").read_text())["data"]["corpus"]
    assert recorded == str(here / "b" / "input.txt")


def test_sweeps_have_folders_of_their_own_too(here: Path) -> None:
    Path("runs").mkdir()
    specs = ["sized.py:0.8M", "sized.py:0.9M"]
    folders = []
    for spec in specs:
        folders.append(default_sweep_folder(spec))
        claim(load_sweep(spec), folders[-1])
    assert folders == [Path("runs/sized-0-8M"), Path("runs/sized-0-9M")]
    assert [default_sweep_folder(spec) for spec in specs] == folders
    folders[0].rename("runs/sized-0")
    assert default_sweep_folder(specs[0]) == Path("runs/sized-0")


@pytest.mark.exhaustive
def test_a_run_of_another_locale_is_found_and_is_the_same_run(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "tëxt.txt").write_text(WORDS)
    command = ["train", "--config=my_text:tëxt.txt", *(f"--config.{text}" for text in FIELDS)]
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    python = [sys.executable, "-m", "charlm_jax"]
    subprocess.run([*python, *command], env={**os.environ, **locale}, check=True)
    assert [path.name for path in Path("runs").iterdir()] == ["my_text-tëxt"]
    for file in Path("runs/my_text-tëxt").glob("*.json"):
        assert "\\udc" not in file.read_text()
    assert main(command) == 0
    assert "runs/my_text-tëxt is done" in capsys.readouterr().out
