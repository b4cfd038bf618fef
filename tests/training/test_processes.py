"""Several processes train one run, and end together."""

import contextlib
import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
import pytest

from charlm_jax.cli import main
from charlm_jax.core import processes
from charlm_jax.core.errors import CharlmError
from charlm_jax.core.processes import ALONE, LOST, Address, Processes, find_address, joined
from charlm_jax.storage.checkpoint import Checkpoints
from charlm_jax.training.loop import train_and_evaluate
from tests.conftest import ROOT, TINY, UNOPTIMISED, Notes, make_tiny_config
from tests.crash_recovery.child import PAUSED
from tests.crash_recovery.runs import start, wait_for_line

SECONDS = 300  # for a process to end

FIELDS: Mapping[str, object] = {
    "data.loader": "streams",
    "data.reset_probability": 0.1,
    "model.layers": ("rnn",),
    "train.evaluate_every_steps": 8,
    "train.max_steps": 16,
}


def free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("localhost", 0))
        port: int = opened.getsockname()[1]
        return port


@dataclasses.dataclass
class Pair:
    """Two processes of a run, and what they wrote when they have ended."""

    processes: Sequence[subprocess.Popen[str]]
    said: list[str] = dataclasses.field(default_factory=list)

    def wait(self) -> list[int]:
        """Wait for both; return their statuses, negative if a signal ended them."""
        self.said = [process.communicate(timeout=SECONDS)[0] for process in self.processes]
        return [process.returncode for process in self.processes]

    def lines(self, index: int) -> list[str]:
        """The lines of a process, without gloo's own."""
        return [x for x in self.said[index].splitlines() if not x.startswith("[Gloo]")]


def flags(fields: Mapping[str, object]) -> list[str]:
    def text(value: object) -> str:
        return ",".join(value) if isinstance(value, tuple) else str(value)

    values = {**TINY, **FIELDS, **fields}
    return [
        f"--config={ROOT / 'configs' / 'base.py'}",
        *(f"--config.{name}={text(value)}" for name, value in values.items()),
    ]


@contextlib.contextmanager
def pair(
    workdir: Path,
    fields: Mapping[str, object] = {},
    *,
    others: Mapping[str, object] = {},
    pause: Sequence[str] = ("none", "none"),
    options: Sequence[Mapping[str, object]] = ({}, {}),
) -> Iterator[Pair]:
    """Train with two processes, each with one device.

    Args:
      workdir: folder of the run.
      fields: changes of the config.
      others: changes of process 1 alone.
      pause: moment at which each waits for a byte.
      options: other options of `tests.crash_recovery.child` for each.
    """
    port, running = free_port(), []
    try:
        for index, changes in enumerate([fields, {**fields, **others}]):
            place = [f"--coordinator=localhost:{port}", "--num_processes=2"]
            arguments = [*flags({"train.devices": 0, **changes}), *place, f"--process_id={index}"]
            running.append(start(workdir, arguments, pause=pause[index], **options[index]))
        yield Pair(running)
    finally:
        for process in running:
            process.kill()
            process.communicate()


def let_go(process: subprocess.Popen[str]) -> None:
    """Make a paused process go on."""
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def losses(workdir: Path) -> list[float]:
    return [loss for _, _, loss, _ in facts(workdir)]


def facts(workdir: Path) -> list[tuple[int, str, float, str]]:
    """Step, split, loss and state hash of each row."""
    rows = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [(row["step"], row["split"], row["loss_nats"], row["state_hash"]) for row in rows]


