"""Flags shared by several commands, and the run and protocol built from them."""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from charlm_jax.cli.parser import nonempty_path
from charlm_jax.cli.typed_text import ESCAPES_HELP, typed_text
from charlm_jax.core.errors import CharlmError

if TYPE_CHECKING:
    from charlm_jax.evaluation import EvalProtocol
    from charlm_jax.inference.run import Run

_TARGETS = 10_000


def add_config(parser: argparse.ArgumentParser) -> None:
    """Add `--config`, which selects the config; `--config.FIELD` overrides its fields."""
    parser.add_argument(
        "--config",
        required=True,
        metavar="NAME|FILE[:ARG]",
        help="a shipped config such as quickstart, or a path ending in .py; "
        "override fields with --config.FIELD=VALUE, such as --config.data.sequence_length=80",
    )


def add_allow_module(parser: argparse.ArgumentParser) -> None:
    """Add `--allow_module`, which lets the model have layers of one's own."""
    parser.add_argument(
        "--allow_module",
        action="append",
        default=[],
        type=nonempty_path,
        metavar="NAME|FILE.py",
        help="import this module, so that config.model.layers may name its classes as "
        "module:Class; a layer's name alone imports nothing; may be given several times",
    )


def _add_checkpoint(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--checkpoint",
        default="best",
        metavar="best|latest|STEP",
        help="checkpoint to load; best means latest if the run was never validated (default: best)",
    )


def add_run(parser: argparse.ArgumentParser) -> None:
    """Add the flags that select a run, its checkpoint and its weights."""
    parser.add_argument(
        "--workdir", required=True, type=nonempty_path, metavar="DIR", help="the run's folder"
    )
    _add_checkpoint(parser)
    parser.add_argument(
        "--weights",
        choices=("average", "raw"),
        help="weights to load if the run keeps a moving average of them (default: average)",
    )


def add_corpus(parser: argparse.ArgumentParser) -> None:
    """Add `--corpus`, which says where a run's text is now."""
    parser.add_argument(
        "--corpus",
        type=nonempty_path,
        metavar="PATH",
        help="current path of the run's text, if it has moved: a file, folder, glob or corpus "
        "name with the same content (default: the path that the run recorded)",
    )


def add_unknown(parser: argparse.ArgumentParser, what: str) -> None:
    """Add the flags that control how unknown characters are handled."""
    parser.add_argument(
        "--unknown",
        choices=("error", "drop", "replace"),
        default="error",
        help=f"how to handle characters of the {what} outside the vocabulary (default: error)",
    )
    parser.add_argument(
        "--replacement",
        type=typed_text,
        help=f"replacement character for --unknown=replace ({ESCAPES_HELP}; default: a space)",
    )


def read_unknown(options: argparse.Namespace) -> dict[str, str]:
    """Return the arguments `unknown` and `replacement` that the flags of `add_unknown` select.

    Raises:
      CharlmError: a replacement is given, and unknown characters are not replaced.
    """
    if options.replacement is not None and options.unknown != "replace":
        raise CharlmError("--replacement requires --unknown=replace")
    replacement = " " if options.replacement is None else options.replacement
    return {"unknown": options.unknown, "replacement": replacement}


def add_protocol(command: argparse.ArgumentParser) -> None:
    """Add the flags of an evaluation: the split and the protocol."""
    add = command.add_argument
    add("--split", default="valid", help="split to score: valid, test or train (default: valid)")
    add(
        "--mode",
        choices=("window", "sliding", "stream"),
        default="window",
        help="separate windows (window), a fixed number of characters before each target "
        "(sliding), or the state carried through each stretch of the split (stream) "
        "(default: window)",
    )
    add(
        "--context",
        type=int,
        help="window length, number of characters before each target, or number of positions "
        "that attention keeps (default: the context used in validation)",
    )
    add(
        "--targets",
        type=int,
        help="number of evenly spaced targets for --mode=sliding; 0 scores all "
        f"(default: {_TARGETS})",
    )


def add_several(command: argparse.ArgumentParser) -> None:
    """Add the flags of commands that compare several runs, and of their evaluation."""
    add = command.add_argument
    add(
        "folders",
        nargs="+",
        type=nonempty_path,
        metavar="DIR",
        help="run folders, or folders that contain runs",
    )
    _add_checkpoint(command)
    add(
        "--no_baselines",
        action="store_true",
        help="leave out the baselines: n-gram, unigram, uniform and compressors",
    )
    add_corpus(command)
    add_protocol(command)


def load(options: argparse.Namespace) -> "Run":
    """Load the run that the flags of `add_run`, and of `add_corpus` if given, select."""
    from charlm_jax.inference.run import load_run

    return load_run(
        options.workdir,
        checkpoint=options.checkpoint,
        weights=options.weights,
        corpus=getattr(options, "corpus", None),
    )


def read_protocol(options: argparse.Namespace, runs: "Sequence[Run]") -> "EvalProtocol | None":
    """Return the protocol that the flags of `add_protocol` select.

    Args:
      options: parsed flags.
      runs: runs whose validation context is the default.

    Returns:
      The protocol; None for windows of the length used in validation.

    Raises:
      CharlmError: a number is out of range, or has no effect.
    """
    from charlm_jax.comparison.compare import shared_context
    from charlm_jax.core.limits import MAX_INT32, require_within
    from charlm_jax.evaluation.protocol import build_protocol

    mode, context = options.mode, options.context
    if options.targets is not None and mode != "sliding":
        raise CharlmError(
            "--targets requires --mode=sliding: the other modes score every character"
        )
    targets = _TARGETS if options.targets is None else options.targets
    require_within("targets", targets, 0, MAX_INT32)
    if context is None and mode == "window":
        return None
    if context is None and mode == "sliding":
        context = shared_context(runs)
    return build_protocol(mode, context=context, targets=targets)
