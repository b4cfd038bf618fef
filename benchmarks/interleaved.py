"""Programs take turns, round by round, so that whatever else the machine does hits all of them.

Every program lives in a worker process of its own, because the thread pools of JAX, PyTorch and
TensorFlow get in one another's way. One works while the others wait on a pipe, without spinning.
The first round warms up (tracing, compilation, caches) and does not count. Every second round goes
backwards, so that nobody always follows the same neighbour.
"""

import contextlib
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from benchmarks.subprocesses import ModuleProcess


class Program(NamedTuple):
    """What a worker runs: `PROGRAMS[build]` of a module, and what it is built from."""

    module: str
    build: str
    settings: Mapping[str, Any]


class Turn(NamedTuple):
    """One turn.

    Attributes:
      amount: what the program returned: how much it did.
      seconds: wall-clock time that it took.
      waiting_cpu_seconds: processor time that the worker used before it, while it had to wait.
      peak_bytes: the most memory that the worker has had so far.
    """

    amount: float
    seconds: float
    waiting_cpu_seconds: float
    peak_bytes: int

    @property
    def speed(self) -> float:
        """Amount per second."""
        return self.amount / self.seconds


class Measured(NamedTuple):
    """What came of all rounds.

    Attributes:
      turns: of every program that took all of them, without the first.
      left_out: why each other program has none.
    """

    turns: Mapping[str, Sequence[Turn]]
    left_out: Mapping[str, str]


class LeftOut(Exception):
    """A program that cannot be run here, and why."""


class Worker:
    """A program's process, seen from the parent.

    Attributes:
      turns: all that it has had.
    """

    def __init__(self, program: Program) -> None:
        self.turns: list[Turn] = []
        settings = json.dumps(program.settings)
        self._process = ModuleProcess("benchmarks.worker", program.module, program.build, settings)

    def wait_until_ready(self) -> None:
        """Return when the program is built, or raise `LeftOut`."""
        self._read()

    def turn(self) -> Turn:
        """Let it have one turn; `LeftOut` if it does not survive that."""
        with contextlib.suppress(BrokenPipeError):  # it is gone; reading finds out why
            self._process.stdin.write("\n")
            self._process.stdin.flush()
        self.turns.append(Turn(**self._read()))
        return self.turns[-1]

    def close(self) -> None:
        """End the process, whatever it is doing; it has nothing to save."""
        self._process.close()

    def _read(self) -> dict[str, Any]:
        line = self._process.stdout.readline()
        if not line:
            raise LeftOut(f"it died: {self._process.last_words()}")
        facts: dict[str, Any] = json.loads(line)
        if facts.pop("kind") == "left_out":
            raise LeftOut(facts["why"])
        return facts


def take_turns(
    programs: Mapping[str, Program], *, rounds: int, note: Callable[[str], None]
) -> Measured:
    """Run programs side by side.

    Args:
      programs: by name.
      rounds: how many turns each gets, the first of which does not count.
      note: told how it goes.

    Returns:
      The turns. A program that cannot be built or does not survive a turn is left out altogether.
    """
    workers: dict[str, Worker] = {}
    left_out: dict[str, str] = {}

    def attempt(name: str, act: Callable[[Worker], object]) -> None:
        try:
            act(workers[name])
        except LeftOut as why:
            workers.pop(name).close()
            left_out[name] = str(why)

    try:
        for name, program in programs.items():
            workers[name] = Worker(program)
            attempt(name, Worker.wait_until_ready)
        for number in range(rounds if workers else 0):
            names = list(workers)
            for name in reversed(names) if number % 2 else names:
                attempt(name, Worker.turn)
            note(f"round {number + 1} of {rounds}" + ("" if number else " (warm-up)"))
    finally:
        for worker in workers.values():
            worker.close()
    return Measured({name: worker.turns[1:] for name, worker in workers.items()}, left_out)


def median_speed(turns: Sequence[Turn]) -> float:
    """Amount per second of the median turn."""
    return statistics.median(turn.speed for turn in turns)


def paired_ratio(ours: Sequence[Turn], theirs: Sequence[Turn]) -> float:
    """How many times as fast ours is: the median over rounds of the ratio within each round.

    Not the ratio of the medians: the two turns of a round lie seconds apart and the rounds minutes,
    so what slows the machine for a while falls on both sides of the same ratio, and cancels.
    """
    return statistics.median(a.speed / b.speed for a, b in zip(ours, theirs, strict=True))
