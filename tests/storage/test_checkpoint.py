"""What is saved comes back exactly, and only where it fits and every byte of it is right."""

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from charlm_jax.core.errors import CharlmError
from charlm_jax.storage.checkpoint import Checkpoints, DamagedCheckpoint

pytestmark = pytest.mark.optimised

PARAMS = {
    "embedding": jnp.arange(6.0).reshape(2, 3),
    "output": {"bias": jnp.ones(3, jnp.bfloat16), "flags": jnp.array([True, False])},
}
TRAINING = (jnp.int32(7), {"mu": jnp.linspace(0, 1, 5)}, ())


def _save(checkpoints: Checkpoints, step: int, loss_nats: float | None = None) -> None:
    meta = {"tally": {"nats": 0.1 + 0.2}}
    arrays = {"params": PARAMS, "training": TRAINING}
    checkpoints.save(step, **arrays, meta=meta, loss_nats=loss_nats, rows=b'{"step": 1}\n')


@pytest.mark.core
def test_arrays_and_json_come_back_exactly(tmp_path: Path) -> None:
    _save(Checkpoints(tmp_path), 3)
    checkpoints = Checkpoints(tmp_path)
    opened = checkpoints.open(3)
    assert opened.step == 3 and opened.meta["tally"] == {"nats": 0.1 + 0.2}
    for found, tree in ((opened.params(PARAMS), PARAMS), (opened.training(TRAINING), TRAINING)):
        assert jax.tree.structure(found) == jax.tree.structure(tree)
        for array, expected in zip(jax.tree.leaves(found), jax.tree.leaves(tree), strict=True):
            assert array.dtype == expected.dtype
            np.testing.assert_array_equal(array, expected)


@pytest.mark.core
def test_the_two_latest_and_the_best_are_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    for step, loss in [(1, 3.0), (2, 1.0), (3, 2.0), (4, None), (5, 2.5), (10, 1.0)]:
        _save(checkpoints, step, loss)
    assert checkpoints.steps() == [2, 5, 10]
    assert checkpoints.choose("best") == 2  # the first of two that are equal
    assert checkpoints.choose("latest") == checkpoints.choose("10") == 10
    assert sorted(path.name for path in tmp_path.iterdir()) == ["10", "2", "5"]


