"""The same run twice is the same run; and where it is not, that is seen."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from charlm_jax.cli import main
from charlm_jax.core.errors import CharlmError
from charlm_jax.core.signals import Interrupted
from charlm_jax.storage.metrics_log import MetricsLog
from charlm_jax.storage.workdir import Workdir
from charlm_jax.training.loop import train_and_evaluate
from charlm_jax.training.reproduce import verify_run
from tests.conftest import make_tiny_config
from tests.training.test_loop import StopAt

pytestmark = pytest.mark.optimised


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with dropout, carried state and rows at several places."""
    workdir = tmp_path_factory.mktemp("runs") / "tiny"
    config = make_tiny_config(**{"data.loader": "streams", "model.dropout": 0.1})
    train_and_evaluate(config, workdir)
    return workdir


def test_the_first_steps_of_a_run_are_repeated_bit_for_bit(workdir: Path) -> None:
    result = verify_run(workdir, steps=27)
    assert result.compared == [5, 10, 15, 20, 22, 25]
    assert result.first_difference is None and result.changes == [] and result.steps == 25
    assert verify_run(workdir, steps=1).compared == [5]


OTHER = "0123456789abcdef"


@pytest.fixture
def changed(workdir: Path, tmp_path: Path) -> tuple[Path, str]:
    """A copy with other threads and another hash at step 15, and the real hash there."""
    changed = tmp_path / "run"
    changed.mkdir()
    for name in ("config.json", "vocabulary.json"):
        (changed / name).write_text((workdir / name).read_text())
    facts = Workdir(workdir).read_facts()
    facts["sessions"][0]["environment"]["threads"] = 77
    Workdir(changed).write_facts(facts)
    rows = [dict(row) for row in MetricsLog(workdir / "metrics.jsonl").rows()]
    rows[2]["state_hash"], real = OTHER, rows[2]["state_hash"]
    (changed / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return changed, real


def test_a_difference_is_found_where_it_begins(changed: tuple[Path, str]) -> None:
    run, real = changed
    result = verify_run(run)
    assert (result.first_difference, result.recorded, result.found) == (15, OTHER, real)
    assert len(result.changes) == 1 and "from step 0 on threads was 77" in result.changes[0]


def test_the_command_prints_what_was_compared_and_fails_at_a_difference(
    workdir: Path, changed: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    for steps, says in (
        (1, "5 steps repeated, 1 hash compared, equal"),
        (10, "10 steps repeated, 2 hashes compared, all equal"),
    ):
        assert main(["verify", f"--workdir={workdir}", f"--steps={steps}"]) == 0
        assert capsys.readouterr().out == f"{workdir}: {says}\n"
    run, real = changed
    assert main(["verify", f"--workdir={run}"]) == 1
    change, says = capsys.readouterr().out.splitlines()
    assert change.startswith("from step 0 on threads was 77")
    assert says == f"{run}: differs at step 15: {OTHER} recorded, {real} now"


def test_a_run_that_was_watched_otherwise_on_the_way_verifies_as_well(tmp_path: Path) -> None:
    """Rows then lie where no dispatch would end by the config that is there now."""
    first = make_tiny_config(**{"train.log_every_steps": 3})
    with pytest.raises(Interrupted, match="the same command"):
        train_and_evaluate(first, tmp_path / "run", view=StopAt(6))
    train_and_evaluate(make_tiny_config(**{"train.log_every_steps": 7}), tmp_path / "run")
    result = verify_run(tmp_path / "run")
    assert result.compared[:2] == [3, 6] and result.compared[-1] == 38
    assert result.first_difference is None


def test_a_run_that_was_divided_otherwise_on_the_way_says_so(tmp_path: Path) -> None:
    run = Workdir(tmp_path / "run")
    pieces = make_tiny_config(**{"train.microbatches": 2})
    with pytest.raises(Interrupted):
        train_and_evaluate(pieces, run.path, view=StopAt(6))
    train_and_evaluate(make_tiny_config(), run.path)
    found = verify_run(run.path, steps=10)
    assert found.changes == ["from step 0 on config.train.microbatches was 2 and is 1"]
    facts = run.read_facts()
    for session in facts["sessions"]:
        del session["division"]  # as in a run of an earlier version
    run.write_facts(facts)
    assert verify_run(run.path, steps=10).changes == []


def test_weights_that_have_changed_are_no_reason_to_begin_again(
    workdir: Path, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    shutil.copytree(workdir, source)
    fields = {"data.loader": "streams", "model.dropout": 0.1, "train.max_steps": 5}
    config = make_tiny_config(**fields, **{"train.init_from": str(source)})
    train_and_evaluate(config, tmp_path / "run")
    shutil.rmtree(source)
    with pytest.raises(CharlmError, match="cannot start from") as caught:
        verify_run(tmp_path / "run")
    assert "fresh=True" not in str(caught.value)


def test_there_must_be_something_to_compare(workdir: Path, tmp_path: Path) -> None:
    with pytest.raises(CharlmError, match="steps=0"):
        verify_run(workdir, steps=0)
    with pytest.raises(CharlmError, match="no run at"):
        verify_run(tmp_path / "nothing")
    run_dir = Workdir(tmp_path / "new")
    config = make_tiny_config()
    with run_dir.held():
        run_dir.path.joinpath("config.json").write_text(json.dumps(config.to_dict()))
    with pytest.raises(CharlmError, match="no metrics yet"):
        verify_run(run_dir.path)


IN_A_PROCESS = """
import os, sys
os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[: int(sys.argv[2])]))
from pathlib import Path
from tests.conftest import make_tiny_config
from charlm_jax.training.loop import train_and_evaluate
# Wide enough for a matrix product to be split between threads.
wide = {"data.batch_size": 64, "data.sequence_length": 16, "model.hidden_size": 128}
config = make_tiny_config(**wide, **{"train.max_steps": 3, "model.embedding_size": 64})
train_and_evaluate(config, sys.argv[1])
"""


@pytest.mark.exhaustive
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processors cannot be chosen")
@pytest.mark.parametrize("threads", [1, 2])
def test_two_processes_of_so_many_threads_give_equal_hashes(tmp_path: Path, threads: int) -> None:
    if len(os.sched_getaffinity(0)) < threads:
        pytest.skip(f"there are no {threads} processors")
    hashes = []
    for name in ("first", "second"):
        command = [sys.executable, "-c", IN_A_PROCESS, str(tmp_path / name), str(threads)]
        subprocess.run(command, check=True, timeout=300)
        facts = Workdir(tmp_path / name).read_facts()
        assert facts["sessions"][0]["environment"]["threads"] == threads
        rows = MetricsLog(tmp_path / name / "metrics.jsonl").rows()
        hashes.append([row["state_hash"] for row in rows])
    assert hashes[0] == hashes[1] and len(hashes[0]) >= 1