@pytest.fixture
def one_device_each(
    child_environment: None, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    del child_environment
    is_exhaustive = request.config.getoption("exhaustive")
    monkeypatch.setenv("XLA_FLAGS", "" if is_exhaustive else " ".join(UNOPTIMISED))


@pytest.mark.usefixtures("one_device_each")
def test_a_signal_to_any_process_saves_once_and_the_run_resumes_alone(tmp_path: Path) -> None:
    with pair(tmp_path / "run", pause=("none", "call dispatch 4")) as two:
        wait_for_line(two.processes[1], PAUSED)
        two.processes[1].send_signal(signal.SIGTERM)
        let_go(two.processes[1])
        status = 128 + signal.SIGTERM
        assert two.wait() == [status, status], two.said
    stopped = "charlm train: stopped at step 10 of 16 and saved; run the same command again to"
    assert [line.startswith(stopped) for line in two.lines(0)].count(True) == 1, two.said
    assert two.lines(1) == []
    assert Checkpoints(tmp_path / "run" / "checkpoints").steps() == [8, 10]

    view = Notes()
    config = make_tiny_config(**FIELDS)
    train_and_evaluate(config, tmp_path / "run", view=view)
    train_and_evaluate(config, tmp_path / "whole")
    assert "resuming from step 10 of 16" in view.lines
    changes = [x.partition("uninterrupted run: ")[2] for x in view.lines]
    assert "config.train.devices was 0 and is 1" in changes
    assert any(x.startswith("device was '2 x cpu in 2 processes'") for x in changes)
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(tmp_path / "whole"), rtol=1e-6)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("node1", 2, 0), "--coordinator=node1 is not an address: write HOST:PORT"),
        (("node1:0", 2, 0), "--coordinator=node1:0 is not an address"),
        (("node1:99999", 2, 0), "--coordinator=node1:99999 is not an address"),
        (("node1:1234", 2, None), "--coordinator=node1:1234 needs --num_processes and"),
        (("node1:1234", 2, 2), "--process_id=2 is not allowed with --num_processes=2"),
        (("node1:1234", 0, 0), "--process_id=0 is not allowed with --num_processes=0"),
        ((None, 2, None), "--num_processes and --process_id need --coordinator=HOST:PORT"),
    ],
)
def test_addresses_that_are_refused(
    given: tuple[str | None, int | None, int | None], words: str
) -> None:
    with pytest.raises(CharlmError) as caught:
        find_address(*given)
    assert str(caught.value).startswith(words)


def test_the_address_of_a_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "OMPI_COMM_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert find_address(None, None, None) is None
    assert find_address("node1:1234", 4, 3) == Address("node1:1234", 4, 3)
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "1")
    assert find_address(None, None, None) == Address("", 2, 1)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "8")
    monkeypatch.setenv("SLURM_PROCID", "5")
    assert find_address(None, None, None) == Address("", 8, 5)
    assert find_address("none", None, None) is None
    assert find_address("node1:1234", 4, 3) == Address("node1:1234", 4, 3)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "1")
    assert find_address(None, None, None) is None


def test_a_variable_that_is_no_number_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "two")
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "0")
    with pytest.raises(CharlmError, match="variable OMPI_COMM_WORLD_SIZE='two' is not a whole"):
        find_address(None, None, None)
    assert find_address("none", None, None) is None
    with pytest.raises(CharlmError, match="none trains alone: leave out"):
        find_address("none", None, 3)


def test_a_port_that_is_in_use_is_refused() -> None:
    with socket.socket() as opened:
        opened.bind(("", 0))
        opened.listen()
        port = opened.getsockname()[1]
        with pytest.raises(CharlmError) as caught, joined(Address(f"host:{port}", 2, 0), "charlm"):
            pass
    assert str(caught.value) == (
        f"--coordinator=host:{port}: process 0 cannot listen at port {port} (Address already in "
        f"use): choose another"
    )


JOINS = """
import os, signal, sys, threading
from charlm_jax.core.processes import Address, joined
from charlm_jax.core.signals import leave_at_signals

leave_at_signals("charlm")
with joined(Address(sys.argv[1], 1, 0), "charlm train"):
    os.kill(os.getpid(), signal.SIGTERM)
    threading.Event().wait()
"""


def test_a_signal_before_the_training_ends_a_process_that_has_joined(
    child_environment: None,
) -> None:
    command = [sys.executable, "-c", JOINS, f"localhost:{free_port()}"]
    ended = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=SECONDS)
    assert ended.returncode == 128 + signal.SIGTERM
    assert ended.stderr.splitlines()[-1] == "charlm: stopped by SIGTERM"


