"""Layers of one's own on the command line: what a run's folder names is not imported."""

import json
import shlex
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from charlm_jax.cli import main
from charlm_jax.cli.commands import COMMANDS, WITHOUT_MODEL
from charlm_jax.cli.commands.train import module_to_allow
from charlm_jax.models.external import MixerSource
from tests.cli_errors.runner import ask
from tests.cli_errors.workspace import TINY_FILE
from tests.conftest import ROOT, TINY
from tests.models.own_mixer import write_mixer

# Imported, it leaves a file.
TELLTALE = "from pathlib import Path\nPath(__file__).with_name('executed').touch()\n"
OWN = "--config.model.layers=own_mixer:Sum"
SEEDS = "\n\ndef sweep():\n    return [{'seed': s} for s in (1, 2)]\n"

# Commands that read the folder of a stranger's run; and those that read its exported model.
READING = [
    "sample --workdir=run --prompt=a",
    "sample --workdir=run --interactive",
    "evaluate --workdir=run",
    "score --workdir=run text.txt",
    "score --workdir=done text.txt --beside=run",
    "compare run",
    "compare done run",
    "report run --out=page.html",
    "inspect --workdir=run --text=a",
    "export --workdir=run --out=out",
    "verify --workdir=run",
    "replay --workdir=run",
    "train --config=tiny.py --workdir=new --init_from=run",
    "sample --workdir=exported --prompt=a",
    "evaluate --workdir=exported",
    "score --workdir=exported text.txt",
    "inspect --workdir=exported --text=a",
    "export --workdir=exported --out=out",
    "train --config=tiny.py --workdir=new --init_from=exported",
]
# Commands whose config names the module.
NAMING = [
    f"train --config=tiny.py --workdir=new {OWN}",
    f"train --config=tiny.py --workdir=run {OWN}",
    f"sweep --config=seeds.py --workdir=new {OWN}",
    f"summary --config=tiny.py {OWN}",
    f"summary --config=tiny.py --symbols=9 {OWN}",
]


class Stranger(NamedTuple):
    """A folder with a stranger's run, and the hash of the module that it was trained with."""

    folder: Path
    digest: str


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stranger]:
    folder = tmp_path_factory.mktemp("stranger")
    digest = write_mixer(folder / "own_mixer.py")
    (folder / "tiny.py").write_text(TINY_FILE)
    (folder / "seeds.py").write_text(TINY_FILE + SEEDS)
    (folder / "text.txt").write_text("abcd" * 20)
    short = "--config.train.max_steps=2"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(shlex.split(f"train --config=tiny.py --workdir=done {short}")) == 0
        allow = "--allow_module=own_mixer.py"
        assert main(shlex.split(f"train --config=tiny.py --workdir=run {short} {OWN} {allow}")) == 0
        assert main(shlex.split(f"export --workdir=run --out=exported {allow}")) == 0
    shutil.copytree(folder / "run" / "checkpoints", folder / "run" / "fault")
    del sys.modules["own_mixer"]
    write_mixer(folder / "own_mixer.py", TELLTALE)
    # It looks like an installed package to a Python that has this folder on its path.
    facts = folder / "own_mixer-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: own-mixer\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text("[charlm_jax.mixers]\nown = own_mixer:Sum\n")
    yield Stranger(folder, digest)
    sys.modules.pop("own_mixer", None)


@pytest.fixture
def stranger(folder: Stranger, monkeypatch: pytest.MonkeyPatch) -> Stranger:
    """The folder, which is the current one and first on the path, as under `python -m`."""
    monkeypatch.chdir(folder.folder)
    monkeypatch.setattr(sys, "path", [str(folder.folder), *sys.path])
    return folder


def test_every_command_that_builds_a_model_is_tried() -> None:
    commands = {command.split()[0] for command in (*READING, *NAMING)}
    assert commands == COMMANDS.keys() - WITHOUT_MODEL


def listing(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.rglob("*") if path.name not in ("lock", "executed"))


@pytest.mark.parametrize("command", [*READING, *NAMING])
def test_what_only_a_runs_folder_names_is_not_imported(command: str, stranger: Stranger) -> None:
    before = listing(stranger.folder)
    answer = ask(command)
    said = ["own_mixer:Sum", "(--allow_module=path/to/own_mixer.py)", "(--allow_module=own_mixer)"]
    if command in READING:
        said += [f"module own_mixer, {stranger.folder}/own_mixer.py, sha256 {stranger.digest}"]
    assert not answer.faults(tuple(said)), answer
    assert not (stranger.folder / "executed").exists() and "own_mixer" not in sys.modules
    assert listing(stranger.folder) == before


@pytest.mark.parametrize("layer", ["own", "os:system", "own_mixer:Sum", "antigravity:fly"])
def test_a_config_that_was_written_by_hand_imports_nothing(
    layer: str, stranger: Stranger, tmp_path: Path
) -> None:
    shutil.copytree("run", tmp_path / "run")
    file = tmp_path / "run" / "config.json"
    config = json.loads(file.read_text())
    config["model"]["layers"] = [layer]
    file.write_text(json.dumps(config))
    (tmp_path / "run" / "run.json").unlink()
    answer = ask(f"sample --workdir={tmp_path / 'run'} --prompt=a")
    assert not answer.faults((repr(layer), "(no file is recorded)")), answer
    assert not (stranger.folder / "executed").exists()
    assert not {"own_mixer", "antigravity"} & sys.modules.keys()


def test_runs_are_listed_without_their_modules(stranger: Stranger) -> None:
    answer = ask("runs .")
    assert answer.status == 0 and "run " in answer.out and answer.err == ""
    assert "unreadable" not in answer.out and not (stranger.folder / "executed").exists()
    assert ask("runs . --allow_module=own_mixer").status == 2


