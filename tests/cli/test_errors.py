"""What a person does wrong gets one clear line, and leaves everything as it was.

`tests/cli_errors/` has the catalogue of mistakes.
"""

import functools
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

from charlm_jax.config.loading import load_config
from tests.cli_errors import CATALOGUE, name_of
from tests.cli_errors.bad_arguments import HARMLESS, HUGE, TRAIN
from tests.cli_errors.bad_config_fields import FIELDS, NO_INTEGERS, NO_NUMBERS
from tests.cli_errors.bad_files import ON_DONE
from tests.cli_errors.runner import SECONDS, Answer, Says, ask
from tests.cli_errors.workspace import (
    CHANGED,
    DAMAGED,
    DAMAGED_EXPORTS,
    LINKED,
    OVERWRITTEN,
    build_world,
    state_of,
)
from tests.conftest import ROOT


class World(NamedTuple):
    """The folder of the commands as it was after the last of them, and a run as it was at first."""

    folder: Path
    state: dict[str, bytes]
    done: dict[str, bytes]
    listed: str
    drawn: str

    def changes(self) -> list[str]:
        """Paths that are not as they were when this was asked last."""
        before, now = dict(self.state), state_of(self.folder)
        self.state.clear()
        self.state.update(now)
        return sorted(p for p in {**before, **now} if before.get(p) != now.get(p))


SAMPLE_DONE = "sample --workdir=done --prompt=abc --chars=30 --scale=0.5,2 --json"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder, before = tmp_path_factory.mktemp("world"), Path.cwd()
    try:
        build_world(folder)
        listed, drawn = _listed(), ask(SAMPLE_DONE).out
        yield World(folder, state_of(folder), state_of("done"), listed, drawn)
    finally:
        os.chdir(before)


def _listed() -> str:
    rows = [json.loads(line) for line in ask("runs done --json").out.splitlines()]
    return json.dumps([{**row, "seconds_ago": None} for row in rows])


def _entries() -> list[tuple[str, Says]]:
    return [entry for section in CATALOGUE.values() for entry in section]


@pytest.mark.parametrize(("command", "says"), _entries(), ids=[name_of(c) for c, _ in _entries()])
def test_a_mistake_is_one_clear_line(command: str, says: Says, world: World) -> None:
    answer = ask(command)
    assert not [*answer.faults(says), *world.changes()], answer


@pytest.mark.parametrize("field", FIELDS)
def test_a_value_that_a_field_does_not_allow_is_one_clear_line(field: str, world: World) -> None:
    kind = type(load_config("tiny.py").flatten()[field])
    refused = FIELDS[field]
    values = [] if refused is None else [(value, refused[1]) for value in refused[0]]
    if kind is int:
        values += [(value, "is not an integer") for value in NO_INTEGERS]
    if kind is float:
        values += [(value, "is not a number") for value in NO_NUMBERS]
    for value, allowed in values:
        answer = ask(shlex.join([*shlex.split(TRAIN), f"--config.{field}={value}"]))
        assert not answer.faults((f"config.{field}", allowed)), (value[:40], answer)
    assert not world.changes()


def test_every_field_has_its_mistakes(world: World) -> None:
    fields = load_config("tiny.py").flatten()
    assert list(FIELDS) == list(fields)
    texts = {field for field, value in fields.items() if isinstance(value, str)}
    assert {field for field, refused in FIELDS.items() if refused is None} <= texts


def test_every_damaged_run_is_asked_for() -> None:
    commands = " ".join(command for command, _ in _entries()) + " "
    for run in (*OVERWRITTEN, *CHANGED, *LINKED, *DAMAGED, *DAMAGED_EXPORTS):
        assert f"workdir={run} " in commands or f"init_from={run} " in commands, run


def _in_a_process(*arguments: str, folder: Path) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, *[os.fsencode(argument) for argument in arguments]],
        capture_output=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=5 * SECONDS,
    )


REAL = [
    "",
    "trian",
    "train --config=tiny.py --workdri=x",
    "train --config=tutorail",
    "train --config=fails.py",
    f"{TRAIN} --config.sed=3",
    "corpora latin.txt --encoding=ascii",
    "runs nowhere",
    "sample --prompt=a",
    "sample --workdir=done --prompt='a\udcff'",
    f"{ON_DONE} --config.seed=2",
    f"{ON_DONE} --init_from=nowhere --fresh",
]


@pytest.mark.parametrize(
    "commands", [REAL[:2], pytest.param(REAL[2:], marks=pytest.mark.exhaustive)], ids=["few", "all"]
)
def test_the_real_command_says_the_same(commands: list[str], world: World) -> None:
    says = dict(_entries())
    run = functools.partial(_in_a_process, "-m", "charlm_jax", folder=world.folder)
    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(lambda command: run(*shlex.split(command)), commands))
    for command, result in zip(commands, done, strict=True):
        answer = Answer(result.returncode, result.stdout.decode(), result.stderr.decode())
        assert not answer.faults(says[command]), (command, answer)
        assert answer == ask(command)
    assert not world.changes()


@pytest.mark.exhaustive
@pytest.mark.skipif(sys.platform != "linux", reason="its memory cannot be limited")
def test_what_is_too_large_is_refused_in_one_line(world: World) -> None:
    result = _in_a_process("-m", "tests.cli_errors", "--huge", folder=world.folder)
    assert result.returncode == 0, result.stderr.decode()[-2000:]
    answers = [Answer(*json.loads(line)) for line in result.stdout.splitlines()]
    for (command, says), answer in zip(HUGE, answers, strict=True):
        remarks = answer.out  # such as that the text is small for so large a model
        assert not answer._replace(out="").faults(says), (command[:100], answer)
        assert "Traceback" not in remarks
    # Out of memory is found out late: the folder is there, and the mended command may have it.
    assert ask("train --config=tiny.py --workdir=big --config.train.max_steps=1").status == 0
    shutil.rmtree("big")
    assert not world.changes()


@pytest.mark.parametrize("command", HARMLESS)
def test_what_is_large_and_harmless_works(command: str, world: World) -> None:
    answer = ask(command)
    assert answer.status == 0 and "overflow" not in answer.err, answer
    shutil.rmtree("made", ignore_errors=True)
    assert not world.changes()


def test_a_finished_run_is_what_it_was_before_all_these_mistakes(world: World) -> None:
    assert state_of("done") == world.done
    assert _listed() == world.listed != "[]"
    assert ask(SAMPLE_DONE).out == world.drawn != ""
