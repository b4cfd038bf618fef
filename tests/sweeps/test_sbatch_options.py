"""Options of sbatch as they are typed after `--slurm=`."""

import pytest

from charlm_jax.core.errors import CharlmError
from charlm_jax.sweeps.sbatch_options import Option, for_submitit, join_options, read_options


@pytest.mark.parametrize(
    ("typed", "options"),
    [
        (["time=60,partition=small"], {"time": 60, "partition": "small"}),
        (["time=60,exclude=n1,n2,qos=long"], {"time": 60, "exclude": "n1,n2", "qos": "long"}),
        (["exclusive", "reservation=r"], {"exclusive": True, "reservation": "r"}),
        (["cpus-per-task=4", "exclusive=user"], {"cpus_per_task": 4, "exclusive": "user"}),
        (["site_option=x,y"], {"site_option": "x,y"}),
        (["nodes=1"], {"nodes": 1}),
        (["ntasks-per-gpu=1,ntasks-per-socket=1"], {"ntasks_per_gpu": 1, "ntasks_per_socket": 1}),
        (["ntasks_per_core=1", "container_id=c"], {"ntasks_per_core": 1, "container_id": "c"}),
        (["job_name=007", "account=" + "9" * 4301], {"job_name": "007", "account": "9" * 4301}),
    ],
)
def test_options_add_up_and_keep_their_commas(typed: list[str], options: dict[str, Option]) -> None:
    assert join_options(map(read_options, typed)) == options


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ("qos=a,exclusive", "--slurm=exclusive"),
        ("exclusive,requeue", "--slurm=requeue"),
        ("exclude=n1,,n2", "is not a list"),
        ("time=1:00:00", "a number of minutes"),
        ("partion=a", "did you mean partition"),
        ("partition", "has no value"),
        ("wrap=ls", "cannot be set: a job trains a point"),
        ("setup=module load cuda", "cannot be set: it is no option of sbatch"),
        ("ntasks=2", "1 task"),
        ("ntasks_per_gpu=2", "1 task"),
        ("ntasks_per_socket=2", "1 task"),
        ("output=log", r"the folder [.]slurm, next to that of the run"),
        ("time=1,time=2", "given twice"),
    ],
)
def test_what_no_job_can_have_is_refused_with_its_reason(typed: str, says: str) -> None:
    with pytest.raises(CharlmError, match=says):
        join_options([read_options(typed)])


@pytest.mark.parametrize("name", ["array", "test_only", "wait", "wrap"])
def test_a_job_that_trains_one_run_is_told_of_no_sweep(name: str) -> None:
    with pytest.raises(CharlmError, match=f"^--slurm={name} cannot be set: ") as caught:
        read_options(f"{name}=1", is_sweep=False)
    assert not {"point", "--jobs", "--dry_run", "same"} & set(str(caught.value).split())


def test_what_submitit_does_not_know_is_passed_on() -> None:
    options = read_options("time=60,reservation=r,begin=now")
    more = {"reservation": "r", "begin": "now"}
    assert for_submitit(options, {"time"}) == {"time": 60, "additional_parameters": more}
    assert for_submitit({"time": 60}, {"time"}) == {"time": 60}
