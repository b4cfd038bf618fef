"""Interleaved measurement: programs take turns, so that other load on the machine affects them all.

Every program has its own worker process, because the thread pools of JAX, PyTorch and TensorFlow
interfere with one another. One works while the others block on a pipe, without spinning. The first
round is a warm-up (tracing, compilation, caches) and is discarded. Every second round runs in
reverse order, so that no program always follows the same one.
"""

import contextlib
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from benchmarks.subprocesses import ModuleProcess


class Program(NamedTuple):
    """Program of a worker: `PROGRAMS[build]` of a module, and the settings it is built from."""

    module: str
    build: str
    settings: Mapping[str, Any]


class Turn(NamedTuple):
    """Measurements of one turn.

    Attributes:
      amount: amount of work done, as returned by the program.
      seconds: wall-clock time of the turn.
      waiting_cpu_seconds: CPU time used by the worker while waiting for this turn.
      peak_bytes: peak memory of the worker so far.
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
    """Results of all rounds.

    Attributes:
      turns: turns of every program that completed all rounds, without the first.
      left_out: reason for which each other program was left out.
    """

    turns: Mapping[str, Sequence[Turn]]
    left_out: Mapping[str, str]


class LeftOut(Exception):
    """Reason why a program cannot be run here."""


class Worker:
    """Parent's handle of a program's process.

    Attributes:
      turns: all turns so far.
    """

    def __init__(self, program: Program) -> None:
        self.turns: list[Turn] = []
        settings = json.dumps(program.settings)
        self._process = ModuleProcess("benchmarks.worker", program.module, program.build, settings)

    def wait_until_ready(self) -> None:
        """Wait until the program is built; raise `LeftOut` if that fails."""
        self._read()

    def turn(self) -> Turn:
        """Run one turn; raise `LeftOut` if the process fails."""
        with contextlib.suppress(BrokenPipeError):  # it has ended; `_read` reports why
            self._process.stdin.write("\n")
            self._process.stdin.flush()
        self.turns.append(Turn(**self._read()))
        return self.turns[-1]

    def close(self) -> None:
        """Kill the process at once; it has no state to save."""
        self._process.close()

    def _read(self) -> dict[str, Any]:
        line = self._process.stdout.readline()
        if not line:
            raise LeftOut(f"the process ended: {self._process.last_words()}")
        facts: dict[str, Any] = json.loads(line)
        if facts.pop("kind") == "left_out":
            raise LeftOut(facts["why"])
        return facts


def take_turns(
    programs: Mapping[str, Program], *, rounds: int, note: Callable[[str], None]
) -> Measured:
    """Run programs in interleaved turns.

    Args:
      programs: programs by name.
      rounds: number of turns per program, including the first, which is discarded.
      note: callback for progress messages.

    Returns:
      The turns. A program that cannot be built or fails in a turn is left out altogether.
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
    """Return the median over turns of the amount per second."""
    return statistics.median(turn.speed for turn in turns)


def paired_ratio(ours: Sequence[Turn], theirs: Sequence[Turn]) -> float:
    """Return the speed of ours relative to theirs: the median over rounds of the paired ratio.

    It is not the ratio of the medians. The two turns of a round are seconds apart, the rounds
    minutes, so a temporary slowdown of the machine affects both sides of a ratio and cancels.
    """
    return statistics.median(a.speed / b.speed for a, b in zip(ours, theirs, strict=True))
