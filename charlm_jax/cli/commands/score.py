"""`charlm score`."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charlm_jax.cli.commands.common_flags import add_run, add_unknown, read_unknown
from charlm_jax.cli.output import show, shown_progress
from charlm_jax.cli.parser import nonempty_path
from charlm_jax.core.errors import CharlmError
from charlm_jax.core.files import user_path
from charlm_jax.core.visible_text import visible_line

if TYPE_CHECKING:
    from charlm_jax.comparison.readings import Reading
    from charlm_jax.evaluation.text_score import LineScore
    from charlm_jax.inference.run import Run

HELP = "Score a text line by line under a model; optionally write an HTML page."

_WIDTH = 80  # printed characters of a line


def add_flags(command: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    add_run(command)
    add = command.add_argument
    add("file", type=nonempty_path, metavar="FILE", help="text file, or - for standard input")
    add(
        "--beside",
        type=nonempty_path,
        metavar="DIR",
        help="second run to score the same text with, for comparison",
    )
    add("--encoding", default="utf-8", help="encoding of the text (default: utf-8)")
    add(
        "--mode",
        choices=("stream", "window", "sliding"),
        help="the state carried through the whole text (stream), separate windows (window), or a "
        "fixed number of characters before each target (sliding) (default: stream, or window for "
        "a model with learned positions)",
    )
    add(
        "--context",
        type=int,
        help="window length, number of characters before each target, or number of positions "
        "that attention keeps (default: the context used in validation)",
    )
    add_unknown(command, "text")
    add(
        "--sort",
        choices=("text", "surprise"),
        default="text",
        help="order of the lines: as in the text, or highest bits per character first, equal ones "
        "as in the text (default: text)",
    )
    add(
        "--lines",
        choices=("running", "separate"),
        help="read each line after the lines before it (running), or from the initial state, so "
        "that its figure does not depend on them (separate) (default: running, or separate with "
        "--sort=surprise)",
    )
    add(
        "--html",
        type=nonempty_path,
        metavar="FILE",
        help="write an HTML page with the surprisal of each of the first 10,000 characters",
    )
    add("--json", action="store_true", help="print one JSON object")


def run(options: argparse.Namespace) -> None:
    """Score a text, print its lines and write the HTML page if requested."""
    from charlm_jax.comparison.readings import describe_difference
    from charlm_jax.report.html.page import check_page_path
    from charlm_jax.report.text_page import write_text_page

    data, source = _read(options.file)
    runs = _load(options)
    text = _decode(data, source, options.encoding, runs)
    page = None if options.html is None else user_path(options.html)
    if page is not None:
        check_page_path(page)
    readings = [_reading(run, text, options, runs) for run in runs]
    text = runs[0].vocabulary.to_symbols(text)
    if page is not None:
        name = "standard input" if options.file == "-" else Path(options.file).name
        write_text_page(readings, text, page, name=name)
    if options.json:
        show(json.dumps({**_all_as_json(readings, text, options), "page": page and str(page)}))
        return
    _print_lines(readings, text, options.sort)
    for reading in readings:
        show(_summary(reading, text))
    if len(readings) == 2:
        show(visible_line(describe_difference(*readings)))
    if page is not None:
        show(page)


def _read(file: str) -> tuple[bytes, str]:
    """Return the bytes of a file, and its name in messages."""
    from charlm_jax.data.dataset import MOST_SCORED
    from charlm_jax.data.download import read_bytes

    most = 4 * MOST_SCORED  # a character has at most four
    if file != "-":
        path = user_path(file)
        return read_bytes(path, most=most), str(path)
    if sys.stdin is None:
        raise CharlmError("standard input is closed: name a file")
    data = sys.stdin.buffer.read(most + 1)
    if len(data) > most:
        raise CharlmError(f"standard input has more than {most:,} bytes: give a part of the text")
    return data, "standard input"


def _decode(data: bytes, source: str, encoding: str, runs: "Sequence[Run]") -> str:
    """Return bytes as the text that all runs score; a model of bytes takes them exactly."""
    from charlm_jax.data.decoding import BYTE_ORDER_MARK, decode

    units = dict.fromkeys(run.vocabulary.unit for run in runs)
    if len(units) > 1:
        raise CharlmError(
            f"{runs[0].workdir} and {runs[1].workdir} cannot be compared: one reads characters, "
            f"the other bytes"
        )
    if "bytes" not in units:
        advice = "set --encoding, such as {encoding}"
        text = decode(data, encoding=encoding, source=source, advice=advice)
        text = text.removeprefix(BYTE_ORDER_MARK)
    elif encoding == "utf-8":
        text = data.decode("utf-8", "surrogateescape")
    else:
        raise CharlmError(
            f"--encoding={encoding} is not allowed: {runs[0].workdir} reads bytes as they are"
        )
    if not text:
        raise CharlmError(f"{source} is empty: there is no character to score")
    return text


def _load(options: argparse.Namespace) -> "list[Run]":
    """Load the run, and the second run if there is one."""
    from charlm_jax.inference.run import load_run

    folders = [options.workdir] + ([] if options.beside is None else [options.beside])
    runs = [
        load_run(folder, checkpoint=options.checkpoint, weights=options.weights)
        for folder in folders
    ]
    if len({run.workdir.resolve() for run in runs}) < len(runs):
        raise CharlmError(f"--beside={options.beside} is the same run as --workdir: name another")
    return runs


def _reading(
    run: "Run", text: str, options: argparse.Namespace, runs: "Sequence[Run]"
) -> "Reading":
    from charlm_jax.comparison.readings import Reading
    from charlm_jax.evaluation.protocol import build_protocol
    from charlm_jax.evaluation.text_score import default_scoring_mode

    names = [other.workdir.resolve().name for other in runs]
    name = run.workdir.resolve().name
    mode, context = options.mode or default_scoring_mode(run.model), options.context
    if context is None and mode != "stream":
        context = run.config.evaluation_context
    lines = options.lines or ("separate" if options.sort == "surprise" else "running")
    if (lines, mode) == ("separate", "sliding"):
        raise CharlmError("--mode=sliding reads across lines: use --lines=running or another mode")
    try:
        how: dict[str, Any] = {
            "protocol": build_protocol(mode, context=context, targets=0),
            **read_unknown(options),
            "separate_lines": lines == "separate",
        }
        with shown_progress() as report:
            score = run.score(text, **how, report=report)
    except CharlmError as error:
        which = f"{run.workdir}: " if len(runs) > 1 else ""
        raise CharlmError(f"{which}{error}") from error
    return Reading(name if names.count(name) == 1 else str(run.workdir), run, score, how)


def _lines(reading: "Reading", text: str, sort: str) -> "list[LineScore]":
    """Return the scores of lines, whose text is no longer symbols but as it is printed."""
    from charlm_jax.evaluation.text_score import score_lines, sort_by_surprisal

    read = reading.run.vocabulary
    lines = score_lines(text, reading.score)
    lines = [line._replace(text=read.shown(read.to_text(line.text))) for line in lines]
    return sort_by_surprisal(lines) if sort == "surprise" else lines


def _print_lines(readings: "Sequence[Reading]", text: str, sort: str) -> None:
    """Print a row for each line of the text, with the scores of every run."""
    from charlm_jax.cli.tables import print_table

    first, *others = readings
    beside = [_lines(reading, text, "text") for reading in others]
    heads = ["line", "scored", *["bits", "beside"][: len(readings)]]
    rows = []
    for line in _lines(first, text, sort):
        figures = [line, *(lines[line.number - 1] for lines in beside)]
        shown = line.text if len(line.text) <= _WIDTH else f"{line.text[:_WIDTH]}…"
        rows.append(
            (
                str(line.number),
                str(line.characters),
                *map(_bits, figures),
                shown,
            )
        )
    print_table(dict.fromkeys(heads, "right") | {"text": "left"}, rows)


def _bits(line: "LineScore") -> str:
    return "-" if line.bits_per_char is None else f"{line.bits_per_char:.4f}"


def _summary(reading: "Reading", text: str) -> str:
    score, run = reading.score, reading.run
    unknown = reading.describe_unknown(text)
    return (
        f"{visible_line(reading.label)}: {score.loss_nats:.4f} nats, "
        f"{score.bits_per_char:.4f} bits per {run.vocabulary.noun} over {score.characters:,} "
        f"{run.vocabulary.unit}{unknown and f', {unknown}'} "
        f"({score.rule}, {run.checkpoint_label})"
    )


def _all_as_json(
    readings: "Sequence[Reading]", text: str, options: argparse.Namespace
) -> dict[str, Any]:
    from charlm_jax.evaluation.text_score import surprisal_difference

    first, *others = [_as_json(reading, text, options) for reading in readings]
    if not others:
        return first
    less_N = surprisal_difference(*(reading.score for reading in readings))
    mean = float(less_N.mean()) if less_N.size else None
    shared = {"shared_characters": less_N.size, "difference_nats": mean}
    return {**first, "beside": others[0], **shared}


def _as_json(reading: "Reading", text: str, options: argparse.Namespace) -> dict[str, Any]:
    from charlm_jax.core.types import bits

    score, run = reading.score, reading.run
    return {
        "workdir": str(run.workdir),
        "checkpoint": run.checkpoint,
        "weights": run.weights,
        "file": options.file,
        "mode": score.protocol.mode,
        "context": score.protocol.context,
        "separate_lines": score.separate_lines,
        "unknown": options.unknown,
        "unknown_characters": int(reading.is_unknown(text).sum()),
        "unit": run.vocabulary.unit,
        "characters": score.characters,
        "loss_nats": score.loss_nats,
        "bits_per_char": score.bits_per_char,
        "nats": score.nats,
        "bits": bits(score.nats),
        "lines": [_line_as_json(line) for line in _lines(reading, text, options.sort)],
    }


def _line_as_json(line: "LineScore") -> dict[str, Any]:
    return {
        "line": line.number,
        "text": line.text,
        "characters": line.characters,
        "bits_per_char": line.bits_per_char,
        "nats": line.nats,
    }
