"""A file is whole at every moment, whoever else writes it and whatever goes wrong."""

import os
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from charlm_jax.core import files
from charlm_jax.core.files import (
    atomic_write,
    check_writable,
    final_name,
    local_path,
    remove_temporary_files,
    stored_path,
)


@pytest.mark.core
def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    for data in (b"first", b"", b"x" * 100_000):
        atomic_write(file, data)
        assert file.read_bytes() == data
        assert [*tmp_path.iterdir()] == [file]
    (tmp_path / "plain").write_bytes(b"")
    assert stat.S_IMODE(file.stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


@pytest.mark.parametrize("step", ["write", "fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failure_leaves_the_older_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, error: BaseException
) -> None:
    file = tmp_path / "run.json"
    atomic_write(file, b"older")

    def fail(*_: object) -> None:
        raise error

    if step == "write":
        monkeypatch.setattr(files, "synced_file", fail)
    else:
        monkeypatch.setattr(os, step, fail)
    with pytest.raises(type(error)):
        atomic_write(file, b"newer")
    assert file.read_bytes() == b"older" and [*tmp_path.iterdir()] == [file]


def test_the_data_are_on_the_disk_before_they_get_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(
            os, name, lambda *args, name=name, real=real: (calls.append(name), real(*args))
        )
    atomic_write(tmp_path / "run.json", b"data")
    assert calls == ["fsync", "replace"]


def test_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    """Every reader sees the whole content of one of them."""
    file, contents = tmp_path / "figure.json", [bytes([65 + n]) * 50_000 for n in range(4)]
    atomic_write(file, contents[0])
    errors: list[BaseException] = []

    def write(data: bytes) -> None:
        try:
            for _ in range(25):
                atomic_write(file, data)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(data,)) for data in contents]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert file.read_bytes() in contents
    assert errors == [] and file.read_bytes() in contents and [*tmp_path.iterdir()] == [file]


@pytest.mark.parametrize("has_links", [True, False])
def test_a_file_that_may_not_be_replaced_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_links: bool
) -> None:
    def fail(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    if not has_links:
        monkeypatch.setattr(os, "link", fail)
    file, broken = tmp_path / "run.json", tmp_path / "broken.json"
    broken.symlink_to(tmp_path / "absent")
    atomic_write(file, b"first", replace=False)
    for taken in (file, broken):
        with pytest.raises(FileExistsError):
            atomic_write(taken, b"second", replace=False)
    assert file.read_bytes() == b"first" and broken.is_symlink()
    assert sorted(tmp_path.iterdir()) == [broken, file]


def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    outside, file = tmp_path / "outside", tmp_path / "run.json"
    outside.write_text("mine")
    file.symlink_to(outside)
    own = tmp_path / "run.json.partial"
    own.symlink_to(outside)
    os.utime(own, (0, 0), follow_symlinks=False)
    atomic_write(file, b"data")
    assert outside.read_text() == "mine" and not file.is_symlink()
    assert sorted(tmp_path.iterdir()) == [outside, file, own]  # no writer of today made the last
    remove_temporary_files(file)
    assert sorted(tmp_path.iterdir()) == [outside, file]


KILLED = """
import os, signal, sys
from pathlib import Path
from charlm_jax.core.files import atomic_write
os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
atomic_write(Path(sys.argv[1]), b"data")
"""


def test_what_a_killed_writer_left_is_removed_and_nothing_that_another_file_needs(
    tmp_path: Path,
) -> None:
    file = tmp_path / "run.json"
    ended = subprocess.run([sys.executable, "-c", KILLED, str(file)], timeout=60)
    assert ended.returncode == -9
    (left,) = tmp_path.iterdir()
    assert final_name(left.name) == "run.json" != left.name
    kept = ["a.run.json.01234567.partial", "run.json.0123456.partial", "run.json.bak", "x.partial"]
    for name in kept:
        (tmp_path / name).write_text("mine")
    before = time.time() - 3600
    for path in tmp_path.iterdir():
        if path != left:
            os.utime(path, (before, before))
    atomic_write(file, b"data")
    assert left.exists()  # another process may be about to rename it
    os.utime(left, (before, before))
    atomic_write(file, b"data")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*kept, "run.json"])
    left.write_text("younger")
    remove_temporary_files(file)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*kept, "run.json"])


def test_what_cannot_be_written_is_known_beforehand(tmp_path: Path) -> None:
    check_writable(tmp_path / "page.html")
    assert [*tmp_path.iterdir()] == []
    for path in (tmp_path / "nowhere" / "page.html", tmp_path / ("x" * 250)):
        for attempt in (check_writable, lambda path: atomic_write(path, b"")):
            with pytest.raises(OSError, match=r"No such file|too long"):
                attempt(path)


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
@pytest.mark.parametrize("name", [b"text.txt", "tëxt.txt".encode(), b"t\xebxt", b"\xc3\xff"])
def test_a_path_is_stored_alike_in_every_locale(
    encoding: str, name: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsencode", lambda path: path.encode(encoding, "surrogateescape"))
    monkeypatch.setattr(os, "fsdecode", lambda data: data.decode(encoding, "surrogateescape"))
    local = name.decode(encoding, "surrogateescape")
    stored = stored_path(local)
    assert stored == name.decode("utf-8", "surrogateescape")
    assert local_path(stored) == local
    assert stored_path(stored) == stored or encoding == "latin-1"
    assert stored_path("\ud800") == local_path("\ud800") == "\ud800"  # no name anywhere
