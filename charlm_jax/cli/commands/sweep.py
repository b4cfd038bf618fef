"""`charlm sweep`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from charlm_jax.cli.commands.common_flags import add_config
from charlm_jax.cli.output import in_flags, show
from charlm_jax.cli.parser import nonempty_path
from charlm_jax.core.errors import CharlmError

if TYPE_CHECKING:
    from charlm_jax.sweeps.points import Sweep

HELP = "Train every point of a sweep, or resume a sweep."


def add_flags(command: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    add_config(command)
    add = command.add_argument
    add(
        "--workdir",
        type=nonempty_path,
        metavar="DIR",
        help="folder of the sweep, with one folder per point (default: runs/NAME-OF-THE-CONFIG)",
    )
    add(
        "--jobs",
        type=int,
        metavar="N",
        help="number of points trained at once, each on its share of the cores (default: 1, or "
        "256 with --launcher=slurm)",
    )
    add("--dry_run", action="store_true", help="print the command of every point and exit")
    add(
        "--launcher",
        choices=("local", "slurm"),
        default="local",
        help="train the points on this machine, or as SLURM jobs (default: local)",
    )
    add(
        "--slurm",
        type=_pairs,
        default={},
        metavar="NAME=VALUE[,...]",
        help="long options of sbatch for every job, such as time=60,partition=gpu,cpus_per_task=4",
    )


def _pairs(text: str) -> dict[str, str | int]:
    pairs = [item.partition("=") for item in text.split(",")]
    if not all(name and equals and value for name, equals, value in pairs):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list such as time=60,partition=NAME")
    return {name: int(value) if value.isdecimal() else value for name, _, value in pairs}


def run(options: argparse.Namespace) -> int:
    """Train the points of a sweep; the exit status is 1 if any point is unfinished at the end.

    On a cluster it is 1 if a job failed and its point is submitted again.
    """
    from charlm_jax.storage.workdir import Workdir
    from charlm_jax.sweeps.points import default_sweep_folder, load_sweep, refuse_other

    if options.jobs is not None and options.jobs < 1:
        raise CharlmError(f"jobs={options.jobs} is not allowed: it must be at least 1")
    if options.slurm and options.launcher != "slurm":
        raise CharlmError("--slurm requires --launcher=slurm")
    plan = load_sweep(options.config, options.overrides, modules=options.allow_module)
    folder = Workdir(options.workdir or default_sweep_folder(options.config)).path
    if options.dry_run:
        for point in plan.points:
            show(point.command(folder))
        return 0
    refuse_other(plan, folder)
    import jax

    from charlm_jax.data.download import DownloadProgress
    from charlm_jax.sweeps.local import check_points

    # This process only reads configs: leave the accelerator's memory to the runs.
    jax.config.update("jax_platforms", "cpu")  # type: ignore[no-untyped-call]
    left = [point for point in plan.points if not point.is_finished(folder)]
    for line in check_points(left, folder, progress=DownloadProgress()):
        print(line)
    launch = {"local": _sweep_here, "slurm": _sweep_on_cluster}[options.launcher]
    return launch(plan, folder, options)


def _sweep_here(plan: "Sweep", folder: Path, options: argparse.Namespace) -> int:
    from charlm_jax.sweeps.local import run_points
    from charlm_jax.sweeps.points import claim
    from charlm_jax.sweeps.progress_bars import sweep_view

    claim(plan, folder)
    with sweep_view() as view:
        jobs = 1 if options.jobs is None else options.jobs
        outcomes = run_points(plan.points, folder, jobs=jobs, view=view)
    done = sum(outcome.state == "done" for outcome in outcomes)
    show(f"{folder}: {done} of {len(outcomes)} points are done")
    for outcome in outcomes:
        if outcome.state == "failed":
            command = outcome.point.command(folder)
            show(f"{outcome.point.name} failed: {outcome.says}")
            show(f"  {command}")
    return 0 if done == len(outcomes) else 1


def _sweep_on_cluster(plan: "Sweep", folder: Path, options: argparse.Namespace) -> int:
    from charlm_jax.sweeps.points import claim
    from charlm_jax.sweeps.slurm import slurm_executor, submit_points

    limit = {} if options.jobs is None else {"array_parallelism": options.jobs}
    executor, is_active = slurm_executor(folder, {**limit, **options.slurm})
    claim(plan, folder)
    placed = submit_points(plan.points, folder, executor, is_active=is_active)
    for point, state, job_id, failed in placed:
        if failed:
            command = point.command(folder)
            show(f"{point.name}: failed: {in_flags(failed)}")
            show(f"  {command}")
        show(f"{point.name}: {state}" + (f", job {job_id}" if job_id and state != "done" else ""))
    return 1 if any(one.failed for one in placed) else 0
