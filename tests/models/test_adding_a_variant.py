"""docs/adding_a_variant.md, done as it says, in a copy of the repository."""

import dataclasses
import os
import re
import shlex
import shutil
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest

from charlm_jax.config.loading import load_config
from charlm_jax.models import build_model, mixers
from charlm_jax.models.testing import (
    BARE,
    FEW,
    Subject,
    check_causality,
    check_compilation,
    check_drawing,
    check_form,
    check_gradients,
    check_inspection,
    check_mixer,
    check_pieces,
    check_reading_on,
    check_rows,
)
from tests.conftest import ROOT, make_model_config
from tests.models.contract import make_subject

GUIDE = (ROOT / "docs" / "adding_a_variant.md").read_text(encoding="utf-8")


def _blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", GUIDE, flags=re.DOTALL)


def _best_in_guide(run: str) -> object:
    """The loss that the guide's table has for a run; another machine may round otherwise."""
    row = re.search(rf"^{run} .* (\d\.\d{{4}}) ", GUIDE, flags=re.MULTILINE)
    assert row is not None
    return pytest.approx(float(row[1]), abs=0.02)


def _with_the_cheat(module: str) -> str:
    """The class with the cheat that the guide names."""
    cheat = re.search(
        r"`(jnp\.roll\(.*?\))` in place of `(\w+)` in the scan", " ".join(GUIDE.split())
    )
    assert cheat is not None
    call = f"scan_time(step, state.hidden_BH, {cheat[2]})"
    assert call in module
    return module.replace(call, call.replace(cheat[2], cheat[1]))


def _follow(folder: Path) -> None:
    """Write the class, and put the import and the line where the guide says they belong."""
    module, import_line, entry = _blocks("python")[:3]
    (folder / "charlm_jax" / "models" / "leaky.py").write_text(module, encoding="utf-8")
    mixers = folder / "charlm_jax" / "models" / "mixers.py"
    text = mixers.read_text(encoding="utf-8")
    last = list(re.finditer(r"^from charlm_jax.*\n", text, flags=re.MULTILINE))[-1]
    text = text[: last.end()] + import_line + text[last.end() :]
    table = re.search(r"^MIXERS.*?^}", text, flags=re.MULTILINE | re.DOTALL)
    assert table is not None
    text = text[: table.end() - 1] + entry + text[table.end() - 1 :]
    mixers.write_text(text, encoding="utf-8")


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository in which the guide was followed."""
    folder = tmp_path_factory.mktemp("guide") / "charlm_jax"
    for name in ("charlm_jax", "configs", "tests"):
        ignored = shutil.ignore_patterns("__pycache__", ".jax_cache")
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", folder)
    _follow(folder)
    return folder


def _run(clone: Path, command: str, folder: Path | None = None) -> str:
    """One line of the guide, with this environment in place of the clone's own."""
    program, *arguments = shlex.split(command)
    module = [] if program.endswith("python") else ["-m", "charlm_jax"]
    result = subprocess.run(
        [sys.executable, *module, *arguments],
        cwd=folder or clone,
        env=os.environ | {"PYTHONPATH": str(clone)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, f"{command}\n{result.stdout[-3000:]}\n{result.stderr[-3000:]}"
    return result.stdout


def _subject(monkeypatch: pytest.MonkeyPatch, source: str) -> Subject:
    """The guide's mixer in a bare stack; its module and its line are in no file."""
    _, import_line, entry = _blocks("python")[:3]
    module = types.ModuleType("charlm_jax.models.leaky")
    exec(source, vars(module))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    names = dict(vars(mixers))
    exec(f"{import_line}\nENTRY = {{\n{entry}\n}}", names)
    monkeypatch.setitem(mixers.MIXERS, "leaky", names["ENTRY"]["leaky"])
    return make_subject(make_model_config("leaky", **BARE))


def test_the_new_mixer_keeps_the_contract(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = _subject(monkeypatch, _blocks("python")[0])
    for check in (check_form, check_causality, check_rows):
        check(subject, 0)
        check(subject, FEW)
    check_pieces(subject, FEW)
    for check in (
        check_reading_on,
        check_inspection,
        check_gradients,
        check_compilation,
        check_drawing,
    ):
        check(subject)


def test_a_cheat_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = _subject(monkeypatch, _with_the_cheat(_blocks("python")[0]))
    check_form(subject, 0)
    with pytest.raises(AssertionError):
        check_causality(subject, 0)


@pytest.mark.exhaustive
def test_the_new_mixer_keeps_the_contract_and_a_cheat_does_not(clone: Path) -> None:
    (command,) = _blocks("bash")[0].splitlines()
    passed = re.search(r"(\d+) passed", _run(clone, command))
    assert passed is not None and int(passed[1]) >= 10
    file = clone / "charlm_jax" / "models" / "leaky.py"
    sound = file.read_text(encoding="utf-8")
    file.write_text(_with_the_cheat(sound), encoding="utf-8")
    try:
        with pytest.raises(AssertionError, match="failed"):
            _run(clone, f"{command} -x")
    finally:
        file.write_text(sound, encoding="utf-8")


@pytest.mark.exhaustive
def test_the_new_mixer_is_trained_and_set_beside_an_lstm(clone: Path) -> None:
    *train, runs = _blocks("bash")[1].splitlines()
    for command in train:
        assert "best held-out loss" in _run(clone, command)
    table = _run(clone, runs)
    assert "runs/leaky " in table and "runs/leaky_lstm " in table
    for line in table.splitlines()[1:]:
        parameters, best = re.search(r"([\d,]{6,}) .* (\d\.\d{4}) ", line).groups()  # type: ignore
        assert parameters in GUIDE, "the guide states another number of parameters"
        assert float(best) == _best_in_guide(line.split()[0])


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, in which the guide was followed without a clone."""
    module, _, _, imports, method, config = _blocks("python")
    last = list(re.finditer(r"^from .*\n", module, flags=re.MULTILINE))[-1]
    text = module[: last.end()] + imports + module[last.end() :].rstrip() + "\n\n" + method
    (tmp_path / "leaky.py").write_text(text, encoding="utf-8")
    (tmp_path / "leaky_config.py").write_text(config, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("leaky", None)


def test_without_a_clone_the_config_gives_the_model_of_the_clone(
    outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_config("leaky_config.py").model
    assert model.layers == ("leaky:Leaky",) * 2
    _subject(monkeypatch, _blocks("python")[0])  # adds the line
    there = dataclasses.replace(model, layers=("leaky",) * 2)
    for key in (0, 1):
        here, as_there = (build_model(m, 5).init(jax.random.key(key)) for m in (model, there))
        jax.tree.map(np.testing.assert_array_equal, here, as_there)
    assert len(check_mixer("leaky:Leaky")) == 22


@pytest.mark.exhaustive
def test_without_a_clone_the_commands_do_what_the_guide_says(outside: Path) -> None:
    check, train, sample = _blocks("bash")[2].splitlines()
    properties = _run(ROOT, check, outside).splitlines()
    assert len(properties) == 22 and all(line.endswith(".") for line in properties)
    printed = _run(ROOT, train, outside)
    best = re.search(r"best held-out loss: (\S+) nats", printed)
    assert best is not None and float(best[1]) == _best_in_guide("runs/leaky")
    assert len(_run(ROOT, sample, outside)) > 500
    with pytest.raises(AssertionError, match="--allow_module=leaky"):
        _run(ROOT, sample.removesuffix(" --allow_module=leaky.py"), outside)
