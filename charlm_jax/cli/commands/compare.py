"""`charlm compare`."""

import argparse
import io
import json
import math
from typing import TYPE_CHECKING

from charlm_jax.cli.commands.common_flags import add_several, read_protocol
from charlm_jax.cli.output import show, shown_progress

if TYPE_CHECKING:
    from charlm_jax.comparison.compare import Comparison

HELP = "Compare runs, with confidence intervals and baselines."


def add_flags(command: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    add_several(command)
    how = command.add_mutually_exclusive_group()
    how.add_argument("--json", action="store_true", help="print one JSON object")
    how.add_argument(
        "--csv", action="store_true", help="print CSV, one line per group and baseline"
    )


def run(options: argparse.Namespace) -> None:
    """Compare runs on the same characters and print the table."""
    from charlm_jax.comparison.compare import compare, comparison_to_json
    from charlm_jax.data.download import DownloadProgress
    from charlm_jax.inference.run import open_runs

    runs = open_runs(options.folders, checkpoint=options.checkpoint, corpus=options.corpus)
    protocol = read_protocol(options, runs)
    with shown_progress() as report:
        comparison = compare(
            runs,
            protocol,
            split=options.split,
            baselines=not options.no_baselines,
            progress=DownloadProgress(),
            report=report,
        )
    if options.json:
        show(json.dumps(comparison_to_json(comparison), allow_nan=False))
    elif options.csv:
        _print_csv(comparison)
    else:
        _print_comparison(comparison)


def _print_comparison(comparison: "Comparison") -> None:
    from charlm_jax.cli.tables import print_table

    columns, rows = comparison.table()
    sides = ("left", "right", "right", "right", "left", "right", "right", "left")
    print_table(dict(zip(columns, sides, strict=True)), rows)
    show(f"\n{comparison.describe()}")


def _print_csv(comparison: "Comparison") -> None:
    import csv

    from charlm_jax.core.json_files import to_jsonable

    names = "name seeds parameters loss_nats loss_low loss_high bits_per_char spread"
    names += " difference difference_low difference_high unfinished_seeds"
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow(names.split())
    for row in comparison.rows():
        less = (None, None, None) if row.difference is None else row.difference
        seeds, unfinished = (" ".join(map(str, x)) for x in (row.seeds, row.unfinished_seeds))
        facts = (row.name, seeds, row.parameters, *row.loss, row.bits_per_char, row.spread)
        # Cells of unbounded interval ends are empty.
        writer.writerow(to_jsonable([*facts, *less, unfinished]))
    for baseline in comparison.baselines:
        loss = baseline.loss or (baseline.bits_per_char * math.log(2), None, None)
        figures = to_jsonable([*loss, baseline.bits_per_char])
        writer.writerow([baseline.name, "", "", *figures, "", "", "", "", ""])
    show(lines.getvalue(), end="")
