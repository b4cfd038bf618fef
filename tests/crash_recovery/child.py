"""A process that trains and, at a moment of its choice, kills itself without a word, or fails.

    python -m tests.crash_recovery.child --workdir=DIR --kill=57 --events=FILE --config=... ...

It calls the real command line, `charlm train --workdir=DIR ...`, with the arguments that it does
not know itself. On the way it counts moments, of two kinds:

- an event of the file system, just before it takes place: something in the workdir is opened for
  writing, renamed, removed, ... Python tells of these itself (`sys.addaudithook`), whoever causes
  them;
- a call of one of the functions that a run consists of, just before it begins.

A moment has a number, from 1, and a text such as `rename checkpoints/partial-4 -> checkpoints/4` or
`call dispatch 9`. Counting changes nothing that the package computes.
"""

import argparse
import errno
import fcntl
import functools
import importlib
import itertools
import os
import re
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# What the process says to the one that started it.
BEGAN, PAUSED = "began", "paused"

# That of `tests/conftest.py`, which would take its time to import pytest.
CACHE = str(Path(__file__).parent.parent / ".jax_cache")

# Where the paths are among an audit event's arguments, each with the descriptor of the folder that
# it is relative to, if it may have one.
_PATHS: Mapping[str, Sequence[tuple[int, int | None]]] = {
    "open": [(0, None)],
    "os.rename": [(0, 2), (1, 3)],
    "os.mkdir": [(0, 2)],
    "os.remove": [(0, 1)],
    "os.rmdir": [(0, 1)],
    "os.truncate": [(0, None)],
    "os.link": [(0, 2), (1, 3)],
    "os.symlink": [(1, 2)],
    "shutil.rmtree": [(0, 1)],
    "fcntl.flock": [(0, None)],
}

# What makes the name of a temporary file unique; a moment's text is the same in every process.
_TOKEN = re.compile(r"\.[0-9a-f]{8}\.partial")

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

# Module, attribute and name of the functions whose calls are moments.
_CALLS = [
    ("charlm_jax.storage.workdir", "Workdir.move_aside", "move_aside"),
    ("charlm_jax.storage.workdir", "Workdir.claim", "claim"),
    ("charlm_jax.storage.open_run", "OpenRun.write_facts", "write_facts"),
    ("charlm_jax.storage.checkpoint", "Checkpoints.open", "open_checkpoint"),
    ("charlm_jax.storage.checkpoint", "Checkpoints.save", "save"),
    ("charlm_jax.storage.checkpoint", "Checkpoints.prune", "prune"),
    ("charlm_jax.storage.metrics_log", "MetricsLog.truncate_after", "truncate_after"),
    ("charlm_jax.storage.metrics_log", "MetricsLog.append", "append"),
    ("charlm_jax.training.trainer", "Trainer.dispatch", "dispatch"),
    ("charlm_jax.training.loop", "mean_score", "mean_score"),
    ("os", "fsync", "fsync"),  # a file is written, and not yet closed
]


class Moments:
    """Counts what happens, and acts on the moment that was asked for."""

    def __init__(
        self, workdir: str, *, kill: str, pause: str, fail: str, events: str | None
    ) -> None:
        self._workdir = os.path.realpath(workdir)
        self._kill, self._pause, self._fail = kill, pause, fail
        # Opened before the hook is there, and written without Python's files: no event of ours.
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        self._events = None if events is None else os.open(events, flags)
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()  # libraries have threads

    def come(self, text: str) -> None:
        """Write the moment down; die, wait or fail if it is the one."""
        with self._lock:
            number = str(next(self._numbers))
            if self._events is not None:
                os.write(self._events, f"{text}\n".encode())
            if self._kill in (number, text):
                os.kill(os.getpid(), signal.SIGKILL)
            if self._pause in (number, text):
                print(PAUSED, flush=True)
                os.read(0, 1)
            if self._fail in (number, text):
                raise OSError(errno.ENOSPC, "No space left on device")

    def hook(self, event: str, arguments: Sequence[Any]) -> None:
        """For `sys.addaudithook`."""
        if event not in _PATHS or (event == "open" and not _opens_to_write(*arguments)):
            return
        paths = [
            _absolute(arguments[path], None if folder is None else arguments[folder])
            for path, folder in _PATHS[event]
        ]
        if any(f"{path}/".startswith(f"{self._workdir}/") for path in paths):
            names = " -> ".join(os.path.relpath(path, self._workdir) for path in paths)
            names = _TOKEN.sub(".partial", names)
            self.come(f"{event.rpartition('.')[2]} {names}")

    def tell_calls(self) -> None:
        """Wrap the functions of `_CALLS`."""
        for module, attribute, name in _CALLS:
            *owners, last = attribute.split(".")
            owner = functools.reduce(getattr, owners, importlib.import_module(module))
            setattr(owner, last, self._told(getattr(owner, last), name))

    def _told(self, function: Any, name: str) -> Any:
        numbers = itertools.count(1)

        @functools.wraps(function)
        def told(*arguments: Any, **options: Any) -> Any:
            self.come(f"call {name} {next(numbers)}")
            return function(*arguments, **options)

        return told


def _opens_to_write(path: Any, mode: str | None, flags: int) -> bool:
    del mode
    return not isinstance(path, int) and bool(flags & _WRITES)  # a number is open already


def _absolute(path: Any, folder: int | None) -> str:
    """The real path of an open file, or of a name in an open folder if there is one."""
    if isinstance(path, int):
        return _path_of(path)
    name = os.fsdecode(path)
    if folder is not None and folder >= 0:
        name = os.path.join(_path_of(folder), name)
    return os.path.join(os.path.realpath(os.path.dirname(name)), os.path.basename(name))


def _path_of(descriptor: int) -> str:
    if sys.platform == "darwin":
        path = fcntl.fcntl(descriptor, fcntl.F_GETPATH, bytes(1024))
        return os.fsdecode(path.rstrip(b"\0"))
    return os.readlink(f"/proc/self/fd/{descriptor}")


def run(arguments: Sequence[str] | None = None) -> int:
    """Train; returns the exit status, if it gets that far."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--kill", default="none", help="a moment's number or text, or none")
    parser.add_argument("--pause", default="none", help="where to wait for a byte from outside")
    parser.add_argument("--fail", default="none", help="where the disk is full, or none")
    parser.add_argument("--events", help="a file that every moment is written to, one a line")
    parser.add_argument("--cache", default=CACHE, help="of compiled programs")
    known, rest = parser.parse_known_args(arguments)

    import jax

    from charlm_jax.cli import main

    jax.config.update("jax_compilation_cache_dir", known.cache)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    moments = Moments(
        known.workdir, kill=known.kill, pause=known.pause, fail=known.fail, events=known.events
    )
    moments.tell_calls()
    sys.addaudithook(moments.hook)
    print(BEGAN, flush=True)
    return main(["train", f"--workdir={known.workdir}", *rest])


if __name__ == "__main__":
    raise SystemExit(run())