REFUSED = """
import os
from charlm_jax.core.errors import CharlmError
from charlm_jax.core.processes import Address, joined

try:
    with joined(Address("", 2, 0), "charlm train"):
        pass
except CharlmError as error:
    print(error, flush=True)
    os.abort()
"""


def test_a_process_that_is_refused_aborts_as_before(child_environment: None) -> None:
    ended = subprocess.run([sys.executable, "-c", REFUSED], capture_output=True, text=True)
    assert ended.returncode == -signal.SIGABRT
    assert ended.stdout.startswith("JAX does not find the coordinator of this launcher (")
    assert "another one died" not in ended.stderr and "did not find" not in ended.stderr


class Ended(BaseException):
    """A process has ended, with a status."""


class Unanswered:
    """A client of the coordination service in a process whose others do not answer."""

    def __init__(self) -> None:
        self.told: dict[str, str] = {}
        self.asked: list[int] = []

    def key_value_set(self, key: str, text: str) -> None:
        self.told[key] = text

    def blocking_key_value_get(self, key: str, milliseconds: int) -> str:
        self.asked.append(milliseconds)
        time.sleep(milliseconds / 1_000)
        raise jax.errors.JaxRuntimeError(f"DEADLINE_EXCEEDED: {key}")


@dataclasses.dataclass
class Failing:
    """Process 1 of 4 in this process: its end, what it asks of the others, and its exit status."""

    ending: processes._Ending
    client: Unanswered
    status: list[int] = dataclasses.field(default_factory=list)


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Failing:
    found = Failing(processes._Ending(Processes(4, 1), "charlm train"), Unanswered())
    found.ending._lost = "another one died"

    def end(status: int) -> None:
        raise Ended(status)

    monkeypatch.setattr(os, "_exit", end)
    monkeypatch.setattr(processes, "_FAREWELL_SECONDS", 0.1)
    monkeypatch.setattr(processes, "_client", lambda: found.client)
    monkeypatch.setattr(processes.atexit, "register", lambda _, status: found.status.append(status))
    return found


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (CharlmError("the coordination of x is not known"), 2),
        (OSError("grpc.sock: unavailable"), 2),
        (MemoryError(), 2),
        (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory"), 2),
        (AttributeError("no attribute 'gloo'"), 1),
        (UnicodeDecodeError("rpc", b"", 0, 1, "unavailable"), 1),
        (RuntimeError("ours"), 1),
    ],
    ids=lambda x: type(x).__name__,
)
def test_an_error_of_its_own_is_told_to_the_others(
    failing: Failing, error: Exception, status: int, capfd: pytest.CaptureFixture[str]
) -> None:
    failing.ending.fail(error)
    told = str(error) if isinstance(error, CharlmError) else f"{type(error).__name__}: {error}"
    assert failing.client.told["charlm/failed"].strip() in (f"1 {told}", f"1 {told}no message")
    assert failing.status == [status]
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    "error",
    [
        jax.errors.JaxRuntimeError("UNAVAILABLE: Socket closed\nmore"),
        ValueError("INTERNAL: Gloo all-reduce failed"),
        RuntimeError("Unable to initialize backend: nccl"),
    ],
)
def test_a_loss_that_jax_finds_is_one_line_with_its_words(
    failing: Failing, error: Exception, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Ended) as caught:
        failing.ending.fail(error)
    assert caught.value.args == (LOST,) and failing.client.told == {}
    said = f"{type(error).__name__}: {str(error).splitlines()[0]}"
    assert capfd.readouterr().err == f"charlm train: another one died ({said})\n"


def test_a_process_that_fails_waits_for_all_others_at_once(failing: Failing) -> None:
    failing.ending.fail(OSError("disk"))
    assert len(failing.client.asked) == 3
    assert sum(failing.client.asked) <= 1_000 * processes._FAREWELL_SECONDS + 2


