"""`charlm sweep`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from charlm_jax.cli.commands.common_flags import add_config
from charlm_jax.cli.output import in_flags, show
from charlm_jax.cli.parser import nonempty_path
from charlm_jax.core.errors import CharlmError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from charlm_jax.sweeps.points import Point, Sweep
    from charlm_jax.sweeps.sbatch_options import Option
    from charlm_jax.sweeps.tuning import Search

HELP = "Train every point of a sweep, or resume a sweep."


def add_flags(command: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    add_config(command)
    command.epilog = (
        "--sweep.FIELD=VALUE,VALUE,... trains a config without a function sweep with each value of "
        "the field; several of them, with each combination"
    )
    add = command.add_argument
    add(
        "--workdir",
        type=nonempty_path,
        metavar="DIR",
        help="folder of the sweep, with one folder per point (default: runs/NAME-OF-THE-CONFIG, "
        "with the fields of --sweep and --tune)",
    )
    add(
        "--jobs",
        type=int,
        metavar="N",
        help="number of points trained at once, each on its share of the cores (default: 1, or "
        "256 with --launcher=slurm)",
    )
    add(
        "--tune",
        default="",
        metavar="FIELD",
        help="search the best value of a number, such as optimizer.learning_rate, for every point, "
        "with equal effort, and train the point with it",
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
        action="append",
        default=[],
        metavar="NAME=VALUE[,...]",
        help="long options of sbatch for every job, such as time=60,partition=gpu,cpus_per_task=4; "
        "an option without a value, such as exclusive, in a --slurm of its own",
    )


def run(options: argparse.Namespace) -> int:
    """Train the points of a sweep; the exit status is 1 if any point is unfinished at the end.

    On a cluster it is 1 if a job failed and its point is submitted again.
    """
    from charlm_jax.storage.workdir import Workdir
    from charlm_jax.sweeps.points import default_sweep_folder, load_sweep, refuse_other
    from charlm_jax.sweeps.sbatch_options import join_options, read_options

    if options.jobs is not None and options.jobs < 1:
        raise CharlmError(f"jobs={options.jobs} is not allowed: it must be at least 1")
    slurm = join_options(map(read_options, options.slurm))
    if options.slurm and options.launcher != "slurm":
        raise CharlmError("--slurm requires --launcher=slurm")
    if options.tune and options.launcher == "slurm":
        raise CharlmError("--tune requires --launcher=local: each run depends on those before it")
    plan = load_sweep(
        options.config,
        options.overrides,
        values=options.swept,
        modules=options.allow_module,
        tuned=options.tune,
    )
    folder = Workdir(
        options.workdir or default_sweep_folder(options.config, options.swept, tuned=options.tune)
    ).path
    if plan.tuned:
        from charlm_jax.sweeps.tuning import refuse_untunable

        refuse_untunable(plan.points, plan.tuned)
    if options.dry_run:
        for point in plan.points:
            show(point.command(folder))
        if options.tune:
            show(f"each with the best {options.tune}, which is searched first")
        return 0
    refuse_other(plan, folder)
    import jax

    from charlm_jax.data.download import DownloadProgress
    from charlm_jax.sweeps.local import check_points, check_texts
    from charlm_jax.sweeps.points import TUNING

    # This process only reads configs: leave the accelerator's memory to the runs.
    jax.config.update("jax_platforms", "cpu")  # type: ignore[no-untyped-call]
    # Points that will be tuned have another value in their own folders.
    place = folder / TUNING if plan.tuned else folder
    for line in check_points(plan.points, place, progress=DownloadProgress()):
        show(line)
    check_texts(plan.points if plan.tuned else (), folder)
    if options.launcher == "slurm":
        return _sweep_on_cluster(plan, folder, options.jobs, slurm)
    return _sweep_here(plan, folder, options.jobs)


def _sweep_here(plan: "Sweep", folder: Path, jobs: int | None) -> int:
    from charlm_jax.sweeps.local import check_texts, run_points
    from charlm_jax.sweeps.points import TUNING, claim
    from charlm_jax.sweeps.progress_bars import sweep_view

    search = _search(plan) if plan.tuned else None
    claim(plan, folder)
    jobs = 1 if jobs is None else jobs
    points, trials = (plan.points, ()) if search is None else _tuned(plan, search, folder, jobs)
    with sweep_view() as view:
        outcomes = run_points(points, folder, jobs=jobs, view=view)
    check_texts(trials, folder / TUNING)
    done = sum(outcome.state == "done" for outcome in outcomes)
    show(f"{folder}: {done} of {len(outcomes)} points are done")
    for outcome in outcomes:
        if outcome.state == "failed":
            command = outcome.point.command(folder)
            show(f"{outcome.point.name} failed: {outcome.says}")
            show(f"  {command}")
    return 0 if done == len(outcomes) else 1


def _search(plan: "Sweep") -> "Search":
    from charlm_jax.sweeps.tuning import default_search

    return default_search(plan.points, plan.tuned)


def _tuned(
    plan: "Sweep", search: "Search", folder: Path, jobs: int
) -> "tuple[Sequence[Point], Sequence[Point]]":
    """Search the best value of the tuned field.

    Returns:
      The points with their best values, and the runs of the search.
    """
    from charlm_jax.sweeps.local import check_texts
    from charlm_jax.sweeps.points import TUNING
    from charlm_jax.sweeps.progress_bars import sweep_view
    from charlm_jax.sweeps.tuning import Trial, train_trials, tune

    show(f"tuning {plan.tuned}: {search.describe()} for each point")

    def train(trials: "Sequence[Trial]") -> list[float]:
        with sweep_view() as view:
            return train_trials(trials, folder / TUNING, jobs=jobs, view=view)

    tuned = tune(plan.points, search, train).values()
    trials = [trial.point() for found in tuned for trial in found.losses]
    check_texts(trials, folder / TUNING)
    points = []
    for point, found in zip(plan.points, tuned, strict=True):
        show(f"{point.name}: {plan.tuned}={found.value:g}; {found.describe()}")
        points.append(point._replace(overrides=(*point.overrides, f"{plan.tuned}={found.value}")))
    return points, trials


def _sweep_on_cluster(
    plan: "Sweep", folder: Path, jobs: int | None, slurm: "Mapping[str, Option]"
) -> int:
    from charlm_jax.sweeps.points import claim
    from charlm_jax.sweeps.slurm import slurm_executor, submit_points, undone_on_refusal

    limit = {} if jobs is None else {"array_parallelism": jobs}
    executor, is_active = slurm_executor(folder, {**limit, **slurm})
    with undone_on_refusal(folder):
        claim(plan, folder)
        placed = submit_points(plan.points, folder, executor, is_active=is_active)
    for point, state, job_id, failed in placed:
        if failed:
            command = point.command(folder)
            show(f"{point.name}: failed: {in_flags(failed)}")
            show(f"  {command}")
        show(f"{point.name}: {state}" + (f", job {job_id}" if job_id and state != "done" else ""))
    return 1 if any(one.failed for one in placed) else 0
