"""Published tables of studies: they follow from the records beside them."""

import importlib
import json
import shlex
from pathlib import Path

import pytest

from experiments.sequence_length.arms import PRESETS
from tests.conftest import ROOT

FOLDERS = (folder.parent for folder in sorted(ROOT.glob("docs/studies/**/records")))
PUBLISHED = [folder / "tables.md" for folder in FOLDERS if (folder / "tables.md").exists()]


def test_there_is_a_study_to_check() -> None:
    assert PUBLISHED


def test_a_second_text_is_read_with_the_learning_rates_of_the_first() -> None:
    preset, folder = PRESETS["second_text"], ROOT / "docs/studies/sequence_length/trained"
    arms = json.loads((folder / "results.json").read_text(encoding="utf-8"))["arms"]
    assert preset.rates == {arm.name: arms[arm.name]["rate"] for arm in preset.arms()}


@pytest.mark.exhaustive
@pytest.mark.parametrize("tables", PUBLISHED, ids=lambda path: path.parent.name)
def test_published_results_follow_from_their_records(tables: Path, tmp_path: Path) -> None:
    lines = tables.read_text(encoding="utf-8").splitlines()
    command = next(line for line in lines if line.startswith("    python -m "))
    module, *flags = shlex.split(command)[2:]
    main = importlib.import_module(f"{module}.__main__").main
    records = f"--records={tables.parent / 'records'}"
    assert main([*flags, "--from_records", records, f"--workdir={tmp_path}"]) == 0
    for name in (tables.name, "results.json"):
        assert (tmp_path / name).read_bytes() == tables.with_name(name).read_bytes()
