"""`charlm runs`."""

import argparse
import json

from charlm_jax.cli.output import show
from charlm_jax.cli.parser import nonempty_path

HELP = "List the runs in a folder."


def add_flags(command: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    add = command.add_argument
    add(
        "folder",
        nargs="?",
        type=nonempty_path,
        default="runs",
        metavar="DIR",
        help="folder to search (default: runs)",
    )
    add("--json", action="store_true", help="print one JSON object per run")


def run(options: argparse.Namespace) -> None:
    """List runs, latest first."""
    from charlm_jax.cli.output import in_flags
    from charlm_jax.cli.tables import print_table
    from charlm_jax.storage.run_index import format_age, list_runs

    rows = list_runs(options.folder)
    if options.json:
        for row in rows:
            show(json.dumps(row._asdict()))
        return
    if not rows:
        show(f"no run in {options.folder}")
        return
    columns = {
        "run": "left",
        "state": "left",
        "parameters": "right",
        "steps": "right",
        "best nats": "right",
        "written": "left",
        "corpus": "left",
    }
    cells = [
        (
            row.path,
            row.state,
            "?" if row.parameters is None else f"{row.parameters:,}",
            f"{row.step}/{'?' if row.total_steps is None else row.total_steps}",
            "-" if row.best_loss_nats is None else f"{row.best_loss_nats:.4f}",
            format_age(row.seconds_ago),
            row.corpus,
        )
        for row in rows
    ]
    print_table(columns, cells)
    for row in rows:
        if row.says:
            show(f"{row.path}: {in_flags(row.says)}")
