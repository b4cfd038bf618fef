"""A process is killed; the same command again ends as if nothing had happened.

The processes are real, and so is SIGKILL. `campaign.py` kills at random, and many times as often.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from charlm_jax.cli import main
from charlm_jax.storage.workdir import Workdir
from tests.crash_recovery.child import PAUSED
from tests.crash_recovery.runs import KILLED, Scene, differences, run, start, wait_for_line


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return Scene(tmp_path_factory.mktemp("faults"))


@pytest.fixture(scope="module")
def uninterrupted(scene: Scene) -> Callable[[str], dict[str, Any]]:
    """What a run of a variation consists of that nothing stopped."""

    @functools.cache
    def contents(variation: str) -> dict[str, Any]:
        if variation != "chunks":
            contents("chunks")  # whose weights others start from
        workdir = scene.prepare(variation, variation)
        assert main(["train", f"--workdir={workdir}", *scene.arguments(variation)]) == 0
        return scene.contents(variation, workdir)

    return contents


# Moments just before which one process after the other is killed; the last one is left to finish.
KILLS = {
    "in the claim": ("chunks", ["open config.json.partial"]),
    "in a save": (
        "chunks",
        [
            "open checkpoints/partial-4/meta.json",  # the very first: nothing to go on from
            "rename checkpoints/partial-8 -> checkpoints/8",
            "call prune 3",  # the first is that of the process's start
        ],
    ),
    "in an evaluation, in the recovery, in a removal": (
        "streams",
        [
            "call mean_score 2",
            "rename metrics.jsonl.partial -> metrics.jsonl",
            "remove checkpoints/partial-4/meta.json",
        ],
    ),
    "moving a run aside, in the last note": (
        "fresh",
        ["rename . -> ../run.1", "call write_facts 2"],
    ),
}


@pytest.mark.exhaustive
@pytest.mark.parametrize("where", KILLS)
def test_a_killed_run_ends_as_if_nothing_had_happened(
    scene: Scene, uninterrupted: Callable[[str], dict[str, Any]], where: str
) -> None:
    variation, moments = KILLS[where]
    expected = uninterrupted(variation)
    workdir, command = scene.prepare(variation, where), scene.arguments(variation)
    for moment in moments:
        ended = run(workdir, command, kill=moment)
        assert ended.status == KILLED, ended.said
        assert ended.moments[-1] == moment
    assert main(["train", f"--workdir={workdir}", *command]) == 0
    assert differences(scene.contents(variation, workdir), expected) == []


def test_a_folder_is_refused_until_its_process_is_killed_between_two_dispatches(
    scene: Scene,
    uninterrupted: Callable[[str], dict[str, Any]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    expected = uninterrupted("chunks")
    workdir, arguments = scene.prepare("chunks", "in use"), scene.arguments("chunks")
    command = ["train", f"--workdir={workdir}", *arguments]
    with start(workdir, arguments, pause="call dispatch 4") as process:
        wait_for_line(process, PAUSED)
        before = _files(workdir)
        capsys.readouterr()
        for more in ([], ["--fresh"]):
            assert main([*command, *more]) == 2
            told = capsys.readouterr()
            assert told.err.startswith(f"charlm train: {workdir} is in use by process ")
            assert f"process {process.pid}:" in told.err and len(told.err.splitlines()) == 1
        assert _files(workdir) == before
        process.kill()
    assert process.returncode == KILLED
    assert main(command) == 0
    assert differences(scene.contents("chunks", workdir), expected) == []


def test_the_lock_of_a_run_that_was_moved_aside_does_not_hold_the_next(
    scene: Scene, uninterrupted: Callable[[str], dict[str, Any]]
) -> None:
    """One process opens the lock; before it asks for it, another moves the run and begins anew."""
    uninterrupted("chunks")
    workdir, arguments = scene.prepare("fresh", "moved"), scene.arguments("chunks")
    run_dir = Workdir(workdir)
    with start(workdir, arguments, pause="flock lock") as process:
        wait_for_line(process, PAUSED)
        run_dir.move_aside()
        with run_dir.held():
            said, _ = process.communicate("x")
            assert process.returncode == 2, said
            assert [path.name for path in workdir.iterdir()] == ["lock"]


def _files(workdir: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()}