@pytest.mark.exhaustive
@pytest.mark.parametrize("program", [["-m", "charlm_jax"], ["-c", "script"]])
def test_the_real_command_imports_nothing_either(program: list[str], stranger: Stranger) -> None:
    script = "import sys; from charlm_jax.cli import main; sys.exit(main())"
    program = [script if word == "script" else word for word in program]
    for command in (READING[0], "runs .", NAMING[3], "sample --workdir=exported --prompt=a"):
        result = subprocess.run(
            [sys.executable, *program, *shlex.split(command)],
            cwd=stranger.folder,
            env={"PYTHONPATH": str(ROOT), "PATH": ""},
            capture_output=True,
            text=True,
        )
        assert result.returncode == (0 if command == "runs ." else 2), result.stderr
        assert len(result.stderr.splitlines()) == (0 if command == "runs ." else 1), result.stderr
        assert not (stranger.folder / "executed").exists()


# What the user allows.


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, with a module of one's own and configs."""
    write_mixer(tmp_path / "own_mixer.py")
    (tmp_path / "tiny.py").write_text(TINY_FILE)
    monkeypatch.chdir(tmp_path)
    path = list(sys.path)
    yield tmp_path
    assert sys.path == path
    sys.modules.pop("own_mixer", None)


SHORT = "--config.train.max_steps=2"
IMPORTING = f"""\
import own_mixer

from configs import base


def get_config():
    config = base.get_config()
    config.update_from_flattened_dict({TINY!r})
    config.model.layers = ("own_mixer:Sum",)
    return config
"""


def say(command: str) -> str:
    """Standard output of a command that succeeds and says nothing else."""
    answer = ask(command)
    assert answer.status == 0, answer
    return answer.out


def test_a_config_that_imports_its_neighbour_trains_and_resumes(own: Path) -> None:
    Path("there").mkdir()
    Path("own_mixer.py").rename("there/own_mixer.py")
    Path("there/mine.py").write_text(IMPORTING)
    command = "train --config=there/mine.py --workdir=run"
    trained = say(f"{command} {SHORT}")
    assert "trained 2 steps" in trained
    following = trained.split("Next:\n")[1].splitlines()
    assert len(following) > 1
    assert all(line.endswith(" --allow_module=there/own_mixer.py") for line in following)
    del sys.modules["own_mixer"]
    assert "trained 3 steps" in say(f"{command} --config.train.max_steps=3")
    del sys.modules["own_mixer"]
    allow = "--allow_module=there/own_mixer.py"
    assert say(f"sample --workdir=run --prompt=a --chars=5 {allow}")
    page = say(f"report run --out=page.html {allow}").strip()
    shown = Path(page).read_text()
    assert f"--allow_module={own}/there/own_mixer.py" in shown  # of the command that trains
    assert f"report run --out=page.html {allow}" in shown
    assert "Sum" in say(f"summary --config=there/mine.py {allow}")


def test_the_flag_that_a_layer_needs(own: Path) -> None:
    """A name in place of a file that would be imported under another one; none if registered."""
    file = str(own / "own_mixer.py")
    for layer, module, path, flag in (
        ("own_mixer:Sum", "own_mixer", file, "own_mixer.py"),
        ("own_mixer:Sum", "own_mixer", "/elsewhere/own_mixer.py", "/elsewhere/own_mixer.py"),
        ("own.mixer:Sum", "own.mixer", file, "own.mixer"),
        ("own_mixer:Sum", "other", file, "own_mixer"),
        ("in_memory:Sum", "in_memory", None, "in_memory"),
        ("sum", "own_mixer", file, ""),
    ):
        assert module_to_allow(MixerSource(layer, module, path, None)) == flag


def test_a_file_that_cannot_be_allowed_is_one_line(own: Path) -> None:
    Path("fails.py").write_text("raise ValueError('two\\nlines')\n")
    for module, says in {
        "fails.py": "--allow_module=fails.py failed: ValueError: two",
        "nowhere.py": "--allow_module=nowhere.py: there is no such file",
        "a:b": "'a:b' is not a module",
        "''": "argument --allow_module: the path is empty",
    }.items():
        answer = ask(f"train --config=tiny.py --workdir=new --allow_module={module}")
        assert not answer.faults(says), answer


def test_a_changed_module_is_a_line_on_standard_error(own: Path) -> None:
    allow = "--allow_module=own_mixer.py"
    say(f"train --config=tiny.py --workdir=run {SHORT} {OWN} {allow}")
    write_mixer(own / "own_mixer.py", "# changed\n")
    for command in ("sample --prompt=a --chars=5", "verify", "evaluate --split=valid"):
        with warnings.catch_warnings():
            warnings.simplefilter("default")  # a warning of this package is an error in tests
            answer = ask(f"{command} --workdir=run {allow}")
        (line,) = [line for line in answer.err.splitlines() if "has changed" in line]
        assert line.startswith(f"charlm {command.split()[0]}: run: module own_mixer of layer ")
        assert answer.status == 0


@pytest.mark.usefixtures("child_environment")
def test_a_sweep_passes_the_flag_to_its_points(own: Path) -> None:
    Path("seeds.py").write_text(TINY_FILE + SEEDS)
    allow = "--allow_module=own_mixer.py"
    command = f"sweep --config=seeds.py --workdir=all {SHORT} {OWN} {allow}"
    printed = say(f"{command} --dry_run").splitlines()
    assert [line.endswith(f" {OWN} {allow}") for line in printed] == [True, True]
    del sys.modules["own_mixer"]
    assert "2 of 2 points are done" in say(command)
    points = json.loads(Path("all/manifest.json").read_text())["points"]
    assert [point["command"] for point in points] == printed
    assert "is done" in say(shlex.join(shlex.split(printed[0])[1:]))
