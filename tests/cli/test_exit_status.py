"""Every experiment says what stopped it in one line, and with its exit status."""

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from charlm_jax.cli.exit_status import run_program
from charlm_jax.core.errors import CharlmError
from charlm_jax.core.signals import Interrupted
from experiments import study_command
from experiments.scale_factor import __main__ as scale_factor
from experiments.sequence_length import __main__ as sequence_length
from experiments.tutorial import __main__ as tutorial
from tests.conftest import ROOT


def _raising(error: BaseException) -> Callable[..., int]:
    def work(*_: object, **__: object) -> int:
        raise error

    return work


DISK = OSError(errno.ENOSPC, "No space left on device", "runs/a")
OUTCOMES = [
    (CharlmError("x=0\nis not allowed"), 2, r"x=0\nis not allowed"),
    (DISK, 2, "No space left on device: runs/a"),
    (OSError("odd"), 2, "odd"),
    (Interrupted("stopped and saved", signal.SIGTERM), 143, "stopped and saved"),
    (Interrupted("stopped and saved", signal.SIGINT), 130, "stopped and saved"),
    (KeyboardInterrupt(), 130, "interrupted"),
    (MemoryError(), 2, "out of memory: try a smaller model, batch or sequence length, or fewer"),
    (
        RuntimeError("Out of memory allocating 5000000000 bytes."),
        2,
        "out of memory (5.0 GB requested",
    ),
    (
        ValueError("RESOURCE_EXHAUSTED: Failed to allocate request for 7.00GiB"),
        2,
        "out of memory: try a smaller model",
    ),
]


@pytest.mark.parametrize(("error", "status", "says"), OUTCOMES, ids=lambda x: repr(x)[:40])
def test_what_stops_a_program_is_told_in_one_line(
    error: BaseException, status: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_program("prog", _raising(error)) == status
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(f"prog: {says}") and len(err.splitlines()) == 1


def test_a_status_is_handed_on_and_a_mistake_of_ours_is_not_hidden() -> None:
    assert run_program("prog", lambda: None) == 0
    assert run_program("prog", lambda: 1) == 1
    for error in (RuntimeError("ours"), TypeError("ours"), SystemExit(7)):
        with pytest.raises(type(error)):
            run_program("prog", _raising(error))


@pytest.mark.parametrize(
    ("then", "status", "says"),
    [("", 128 + signal.SIGPIPE, ""), ("raise CharlmError('no')", 2, "prog: no\n")],
    ids=["done", "mistake"],
)
def test_a_reader_that_goes_away_changes_nothing_else(then: str, status: int, says: str) -> None:
    script = f"""
import sys
from charlm_jax.cli.exit_status import run_program
from charlm_jax.core.errors import CharlmError
def work():
    print("x")
    {then}
sys.exit(run_program("prog", work))
"""
    read_end, write_end = os.pipe()
    os.close(read_end)
    result = subprocess.run(
        [sys.executable, "-c", script],
        stdin=subprocess.DEVNULL,
        stdout=write_end,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": ""},  # what is printed waits
    )
    os.close(write_end)
    assert (result.returncode, result.stderr) == (status, says)


# The experiments: what each begins with is put aside, and raises.
FIRST = {
    "tutorial": (tutorial, "read_book", [], ""),
    "scale_factor": (scale_factor, "_load", ["--workdir=a"], ""),
    "sequence_length": (sequence_length, "Study", [], "; run the same command again to resume"),
}


@pytest.mark.parametrize("name", FIRST)
@pytest.mark.parametrize(
    ("error", "status", "says"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (CharlmError("no"), 2, "no"),
        (DISK, 2, "No space left on device: runs/a"),
        (Interrupted("saved", signal.SIGHUP), 129, "saved"),
    ],
    ids=["ctrl-c", "mistake", "disk", "signal"],
)
def test_experiments_end_alike(
    name: str,
    error: BaseException,
    status: int,
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    module, first, typed, goes_on = FIRST[name]
    monkeypatch.setattr(module, first, _raising(error))
    monkeypatch.setattr(study_command, "keep_programs", lambda folder: None)
    monkeypatch.chdir(tmp_path)
    assert module.main(typed) == status
    expected = says + (goes_on if says == "interrupted" else "")
    assert capsys.readouterr().err == f"experiments.{name}: {expected}\n"
