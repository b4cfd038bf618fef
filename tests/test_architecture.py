"""The house keeps its order: imports go downwards, and every dependency has its owner."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

PACKAGE = ROOT / "charlm_jax"

# From the top down: a module may import only those that come after it.
# fmt: off
ORDER = [
    "__main__", "cli", "program", "flags", "commands", "session", "report", "studies", "api",
    "verify", "runner", "slurm", "sweeps", "shelf", "speed", "loop", "start", "fault", "comparison",
    "arms", "export", "run", "weights", "exported", "trainer", "environment", "event_files",
    "evaluation", "workdir", "checkpoint", "interrupts", "console", "layout", "tally", "dataset",
    "train_step", "trained_model", "limits", "text_score", "calibration", "drawn",
    "effective_context", "evaluate", "generate", "inside", "models", "optim", "losses", "policies",
    "sampling", "state_hash", "randomness", "stops", "breakdown", "text_judge", "text_metrics",
    "copying", "statistics", "baselines", "corpora", "download", "synthetic", "vocab", "batches",
    "splits", "logbook", "plain", "config_files", "config", "types",
]
# fmt: on
DEPTH = {name: depth for depth, name in enumerate(ORDER)}

OWNERS = {
    "flax": {"models"},
    "ml_collections": {"config_files"},
    "matplotlib": {"report"},
    "rich": {"console"},
    "safetensors": {"exported"},
    "argparse": {"cli", "commands", "flags"},
    "submitit": {"slurm"},
    "tensorboard": {"event_files"},
}


def _top(path: Path) -> str:
    part = path.relative_to(PACKAGE).parts[0]
    return part.removesuffix(".py")


def _imports() -> Iterator[tuple[Path, str]]:
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                yield from ((path, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                module = node.module or ""
                names = [f"{module}.{alias.name}" for alias in node.names]
                yield from ((path, name) for name in ([module, *names]))


def test_every_module_has_its_place() -> None:
    found = {_top(path) for path in PACKAGE.rglob("*.py")} - {"__init__"}
    assert found == set(DEPTH), "give a new module its place in ORDER"


@pytest.mark.core
def test_imports_go_downwards() -> None:
    wrong = []
    for path, name in _imports():
        parts = name.split(".")
        if parts[0] != "charlm_jax" or len(parts) < 2 or parts[1] not in DEPTH:
            continue
        here, there = _top(path), parts[1]
        if here not in DEPTH or here == there:
            continue
        if DEPTH[there] < DEPTH[here]:
            wrong.append(f"{here} imports {there}")
    assert not wrong


def test_every_dependency_has_one_owner() -> None:
    wrong = [
        f"{_top(path)} imports {name}"
        for path, name in _imports()
        if name.split(".")[0] in OWNERS and _top(path) not in OWNERS[name.split(".")[0]]
    ]
    assert not wrong


def test_the_package_does_not_import_configs_or_experiments() -> None:
    assert not [name for _, name in _imports() if name.split(".")[0] in ("configs", "experiments")]


def test_what_judges_losses_waits_for_no_jax() -> None:
    script = (
        "import sys, charlm_jax.breakdown, charlm_jax.baselines\n"
        "print(sorted({'jax', 'flax', 'matplotlib'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.stdout == "[]\n", result.stderr


def test_help_imports_neither_jax_nor_matplotlib() -> None:
    script = (
        "import sys, contextlib, charlm_jax.cli as cli\n"
        "with contextlib.suppress(SystemExit): cli.main(['--help'])\n"
        "print(sorted({'jax', 'flax', 'matplotlib', 'numpy'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.stdout.splitlines()[-1] == "[]", result.stderr
