"""`charlm sample`."""

import argparse
import sys
from typing import TYPE_CHECKING

from charlm_jax.cli.commands.common_flags import add_run, add_unknown, load, read_unknown
from charlm_jax.cli.commands.sample_output import (
    choose_column_width,
    describe_source,
    print_json,
    print_texts,
    prompt_as_read,
    sample_infos,
    shown_chunks,
)
from charlm_jax.cli.output import note
from charlm_jax.cli.parser import nonempty_path
from charlm_jax.cli.typed_text import ESCAPES_HELP, needs_escapes, typed_text
from charlm_jax.core.errors import CharlmError
from charlm_jax.core.files import user_path
from charlm_jax.core.limits import MAX_INT32, require_within

if TYPE_CHECKING:
    from charlm_jax.inference.run import Run
    from charlm_jax.sampling.params import SamplingParams

HELP = "Sample text from a trained model."


def add_flags(command: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    add_run(command)
    _add_prompt(command)
    add = command.add_argument
    add("--chars", type=int, default=500, help="number of characters to sample (default: 500)")
    add(
        "--stop",
        action="append",
        type=typed_text,
        default=[],
        metavar="TEXT",
        help=f"stop before TEXT when it is sampled ({ESCAPES_HELP}); may be given several times",
    )
    add(
        "--scale",
        type=_scales,
        default=[1.0],
        metavar="A[,A...]",
        help="scale factors of the logits (1 / temperature), from 0 (uniform) to inf (greedy) "
        "(default: 1)",
    )
    _add_truncations(command)
    add("--num", type=int, default=1, help="number of samples per scale (default: 1)")
    add("--seed", type=int, default=0, help="random seed (default: 0)")
    add(
        "--mode",
        choices=("carried", "window"),
        help="carry the state between characters, or re-read the last --context characters for "
        "every new one, as the textbook does (default: carried, or window for a model with "
        "learned positions)",
    )
    add(
        "--context",
        type=int,
        help="window length, or number of positions that attention keeps (default: as in training)",
    )
    add_unknown(command, "prompt")
    _add_output(command)


def _add_prompt(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add(
        "--prompt",
        type=typed_text,
        metavar="TEXT",
        help=f"text to continue ({ESCAPES_HELP})",
    )
    add(
        "--prompt_file",
        type=nonempty_path,
        metavar="FILE",
        help="UTF-8 file with the text to continue, or - for standard input; it has no escapes, "
        "and a trailing newline is part of the prompt",
    )
    add(
        "--interactive",
        action="store_true",
        help="read prompts from the terminal, one per line, with the escapes of --prompt; slash "
        "commands change the settings, and /help lists them",
    )


def _scales(text: str) -> list[float]:
    try:
        return [float(item) for item in text.split(",")]
    except ValueError as error:
        message = f"{text!r} is not a list of numbers such as 0.5,1,2"
        raise argparse.ArgumentTypeError(message) from error


def _add_truncations(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add(
        "--top_k",
        type=int,
        default=0,
        metavar="K",
        help="keep the K most probable characters; 0 keeps all (default)",
    )
    add(
        "--top_p",
        type=float,
        default=1.0,
        metavar="P",
        help="of these, keep the fewest whose total probability reaches P; 1 keeps all (default)",
    )
    add(
        "--min_p",
        type=float,
        default=0.0,
        metavar="P",
        help="of these, keep those at least P times as probable as the best; 0 keeps all (default)",
    )


def _add_output(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add(
        "--layout",
        choices=("auto", "columns", "rows"),
        default="auto",
        help="print the scales side by side (columns) or one below the other (rows); auto chooses "
        "columns if standard output is a wide enough terminal (default: auto)",
    )
    add("--json", action="store_true", help="print one JSON object per sample")


def run(options: argparse.Namespace) -> None:
    """Sample text and print it, as text or as JSON."""
    _refuse_misfits(options)
    given = _read_prompt(options)
    run = load(options)
    prompt = _decode_prompt(given, options, run)
    sampling = _read_sampling(options)
    if options.interactive:
        from charlm_jax.cli.commands.interactive import interact

        interact(run, sampling, prompt, characters=options.chars)
        return
    from charlm_jax.inference.trained_model import MAX_TEXTS

    require_within("num", options.num, 1, MAX_TEXTS // len(options.scale))
    require_within("chars", options.chars, 0, MAX_INT32)
    texts = {"scales": options.scale, "samples": options.num}
    chunks = run.sample(prompt or "", sampling, characters=options.chars, **texts)
    vocabulary = run.vocabulary
    read, unknown = prompt_as_read(prompt or "", sampling, vocabulary)
    infos = sample_infos(sampling, vocabulary.shown(read), **texts)
    if options.json:
        print_json(infos, chunks, vocabulary)
        return
    width = choose_column_width(options)
    note(describe_source(run, options.mode))
    if options.prompt is not None and needs_escapes(options.prompt):
        note(f"prompt {options.prompt!r}")
    if unknown:
        note(unknown)
    print_texts(infos, shown_chunks(chunks, vocabulary), width)


def _refuse_misfits(options: argparse.Namespace) -> None:
    """Refuse incompatible flags."""
    refuse, wants_file = options.parser.error, options.prompt_file is not None
    if options.prompt is not None and wants_file:
        refuse("--prompt and --prompt_file cannot be combined: give one of them")
    if options.json and options.layout != "auto":
        refuse("--layout cannot be used with --json")
    if not options.interactive:
        if options.prompt is None and not wants_file:
            refuse("--prompt or --prompt_file is required")
        return
    if options.prompt_file == "-":
        refuse("--prompt_file=- and --interactive would both read standard input")
    for flag, is_default in {
        "--json": not options.json,
        "--num": options.num == 1,
        "--layout": options.layout == "auto",
    }.items():
        if not is_default:
            refuse(f"{flag} cannot be used with --interactive, which samples one text at a time")
    if len(options.scale) > 1:
        refuse("--interactive samples one text at a time: give one --scale")


def _read_prompt(options: argparse.Namespace) -> str | bytes | None:
    """Return the prompt of a flag, or the bytes of a file or standard input; None without one."""
    file: str | None = options.prompt_file
    if file is None:
        prompt: str | None = options.prompt
        return prompt
    from charlm_jax.data.download import read_bytes

    if "\0" in file:
        raise CharlmError(f"--prompt_file={file!r} is not a path: it has a NUL byte")
    if file == "-":
        return b"" if sys.stdin is None else sys.stdin.buffer.read()
    return read_bytes(user_path(file))


def _decode_prompt(
    given: str | bytes | None, options: argparse.Namespace, run: "Run"
) -> str | None:
    """Return a prompt as text; a model of bytes takes those of a file exactly."""
    if not isinstance(given, bytes):
        return given
    if run.vocabulary.unit == "bytes":
        return given.decode("utf-8", "surrogateescape")
    from charlm_jax.data.decoding import BYTE_ORDER_MARK, decode

    source = "standard input" if options.prompt_file == "-" else options.prompt_file
    text = decode(given, encoding="utf-8", source=source, advice="a prompt is read as UTF-8")
    return text.removeprefix(BYTE_ORDER_MARK)


def _read_sampling(options: argparse.Namespace) -> "SamplingParams":
    """Return the sampling parameters given by the flags, with the first of the scales."""
    from charlm_jax.sampling.params import SamplingParams

    return SamplingParams(
        scale=options.scale[0],
        top_k=options.top_k,
        top_p=options.top_p,
        min_p=options.min_p,
        seed=options.seed,
        stop=options.stop,
        mode=options.mode,
        context=options.context,
        **read_unknown(options),
    )
