"""`charlm compare`."""

import argparse
import json
import math
import sys
from typing import TYPE_CHECKING

from charlm_jax.cli.commands.common_flags import add_several, read_protocol

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
    from charlm_jax.inference.run import load_run
    from charlm_jax.storage.run_index import run_folders

    paths = [path for folder in options.folders for path in run_folders(folder)]
    runs = [load_run(path, checkpoint=options.checkpoint) for path in paths]
    comparison = compare(
        runs, read_protocol(options, runs), split=options.split, progress=DownloadProgress()
    )
    if options.json:
        print(json.dumps(comparison_to_json(comparison), allow_nan=False))
    elif options.csv:
        _print_csv(comparison)
    else:
        _print_comparison(comparison)


def _print_comparison(comparison: "Comparison") -> None:
    from charlm_jax.cli.tables import print_table
    from charlm_jax.comparison.compare import describe_baselines

    rows = comparison.rows()
    evaluation = comparison.groups[0].evaluations[0]
    key = evaluation.key
    columns = {
        "group": "left",
        "seeds": "right",
        "parameters": "right",
        "nats": "right",
        "95 % interval": "left",
        "bits": "right",
        "spread": "right",
        f"minus {rows[0].name}": "left",
    }
    groups = [
        (
            row.name,
            str(len(row.seeds)),
            f"{row.parameters:,}",
            f"{row.loss.mean:.4f}",
            row.loss.describe_ends(),
            f"{row.bits_per_char:.4f}",
            "" if row.spread is None else f"{row.spread:.4f}",
            "" if row.difference is None else row.difference.describe(),
        )
        for row in rows
    ]
    baselines = [
        (
            baseline.name,
            "",
            "",
            f"{baseline.bits_per_char * math.log(2):.4f}",
            "" if baseline.loss is None else baseline.loss.describe_ends(),
            f"{baseline.bits_per_char:.4f}",
            "",
            "",
        )
        for baseline in comparison.baselines
    ]
    print_table(columns, [*groups, *baselines])
    print(
        f"\n{key.split}, {evaluation.characters:,} characters, {evaluation.protocol_description}. "
        f"Intervals are over blocks of 1,000 characters, and over seeds if there are several; "
        f"spread is the standard deviation over seeds. "
        f"{describe_baselines(key.split, key.protocol.mode)}"
    )


def _print_csv(comparison: "Comparison") -> None:
    import csv

    from charlm_jax.core.json_files import to_jsonable

    names = "name seeds parameters loss_nats loss_low loss_high bits_per_char spread"
    names += " difference difference_low difference_high"
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(names.split())
    for row in comparison.rows():
        less = (None, None, None) if row.difference is None else row.difference
        seeds = " ".join(map(str, row.seeds))  # cells of unbounded interval ends are empty
        facts = (row.name, seeds, row.parameters, *row.loss, row.bits_per_char, row.spread)
        writer.writerow(to_jsonable([*facts, *less]))
    for baseline in comparison.baselines:
        loss = baseline.loss or (baseline.bits_per_char * math.log(2), None, None)
        figures = to_jsonable([*loss, baseline.bits_per_char])
        writer.writerow([baseline.name, "", "", *figures, "", "", "", ""])
