"""Configs and files of pages in an installed wheel: an editable install finds the clone's."""

import hashlib
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from charlm_jax.report.playground.scripts import APP, ENGINE, join_scripts, read_file
from tests.conftest import ROOT

pytest.importorskip("hatchling")

MINE = """
from configs import base, helper

def get_config():
    config = base.get_config()
    config.data.sequence_length = helper.LENGTH
    return config
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python of an environment with the built wheel, and with the dependencies of this one."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "--target=wheel"]
    subprocess.run([*build, f"--directory={folder}"], cwd=ROOT, check=True, capture_output=True)
    environment = folder / "environment"
    venv.create(environment, with_pip=False)
    (packages,) = environment.glob("lib/python*/site-packages")
    (wheel,) = folder.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(packages)
    # A path in a .pth file brings no other .pth files with it, so no editable install either.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return environment / "bin" / "python"


def run(python: Path, folder: Path, *arguments: str) -> str:
    """Run Python in a folder; return what it printed."""
    result = subprocess.run(
        [python, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": ""},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_shipped_configs_are_inside_the_package(python: Path, tmp_path: Path) -> None:
    script = (
        "import charlm_jax, charlm_jax.config.loading as loading\n"
        "print(loading.shipped_configs())\n"
        "print(*charlm_jax.load_config('hybrid').model.layers)\n"
    )
    folder, layers = run(python, tmp_path, "-c", script).splitlines()
    assert Path(folder).is_relative_to(python.parent.parent)
    assert layers == "lstm attention"


def test_a_dry_run_of_a_shipped_sweep_is_quick(python: Path, tmp_path: Path) -> None:
    """Without JAX, whose import takes most of the time of a command."""
    script = (
        "import sys, charlm_jax.cli.entry_point as cli\n"
        "status = cli.main(['sweep', '--config=sweeps/variants', '--dry_run'])\n"
        "print(status, 'jax' in sys.modules)"
    )
    *commands, last = run(python, tmp_path, "-c", script).splitlines()
    assert last == "0 False"
    assert len(commands) == 18 and all(c.startswith("charlm train --config=") for c in commands)


def test_the_files_of_pages_are_inside_the_package(python: Path, tmp_path: Path) -> None:
    script = (
        "import hashlib\n"
        "from charlm_jax.report.html.rendering import render\n"
        "from charlm_jax.report.playground.scripts import APP, ENGINE, join_scripts, read_file\n"
        "render('page.css')\n"
        "code = join_scripts([*ENGINE, *APP]) + read_file('page.css') + read_file('page.html.j2')\n"
        "print(hashlib.sha256(code.encode()).hexdigest())\n"
    )
    code = join_scripts([*ENGINE, *APP]) + read_file("page.css") + read_file("page.html.j2")
    expected = hashlib.sha256(code.encode()).hexdigest()
    assert run(python, tmp_path, "-c", script) == f"{expected}\n"


@pytest.mark.parametrize("name", ["configs", "my experiments"])
def test_a_file_anywhere_imports_its_neighbours_and_the_shipped_configs(
    python: Path, tmp_path: Path, name: str
) -> None:
    """Also where the folder that Python runs in has a package `configs` of its own."""
    (tmp_path / "here" / "configs").mkdir(parents=True)
    (tmp_path / "here" / "configs" / "__init__.py").write_text("OWNER = 'somebody else'\n")
    mine = tmp_path / "there" / name
    mine.mkdir(parents=True)
    (mine / "helper.py").write_text("LENGTH = 17\n")
    (mine / "mine.py").write_text(MINE)
    script = (
        f"import charlm_jax\n"
        f"config = charlm_jax.load_config({str(mine / 'mine.py')!r})\n"
        f"import configs\n"
        f"print(config.data.sequence_length, configs.OWNER)"
    )
    assert run(python, tmp_path / "here", "-c", script) == "17 somebody else\n"
