"""Processes that train one run together: how they join, agree and end.

They talk through JAX's coordination service, which process 0 holds: it finds processes that ended
or do not answer, and keeps the short texts by which they agree. Arrays go through collectives.
"""

import atexit
import contextlib
import ctypes
import dataclasses
import hashlib
import importlib.util
import json
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from charlm_jax._version import __version__
from charlm_jax.core.errors import CharlmError, describe_exception, is_out_of_memory
from charlm_jax.core.signals import Interrupted, write_line
from charlm_jax.core.typed_numbers import parse_whole_number
from charlm_jax.core.visible_text import visible_line

JOIN_SECONDS = 120
"""Time in which all processes must have started."""

ANSWER_SECONDS = 20
"""Time without an answer after which a process is taken for dead."""

_FAREWELL_SECONDS = 10  # for the others to learn of an error, or to end

_FAILS_SECONDS = 3 * _FAREWELL_SECONDS  # for a process to wait for both, and to write its error

_WATCH_SECONDS = 0.5  # between two looks for an error of another process

_STDERR = 2  # file descriptor of what XLA writes

_FAILED = "charlm/failed"  # key of the first error, which names its process

LOST = 1
"""Exit status of a process that did not find the others, or lost one."""

# Messages of JAX, gloo and NCCL about a process that is gone, and the errors that have them.
_GONE = re.compile("gloo|nccl|rpc|socket closed|unavailable|coordination", re.IGNORECASE)
_GONE_TYPES = (jax.errors.JaxRuntimeError, RuntimeError, ValueError)

# Variables with the number and the index of the processes that a launcher has started.
_LAUNCHERS = (
    ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID"),
    ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
)


@dataclasses.dataclass(frozen=True)
class Address:
    """Place of a process in its run.

    Attributes:
      coordinator: HOST:PORT, at which process 0 listens; empty if JAX finds it from the variables
        of a launcher.
      number: number of processes.
      index: index of this one, from 0.
    """

    coordinator: str
    number: int
    index: int


def find_address(coordinator: str | None, number: int | None, index: int | None) -> Address | None:
    """Return the place of this process, as asked for or as a launcher says; None if it is alone.

    Args:
      coordinator: HOST:PORT of process 0; `none` for a process that is alone whatever its launcher
        says.
      number: number of processes.
      index: index of this one.

    Raises:
      CharlmError: some are missing, or have no such value.
    """
    if coordinator is None:
        if number is not None or index is not None:
            raise CharlmError("--num_processes and --process_id need --coordinator=HOST:PORT")
        for count, place in _LAUNCHERS:
            if count in os.environ and place in os.environ and _variable(count) > 1:
                return Address("", _variable(count), _variable(place))
        return None
    if coordinator == "none":
        if number is not None or index is not None:
            raise CharlmError(
                "--coordinator=none trains alone: leave out --num_processes and --process_id"
            )
        return None
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise CharlmError(
            f"--coordinator={coordinator} is not an address: write HOST:PORT, such as node1:12345, "
            f"or none"
        )
    if number is None or index is None:
        raise CharlmError(f"--coordinator={coordinator} needs --num_processes and --process_id")
    if number < 1 or not 0 <= index < number:
        raise CharlmError(
            f"--process_id={index} is not allowed with --num_processes={number}: the ids of "
            f"processes run from 0 to their number - 1"
        )
    return Address(coordinator, number, index)


def _variable(name: str) -> int:
    """Return the whole number that a launcher's variable holds."""
    number = parse_whole_number(os.environ[name])
    if number is None:
        raise CharlmError(
            f"the environment variable {name}={os.environ[name]!r} is not a whole number: unset "
            f"it, or train alone with --coordinator=none"
        )
    return number


