"""Long options of `sbatch` as they are typed after `--slurm=`."""

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from charlm_jax.core.errors import CharlmError, closest
from charlm_jax.core.typed_numbers import parse_whole_number
from charlm_jax.sweeps.points import SLURM

Option = str | int | bool
"""Value of an option; True for one without a value."""

# Options that may be without a value.
_FLAGS = frozenset(
    re.findall(
        r"\w+",
        """contiguous exclusive get_user_env hold nice no_kill no_requeue overcommit oversubscribe
        propagate reboot requeue spread_job use_min_nodes""",
    )
)

# Other options, to recognise a misspelt name. Clusters may have more.
_KNOWN = frozenset(
    re.findall(
        r"\w+",
        """account array_parallelism bb bbf begin clusters comment constraint container container_id
        core_spec cores_per_socket cpu_freq cpus_per_gpu cpus_per_task deadline delay_boot
        dependency distribution exclude export export_file extra_node_info gid gpu_bind gpu_freq
        gpus gpus_per_node gpus_per_socket gpus_per_task gres gres_flags hint job_name
        kill_on_invalid_dep licenses mail_type mail_user mcs_label mem mem_bind mem_per_cpu
        mem_per_gpu network nodefile nodelist nodes ntasks ntasks_per_core ntasks_per_gpu
        ntasks_per_node ntasks_per_socket partition power prefer priority profile qos reservation
        signal_delay_s sockets_per_node switches thread_spec threads_per_core time time_min tmp
        tres_per_task uid wait_all_nodes wckey""",
    )
)

_LOGS = f"logs are written to the folder {SLURM}, next to that of the run"
_NO_OPTION = "it is no option of sbatch"

# Options that the submission sets itself, and the reason.
_OURS: Mapping[str, str] = {
    "additional_parameters": _NO_OPTION,
    "array": "every point is a job of the array; --jobs limits how many run at once",
    "chdir": "jobs run in this folder, where the config's paths begin",
    "error": _LOGS,
    "input": "jobs read no input",
    "map_count": _NO_OPTION,
    "open_mode": _LOGS,
    "output": _LOGS,
    "parsable": "the output of sbatch is read here",
    "quiet": "the output of sbatch is read here",
    "setup": _NO_OPTION,
    "signal": "SLURM's signal makes a job save before its time ends",
    "srun_args": _NO_OPTION,
    "stderr_to_stdout": _LOGS,
    "teardown": _NO_OPTION,
    "test_only": "--dry_run shows what would be trained",
    "use_srun": _NO_OPTION,
    "wait": "the same command, given later, shows the jobs",
    "wrap": "a job trains a point",
}

# Other reasons, where a job trains one run.
_OURS_OF_A_RUN: Mapping[str, str] = {
    "array": "the run is trained by one job",
    "test_only": "the job is submitted at once",
    "wait": "the command does not wait for the job",
    "wrap": "the job trains the run",
}

# Numbers of tasks, each of which would train the same point.
_TASKS = frozenset({"nodes", "ntasks", "ntasks_per_gpu", "ntasks_per_node", "ntasks_per_socket"})


def read_options(text: str, *, is_sweep: bool = True) -> dict[str, Option]:
    """Read the options of one `--slurm`.

    A piece without an equals sign belongs to the value before it, as in `exclude=n1,n2`; as the
    first piece it is an option without a value.

    Args:
      text: options, separated by commas.
      is_sweep: whether jobs train points of a sweep, each of which is one task.

    Returns:
      Values by name, with underscores.

    Raises:
      CharlmError: an empty piece, or an option that the submission sets itself.

    >>> read_options("time=60,exclude=n1,n2"), read_options("exclusive")
    ({'time': 60, 'exclude': 'n1,n2'}, {'exclusive': True})
    """
    pairs: list[tuple[str, str | None]] = []
    for piece in text.split(","):
        name, equals, value = piece.partition("=")
        if not name or (equals and not value):
            raise CharlmError(f"--slurm={text} is not a list such as time=60,partition=NAME")
        if equals or not pairs:
            pairs.append((name, value if equals else None))
        elif piece.replace("-", "_") in _FLAGS or pairs[-1][1] is None:
            raise CharlmError(
                f"--slurm={text}: write {piece} in a flag of its own: --slurm={piece}"
            )
        else:
            pairs[-1] = (pairs[-1][0], f"{pairs[-1][1]},{piece}")
    named = ({_name(name, is_sweep): _value(value)} for name, value in pairs)
    return join_options(named, is_sweep=is_sweep)


def _name(typed: str, is_sweep: bool) -> str:
    """Return an option's name with underscores; refuse those that cannot be set."""
    name = typed.removeprefix("--").replace("-", "_")
    if not re.fullmatch("[a-z][a-z0-9_]*", name):
        raise CharlmError(f"--slurm={typed} is not a long option of sbatch, such as partition")
    ours = _OURS if is_sweep else {**_OURS, **_OURS_OF_A_RUN}
    if name in ours:
        raise CharlmError(f"--slurm={typed} cannot be set: {ours[name]}")
    meant = closest(name, _KNOWN | _FLAGS)
    if meant and name not in _KNOWN | _FLAGS:
        raise CharlmError(f"--slurm={typed}: sbatch has no such option; did you mean {meant}?")
    return name


def _value(text: str | None) -> Option:
    if text is None:
        return True
    number = parse_whole_number(text)
    return text if number is None or str(number) != text else number


def join_options(
    several: Iterable[Mapping[str, Option]], *, is_sweep: bool = True
) -> dict[str, Option]:
    """Join the options of several `--slurm`.

    Args:
      several: options of each.
      is_sweep: whether jobs train points of a sweep, each of which is one task.

    Raises:
      CharlmError: an option is given twice, or has a value that no job can have.
    """
    joined: dict[str, Option] = {}
    for name, value in (item for options in several for item in options.items()):
        if name in joined:
            raise CharlmError(f"--slurm={name} is given twice: {joined[name]} and {value}")
        if name == "time" and type(value) is not int:
            raise CharlmError(
                f"--slurm=time={value}: it must be a number of minutes; an option without a value "
                f"goes in a --slurm of its own"
            )
        if value is True and name in _KNOWN:
            raise CharlmError(f"--slurm={name} has no value: write --slurm={name}=VALUE")
        if is_sweep and name in _TASKS and value != 1:
            raise CharlmError(f"--slurm={name}={value}: a point is trained by 1 task on 1 node")
        joined[name] = value
    return joined


def for_submitit(options: Mapping[str, Option], known: Collection[str]) -> dict[str, Any]:
    """Return submitit's parameters; options that it does not know are passed on as they are.

    Args:
      options: values by name.
      known: names of submitit's parameters.
    """
    more = {name.replace("_", "-"): value for name, value in options.items() if name not in known}
    own = {name: value for name, value in options.items() if name in known}
    return {**own, **({"additional_parameters": more} if more else {})}
