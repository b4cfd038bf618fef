"""The notebooks run from top to bottom, and are committed as they ran.

`python -m tests.test_notebooks` runs them at their own settings, in a folder of its own, and saves
their outputs.
"""

import ast
import json
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MOST_BYTES = 2_000_000  # of all notebooks together

# A text with every character that the notebooks ask for.
LINES = (
    "The captain looked at the island, and the captain said nothing.",
    "Deep Learn the sea; the engineer had not been able to return.",
    "A boat, a river and a forest were all that the sailor had seen.",
)

TINY: Mapping[str, Mapping[str, Any]] = {
    "chapter16": {
        "BOOK_SETTINGS": False,
        "RUNS": "runs/chapter16",
        "EPOCHS": 3,
        "EMBEDDING": 4,
        "UNITS": 6,
        "LEARNING_RATE": 0.05,
        "ATTENTION_STEPS": 2,
        "ATTENTION_WIDTH": 12,
        "LENGTHS": (5, 10),
        "LENGTH_STEPS": 2,
        "LENGTH_UNITS": 8,
        "CHARACTERS": 20,
    },
    "compare_variants": {
        "RUNS": "runs/compare_variants",
        "VARIANTS": ("lstm", "hybrid"),
        "SEEDS": (1, 2),
        "STEPS": 2,
        "CHANGES": {"model.embedding_size": 12, "model.hidden_size": 12, "data.batch_size": 4},
    },
}

# Times, speeds and paths of the machine that ran them.
PRIVATE = re.compile(
    r"\b(seconds|minutes|UTC)\b|characters/s|chars/s|\b\d\d?:\d\d\b|<progress"
    r"|/(home|root|tmp|work|Users)/|site-packages"
)

by_name = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path: Path) -> dict[str, Any]:
    notebook: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return notebook


def code_cells(notebook: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def texts(output: Mapping[str, Any]) -> str:
    """All text of an output; pictures are left out."""
    found = [output.get("text", "")]
    found += [x for kind, x in output.get("data", {}).items() if not kind.startswith("image/")]
    return "\n".join("".join(text) for text in found)


def test_there_are_two_notebooks_of_bounded_size() -> None:
    assert [path.stem for path in NOTEBOOKS] == [*TINY]
    assert sum(path.stat().st_size for path in NOTEBOOKS) < MOST_BYTES


@by_name
def test_every_cell_ran_once_in_order_without_an_error(path: Path) -> None:
    cells = code_cells(read(path))
    assert [cell["execution_count"] for cell in cells] == [*range(1, len(cells) + 1)]
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert not [output for output in outputs if output.get("name") == "stderr"]
    assert len(outputs) > len(cells) // 2
    assert not [cell for cell in cells if "execution" in cell["metadata"]]  # times of cells


@by_name
def test_no_output_has_a_time_or_a_path_of_a_machine(path: Path) -> None:
    for cell in code_cells(read(path)):
        for output in cell["outputs"]:
            assert not (found := PRIVATE.search(texts(output))), found


@by_name
def test_words_come_first_and_links_lead_somewhere(path: Path) -> None:
    notebook = read(path)
    assert notebook["cells"][0]["cell_type"] == "markdown"
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            for target in re.findall(r"\]\(([^)#]+)", "".join(cell["source"])):
                assert (path.parent / target).is_file(), target


def with_parameters(notebook: dict[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The notebook with a cell of other values in place of the one tagged `parameters`."""
    (cell,) = (x for x in notebook["cells"] if "parameters" in x["metadata"].get("tags", ()))
    names = {
        node.id
        for node in ast.walk(ast.parse("".join(cell["source"])))
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }
    assert names == values.keys()
    cell["source"] = "\n".join(f"{name} = {value!r}" for name, value in values.items())
    return notebook


def execute(notebook: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Run a notebook in a folder, and return it with its outputs."""
    import nbformat
    from nbclient import NotebookClient

    node = nbformat.reads(json.dumps(notebook), as_version=4)
    resources = {"metadata": {"path": str(folder)}}
    client = NotebookClient(
        node, timeout=None, kernel_name="python3", resources=resources, record_timing=False
    )
    executed: dict[str, Any] = client.execute()
    return executed


@pytest.mark.exhaustive
@pytest.mark.usefixtures("child_environment")
@by_name
def test_a_notebook_runs_at_tiny_settings(path: Path, tmp_path: Path) -> None:
    pytest.importorskip("nbclient", reason="the group `notebooks` is not installed")
    text = tmp_path / "text.txt"
    text.write_text("".join(f"{LINES[i * i % 7 % 3]} {i}\n" for i in range(400)), encoding="utf-8")
    values = {"CORPUS": str(text), **TINY[path.stem]}
    executed = execute(with_parameters(read(path), values), tmp_path)
    shown = [
        kind for cell in code_cells(executed) for x in cell["outputs"] for kind in x.get("data", ())
    ]
    assert {"text/html", "image/png"} <= set(shown)


def main() -> None:
    """Run the notebooks at their own settings, and save their outputs."""
    import nbformat

    for path in NOTEBOOKS:
        with tempfile.TemporaryDirectory() as folder:
            executed = execute(read(path), Path(folder))
        nbformat.write(executed, path)


if __name__ == "__main__":
    main()