class Processes:
    """Processes of a run, as one of them sees them; alone, every method is the trivial one.

    All of them call each method in the same order, and wait there for each other.

    Attributes:
      number: number of processes.
      index: index of this one, from 0.
    """

    def __init__(self, number: int = 1, index: int = 0) -> None:
        self.number = number
        self.index = index
        self._round = 0

    @property
    def leads(self) -> bool:
        """True for process 0, which alone writes and prints."""
        return self.index == 0

    def gather(self, text: str = "") -> list[str]:
        """Return the texts of all processes, in their order."""
        if self.number == 1:
            return [text]
        key, self._round = f"charlm/{self._round}", self._round + 1
        _client().key_value_set(f"{key}/{self.index}", text)
        texts = [_read(f"{key}/{other}") for other in range(self.number)]
        if self._round > 2:  # all have come to the last round, and read those before it
            _client().key_value_delete(f"charlm/{self._round - 3}/{self.index}")
        return texts

    def meet(self) -> None:
        """Wait for all processes."""
        self.gather()

    def agree(self, number: int) -> int:
        """Return the largest number of all processes."""
        return max(map(int, self.gather(str(number))))

    def share(self, work: Callable[[], Any]) -> Any:
        """Return what process 0 computes, a JSON value; the others do nothing meanwhile."""
        if self.number == 1:
            return work()
        text = json.dumps(work()) if self.leads else ""
        return json.loads(self.gather(text)[0])

    def share_arrays(self, tree: Any) -> Any:
        """Return the arrays of process 0, on the host and bit for bit.

        Args:
          tree: tree of host arrays; of the other processes, any arrays of the same shapes.
        """
        if self.number == 1:
            return tree
        self.meet()

        def share(x: Any) -> np.ndarray:
            x = np.asarray(x)
            # As bytes: a sum of floats would lose the sign of zero.
            data = np.frombuffer(x.tobytes(), np.uint8)
            data = np.asarray(multihost_utils.broadcast_one_to_all(data), np.uint8)
            return np.frombuffer(data.tobytes(), x.dtype).reshape(x.shape)

        return jax.tree.map(share, tree)

    def require_equal(self, find: Callable[[], Mapping[str, Any]]) -> None:
        """Refuse processes that differ.

        Args:
          find: function that returns JSON values by name; a process that is alone does not call it.

        Raises:
          CharlmError: a value differs; the message names the first.
        """
        if self.number == 1:
            return
        first, *others = map(json.loads, self.gather(json.dumps(find())))
        for index, other in enumerate(others, start=1):
            for name, value in first.items():
                if other[name] != value:
                    raise CharlmError(
                        f"{name} is {value!r} in process 0 and {other[name]!r} in process {index}: "
                        f"start all processes with the same code, command and text"
                    )


ALONE = Processes()


def describe_code() -> Mapping[str, str]:
    """Return the versions of this package and of JAX, and a hash of the package's source."""
    spec = importlib.util.find_spec("charlm_jax")
    digest = hashlib.sha256()
    if spec is not None and spec.origin is not None:
        folder = Path(spec.origin).parent
        for path in sorted(folder.rglob("*.py")):
            digest.update(f"{path.relative_to(folder)}\n".encode() + path.read_bytes())
    return {
        "the version of charlm_jax": __version__,
        "the version of jax": jax.__version__,
        "the hash of charlm_jax's source": digest.hexdigest()[:12],
    }


@contextmanager
def joined(address: Address | None, program: str) -> Iterator[Processes]:
    """Join the processes of a run; they end together.

    JAX must not have found its devices yet. An error of one process ends the others, with a line
    that repeats it. If one dies, or does not answer for `ANSWER_SECONDS`, the others end with one
    line and status 1. A process must end after its own error as well: JAX aborts it soon after the
    others have ended.

    Args:
      address: place of this process; None if it is alone.
      program: program name, the prefix of lines.

    Raises:
      CharlmError: the processes did not find each other.
    """
    if address is None:
        yield ALONE
        return
    processes = Processes(address.number, address.index)
    ending = _Ending(processes, program)
    ending.join(address)
    try:
        yield processes
    except Interrupted:
        ending.part()
        raise
    except BaseException as error:
        ending.fail(error)
        raise
    ending.part()


def _refuse_used_port(coordinator: str) -> None:
    port = int(coordinator.rpartition(":")[2])
    try:
        with socket.socket() as opened:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            opened.bind(("", port))
    except OSError as error:
        raise CharlmError(
            f"--coordinator={coordinator}: process 0 cannot listen at port {port} "
            f"({error.strerror}): choose another"
        ) from error


def _client() -> Any:
    from jax._src import distributed  # JAX has no public access to it

    return distributed.global_state.client


def _read(key: str) -> str:
    """Return a text once it is there; heartbeats end the process if that cannot be."""
    while True:
        try:
            return str(_client().blocking_key_value_get(key, 1_000))
        except RuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                raise


def _tell(key: str, text: str = "") -> None:
    """Let all processes read a text, unless nobody holds their texts any more."""
    with contextlib.suppress(RuntimeError):
        _client().key_value_set(key, text)


def _restore_abort() -> None:
    """Let SIGABRT end the process as it does without a handler."""
    ctypes.CDLL(None).signal(signal.SIGABRT, None)  # SIG_DFL


