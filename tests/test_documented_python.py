"""Python blocks of the docs name what exists, and run in order on tiny runs that they load."""

import importlib
import re
import shutil
from pathlib import Path

import pytest

from charlm_jax.sweeps.points import load_sweep
from charlm_jax.training.loop import train_and_evaluate
from tests.conftest import ROOT, make_tiny_config
from tests.test_documented_commands import BLOCK, PAGES

# Pages with blocks that need another place: a new module of the package, a config, and the README's
# example.
ELSEWHERE = {"adding_a_variant", "sweeps", "training", "README"}


def blocks(page: Path) -> list[str]:
    """The Python blocks of a page, in order."""
    found = BLOCK.findall(page.read_text(encoding="utf-8"))
    return [block for language, block in found if language == "python"]


WITH_BLOCKS = {page.stem: page for page in PAGES if blocks(page)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the runs and the picture that the docs name."""
    folder = tmp_path_factory.mktemp("docs")
    (folder / "docs").mkdir()
    shutil.copy(ROOT / "docs" / "attention_map.png", folder / "docs")
    lines = ("The captain looked at the island.", "To be, or not to be", "Emma, Olivia and Ava.")
    text = folder / "text.txt"
    text.write_text("\n".join(f"{lines[n * n % 7 % 3]} {n}" for n in range(900)), encoding="utf-8")
    for name in ("hybrid", "lstm", "gru", "tutorial_heldout"):
        layers = {"hybrid": ("lstm", "attention"), "gru": ("gru",)}.get(name, ("lstm",))
        fields = {"data.corpus": str(text), "model.layers": layers, "train.max_steps": 100}
        config = make_tiny_config(**fields, **{"optimizer.learning_rate": 0.03})
        train_and_evaluate(config, folder / "runs" / name)
    return folder


def resolve(name: str) -> object:
    """The module or attribute of a dotted name."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        module, _, attribute = name.rpartition(".")
        return getattr(resolve(module), attribute)


@pytest.mark.parametrize("name", WITH_BLOCKS)
def test_every_name_of_the_package_exists(name: str) -> None:
    """Also of a block that is no whole module, such as a method or an entry of a table."""
    for block in blocks(WITH_BLOCKS[name]):
        for module, names in re.findall(r"^from (charlm_jax\S*) import (.+)$", block, re.MULTILINE):
            if module == "charlm_jax.models.leaky":  # which the page adds
                continue
            for each in names.split(", "):
                resolve(f"{module}.{each}")
        for each in re.findall(r"\bcharlm_jax\.\w+(?=\()", block):
            resolve(each)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", sorted(WITH_BLOCKS.keys() - ELSEWHERE))
def test_the_blocks_of_a_page_run(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    names: dict = {}
    for block in blocks(WITH_BLOCKS[name]):
        capsys.readouterr()
        exec(compile(block, f"{name}.md", "exec"), names)
        assert ("print(" in block) == bool(capsys.readouterr().out)


def test_the_example_of_training_is_that_of_the_readme() -> None:
    assert blocks(WITH_BLOCKS["training"]) == blocks(WITH_BLOCKS["README"])


def test_the_sweep_of_its_page_is_one(tmp_path: Path) -> None:
    (block,) = blocks(WITH_BLOCKS["sweeps"])
    (tmp_path / "mine.py").write_text(block)
    assert len(load_sweep(str(tmp_path / "mine.py")).points) == 6
