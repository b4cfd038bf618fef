"""`charlm <command>`: flags, messages and exit codes.

Heavy imports wait until a command needs them, so that `charlm --help` answers at once.
"""

import argparse
import dataclasses
import difflib
import io
import json
import signal
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from charlm_jax import __version__
from charlm_jax.types import CharlmError

if TYPE_CHECKING:
    from charlm_jax.run import Run

USER_ERROR = 2


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, with the nearest flag for a misspelt one."""

    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: {message}; see {self.prog} --help", file=sys.stderr)
        raise SystemExit(USER_ERROR)

    def refuse_unknown(self, arguments: Sequence[str]) -> None:
        for argument in arguments:
            flag = argument.partition("=")[0]
            close = difflib.get_close_matches(flag, self._option_string_actions, n=1)
            self.error(
                f"unknown argument {flag}" + (f", did you mean {close[0]}?" if close else "")
            )


def _scales(text: str) -> list[float]:
    try:
        return [float(item) for item in text.split(",")]
    except ValueError as error:
        message = f"{text!r} is not a list of numbers such as 0.5,1,2"
        raise argparse.ArgumentTypeError(message) from error


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


def _build_parser() -> _Parser:
    parser = _Parser(
        prog="charlm",
        description="Character-level language models: train on a book, sample, measure.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"charlm_jax {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Parser)

    def add(name: str, run: Callable[[argparse.Namespace], None], text: str) -> _Parser:
        command = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        command.set_defaults(run=run, parser=command)
        return command

    train = add("train", _train, "Train a model, or go on with a run.")
    _add_config(train)
    train.add_argument("--workdir", metavar="DIR", help="default: runs/NAME-OF-THE-CONFIG")

    sample = add("sample", _sample, "Draw text from a trained model.")
    _add_run(sample)
    sample.add_argument("--prompt", required=True, help="what the text goes on from")
    sample.add_argument("--chars", type=int, default=500, help="characters to draw (default: 500)")
    sample.add_argument(
        "--scale",
        type=_scales,
        default=[1.0],
        metavar="A[,A...]",
        help="scale factors of the logits, 1 / temperature, from 0 (uniform) to inf (greedy); "
        "default: 1",
    )
    sample.add_argument("--num", type=int, default=1, help="samples at each scale (default: 1)")
    sample.add_argument("--seed", type=int, default=0, help="root of the noise (default: 0)")
    sample.add_argument(
        "--mode",
        choices=("carried", "window"),
        default="carried",
        help="carry the state, or read the last characters again for every new one, as the "
        "textbook does (default: carried)",
    )
    sample.add_argument("--context", type=int, help="the window's length (default: training's)")
    sample.add_argument(
        "--unknown",
        choices=("error", "drop", "replace"),
        default="error",
        help="what to do with characters of the prompt that the model does not know",
    )
    sample.add_argument(
        "--replacement", default=" ", help="what --unknown=replace puts there (default: a space)"
    )
    sample.add_argument("--json", action="store_true", help="one JSON object a sample")

    evaluate = add("evaluate", _evaluate, "Score every character of a held-out text once.")
    _add_run(evaluate)
    evaluate.add_argument("--split", default="valid", help="valid or train (default: valid)")
    evaluate.add_argument(
        "--mode",
        choices=("window", "stream"),
        default="window",
        help="separate windows, or the state carried through the whole text (default: window)",
    )
    evaluate.add_argument("--context", type=int, help="the window's length (default: training's)")
    evaluate.add_argument("--json", action="store_true", help="one JSON object")

    summary = add("summary", _summary, "Show a model's parameters, layer by layer.")
    _add_config(summary)
    summary.add_argument(
        "--symbols", type=int, help="count for so many symbols, without reading the text"
    )
    summary.add_argument("--json", action="store_true", help="one JSON object")

    corpora = add("corpora", _corpora, "List the known texts, or describe one (name, file, glob).")
    corpora.add_argument("name", nargs="?", metavar="NAME", help="a name, file, folder or glob")
    corpora.add_argument("--encoding", default="utf-8", help="of files (default: utf-8)")
    corpora.add_argument("--json", action="store_true", help="one JSON object, or a list of them")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    parser = _build_parser()
    overrides, rest = _split_overrides(sys.argv[1:] if arguments is None else arguments)
    known, unknown = parser.parse_known_args(rest)
    if known.command is None:
        parser.error("no command: name one of train, sample, evaluate, summary, corpora")
    for text in overrides:
        if not hasattr(known, "config"):
            known.parser.error(f"--config.{text} means nothing to this command")
        if "=" not in text:
            known.parser.error(f"--config.{text} has no value: write --config.{text}=VALUE")
    known.parser.refuse_unknown(unknown)
    known.overrides = overrides
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal may not have every character
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        known.run(known)
        sys.stdout.flush()  # here, where a reader that went away is noticed
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output went away; nothing is left to say to it
        return 128 + signal.SIGPIPE
    except CharlmError as error:
        print(f"{known.parser.prog}: {error}", file=sys.stderr)
        number = getattr(error, "signal_number", None)
        return USER_ERROR if number is None else 128 + number
    except (OSError, MemoryError) as error:
        what = f"{type(error).__name__}: {error}"
        print(f"{known.parser.prog}: {what}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        print(f"{known.parser.prog}: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    return 0


def _split_overrides(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    prefix = "--config."
    overrides = [a.removeprefix(prefix) for a in arguments if a.startswith(prefix)]
    return overrides, [a for a in arguments if not a.startswith(prefix)]


def _train(options: argparse.Namespace) -> None:
    from charlm_jax.config_files import config_name, load_config

    config = load_config(options.config, options.overrides)
    workdir = options.workdir or f"runs/{config_name(options.config)}"
    from charlm_jax.console import DownloadProgress, training_view
    from charlm_jax.loop import train_and_evaluate

    with training_view() as view:
        result = train_and_evaluate(config, workdir, view=view, progress=DownloadProgress())
    if result.was_done:
        print(f"{workdir} is done: {result.step} steps")
    else:
        print(f"{workdir}: trained {result.step} steps")
    if result.best_loss_nats is not None:
        print(f"best held-out loss: {result.best_loss_nats:.4f} nats, at step {result.best_step}")


def _load(options: argparse.Namespace) -> "Run":
    from charlm_jax.run import load_run

    return load_run(options.workdir, checkpoint=options.checkpoint)


def _sample(options: argparse.Namespace) -> None:
    from charlm_jax.run import draw
    from charlm_jax.sampling import temperature

    run = _load(options)
    pieces = draw(
        run,
        options.prompt,
        characters=options.chars,
        scales=options.scale,
        samples=options.num,
        seed=options.seed,
        mode=options.mode,
        context=options.context,
        unknown=options.unknown,
        replacement=options.replacement,
    )
    rows = [
        {
            "scale": scale,
            "temperature": temperature(scale),
            "seed": options.seed,
            "index": index,
            "prompt": options.prompt,
        }
        for scale in options.scale
        for index in range(options.num)
    ]
    if options.json:
        for row, text in zip(rows, _joined(pieces, len(rows)), strict=True):
            print(json.dumps({**_finite(row), "text": text}))
        return
    print(f"{run.workdir}, checkpoint {run.checkpoint}, {options.mode}", file=sys.stderr)
    if len(rows) == 1:
        _print_heading(rows[0])
        print(options.prompt, end="", flush=True)
        for (text,) in pieces:
            print(text, end="", flush=True)
        print()
        return
    for row, text in zip(rows, _joined(pieces, len(rows)), strict=True):
        _print_heading(row)
        print(options.prompt + text + "\n")


def _joined(pieces: Iterable[list[str]], rows: int) -> list[str]:
    texts = [""] * rows
    for piece in pieces:
        texts = [text + more for text, more in zip(texts, piece, strict=True)]
    return texts


def _finite(row: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has no infinity: it is written as a word."""
    return {
        name: str(value) if isinstance(value, float) and value == float("inf") else value
        for name, value in row.items()
    }