class _Ending:
    """End of a process that has joined others: with them, or because of them."""

    def __init__(self, processes: Processes, program: str) -> None:
        self._processes, self._program = processes, program
        self._ends = threading.Lock()  # taken for good by what ends the process
        self._lost = ""  # line about others that are gone
        self._status = LOST
        self._has_spoken = threading.Event()  # all that is left is to exit with the status
        self._has_parted = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True, name="processes")

    def join(self, address: Address) -> None:
        """Find the other processes."""
        if address.coordinator and address.index == 0:
            _refuse_used_port(address.coordinator)
        jax.config.update("jax_cpu_collectives_implementation", "gloo")  # type: ignore[no-untyped-call]
        # It would take SIGTERM for itself, from Python's handlers too.
        jax.config.update("jax_enable_preemption_service", False)  # type: ignore[no-untyped-call]
        self._lost = (
            f"process {address.index} of {address.number} did not find the others through "
            f"{address.coordinator or 'the coordinator of the launcher'} within {JOIN_SECONDS} s: "
            f"check that all are started, with one address and different ids"
        )
        # XLA aborts a process that does not find the coordinator, or of whose run another process
        # is dead, in a thread of its own; JAX has no other way to tell.
        self._handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(self._lose)
        ctypes.CDLL(None).signal(signal.SIGABRT, self._handler)
        explicit: dict[str, Any] = {
            "coordinator_address": address.coordinator,
            "num_processes": address.number,
            "process_id": address.index,
            "cluster_detection_method": "deactivate",
        }
        try:
            jax.distributed.initialize(
                **(explicit if address.coordinator else {}),
                initialization_timeout=JOIN_SECONDS,
                heartbeat_timeout_seconds=ANSWER_SECONDS,
                shutdown_timeout_seconds=_FAREWELL_SECONDS,
            )
        except ValueError as error:  # no cluster that JAX knows
            _restore_abort()
            raise CharlmError(
                f"JAX does not find the coordinator of this launcher ({error}): write "
                f"--coordinator=HOST:PORT --num_processes={address.number} and --process_id, or "
                f"--coordinator=none to train alone"
            ) from error
        except RuntimeError:
            self._lose()
        self._lost = (
            f"process {address.index} of {address.number} ends: another one died, or did not "
            f"answer for {ANSWER_SECONDS} s; the last checkpoint is valid: start all processes "
            f"again to resume"
        )
        self._watcher.start()

    def part(self) -> None:
        """End with the others."""
        try:
            self._processes.meet()
        except RuntimeError:
            self._lose()
        self._ends.acquire()
        self._has_parted.set()
        self._watcher.join()  # Python must not end while it waits for JAX
        _restore_abort()
        jax.distributed.shutdown()  # type: ignore[no-untyped-call]

    def fail(self, error: BaseException) -> None:
        """Tell the others of an error, and wait until they have heard of it, or have their own."""
        if type(error) in _GONE_TYPES and _GONE.search(str(error)):
            self._lost += f" ({visible_line(describe_exception(error))})"
            self._lose()
        self._ends.acquire()  # never returns if the others failed first
        text = str(error) if isinstance(error, CharlmError) else describe_exception(error)
        _tell(_FAILED, f"{self._processes.index} {text}")
        self._tell_of_self("heard")
        self._wait_for_others("heard")
        if self._processes.index == 0:
            self._wait_for_others("gone")
        is_ours = not isinstance(error, CharlmError | OSError) and not is_out_of_memory(error)
        atexit.register(self._exit, 1 if is_ours else 2)

    def _watch(self) -> None:
        """End the process when another has failed."""
        text = ""
        while not text:
            if self._has_parted.wait(_WATCH_SECONDS):
                return
            with contextlib.suppress(RuntimeError):  # there is none
                text = _client().key_value_try_get(_FAILED)
        self._tell_of_self("heard")
        if not self._ends.acquire(blocking=False):
            return  # an error of this process ends it
        index, _, text = text.partition(" ")
        write_line(f"{self._program}: process {index} failed: {text}\n")
        if self._processes.index == 0:
            self._wait_for_others("gone")
        self._exit(2)

    def _tell_of_self(self, moment: str) -> None:
        _tell(f"charlm/{moment}/{self._processes.index}")

    def _wait_for_others(self, moment: str) -> None:
        """Wait until all others have `heard` of an error, or are `gone`, but not for ever.

        Process 0 goes last: others that lose its coordination service write of that.
        """
        until = time.monotonic() + _FAREWELL_SECONDS
        for other in {*range(self._processes.number)} - {self._processes.index}:
            with contextlib.suppress(RuntimeError):
                milliseconds = max(1, int(1_000 * (until - time.monotonic())))
                _client().blocking_key_value_get(f"charlm/{moment}/{other}", milliseconds)

    def _exit(self, status: int) -> None:
        """End without the farewell to the others that JAX would wait for."""
        with open(os.devnull, "wb") as nowhere:  # XLA writes of a process 0 that is gone sooner
            os.dup2(nowhere.fileno(), _STDERR)
        self._status = status
        self._has_spoken.set()
        self._tell_of_self("gone")
        os._exit(status)

    def _lose(self, number: int = 0) -> None:
        """End the process because others were not found, or one has died.

        Args:
          number: signal that calls this; not used.
        """
        del number
        # If another thread ends the process, it does so in time.
        if self._ends.acquire(blocking=False) or not self._has_spoken.wait(_FAILS_SECONDS):
            write_line(f"{self._program}: {self._lost}\n")
        os._exit(self._status)
