"""The library speaks of arguments, the command line of flags."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import charlm_jax
from charlm_jax.cli import main
from charlm_jax.cli.output import _FLAGS, in_flags
from charlm_jax.comparison.compare import compare
from charlm_jax.core.errors import CharlmError
from tests.conftest import ROOT, SEEDED, make_tiny_config

# Files outside the command line that name flags: of commands that they print, of a SLURM sweep, of
# other programs, of a layer's module; and of texts, which are named by `config.data`.
WITH_FLAGS = {
    "comparison/run_facts.py",  # the command that trains a run
    "config/loading.py",
    "core/foreign_names.py",  # what other libraries call a flag
    "core/processes.py",  # flags of `charlm train`
    "data/corpora.py",
    "data/dataset.py",
    "data/decoding.py",
    "data/download.py",
    "data/part_files.py",
    "inference/run.py",  # --corpus, and its argument in Python beside it
    "inference/trained_model.py",  # of `charlm sample`, for names of other libraries
    "models/external.py",
    "storage/compatibility.py",  # fields of the config, and --init_from
    "storage/weights.py",  # the command `charlm replay`
    "sweeps/points.py",
    "sweeps/sbatch_options.py",
    "sweeps/slurm.py",
    "training/branch.py",  # --branch_from, which Python has as an argument of the same name
    "training/devices.py",  # a flag of XLA
    "training/loop.py",  # the command `charlm replay`
    "training/remarks.py",  # --init_from and --branch_from
    "training/restore.py",  # --init_from
    "training/start.py",  # flags of `charlm train`
    "training/tensorboard.py",
}
PACKAGE = ROOT / "charlm_jax"


def _texts(path: Path) -> Iterator[str]:
    """Yield the constant parts of the texts of a module, but for its docstrings."""
    nodes = [*ast.walk(ast.parse(path.read_text(encoding="utf-8")))]
    docstrings = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    for node in nodes:
        is_text = isinstance(node, ast.Constant) and isinstance(node.value, str)
        if is_text and id(node) not in docstrings:
            yield node.value


def test_texts_of_the_library_have_no_flags() -> None:
    with_flags = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if any(re.search(r"(?<!\w)--\w", text) for text in _texts(path))
    }
    assert {name for name in with_flags if not name.startswith("cli/")} == WITH_FLAGS


def test_every_flag_in_the_table_is_said_somewhere() -> None:
    sources = [path for path in PACKAGE.rglob("*.py") if path.name != "output.py"]
    text = " ".join(re.sub(r'"\s+f?"', "", path.read_text(encoding="utf-8")) for path in sources)
    assert [words for words in _FLAGS if words not in text] == []
    assert in_flags(" ".join(_FLAGS)) == " ".join(_FLAGS.values())


@pytest.mark.core
def test_python_and_the_command_line_name_their_own(
    seeded_runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = seeded_runs / "size_6_seed_1"
    config = make_tiny_config(**SEEDED, **{"model.hidden_size": 9})
    with pytest.raises(CharlmError, match=r"another workdir, or move .* aside with fresh=True"):
        charlm_jax.train(config, folder, quiet=True)
    run = charlm_jax.load_run(folder)
    with pytest.raises(CharlmError, match=r"\(unknown='drop' or unknown='replace'\)"):
        run.generate("@")
    with pytest.raises(CharlmError, match="evaluate split='valid'"):
        run.evaluate(split="test")
    for arguments, says in (
        (["sample", "--prompt=@"], "(--unknown=drop or --unknown=replace)"),
        (["sample", "--prompt=@", "--unknown=replace"], "name another --replacement"),
        (["evaluate", "--split=test"], "evaluate --split=valid"),
    ):
        assert main([*arguments, f"--workdir={folder}"]) == 2
        said = capsys.readouterr().err
        assert says in said and "='" not in said


def test_a_report_and_a_comparison_take_folders(seeded_runs: Path, tmp_path: Path) -> None:
    one = seeded_runs / "size_6_seed_1"
    loaded = [charlm_jax.load_run(path) for path in sorted(seeded_runs.iterdir())]
    for given, runs in ((str(one), loaded[2:3]), ([one], loaded[2:3]), (seeded_runs, loaded)):
        pages = [tmp_path / name for name in ("given.html", "loaded.html")]
        for page, several in zip(pages, (given, runs), strict=True):
            charlm_jax.write_report(several, page)
        assert pages[0].read_bytes() == pages[1].read_bytes()
    assert compare([one, loaded[0]]).table() == compare([loaded[2], loaded[0]]).table()
    assert compare(seeded_runs).table() == compare(loaded).table()
    with pytest.raises(CharlmError, match="no run in "):
        charlm_jax.write_report(tmp_path, tmp_path / "x.html")
    with pytest.raises(CharlmError, match="3 is not a run: give a Run or the path of a folder"):
        compare([3])  # type: ignore[list-item]
