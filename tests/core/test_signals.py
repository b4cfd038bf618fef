"""A signal ends the program with one line and its status, whatever the program is doing."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from charlm_jax.core import signals
from tests.conftest import ROOT

SECONDS = 60  # in which each process must end, even on a busy machine
SAYS = {
    signal.SIGINT: "charlm: interrupted\n",
    signal.SIGTERM: "charlm: stopped by SIGTERM\n",
    signal.SIGHUP: "charlm: stopped by SIGHUP\n",
}

each_signal = pytest.mark.parametrize("number", SAYS)


def _start(*arguments: str, folder: Path = ROOT) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(folder), str(ROOT)])
    return subprocess.Popen(
        [sys.executable, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )


def _script(body: str, before: str = "") -> subprocess.Popen[str]:
    """Start a script that handles signals as the program does."""
    lines = [
        "import os, signal, sys",
        before,
        "from charlm_jax.core import signals",
        "signals.leave_at_signals('charlm')",
        body,
    ]
    return _start("-c", "\n".join(lines))


def _end(process: subprocess.Popen[str], typed: str = "") -> tuple[int, str, str]:
    """Return status, output and errors of a process that is given a text to read."""
    try:
        out, err = process.communicate(typed, timeout=SECONDS)
    finally:
        process.kill()
    return process.returncode, out, err


@pytest.mark.core
@each_signal
def test_a_signal_while_modules_load(number: signal.Signals, tmp_path: Path) -> None:
    """The program imports a module that sends the signal."""
    (tmp_path / "argparse.py").write_text(
        f"import os\nos.kill(os.getpid(), {number.value})\nwhile True: pass\n"
    )
    process = _start("-m", "charlm_jax", "runs", folder=tmp_path)
    assert _end(process) == (128 + number, "", SAYS[number])


@each_signal
def test_a_signal_in_a_callback_that_drops_exceptions(number: signal.Signals) -> None:
    body = (
        "class Object:\n"
        f"    def __del__(self): os.kill(os.getpid(), {number.value}); [*map(str, range(9999))]\n"
        "Object()\n"
        "while True: pass"
    )
    assert _end(_script(body)) == (128 + number, "", SAYS[number])


@pytest.mark.skipif(sys.platform != "linux", reason="the size of a mutex")
@each_signal
def test_a_signal_while_the_main_thread_runs_no_python(number: signal.Signals) -> None:
    """It waits for a mutex that it holds: a call into C that no signal ends."""
    body = (
        "import ctypes\n"
        "lock = ctypes.CDLL(None).pthread_mutex_lock\n"
        "mutex = ctypes.create_string_buffer(256)\n"
        "lock(mutex)\n"
        "print('waiting', flush=True)\n"
        "lock(mutex)"
    )
    process = _script(body)
    assert process.stdout is not None and process.stdout.readline() == "waiting\n"
    process.send_signal(number)
    assert _end(process) == (128 + number, "", SAYS[number])


def test_a_deferred_stop_is_waited_for_with_a_word_and_a_second_ctrl_c_is_not() -> None:
    body = (
        "signals._WAITS_SECONDS = 0\n"
        "with signals.deferred_signals() as received:\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    while not received(): pass\n"
        "    sys.stdin.readline()\n"
        "    print('saved', flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    while True: pass"
    )
    process = _script(body)
    assert process.stderr is not None
    word = "charlm: SIGINT: saving before it stops\n"
    assert process.stderr.readline() == word
    status, out, err = _end(process, "\n")
    # Without a wait, the watching thread may see the second Ctrl-C before the main one acts.
    assert (status, out, err.removeprefix(word)) == (130, "saved\n", SAYS[signal.SIGINT])


@pytest.mark.parametrize("saves", [True, False])
def test_whether_a_program_saves_is_known_of_its_handler(saves: bool) -> None:
    """The word about saving depends on it."""
    with signals.deferred_signals([signal.SIGINT], saves=saves):
        assert getattr(signal.getsignal(signal.SIGINT), "saves", None) is saves


def test_what_is_ignored_stays_ignored() -> None:
    names = ("SIGINT", "SIGTERM", "SIGHUP")
    before = "\n".join(f"signal.signal(signal.{name}, signal.SIG_IGN)" for name in names)
    body = "\n".join(f"os.kill(os.getpid(), signal.{name})" for name in names) + "\nprint('end')"
    assert _end(_script(body, before)) == (0, "end\n", "")


def test_what_is_ignored_is_not_deferred() -> None:
    """As Ctrl-C at the terminal of a job that a script started in the background."""
    names = ("SIGINT", "SIGTERM", "SIGHUP")
    before = "\n".join(f"signal.signal(signal.{name}, signal.SIG_IGN)" for name in names)
    kills = "; ".join(f"os.kill(os.getpid(), signal.{name})" for name in names)
    body = f"with signals.deferred_signals() as received: {kills}; print(received())"
    assert _end(_script(body, before)) == (0, "0\n", "")


def test_ctrl_c_raises_where_it_ends_a_line_of_input() -> None:
    body = (
        "with signals.interruptible():\n"
        "    try:\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "        while True: pass\n"
        "    except KeyboardInterrupt: print('raised', flush=True)\n"
        "os.kill(os.getpid(), signal.SIGINT)\n"
        "while True: pass"
    )
    assert _end(_script(body)) == (130, "raised\n", SAYS[signal.SIGINT])
