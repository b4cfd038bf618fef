"""`charlm sample`."""

import argparse
import json
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from charlm_jax.commands.shared import add_run, add_unknown, load

HELP = "Draw text from a trained model."


def add_flags(command: argparse.ArgumentParser) -> None:
    """What it takes."""
    add_run(command)
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
    add_unknown(command, "prompt")
    add("--json", action="store_true", help="one JSON object a sample")


def _scales(text: str) -> list[float]:
    try:
        return [float(item) for item in text.split(",")]
    except ValueError as error:
        message = f"{text!r} is not a list of numbers such as 0.5,1,2"
        raise argparse.ArgumentTypeError(message) from error


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


def run(options: argparse.Namespace) -> None:
    """Draw text, and print it or write it as JSON."""
    from charlm_jax.sampling import temperature

    run = load(options)
    truncations = {"top_k": options.top_k, "top_p": options.top_p, "min_p": options.min_p}
    pieces = run.draw(
        options.prompt,
        characters=options.chars,
        scales=options.scale,
        samples=options.num,
        seed=options.seed,
        mode=options.mode,
        context=options.context,
        unknown=options.unknown,
        replacement=options.replacement,
        **truncations,
    )
    rows = [
        {
            "scale": scale,
            "temperature": temperature(scale),
            **truncations,
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
    mode = options.mode or run.default_mode
    averaged = ", averaged weights" if run.weights == "average" else ""
    print(f"{run.workdir}, checkpoint {run.checkpoint}{averaged}, {mode}", file=sys.stderr)
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
    unused = {"top_k": 0, "top_p": 1.0, "min_p": 0.0}
    used = "".join(f"{name} {row[name]}, " for name in unused if row[name] != unused[name])
    print(
        f"--- scale {row['scale']:g} (temperature {row['temperature']:g}), {used}"
        f"seed {row['seed']}, sample {row['index']}",
        flush=True,
    )
