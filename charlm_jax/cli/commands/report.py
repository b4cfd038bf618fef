"""`charlm report`."""

import argparse
import os
import shlex

from charlm_jax.cli.commands.common_flags import add_several, read_protocol
from charlm_jax.cli.output import show, shown_progress
from charlm_jax.cli.parser import nonempty_path
from charlm_jax.core.files import user_path

HELP = "Write an HTML report on runs as a single self-contained file."


def add_flags(command: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    add_several(command)
    command.add_argument(
        "--out",
        type=nonempty_path,
        metavar="FILE",
        help="output file (default: report.html in DIR, or in the current folder for several)",
    )


def run(options: argparse.Namespace) -> None:
    """Write an HTML report on runs."""
    from charlm_jax.data.download import DownloadProgress
    from charlm_jax.inference.run import open_runs
    from charlm_jax.report.html.page import check_page_path
    from charlm_jax.report.runs_page import write_report
    from charlm_jax.storage.run_index import run_folders

    folders = [path for folder in options.folders for path in run_folders(folder)]
    folder = options.folders[0] if len(options.folders) == 1 else "."
    file = user_path(options.out or os.path.join(folder, "report.html"))
    check_page_path(file)
    flags = ("split", "mode", "context", "targets", "checkpoint", "corpus", "out")
    changed = [
        f"--{name}={getattr(options, name)}"
        for name in flags
        if getattr(options, name) != options.parser.get_default(name)
    ]
    changed += ["--no_baselines"] * options.no_baselines
    changed += [f"--allow_module={module}" for module in options.allow_module]
    runs = open_runs(folders, checkpoint=options.checkpoint, corpus=options.corpus)
    protocol = read_protocol(options, runs)
    with shown_progress() as report:
        write_report(
            runs,
            file,
            protocol,
            split=options.split,
            command=shlex.join(["charlm", "report", *options.folders, *changed]),
            baselines=not options.no_baselines,
            progress=DownloadProgress(),
            report=report,
        )
    show(file)
