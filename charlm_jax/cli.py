"""`charlm <command>`: flags, messages and exit codes.

What a command does is in `commands.py`, which is read only once the flags are right: `charlm
--help` answers at once.
"""

import argparse
import io
import os
import re
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TextIO

from charlm_jax import __version__
from charlm_jax.flags import USER_ERROR, Parser, nearest, say
from charlm_jax.types import CharlmError


def _scales(text: str) -> list[float]:
    try:
        return [float(item) for item in text.split(",")]
    except ValueError as error:
        message = f"{text!r} is not a list of numbers such as 0.5,1,2"
        raise argparse.ArgumentTypeError(message) from error


def _pairs(text: str) -> dict[str, str | int]:
    pairs = [item.partition("=") for item in text.split(",")]
    if not all(name and equals and value for name, equals, value in pairs):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list such as time=60,partition=NAME")
    return {name: int(value) if value.isdecimal() else value for name, _, value in pairs}


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config",
        required=True,
        metavar="NAME|FILE[:ARG]",
        help="a shipped config such as quickstart, or a path ending in .py; "
        "--config.FIELD=VALUE changes a field, as in --config.data.sequence_length=80",
    )


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workdir", required=True, metavar="DIR", help="the run's folder")
    parser.add_argument(
        "--checkpoint",
        default="best",
        metavar="best|latest|STEP",
        help="which weights; best is the latest where nothing was validated (default: best)",
    )
    parser.add_argument(
        "--weights",
        choices=("average", "raw"),
        help="of a run that keeps a moving average of its weights (default: average)",
    )


