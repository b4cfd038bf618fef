"""`charlm train`."""

import argparse
import os
import shlex
from contextlib import nullcontext
from typing import TYPE_CHECKING

from charlm_jax.cli.commands.common_flags import add_config
from charlm_jax.cli.output import show
from charlm_jax.cli.parser import nonempty_path
from charlm_jax.core.errors import CharlmError
from charlm_jax.core.signals import Interrupted

if TYPE_CHECKING:
    from charlm_jax.config.schema import Config
    from charlm_jax.core.processes import Processes
    from charlm_jax.models.external import MixerSource
    from charlm_jax.training.loop import Result

HELP = "Train a model, or resume a run."


def add_flags(command: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    add_config(command)
    add = command.add_argument
    add(
        "--workdir",
        type=nonempty_path,
        metavar="DIR",
        help="the run's folder (default: runs/NAME-OF-THE-CONFIG)",
    )
    add("--fresh", action="store_true", help="move an existing run aside and start again")
    add(
        "--init_from",
        type=nonempty_path,
        metavar="RUN",
        help="start from the best weights of another run",
    )
    add(
        "--branch_from",
        type=nonempty_path,
        metavar="RUN",
        help="start from the steps shared with a run that differs in length, decay, "
        "data.length_schedule and fields that may change on resume alone: its latest checkpoint "
        "before learning rates or sequence lengths differ, optimizer included",
    )
    add("--tensorboard", action="store_true", help="also write events to DIR/tensorboard")
    add(
        "--coordinator",
        type=nonempty_path,
        metavar="HOST:PORT",
        help="address of process 0 if several processes train the run, or `none` to ignore a "
        "launcher's (default: found from the variables of SLURM's srun or Open MPI's mpirun)",
    )
    add(
        "--launcher",
        choices=("local", "slurm"),
        default="local",
        help="train in this process, or submit a SLURM job whose tasks train the run together "
        "(default: local)",
    )
    add(
        "--slurm",
        action="append",
        default=[],
        metavar="NAME=VALUE[,...]",
        help="long options of sbatch for the job, such as time=60,nodes=2,ntasks_per_node=8",
    )
    add("--num_processes", type=int, metavar="N", help="number of processes")
    add("--process_id", type=int, metavar="I", help="number of this process, from 0")


def run(options: argparse.Namespace) -> int | None:
    """Train a model, or resume a run, and print the result; return an exit status."""
    from charlm_jax.config.loading import load_config

    overrides = options.overrides
    if options.init_from is not None:
        overrides = [*overrides, f"train.init_from={options.init_from}"]
    config = load_config(options.config, overrides)
    if options.launcher == "slurm":
        _submit(options, config, overrides)
        return None
    if options.slurm:
        raise CharlmError("--slurm requires --launcher=slurm")
    from charlm_jax.core.processes import find_address, joined
    from charlm_jax.storage.default_folder import default_run_folder

    workdir = options.workdir or str(default_run_folder(options.config, config))
    address = find_address(options.coordinator, options.num_processes, options.process_id)
    with joined(address, options.parser.prog) as processes:
        try:
            result = _train(options, config, overrides, workdir, processes)
        except Interrupted as error:
            if processes.leads:
                raise
            return 128 + error.signal_number  # process 0 prints the line
    if processes.leads:  # a reader of the output that has gone away is no error of the run
        _print_result(options, config, workdir, result)
    return None


def _submit(options: argparse.Namespace, config: "Config", overrides: list[str]) -> None:
    """Submit a job that trains the run, and print its id."""
    from charlm_jax.storage.default_folder import default_run_folder
    from charlm_jax.storage.workdir import Workdir
    from charlm_jax.sweeps.points import Point
    from charlm_jax.sweeps.sbatch_options import join_options, read_options
    from charlm_jax.sweeps.slurm import slurm_executor, submit_run

    for flag in (
        "fresh",
        "branch_from",
        "tensorboard",
        "coordinator",
        "num_processes",
        "process_id",
    ):
        if getattr(options, flag) is not None and getattr(options, flag) is not False:
            raise CharlmError(f"--{flag} cannot be used with --launcher=slurm: leave it out")
    several = [read_options(text, is_sweep=False) for text in options.slurm]
    slurm = join_options(several, is_sweep=False)
    path = options.workdir or str(default_run_folder(options.config, config))
    workdir = Workdir(path).path
    point = Point(workdir.name, options.config, tuple(overrides), tuple(options.allow_module))
    executor, _ = slurm_executor(workdir.parent, slurm)
    show(f"{path}: submitted, job {submit_run(point, workdir, executor)}")


def _train(
    options: argparse.Namespace,
    config: "Config",
    overrides: list[str],
    workdir: str,
    processes: "Processes",
) -> "Result":
    from charlm_jax.data.download import DownloadProgress
    from charlm_jax.sweeps.points import find_source
    from charlm_jax.training.loop import train_and_evaluate
    from charlm_jax.training.progress_bar import training_view

    with training_view() if processes.leads else nullcontext() as view:
        if options.tensorboard and view is not None:
            from charlm_jax.training.tensorboard import EventFiles

            view = events = EventFiles(workdir, view)
        result = train_and_evaluate(
            config,
            workdir,
            fresh=options.fresh,
            branch_from=options.branch_from,
            view=view,
            progress=DownloadProgress(),
            source=find_source(workdir, options.config, overrides),
            processes=processes,
        )
        if options.tensorboard and processes.leads and result.was_done:
            events.write_anew()
    return result


def _print_result(
    options: argparse.Namespace, config: "Config", workdir: str, result: "Result"
) -> None:
    """Print how the run ended, and the commands that usually follow."""
    early = ", stopped early: the held-out loss stopped improving" if result.stopped_early else ""
    if result.was_done:
        show(f"{workdir} is done: {result.step} steps{early}; {result.extension}")
    else:
        show(f"{workdir}: trained {result.step} steps{early}")
    if result.best_loss_nats is not None:
        watched = f" ({result.watched})" if result.watched else ""
        show(
            f"best held-out loss: {result.best_loss_nats:.4f} nats, at step {result.best_step}"
            f"{watched}"
        )
    modules = options.allow_module
    if not modules:
        from charlm_jax.models.mixers import external_sources

        modules = filter(None, map(module_to_allow, external_sources(config.model)))
    flags = [f"--allow_module={module}" for module in dict.fromkeys(modules)]
    _print_next(workdir, has_held_out=result.best_loss_nats is not None, flags=flags)


def module_to_allow(source: "MixerSource") -> str:
    """Return the value of --allow_module for a layer; empty for one that needs no flag.

    Args:
      source: origin of the layer's class.
    """
    module, colon, _ = source.layer.partition(":")
    if not colon:  # an installed package registers it
        return ""
    if module != source.module or "." in module or source.file is None:
        return module
    here = os.path.relpath(source.file)
    return source.file if here.startswith(os.pardir) else here


def _print_next(workdir: str, *, has_held_out: bool, flags: list[str]) -> None:
    """Print the commands that usually follow, with the flags that all of them need."""
    from charlm_jax.storage.workdir import Workdir

    vocabulary = Workdir(workdir).read_vocabulary()
    symbols = vocabulary.whole_characters or vocabulary.symbols
    letters = [symbol for symbol in symbols if symbol.isalpha()]
    prompt = "The " if set("The ") <= set(symbols) else (letters or symbols)[0]
    sample = ["sample", f"--workdir={workdir}", f"--prompt={prompt}", "--scale=0.5,1,2"]
    evaluate = [["evaluate", f"--workdir={workdir}"]] if has_held_out else []
    show("Next:")
    for command in [sample, *evaluate, ["report", workdir]]:
        show("  " + shlex.join(["charlm", *command, *flags]))
