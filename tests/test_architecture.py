"""Packages import downwards only, and every dependency has one owner."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

PACKAGE = ROOT / "charlm_jax"

# From the bottom up: a package may import only those before it.
ORDER = (
    "core",
    "config",
    "data",
    "models",
    "storage",
    "sampling",
    "evaluation",
    "analysis",
    "inference",
    "training",
    "comparison",
    "sweeps",
    "report",
    "cli",
)

# The only files at the package's root. `__init__` imports the public names lazily, and `__main__`
# the command line; neither is imported by a package.
ROOT_FILES = {"__init__.py", "__main__.py", "_version.py", "py.typed"}

# The packages that may import a dependency.
OWNERS = {
    "IPython": {"core"},
    "argparse": {"cli"},
    "flax": {"models"},
    "jinja2": {"report"},
    "markupsafe": {"report"},
    "matplotlib": {"report"},
    "ml_collections": {"config"},
    "pooch": {"data"},
    "requests": {"data"},
    "rich": {"training", "sweeps", "cli"},
    "safetensors": {"storage"},
    "scipy": {"evaluation", "analysis"},
    "submitit": {"sweeps"},
    "tensorboard": {"training"},
    "urllib3": {"data"},
}

# Dependencies that a command imports only where it needs them.
SLOW = {"IPython", "flax", "jax", "matplotlib", "pooch", "requests", "rich", "urllib3"}


def _imports(package: Path) -> Iterator[tuple[Path, str]]:
    """Yield every module of a package with each dotted name that it imports."""
    for path in sorted(package.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                yield from ((path, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path} has a relative import"
                yield from ((path, f"{node.module}.{alias.name}") for alias in node.names)


def _upward_imports(package: Path) -> list[str]:
    """Describe the imports of a package's modules that do not go down in `ORDER`."""
    wrong = []
    for path, name in _imports(package):
        importer = path.relative_to(package).parts[0]
        if importer not in ORDER or name.split(".")[0] != "charlm_jax":
            continue
        imported = name.split(".")[1]
        if imported == "_version":
            continue
        if imported not in ORDER or ORDER.index(imported) > ORDER.index(importer):
            wrong.append(f"{path.relative_to(package)} imports {name}")
    return wrong


def test_the_package_holds_fourteen_packages() -> None:
    names = {path.name for path in PACKAGE.iterdir() if path.name != "__pycache__"}
    assert names == ROOT_FILES | set(ORDER)


@pytest.mark.core
def test_imports_go_downwards() -> None:
    assert not _upward_imports(PACKAGE)


def test_an_upward_import_is_found(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    lines = "import os\nfrom charlm_jax.core.errors import CharlmError\n"
    (tmp_path / "data" / "splits.py").write_text(lines)
    assert not _upward_imports(tmp_path)
    for line in ("from charlm_jax.models import gru", "from charlm_jax import load_run"):
        (tmp_path / "data" / "splits.py").write_text(f"{lines}def f():\n    {line}\n")
        assert len(_upward_imports(tmp_path)) == 1


def test_every_dependency_has_one_owner() -> None:
    wrong = []
    for path, name in _imports(PACKAGE):
        importer = path.relative_to(PACKAGE).parts[0]
        dependency = name.split(".")[0]
        if dependency in OWNERS and importer not in OWNERS[dependency]:
            wrong.append(f"{path.relative_to(PACKAGE)} imports {dependency}")
    assert not wrong


def test_the_package_does_not_import_configs_or_experiments() -> None:
    others = ("configs", "experiments", "benchmarks", "tests")
    assert not [name for _, name in _imports(PACKAGE) if name.split(".")[0] in others]


@pytest.mark.parametrize(
    "statement",
    [
        "import charlm_jax",
        "import charlm_jax.config, charlm_jax.data, charlm_jax.evaluation, charlm_jax.analysis",
        "import charlm_jax.evaluation.baselines, charlm_jax.analysis.loss_breakdown",
        "import charlm_jax.data.corpora",
        "from charlm_jax.cli import main; main(['--help'])",
    ],
    ids=["package", "packages", "baselines", "corpora", "help"],
)
def test_nothing_slow_is_imported(statement: str) -> None:
    script = (
        f"import contextlib, sys\n"
        f"with contextlib.suppress(SystemExit):\n    {statement}\n"
        f"print(sorted({SLOW} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.stdout.splitlines()[-1] == "[]", result.stderr