def _print_heading(row: Mapping[str, Any]) -> None:
    print(
        f"--- scale {row['scale']:g} (temperature {row['temperature']:g}), "
        f"seed {row['seed']}, sample {row['index']}",
        flush=True,
    )


def _evaluate(options: argparse.Namespace) -> None:
    from charlm_jax.console import DownloadProgress
    from charlm_jax.run import evaluate_run, save_evaluation

    run = _load(options)
    evaluation, nll_N = evaluate_run(
        run,
        split=options.split,
        mode=options.mode,
        context=options.context,
        progress=DownloadProgress(),
    )
    file = save_evaluation(run, evaluation, nll_N)
    if options.json:
        print(json.dumps(dataclasses.asdict(evaluation)))
        return
    rule = evaluation.mode + (f" of {evaluation.context}" if evaluation.context else "")
    print(
        f"{evaluation.split}: {evaluation.loss_nats:.4f} nats, "
        f"{evaluation.bits_per_char:.4f} bits per character over {evaluation.characters:,} "
        f"characters ({rule}, checkpoint {evaluation.checkpoint})\n{file}"
    )


def _summary(options: argparse.Namespace) -> None:
    from charlm_jax.config_files import load_config

    config = load_config(options.config, options.overrides)
    from charlm_jax.console import DownloadProgress
    from charlm_jax.dataset import load_dataset
    from charlm_jax.models.summary import summarize

    if options.symbols is not None and options.symbols < 1:
        raise CharlmError(f"symbols={options.symbols} is not allowed: it must be at least 1")
    vocab_size = options.symbols
    if vocab_size is None:
        vocab_size = len(load_dataset(config, progress=DownloadProgress()).vocabulary)
    modules = summarize(config.model, vocab_size)
    parameters = sum(module.parameters for module in modules)
    if options.json:
        listed = [module._asdict() for module in modules]
        print(json.dumps({"parameters": parameters, "modules": listed}))
        return
    print(f"{'module':<12} {'layer':<10} {'output':<16} {'parameters':>12}")
    for module in modules:
        shape = "(" + ", ".join(map(str, module.output_shape)) + ")"
        print(f"{module.name:<12} {module.kind:<10} {shape:<16} {module.parameters:>12,}")
    print(f"{'in all':<40} {parameters:>12,}")


def _corpora(options: argparse.Namespace) -> None:
    from charlm_jax.console import DownloadProgress
    from charlm_jax.corpora import list_corpora, load_corpus

    if options.name is None:
        rows = list_corpora()
        if options.json:
            print(json.dumps([dataclasses.asdict(row) for row in rows]))
            return
        for row in rows:
            print(f"{row.name:<18} {row.characters:>10,}  {row.state}")
            print(f"{'':<18} {row.description} ({row.licence})")
        return
    corpus = load_corpus(options.name, encoding=options.encoding, progress=DownloadProgress())
    facts = {
        **corpus.facts,
        "name": corpus.name,
        "characters": corpus.characters,
        "symbols": corpus.symbols,
        "sha256": corpus.sha256,
        "source": corpus.source,
        "text_sha256": corpus.text_sha256,
    }
    if options.json:
        print(json.dumps(facts))
        return
    for name, value in facts.items():
        print(f"{name:<12} {value}")