def test_a_checkpoint_is_replaced_only_where_that_is_wanted(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    _save(checkpoints, 3)
    _save(checkpoints, 3, 1.5)
    assert checkpoints.open(3).meta["loss_nats"] is None
    trees = {"params": PARAMS, "training": TRAINING}
    checkpoints.save(3, **trees, meta={}, loss_nats=1.5, replace=True)
    assert checkpoints.open(3).meta["loss_nats"] == 1.5
    assert [path.name for path in tmp_path.iterdir()] == ["3"]


def test_without_losses_the_best_is_the_latest(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "new")
    with pytest.raises(CharlmError, match="no checkpoint yet"):
        checkpoints.choose("latest")
    for step in (1, 2, 3):
        _save(checkpoints, step)
    assert checkpoints.steps() == [2, 3] and checkpoints.choose("best") == 3
    for wrong in ("newest", "1", "-3", "²", "3.0", ""):
        with pytest.raises(CharlmError, match="best, latest or one of 2, 3"):
            checkpoints.choose(wrong)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"embedding": jnp.zeros((3, 3))}, r"float32 of shape \(2, 3\) there and .*\(3, 3\) here"),
        ({"embedding": jnp.zeros((2, 3), jnp.bfloat16)}, "bfloat16"),
        ({"query": jnp.zeros(1)}, "query is missing there"),
    ],
)
def test_other_arrays_are_refused(tmp_path: Path, change: dict, message: str) -> None:
    checkpoints = Checkpoints(tmp_path)
    _save(checkpoints, 3)
    with pytest.raises(CharlmError, match=message):
        checkpoints.open(3).params(PARAMS | change)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with checkpoints 1 and 2."""
    folder = tmp_path_factory.mktemp("checkpoints")
    for step in (1, 2):
        _save(Checkpoints(folder), step, loss_nats=1.0 / step)
    return folder


def _flip(file: Path, bit: int) -> None:
    data = bytearray(file.read_bytes())
    data[bit // 8] ^= 1 << (bit % 8)
    file.write_bytes(data)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "deleted": Path.unlink,
    "emptied": lambda file: os.truncate(file, 0),
    "cut in half": lambda file: os.truncate(file, file.stat().st_size // 2),
    "one byte short": lambda file: os.truncate(file, file.stat().st_size - 1),
    "one byte longer": lambda file: file.open("ab").write(b"\0"),
    "first bit flipped": lambda file: _flip(file, 0),
    "middle bit flipped": lambda file: _flip(file, 4 * file.stat().st_size),
    "last bit flipped": lambda file: _flip(file, 8 * file.stat().st_size - 1),
    "a folder": lambda file: (file.unlink(), file.mkdir()),
    "a link": lambda file: (file.rename(file.with_name("x")), file.symlink_to("x")),
}


@pytest.mark.core
@pytest.mark.parametrize("damage", DAMAGES)
def test_every_damage_of_every_file_is_noticed(written: Path, tmp_path: Path, damage: str) -> None:
    newest = written / "2"
    files = [path.relative_to(newest) for path in newest.rglob("*") if path.is_file()]
    assert len(files) == 5
    for file in files:
        folder = tmp_path / file.as_posix().replace("/", "-")
        shutil.copytree(written, folder)
        checkpoints = Checkpoints(folder)
        DAMAGES[damage](folder / "2" / file)
        with pytest.raises(DamagedCheckpoint, match="checkpoint 2 is damaged: "):
            checkpoints.open(2)
        latest, damages = checkpoints.latest_valid()
        assert latest is not None and latest.step == 1 and [error.step for error in damages] == [2]
        assert str(file) in str(damages[0]) or file.name == "contents.json" or damage == "a link"


def test_a_file_that_is_nobodys_does_no_harm(written: Path, tmp_path: Path) -> None:
    """A file manager leaves such things."""
    shutil.copytree(written, tmp_path / "a")
    (tmp_path / "a/2/.DS_Store").write_text("icons")
    Checkpoints(tmp_path / "a").open(2)


def test_a_damaged_note_does_not_cost_the_best_checkpoint(tmp_path: Path) -> None:
    """A flipped digit must not make another checkpoint look better than the best."""
    checkpoints = Checkpoints(tmp_path)
    for step, loss in [(1, 1.5), (2, 3.5), (3, 3.0)]:
        _save(checkpoints, step, loss)
    assert checkpoints.steps() == [1, 2, 3]
    meta = tmp_path / "3/meta.json"
    meta.write_text(json.dumps(json.loads(meta.read_text()) | {"loss_nats": 0.5}))
    _save(checkpoints, 4, 2.0)
    _save(checkpoints, 5, 2.0)
    assert checkpoints.steps() == [1, 3, 4, 5]
    with pytest.raises(DamagedCheckpoint, match=r"checkpoint 3 is damaged: meta.json has changed"):
        checkpoints.choose("best")


def test_a_damaged_checkpoint_is_moved_where_nothing_is_in_the_way(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "a")
    for expected in ("2-1", "2-2"):
        _save(checkpoints, 2)
        assert checkpoints.quarantine(2, tmp_path / "b").name == expected
    assert checkpoints.steps() == []


def test_what_is_half_written_or_half_removed_is_no_checkpoint(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    _save(checkpoints, 1)
    shutil.copytree(tmp_path / "1", tmp_path / "partial-2")
    (tmp_path / "partial-3").symlink_to(tmp_path)
    assert checkpoints.steps() == [1]
    checkpoints.prune()
    assert [path.name for path in tmp_path.iterdir()] == ["1"]


@pytest.mark.parametrize("successor", [False, True])
def test_a_checkpoint_that_was_being_replaced_is_not_lost(tmp_path: Path, successor: bool) -> None:
    """Its process was killed between two renames, or after them."""
    checkpoints = Checkpoints(tmp_path)
    _save(checkpoints, 30, 1.5)
    (tmp_path / "30").rename(tmp_path / "partial-030")
    shutil.copytree(tmp_path / "partial-030", tmp_path / ("30" if successor else "partial-30"))
    checkpoints.clear_partial()
    assert [path.name for path in tmp_path.iterdir()] == ["30"]
    assert checkpoints.open(30).meta["loss_nats"] == 1.5


def test_a_replacement_that_fails_leaves_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints, rename = Checkpoints(tmp_path), Path.rename
    _save(checkpoints, 3, 1.5)

    def fail_once(path: Path, target: Path) -> Path:
        if path.name == "partial-3":
            raise OSError(5, "Input/output error")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail_once)
    trees = {"params": PARAMS, "training": TRAINING}
    with pytest.raises(CharlmError, match="earlier checkpoints are unchanged"):
        checkpoints.save(3, **trees, meta={}, loss_nats=1.0, replace=True)
    assert checkpoints.open(3).meta["loss_nats"] == 1.5
    assert [path.name for path in tmp_path.iterdir()] == ["3"]


FULL = """
import resource, sys
from pathlib import Path
from tests.storage.test_checkpoint import Checkpoints, CharlmError, _save
checkpoints = Checkpoints(Path(sys.argv[1]))
_save(checkpoints, 1)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    _save(checkpoints, 2)
except CharlmError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
checkpoints.open(1)
print(checkpoints.steps(), sorted(path.name for path in Path(sys.argv[1]).iterdir()))
"""


@pytest.mark.parametrize(
    "limit", [100, *(pytest.param(limit, marks=pytest.mark.exhaustive) for limit in (0, 250))]
)
def test_no_room_leaves_the_last_checkpoint_and_nothing_half_done(
    tmp_path: Path, limit: int
) -> None:
    """No file may grow beyond the limit: the system refuses it as it does when a disk is full."""
    assert resource.RLIM_INFINITY == -1
    command = [sys.executable, "-c", FULL, str(tmp_path / "checkpoints"), str(limit)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ended.stdout.splitlines() == [
        "cannot save checkpoint 2: File too large; earlier checkpoints are unchanged: fix this to "
        "resume from the latest",
        "[1] ['1']",
    ], ended.stderr
    assert ended.stderr == ""
