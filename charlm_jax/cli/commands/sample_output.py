"""How `charlm sample` prints texts: as JSON, one below the other, or side by side."""

import argparse
import json
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from charlm_jax.core.errors import CharlmError

if TYPE_CHECKING:
    from charlm_jax.cli.columns import Sheet
    from charlm_jax.inference.run import Run
    from charlm_jax.sampling.stop_strings import Chunk

Row = Mapping[str, Any]
"""All about one text but the text."""


def describe_source(run: "Run", mode: str | None) -> str:
    """Which weights draw, and how, in a line."""
    return f"{run.workdir}, {run.checkpoint_label}, {mode or run.default_mode}"


def text_rows(options: argparse.Namespace, prompt: str | None) -> list[Row]:
    """What `TrainedModel.draw` draws: all samples of the first scale, then of the second, ..."""
    from charlm_jax.sampling.categorical import temperature

    return [
        {
            "scale": scale,
            "temperature": temperature(scale),
            **truncations(options),
            "seed": options.seed,
            "index": index,
            "prompt": prompt,
        }
        for scale in options.scale
        for index in range(options.num)
    ]


def truncations(options: argparse.Namespace) -> dict[str, Any]:
    """What the flags leave out of the symbols that may be drawn."""
    return {"top_k": options.top_k, "top_p": options.top_p, "min_p": options.min_p}


def print_json(rows: Sequence[Row], drawn: Iterable[Sequence["Chunk"]]) -> None:
    """Print an object a text, when all are drawn."""
    texts = [""] * len(rows)
    for pieces in drawn:
        texts = [text + piece.text for text, piece in zip(texts, pieces, strict=True)]
    for row, text, piece in zip(rows, texts, pieces, strict=True):
        print(json.dumps({**_finite(row), "text": text, "stopped_by": piece.stopped_by}))


def _finite(row: Row) -> dict[str, Any]:
    """JSON has no infinity: it is written as a word."""
    return {
        name: str(value) if isinstance(value, float) and value == float("inf") else value
        for name, value in row.items()
    }


def column_width(options: argparse.Namespace) -> int:
    """Of each column in cells; 0 where the texts stand one below the other.

    Raises:
      CharlmError: columns were asked for, and would be too narrow.
    """
    from charlm_jax.cli.columns import LEAST_WIDTH
    from charlm_jax.cli.columns import column_width as width_of_columns

    columns = len(options.scale)
    if options.layout == "rows" or (
        options.layout == "auto" and (columns == 1 or not sys.stdout.isatty())
    ):
        return 0
    terminal_width = shutil.get_terminal_size().columns
    width = width_of_columns(columns, terminal_width)
    if width >= LEAST_WIDTH:
        return width
    if options.layout == "columns":
        raise CharlmError(
            f"--layout=columns is not possible: {columns} columns on {terminal_width} characters "
            f"are {max(width, 0)} wide, and at least {LEAST_WIDTH} are needed"
        )
    return 0


def print_texts(rows: Sequence[Row], drawn: Iterable[Sequence["Chunk"]], width: int) -> None:
    """Print texts while they are drawn; the heading of a single one is no part of the output."""
    from charlm_jax.cli.columns import lay_out

    if len(rows) == 1 and not width:
        print(_heading(rows[0]), file=sys.stderr)
    for text in lay_out(drawn, _columns(rows, width) if width else _plain(rows)):
        print(text, end="", flush=True)


def _plain(rows: Sequence[Row]) -> "list[Sheet]":
    from charlm_jax.cli.columns import Plain

    if len(rows) == 1:
        return [Plain(0, above=rows[0]["prompt"], below="\n")]
    return [
        Plain(number, above=f"{_heading(row)}\n{row['prompt']}", below="\n\n")
        for number, row in enumerate(rows)
    ]


def _columns(rows: Sequence[Row], width: int) -> "list[Sheet]":
    from charlm_jax.cli.columns import Columns

    samples = max(row["index"] for row in rows) + 1
    return [
        Columns(
            range(sample, len(rows), samples),
            title=f"--- {_circumstances(rows[sample])}",
            headings=[_scale(row).replace(" (", "\n(") for row in rows[sample::samples]],
            prompt=rows[sample]["prompt"],
            width=width,
        )
        for sample in range(samples)
    ]


def _heading(row: Row) -> str:
    return f"--- {_scale(row)}, {_circumstances(row)}"


def _scale(row: Row) -> str:
    return f"scale {row['scale']:g} (temperature {row['temperature']:g})"


def _circumstances(row: Row) -> str:
    """What all scales have in common."""
    unused = {"top_k": 0, "top_p": 1.0, "min_p": 0.0}
    used = "".join(f"{name} {row[name]}, " for name in unused if row[name] != unused[name])
    return f"{used}seed {row['seed']}, sample {row['index']}"