def _add_unknown(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument(
        "--unknown",
        choices=("error", "drop", "replace"),
        default="error",
        help=f"what to do with characters of the {what} that the model does not know",
    )
    parser.add_argument(
        "--replacement",
        default=" ",
        help="what --unknown=replace puts there (default: a space)",
    )


def _add_train(command: argparse.ArgumentParser) -> None:
    _add_config(command)
    add = command.add_argument
    add("--workdir", metavar="DIR", help="default: runs/NAME-OF-THE-CONFIG")
    add("--fresh", action="store_true", help="move a run that is there aside, and begin again")
    add("--init_from", metavar="RUN", help="start from the best weights of another run")
    add("--tensorboard", action="store_true", help="also write events to DIR/tensorboard")


def _add_sweep(command: argparse.ArgumentParser) -> None:
    _add_config(command)
    add = command.add_argument
    add(
        "--workdir",
        metavar="DIR",
        help="holds a folder for every point (default: runs/NAME-OF-THE-CONFIG)",
    )
    add(
        "--jobs",
        type=int,
        metavar="N",
        help="points that train at once, each on its share of the cores (default: 1; under slurm "
        "256)",
    )
    add("--dry_run", action="store_true", help="print the points' commands, and do nothing")
    add(
        "--launcher",
        choices=("local", "slurm"),
        default="local",
        help="where points train: here, or as jobs of a SLURM cluster (default: local)",
    )
    add(
        "--slurm",
        type=_pairs,
        default={},
        metavar="NAME=VALUE[,...]",
        help="sbatch's long options for every job, such as time=60,partition=gpu,cpus_per_task=4",
    )


def _add_sample(command: argparse.ArgumentParser) -> None:
    _add_run(command)
    add = command.add_argument
    add("--prompt", required=True, help="what the text goes on from")
    add("--chars", type=int, default=500, help="characters to draw (default: 500)")
    add(
        "--scale",
        type=_scales,
        default=[1.0],
        metavar="A[,A...]",
        help="scale factors of the logits, 1 / temperature, from 0 (uniform) to inf (greedy); "
        "default: 1",
    )
    _add_truncations(command)
    add("--num", type=int, default=1, help="samples at each scale (default: 1)")
    add("--seed", type=int, default=0, help="root of the noise (default: 0)")
    add(
        "--mode",
        choices=("carried", "window"),
        help="carry the state, or read the last characters again for every new one, as the "
        "textbook does (default: carried, or window for a model with learned positions)",
    )
    add(
        "--context",
        type=int,
        help="the window's length, or the positions that attention keeps (default: training's)",
    )
    _add_unknown(command, "prompt")
    add("--json", action="store_true", help="one JSON object a sample")


def _add_truncations(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("--top_k", type=int, default=0, metavar="K", help="the K likeliest; 0 is all (default)")
    add(
        "--top_p",
        type=float,
        default=1.0,
        metavar="P",
        help="of these, the fewest whose probability reaches P; 1 is all (default)",
    )
    add(
        "--min_p",
        type=float,
        default=0.0,
        metavar="P",
        help="of these, those at least P times as likely as the best; 0 is all (default)",
    )


def _add_rule(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("--split", default="valid", help="valid, test or train (default: valid)")
    add(
        "--mode",
        choices=("window", "sliding", "stream"),
        default="window",
        help="separate windows, exactly so many characters before each, or the state carried "
        "through the whole text (default: window)",
    )
    add(
        "--context",
        type=int,
        help="the window's length, the characters before each, or the positions that attention "
        "keeps (default: validation's)",
    )
    add(
        "--targets",
        type=int,
        default=10_000,
        help="how many characters sliding scores, evenly spread; 0 is all (default: 10000)",
    )


def _add_evaluate(command: argparse.ArgumentParser) -> None:
    _add_run(command)
    _add_rule(command)
    command.add_argument("--json", action="store_true", help="one JSON object")


def _add_several(command: argparse.ArgumentParser) -> None:
    """Runs that are looked at together, and how they are scored."""
    add = command.add_argument
    add("folders", nargs="+", metavar="DIR", help="runs, or folders with runs in them")
    add(
        "--checkpoint",
        default="best",
        metavar="best|latest|STEP",
        help="which weights; best is the latest where nothing was validated (default: best)",
    )
    _add_rule(command)


def _add_compare(command: argparse.ArgumentParser) -> None:
    _add_several(command)
    how = command.add_mutually_exclusive_group()
    how.add_argument("--json", action="store_true", help="one JSON object")
    how.add_argument("--csv", action="store_true", help="a line for each arm and baseline")


def _add_report(command: argparse.ArgumentParser) -> None:
    _add_several(command)
    command.add_argument(
        "--out",
        metavar="FILE",
        help="the page (default: report.html in DIR; here, if there are several)",
    )


def _add_inspect(command: argparse.ArgumentParser) -> None:
    _add_run(command)
    add = command.add_argument
    add("--text", required=True, help="what the model reads")
    add(
        "--out",
        metavar="DIR",
        help="where the figures go (default: inspect/ in the run's folder); their names end in the "
        "step and a code of run and text, so that only the same command replaces them",
    )
    _add_unknown(command, "text")
    add("--json", action="store_true", help="one JSON object")


def _add_runs(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("folder", nargs="?", default="runs", metavar="DIR", help="where to look (default: runs)")
    add("--json", action="store_true", help="one JSON object a run")


def _add_verify(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("--workdir", required=True, metavar="DIR", help="the run's folder")
    add("--steps", type=int, default=100, help="how many to repeat (default: 100)")


def _add_replay(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("--workdir", required=True, metavar="DIR", help="the run's folder")


def _add_summary(command: argparse.ArgumentParser) -> None:
    _add_config(command)
    add = command.add_argument
    add("--symbols", type=int, help="count for so many symbols, without reading the text")
    add("--json", action="store_true", help="one JSON object")


def _add_corpora(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("name", nargs="?", metavar="NAME", help="a name, file, folder or glob")
    add("--encoding", default="utf-8", help="of files (default: utf-8)")
    add("--json", action="store_true", help="one JSON object, or a list of them")


_COMMANDS: Mapping[str, tuple[Callable[[argparse.ArgumentParser], None], str]] = {
    "train": (_add_train, "Train a model, or go on with a run."),
    "sweep": (_add_sweep, "Train every point of a sweep, or go on with it."),
    "sample": (_add_sample, "Draw text from a trained model."),
    "evaluate": (_add_evaluate, "Score every character of a held-out text once."),
    "compare": (_add_compare, "Set runs side by side, with intervals and baselines."),
    "report": (_add_report, "Write a page about runs, in one file to send on."),
    "inspect": (_add_inspect, "Draw what happens inside a model while it reads a text."),
    "runs": (_add_runs, "List the runs in a folder."),
    "verify": (_add_verify, "Repeat a run's first steps, and compare them bit for bit."),
    "replay": (_add_replay, "Repeat the step at which a run failed, array by array."),
    "summary": (_add_summary, "Show a model's parameters, layer by layer."),
    "corpora": (_add_corpora, "List the known texts, or describe one (name, file, glob)."),
}


def _build_parser() -> Parser:
    parser = Parser(
        prog="charlm",
        description="Character-level language models: train on a book, sample, measure.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"charlm_jax {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)
    for name, (add_flags, text) in _COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        command.set_defaults(parser=command)
        add_flags(command)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    parser = _build_parser()
    overrides, rest = _split_overrides(sys.argv[1:] if arguments is None else arguments)
    _refuse_unknown_command(parser, rest)
    known, unknown = parser.parse_known_args(rest)
    if known.command is None:
        parser.error(f"no command: name one of {', '.join(_COMMANDS)}")
    for text in overrides:
        if not hasattr(known, "config"):
            known.parser.error(f"--config.{text} means nothing to this command")
        if "=" not in text:
            known.parser.error(f"--config.{text} has no value: write --config.{text}=VALUE")
    known.parser.refuse_unknown(unknown)
    for flag in ("workdir", "init_from", "folder", "out"):
        if getattr(known, flag, None) == "":
            name = "DIR" if flag == "folder" else f"--{flag}"
            kind = "file" if known.command == "report" else "folder"
            known.parser.error(f"{name} is an empty text: name a {kind}")
    known.overrides = overrides
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal may not have every character
        sys.stdout.reconfigure(errors="backslashreplace")
    with _warnings_of_one_line(known.parser.prog):
        status = _run_command(known)
    for stream in (sys.stdout, sys.stderr):
        _let_go(stream)
    return status


def _run_command(known: argparse.Namespace) -> int:
    from charlm_jax.commands import COMMANDS

    program = known.parser.prog
    try:
        status = COMMANDS[known.command](known)
        sys.stdout.flush()  # here, where a reader that went away is noticed
    except BrokenPipeError:  # the reader of our output went away; nothing is left to say to it
        return 128 + signal.SIGPIPE
    except CharlmError as error:
        say(program, error)
        number = getattr(error, "signal_number", None)
        return USER_ERROR if number is None else 128 + number
    except OSError as error:
        place = f": {error.filename}" if error.filename else ""
        say(program, f"{error.strerror or error}{place}")
        return USER_ERROR
    except KeyboardInterrupt:
        say(program, "interrupted")
        return 128 + signal.SIGINT
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and "Out of memory" not in str(error):  # XLA's words
            raise
        asked = re.search(r"allocating (\d+) bytes", str(error))
        size = f" ({int(asked[1]) / 1e9:.1f} GB asked for)" if asked else ""
        hint = "a smaller model, batch or sequence length, or fewer samples, may do"
        say(program, f"out of memory{size}: {hint}")
        return USER_ERROR
    return status or 0


def _let_go(stream: TextIO) -> None:
    """What can no longer be printed must not change the exit status when Python ends."""
    try:
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@contextmanager
def _warnings_of_one_line(program: str) -> Iterator[None]:
    def show(message: Warning | str, *_: object, **__: object) -> None:
        say(program, message)

    before, warnings.showwarning = warnings.showwarning, show
    try:
        yield
    finally:
        warnings.showwarning = before


def _refuse_unknown_command(parser: Parser, arguments: Sequence[str]) -> None:
    name = arguments[0] if arguments else ""
    if name and not name.startswith("-") and name not in _COMMANDS:
        meant = nearest(name, _COMMANDS)
        hint = f"did you mean {meant}?" if meant else f"name one of {', '.join(_COMMANDS)}"
        parser.error(f"no command {name!r}, {hint}")


def _split_overrides(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    prefix = "--config."
    overrides = [a.removeprefix(prefix) for a in arguments if a.startswith(prefix)]
    return overrides, [a for a in arguments if not a.startswith(prefix)]