def test_an_error_that_is_never_printed_does_not_end_a_process_in_silence(
    failing: Failing, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(processes, "_FAILS_SECONDS", 0.1)
    failing.ending.fail(OSError("disk"))
    with pytest.raises(Ended):  # JAX aborts
        failing.ending._lose(signal.SIGABRT)
    assert capfd.readouterr().err == "charlm train: another one died\n"


def test_a_process_that_is_lost_at_the_end_is_one_line(
    failing: Failing, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def meet(self: Processes) -> None:
        raise jax.errors.JaxRuntimeError("UNAVAILABLE: Socket closed")

    monkeypatch.setattr(Processes, "meet", meet)
    with pytest.raises(Ended) as caught:
        failing.ending.part()
    assert caught.value.args == (LOST,)
    assert capfd.readouterr().err == "charlm train: another one died\n"


def test_the_result_is_printed_when_the_processes_have_parted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """So that a reader of the output who has gone is no error of the run."""
    before = []

    @contextlib.contextmanager
    def alone(address: Address | None, program: str) -> Iterator[Processes]:
        yield ALONE
        before.append(capsys.readouterr().out)

    monkeypatch.setattr(processes, "joined", alone)
    assert main(["train", f"--workdir={tmp_path / 'run'}", *flags({"train.max_steps": 1})]) == 0
    after = capsys.readouterr().out
    assert "Next:" in after and "trained 1 step" in after
    assert "Next:" not in before[0] and "trained" not in before[0]


def test_a_process_that_is_alone_asks_nobody() -> None:
    def fail() -> Mapping[str, object]:
        raise AssertionError("it was called")

    ALONE.require_equal(fail)
    assert ALONE.gather("x") == ["x"] and ALONE.agree(3) == 3
    value = object()
    assert ALONE.share(lambda: value) is value and ALONE.share_arrays(value) is value


def test_the_first_difference_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [json.dumps({"a": 1, "b": b, "c": c}) for b, c in ((2, 3), (2, 3), (4, 5))]
    monkeypatch.setattr(Processes, "gather", lambda self, text: texts)
    with pytest.raises(CharlmError, match=r"^b is 2 in process 0 and 4 in process 2: start all"):
        Processes(3, 1).require_equal(dict)


@pytest.mark.exhaustive
@pytest.mark.usefixtures("one_device_each")
def test_two_processes_have_the_bits_of_two_devices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With dropout, an average and samples; the run goes on with two devices of one process."""
    fields = {
        "model.layers": ("lstm", "attention"),
        "model.dropout": 0.2,
        "optimizer.average_decay": 0.9,
        "train.sample_every_steps": 4,
    }
    for steps in (8, 16):
        with pair(tmp_path / "run", {**fields, "train.max_steps": steps}) as two:
            assert two.wait() == [0, 0], two.said
        assert "scale 1.5" in two.said[0] and two.lines(1) == []
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=2")
    with start(tmp_path / "whole", flags({**fields, "train.devices": 2})) as process:
        said, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, said
    assert facts(tmp_path / "run") == facts(tmp_path / "whole")


@pytest.mark.exhaustive
@pytest.mark.usefixtures("one_device_each")
def test_a_run_goes_from_one_process_to_two_and_back(tmp_path: Path) -> None:
    short = make_tiny_config(**{**FIELDS, "train.max_steps": 4})
    train_and_evaluate(short, tmp_path / "run")
    with pair(tmp_path / "run", {"train.max_steps": 8}) as two:
        assert two.wait() == [0, 0], two.said
    train_and_evaluate(make_tiny_config(**FIELDS), tmp_path / "run")
    train_and_evaluate(make_tiny_config(**FIELDS), tmp_path / "whole")
    assert Checkpoints(tmp_path / "run" / "checkpoints").steps() == [8, 16]
    found, whole = (facts(tmp_path / name)[-1] for name in ("run", "whole"))
    assert found[:2] == whole[:2]
    np.testing.assert_allclose(found[2], whole[2], rtol=1e-6)


@pytest.mark.exhaustive
@pytest.mark.usefixtures("one_device_each")
@pytest.mark.parametrize(
    ("victim", "number"),
    [(0, signal.SIGKILL), (1, signal.SIGKILL), (0, signal.SIGSTOP), (1, signal.SIGSTOP)],
)
def test_a_process_ends_when_another_is_lost(
    tmp_path: Path, victim: int, number: signal.Signals
) -> None:
    """Killed, or alive and stuck: the other says so, and the same commands resume the run."""
    pause = ["none", "none"]
    pause[victim] = "call dispatch 4"
    with pair(tmp_path / "run", pause=pause) as two:
        wait_for_line(two.processes[victim], PAUSED)
        os.kill(two.processes[victim].pid, number)
        other = two.processes[1 - victim]
        said, _ = other.communicate(timeout=60)
        assert other.returncode == LOST, said
    line = f"charlm train: process {1 - victim} of 2 ends: another one died, or did not answer"
    assert [x.startswith(line) for x in said.splitlines()].count(True) == 1, said
    assert "Traceback" not in said
    with pair(tmp_path / "run") as two:
        assert two.wait() == [0, 0], two.said
    train_and_evaluate(make_tiny_config(**FIELDS), tmp_path / "whole")
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(tmp_path / "whole"), rtol=1e-6)


@pytest.mark.exhaustive
@pytest.mark.usefixtures("one_device_each")
@pytest.mark.parametrize(
    ("fields", "others", "said"),
    [
        ({}, {"seed": 3}, "config.seed is 1 in process 0 and 3 in process 1: start all processes"),
        ({"train.devices": 3}, {}, "config.train.devices=3 is not allowed: it must be a multiple"),
        ({"train.shard_params": True}, {}, "config.train.shard_params=True is not allowed for"),
        ({"train.devices": 1}, {}, "config.train.devices=1 is not allowed: it must be a multiple"),
    ],
    ids=["unequal", "odd", "sharded", "one"],
)
def test_processes_that_cannot_train_together_are_refused(
    tmp_path: Path, fields: Mapping[str, object], others: Mapping[str, object], said: str
) -> None:
    with pair(tmp_path / "run", fields, others=others) as two:
        assert two.wait() == [2, 2], two.said
    for index in range(2):
        assert len(two.lines(index)) == 1, two.said
        (line,) = two.lines(index)
        assert line.startswith("charlm train: ") and said in line
    assert not (tmp_path / "run").exists()


@pytest.mark.exhaustive
@pytest.mark.usefixtures("one_device_each")
def test_an_error_of_process_0_ends_the_others(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").touch()
    with pair(tmp_path / "run") as two:
        assert two.wait() == [2, 2], two.said
    said = f"{tmp_path / 'run'} exists and is not a run: choose another"
    assert two.lines(0) == [f"charlm train: {said} --workdir"]
    assert two.lines(1) == [f"charlm train: process 0 failed: {said} workdir"]


@pytest.mark.exhaustive
@pytest.mark.usefixtures("one_device_each")
def test_an_error_of_process_1_ends_process_0(tmp_path: Path) -> None:
    with pair(tmp_path / "run", options=({}, {"fail": "call dispatch 4"})) as two:
        assert two.wait() == [2, 2], two.said
    assert two.lines(1) == ["charlm train: No space left on device"]
    said = "process 1 failed: OSError: [Errno 28] No space left on device"
    assert [x for x in two.lines(0) if x.startswith("charlm train: ")] == [f"charlm train: {said}"]
    assert "Traceback" not in two.said[0]


@pytest.mark.exhaustive
@pytest.mark.usefixtures("one_device_each")
def test_a_coordinator_that_does_not_answer_is_one_line(tmp_path: Path) -> None:
    address = f"localhost:{free_port()}"
    script = (
        "from charlm_jax.core import processes; processes.JOIN_SECONDS = 2\n"
        "import sys; from charlm_jax.cli import main; main(sys.argv[1:])"
    )
    place = [f"--coordinator={address}", "--num_processes=2", "--process_id=1"]
    command = [sys.executable, "-c", script, "train", f"--workdir={tmp_path / 'run'}"]
    ended = subprocess.run(
        [*command, *flags({}), *place], cwd=ROOT, capture_output=True, text=True, timeout=SECONDS
    )
    assert ended.returncode == LOST
    assert ended.stderr.splitlines()[-1] == (
        f"charlm train: process 1 of 2 did not find the others through {address} within 2 s: "
        f"check that all are started, with one address and different ids"
    )
    assert "Traceback" not in ended.stderr
