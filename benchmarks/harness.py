"""Shared parts of the comparison commands: flags, tables and JSON output."""

import argparse
import json
import signal
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.interleaved import Measured, Program, Turn, median_speed, paired_ratio, take_turns
from benchmarks.machine import describe_machine
from charlm_jax.cli.parser import USER_ERROR, Parser, say
from charlm_jax.core.errors import CharlmError

ROUNDS = 7

Ratios = Mapping[str, tuple[str, str]]
"""Name of a ratio -> programs whose speeds are its numerator and denominator."""


def build_parser(description: str, **counts: int) -> Parser:
    """Build the parser of a comparison command; `counts` are integer flags with defaults."""
    parser = Parser(description=description, allow_abbrev=False)
    add = parser.add_argument
    add("--only", metavar="NAME[,NAME...]", help="programs to measure (default: all)")
    add("--json", action="store_true", help="print all results as one line of JSON")
    add_counts(parser, rounds=ROUNDS, **counts)
    return parser


def add_counts(parser: Parser, **counts: int) -> None:
    """Add flags for positive integers."""
    for name, default in counts.items():
        parser.add_argument(
            f"--{name}", type=int, default=default, metavar="N", help="default: %(default)s"
        )
    parser.set_defaults(counts=[*counts, *(parser.get_default("counts") or ())])


def run_command(
    parser: Parser,
    arguments: Sequence[str] | None,
    command: Callable[[argparse.Namespace], int],
) -> int:
    """Parse the flags and run the command; a user error takes one line, with exit status 2.

    `--config.FIELD=VALUE` is kept in `options.overrides` if the command has a --config flag.
    """
    options, unknown = parser.parse_known_args(arguments)
    options.overrides = [a for a in unknown if a.startswith("--config.") and "config" in options]
    parser.refuse_unknown([a for a in unknown if a not in options.overrides])
    try:
        for name in options.counts:
            if getattr(options, name) < 1:
                raise CharlmError(f"--{name}={getattr(options, name)} must be 1 or more")
        return command(options)
    except CharlmError as error:
        say(parser.prog, error)
        return USER_ERROR
    except KeyboardInterrupt:
        say(parser.prog, "interrupted")
        return 128 + signal.SIGINT


def measure(programs: Mapping[str, Program], options: argparse.Namespace) -> Measured:
    """Measure the chosen programs in turns.

    Raises:
      CharlmError: a program name is unknown, or there is only one round, which is the warm-up.
    """
    if options.rounds < 2:
        raise CharlmError("--rounds=1 must be 2 or more: the first round is a warm-up")
    names = options.only.split(",") if options.only else list(programs)
    for name in names:
        if name not in programs:
            raise CharlmError(f"unknown program {name!r}: choose from {','.join(programs)}")
    chosen = {name: program for name, program in programs.items() if name in names}
    return take_turns(chosen, rounds=options.rounds, note=note)


def note(text: str) -> None:
    """Print progress on standard error, apart from the results."""
    print(text, file=sys.stderr, flush=True)


def compute_ratios(measured: Measured, ratios: Ratios) -> dict[str, float]:
    """Return the ratios whose two programs were measured; print a note on each left-out program."""
    turns = measured.turns
    for name, why in measured.left_out.items():
        lost = [ratio for ratio, pair in ratios.items() if name in pair]
        note(f"{name} is left out: {why}" + (f" (so no {', '.join(lost)})" if lost else ""))
    return {
        name: paired_ratio(turns[ours], turns[theirs])
        for name, (ours, theirs) in ratios.items()
        if ours in turns and theirs in turns
    }


def figures(turns: Sequence[Turn]) -> dict[str, Any]:
    """Return the speeds of a program, their median and range, peak memory and idle CPU time."""
    speeds = [turn.speed for turn in turns]
    return {
        "median": statistics.median(speeds),
        "least": min(speeds),
        "most": max(speeds),
        "rounds": speeds,
        "peak_bytes": turns[-1].peak_bytes,
        "waiting_cpu_seconds": sum(turn.waiting_cpu_seconds for turn in turns),
    }


def print_speeds(measured: Mapping[str, Sequence[Turn]], unit: str, scale: float = 1.0) -> None:
    """Print a row for each program."""
    if not measured:
        return
    width = max(map(len, measured))
    print(f"\n{'':{width}}  {unit:>14}  {'min .. max':>22}  {'peak MB':>8}")
    for name, turns in measured.items():
        speeds = [turn.speed / scale for turn in turns]
        spread = f"{min(speeds):,.0f} .. {max(speeds):,.0f}"
        median, peak = median_speed(turns) / scale, turns[-1].peak_bytes / 1e6
        print(f"{name:{width}}  {median:>14,.0f}  {spread:>22}  {peak:>8,.0f}")


def print_ratios(title: str, ratios: Mapping[str, float]) -> None:
    """Print a row for each ratio."""
    if not ratios:
        return
    print(f"\n{title}")
    width = max(map(len, ratios))
    for name, ratio in ratios.items():
        print(f"  {name:{width}}  {ratio:>8,.2f}")


def print_json(benchmark: str, options: argparse.Namespace, **facts: Any) -> None:
    """Print the results as one line of JSON, with the machine and the integer flags."""
    asked = {name: getattr(options, name) for name in options.counts}
    print(json.dumps({"benchmark": benchmark, **asked, "machine": describe_machine(), **facts}))


def finish(measured: Measured) -> int:
    """Return the exit status: 1 if no program could be measured."""
    return 0 if measured.turns else 1
