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
        "from charlm_jax.storage.run_index import list_runs; list_runs('.')",
        "from charlm_jax.cli import main; main(['--help'])",
    ],
    ids=["package", "packages", "baselines", "corpora", "runs", "help"],
)
def test_nothing_slow_is_imported(statement: str) -> None:
    script = (
        f"import contextlib, sys\n"
        f"with contextlib.suppress(SystemExit):\n    {statement}\n"
        f"print(sorted({SLOW} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.stdout.splitlines()[-1] == "[]", result.stderr


# Functions that compute with JAX for a user or another program.
ENTRY_POINTS = {
    "analysis.activations.capture_activations",
    "analysis.effective_context.losses_by_context",
    "analysis.unit_ranking.rank_units",
    "inference.run.load_run",
    "models.flops.forward_flops",
    "models.summary.summarize",
    "training.loop.train_and_evaluate",
    "training.nan_replay.replay_fault",
    "training.reproduce.verify_run",
    "training.throughput.speeds_by_round",
    "training.trainer.build_trainer",
}

# Public methods of a run that compute nothing, or by another of its methods.
WITHOUT_NUMERICS = {"dataset", "generate", "save_evaluation"}


def _decorators(function: ast.FunctionDef) -> list[str]:
    return [ast.unparse(decorator) for decorator in function.decorator_list]


def _functions(module: str) -> dict[str, ast.FunctionDef]:
    """The functions of a module, also those inside functions and classes, by name."""
    tree = ast.parse((PACKAGE / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8"))
    return {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("entry", sorted(ENTRY_POINTS))
def test_entry_points_compute_under_fixed_numerics(entry: str) -> None:
    module, _, name = entry.rpartition(".")
    assert "fixed_numerics()" in _decorators(_functions(module)[name])


@pytest.mark.parametrize("module", ["inference.trained_model", "inference.run"])
def test_methods_of_a_run_compute_under_fixed_numerics(module: str) -> None:
    for name, function in _functions(module).items():
        decorators = _decorators(function)
        is_method = [argument.arg for argument in function.args.args][:1] == ["self"]
        is_public = is_method and not name.startswith("_") and "property" not in decorators
        if is_public and name not in WITHOUT_NUMERICS:
            assert "fixed_numerics()" in decorators, f"{module}: {name}"


@pytest.mark.parametrize(
    ("module", "name", "decorator"),
    [
        ("evaluation.scoring", "score", "fixed_numerics()"),
        ("analysis.sample_surprisal", "score", "fixed_numerics()"),
        ("sampling.decoding", "decode", "fixed_numerics_per_item"),
    ],
)
def test_returned_functions_compute_under_fixed_numerics(
    module: str, name: str, decorator: str
) -> None:
    tree = ast.parse((PACKAGE / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8"))
    found = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name == name]
    assert found and all(decorator in _decorators(function) for function in found)
