"""What several commands have in common: their flags, and the run that they name."""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from charlm_jax.cli.parser import nonempty_path

if TYPE_CHECKING:
    from charlm_jax.evaluation import EvalProtocol
    from charlm_jax.inference.run import Run


def add_config(parser: argparse.ArgumentParser) -> None:
    """The config that is meant, and what changes its fields."""
    parser.add_argument(
        "--config",
        required=True,
        metavar="NAME|FILE[:ARG]",
        help="a shipped config such as quickstart, or a path ending in .py; "
        "--config.FIELD=VALUE changes a field, as in --config.data.sequence_length=80",
    )


def add_run(parser: argparse.ArgumentParser) -> None:
    """The run that is meant, and which of its weights."""
    parser.add_argument(
        "--workdir", required=True, type=nonempty_path, metavar="DIR", help="the run's folder"
    )
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


def add_unknown(parser: argparse.ArgumentParser, what: str) -> None:
    """What becomes of characters that a model does not know."""
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


def add_protocol(command: argparse.ArgumentParser) -> None:
    """Add the flags of an evaluation: the part of the text, and the protocol."""
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


def add_several(command: argparse.ArgumentParser) -> None:
    """Runs that are looked at together, and how they are scored."""
    add = command.add_argument
    add(
        "folders",
        nargs="+",
        type=nonempty_path,
        metavar="DIR",
        help="runs, or folders with runs in them",
    )
    add(
        "--checkpoint",
        default="best",
        metavar="best|latest|STEP",
        help="which weights; best is the latest where nothing was validated (default: best)",
    )
    add_protocol(command)


def load(options: argparse.Namespace) -> "Run":
    """The run that the flags of `add_run` name."""
    from charlm_jax.inference.run import load_run

    return load_run(options.workdir, checkpoint=options.checkpoint, weights=options.weights)


def read_protocol(options: argparse.Namespace, runs: "Sequence[Run]") -> "EvalProtocol | None":
    """Return the protocol that the flags of `add_protocol` name.

    Args:
      options: parsed flags.
      runs: runs whose validation gives the context where none is named.

    Returns:
      The protocol; None for windows of validation's length.
    """
    from charlm_jax.comparison.compare import shared_context
    from charlm_jax.core.errors import MAX_CHARACTERS, require_within
    from charlm_jax.evaluation.protocol import build_protocol

    require_within("targets", options.targets, 0, MAX_CHARACTERS)
    mode, context = options.mode, options.context
    if context is None and mode == "window":
        return None
    if context is None and mode == "sliding":
        context = shared_context(runs)
    return build_protocol(mode, context=context, targets=options.targets)
