"""docs/layers: a page for every layer, with the state and the config fields of the code."""

import dataclasses
import math
import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks.layers import CONFIGS
from charlm_jax.config.loading import load_config
from charlm_jax.config.schema import ModelConfig
from charlm_jax.models.mixers import MIXERS, build_mixer
from experiments.atlas.arms import PRESETS
from tests.conftest import ROOT

PAGES = ROOT / "docs" / "layers"
WIDTH, CONTEXT, ROWS = 512, 64, 3

ROW = re.compile(r"^\| \[`(\w+)`\]\((\w+\.md)\S*\) \| [^|]+ \| ([\d,]+) \|", flags=re.MULTILINE)
ARRAY = re.compile(r"^\| `(\w+)` \| \(([^)]+)\) \|", flags=re.MULTILINE)
FIELD = re.compile(r"^\| `(\w+)` \|", flags=re.MULTILINE)

# Fields that every layer reads, or that set the scale of an output matrix in a block.
COMMON = {"layers", "hidden_size", "init", "precision", "block", "zero_init"}


class Reader:
    """A model's config that remembers which fields are read."""

    def __init__(self, model: ModelConfig) -> None:
        self.model, self.read = model, set[str]()

    def __getattr__(self, name: str) -> Any:
        self.read.add(name)
        return getattr(self.model, name)


def _rows() -> dict[str, tuple[Path, int]]:
    """The page of every layer of the table, and the size of its state."""
    rows = ROW.findall((PAGES / "index.md").read_text(encoding="utf-8"))
    return {name: (PAGES / page, int(size.replace(",", ""))) for name, page, size in rows}


def _section(page: Path, title: str) -> str:
    text = page.read_text(encoding="utf-8")
    return text.split(f"\n## {title}\n")[1].split("\n## ")[0]


def _config(name: str) -> ModelConfig:
    fields = {"layers": (name,), "embedding_size": WIDTH, "hidden_size": WIDTH}
    return dataclasses.replace(load_config("tutorial").model, **fields)


def test_every_layer_has_a_row_and_every_page_a_layer() -> None:
    assert list(_rows()) == list(MIXERS)
    assert {page for page, _ in _rows().values()} | {PAGES / "index.md"} == {*PAGES.glob("*.md")}


@pytest.mark.parametrize("name", MIXERS)
def test_a_page_has_the_state_of_the_layer(name: str) -> None:
    page, size = _rows()[name]
    state = build_mixer(name, _config(name), WIDTH).initial_state(ROWS, CONTEXT)
    shapes = {field: x.shape for field, x in state._asdict().items()}
    written = {
        field: tuple(ROWS if number == "B" else int(number) for number in shape.split(", "))
        for field, shape in ARRAY.findall(_section(page, "State"))
    }
    assert written == shapes
    assert size * ROWS == sum(math.prod(shape) for shape in shapes.values())


@pytest.mark.parametrize("name", MIXERS)
def test_a_page_has_the_fields_that_the_layer_reads(name: str) -> None:
    reader = Reader(_config(name))
    MIXERS[name](reader, WIDTH)  # type: ignore[arg-type]
    lines = _section(_rows()[name][0], "Fields").splitlines()
    text = "\n".join(line for line in lines if f"not of `{name}`" not in line)
    assert set(FIELD.findall(text)) == reader.read - COMMON


def test_commands_name_models_of_the_studies() -> None:
    for page in PAGES.glob("*.md"):
        for line in page.read_text(encoding="utf-8").splitlines():
            known = PRESETS["small"].models if "experiments.atlas" in line else CONFIGS
            for quoted, bare in re.findall(r'--only=(?:"([^"]+)"|(\S+))', line):
                names = [quoted] if quoted else bare.split(",")
                assert set(names) <= {*known}, line
