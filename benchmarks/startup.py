"""Start-up time: seconds from the start of a command to its first visible result.

    .venv/bin/python -m benchmarks.startup

Every command runs in its own process. The first visible result of `charlm train --config=tutorial`
is the first row of metrics, after 20 steps; that of `charlm sample` is the first character. The
parts of this time are measured inside separate processes. They begin with the first import, so they
exclude the start of Python itself. The text is small and synthetic, with 62 symbols. The first
round warms the disk cache and is discarded.

Cost: about three minutes on an otherwise idle 2-core machine.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks.charlm_process import CharlmProcess
from benchmarks.harness import add_counts, note, print_json, run_command
from benchmarks.subprocesses import child_environment
from charlm_jax.cli.parser import Parser
from charlm_jax.core.errors import CharlmError

TEXT = "synthetic:symbols=62,characters=200000"
ROUNDS = 4

Seconds = dict[str, list[float]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print the tables or JSON."""
    parser = Parser(description="Measure startup times.", allow_abbrev=False)
    parser.add_argument("--json", action="store_true", help="print the results as one line of JSON")
    add_counts(parser, rounds=ROUNDS)
    return run_command(parser, arguments, measure)


def measure(options: argparse.Namespace) -> int:
    if options.rounds < 2:
        raise CharlmError("--rounds=1 must be 2 or more: the first round is a warm-up")
    commands: Seconds = {}
    parts: dict[str, Seconds] = {"train": {}, "sample": {}}
    with tempfile.TemporaryDirectory() as name:
        run = str(Path(name) / "run")
        train_one_step(run)
        for number in range(options.rounds):
            seconds = {command: measured() for command, measured in timers(run).items()}
            train_parts, sample_parts = time_parts("train", TEXT), time_parts("sample", run)
            note(f"round {number + 1} of {options.rounds}" + ("" if number else " (warm-up)"))
            if number:
                collect(commands, seconds)
                collect(parts["train"], train_parts)
                collect(parts["sample"], sample_parts)
    if options.json:
        tables = {kind: summarize(table) for kind, table in parts.items()}
        print_json("startup", options, seconds=summarize(commands), parts=tables)
        return 0
    print_table("startup time in seconds", commands)
    print_table("parts of `charlm train`", parts["train"])
    print_table("parts of `charlm sample`", parts["sample"])
    return 0


def timers(run: str) -> Mapping[str, Callable[[], float]]:
    """Return a timer for each start-up that a user waits for."""
    return {
        "python": lambda: time_python("pass"),
        "import_charlm_jax": lambda: time_python("import charlm_jax"),
        "charlm_help": lambda: time_command("--help"),
        "charlm_train_to_first_row": time_first_row,
        "charlm_sample_to_first_character": lambda: time_first_character(run),
    }


def time_python(script: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", script], env=child_environment(), check=True)
    return time.perf_counter() - start


def time_command(*arguments: str) -> float:
    with CharlmProcess(*arguments) as process:
        process.wait()
        return process.seconds


def train_command(workdir: str) -> list[str]:
    return ["train", "--config=tutorial", f"--workdir={workdir}", f"--config.data.corpus={TEXT}"]


def train_one_step(run: str) -> None:
    """Train a run to sample from."""
    with CharlmProcess(*train_command(run), "--config.train.max_steps=1") as process:
        process.wait()


def time_first_row() -> float:
    with tempfile.TemporaryDirectory() as name:
        run = Path(name) / "run"
        with CharlmProcess(*train_command(str(run))) as process:
            next(process.rows(run / "metrics.jsonl"))
            return process.seconds


def time_first_character(run: str) -> float:
    with CharlmProcess("sample", f"--workdir={run}", "--prompt=a", "--chars=50") as process:
        process.read(len("a") + 1)
        return process.seconds


def time_parts(name: str, value: str) -> dict[str, float]:
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks.startup_parts", name, value],
        env=child_environment(),
        stdout=subprocess.PIPE,
        check=True,
    )
    return {part: float(seconds) for part, seconds in json.loads(result.stdout).items()}


def collect(table: Seconds, row: Mapping[str, float]) -> None:
    for name, seconds in row.items():
        table.setdefault(name, []).append(seconds)


def summarize(table: Seconds) -> dict[str, dict[str, float | list[float]]]:
    """Return the median, range and rounds of every row."""
    return {
        name: {
            "median": statistics.median(seconds),
            "least": min(seconds),
            "most": max(seconds),
            "rounds": seconds,
        }
        for name, seconds in table.items()
    }


def print_table(title: str, table: Seconds) -> None:
    width = max(map(len, [title, *table]))
    print(f"\n{title:{width}}  {'median':>7}  {'min .. max':>16}")
    for name, seconds in table.items():
        spread = f"{min(seconds):.2f} .. {max(seconds):.2f}"
        print(f"{name:{width}}  {statistics.median(seconds):>7.2f}  {spread:>16}")


if __name__ == "__main__":
    sys.exit(main())
