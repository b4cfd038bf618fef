"""Runs to kill, the processes that make them, and what two of them are compared by."""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from charlm_jax.storage.checkpoint import Checkpoints
from charlm_jax.storage.metrics_log import MetricsLog
from tests.conftest import TINY
from tests.crash_recovery.child import BEGAN

ROOT = Path(__file__).parent.parent.parent
TIMING = {"seconds", "chars_per_second"}
KILLED = -signal.SIGKILL

# The run whose weights `init_from` starts from, and that `fresh` finds in its way.
_SOURCE = "chunks"

# Short epochs: a run of a few saves comes to its second.
_SHORT = TINY | {"data.corpus": "synthetic:reach=2,symbols=4,characters=1500,seed=1"}

VARIATIONS: Mapping[str, Mapping[str, object]] = {
    # Saves and removals; at this rate the best is an early one.
    "chunks": {
        "optimizer.learning_rate": 3.0,
        "train.max_steps": 14,
        "train.evaluate_every_steps": 4,
    },
    # All that is random or carried on: resets, dropout, state between batches, and patience.
    "streams": {
        "data.loader": "streams",
        "data.reset_probability": 0.1,
        "model.layers": "lstm,gru",
        "model.dropout": 0.1,
        "optimizer.learning_rate": 0.3,
        "train.evaluate_every_steps": 4,
        "train.patience": 2,
    },
    "init_from": {"seed": 2, "train.max_steps": 10, "train.evaluate_every_steps": 4},
    "fresh": {"seed": 3, "train.max_steps": 4, "train.evaluate_every_steps": 3},
}


class Scene:
    """A folder in which runs of a variation lie, each in a folder of its own.

    Attributes:
      folder: where they lie.
      source: the finished run that `init_from` starts from, and `fresh` finds in its way.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.source = folder / _SOURCE / "run"

    def arguments(self, variation: str) -> list[str]:
        """The command line, after `charlm train --workdir=...`."""
        values = _SHORT | VARIATIONS[variation]
        flags = [f"--config.{field}={value}" for field, value in values.items()]
        if variation == "init_from":
            flags.append(f"--init_from={self.source}")
        if variation == "fresh":
            flags.append("--fresh")
        return [f"--config={ROOT / 'configs' / 'base.py'}", *flags]

    def prepare(self, variation: str, name: str) -> Path:
        """A new workdir, with what must be there before the first command."""
        workdir = self.folder / name / "run"
        workdir.parent.mkdir()
        if variation == "fresh":
            shutil.copytree(self.source, workdir)
        return workdir

    def contents(self, variation: str, workdir: Path) -> dict[str, Any]:
        """What a finished run consists of, and what else it must have left as it was."""
        values = contents(workdir)
        if variation == "fresh":
            aside = workdir.with_name(f"{workdir.name}.1")
            values["moved aside"] = contents(aside) == contents(self.source)
        return values


class Ended(NamedTuple):
    """How a process ended.

    Attributes:
      status: its exit status; the negative number of the signal that killed it.
      said: what it wrote on standard output and standard error.
      moments: those that came, as texts. Where one of them killed it, that is the last.
      seconds: how long it trained.
    """

    status: int
    said: str
    moments: list[str]
    seconds: float


def run(
    workdir: Path,
    arguments: Sequence[str],
    *,
    kill: object = "none",
    kill_after: float | None = None,
    **options: object,
) -> Ended:
    """Run `tests.crash_recovery.child` until it ends or is killed.

    Args:
      workdir: of the run.
      arguments: of `charlm train`.
      kill: the number or text of the moment just before which the process kills itself.
      kill_after: seconds of training after which this process kills it.
      options: others of `tests.crash_recovery.child`.
    """
    events = workdir.with_name("events")
    events.unlink(missing_ok=True)
    with start(workdir, arguments, kill=kill, events=events, **options) as process:
        began = time.monotonic()
        if kill_after is not None:
            try:
                process.wait(kill_after)
            except subprocess.TimeoutExpired:
                process.kill()
        said, _ = process.communicate()
        seconds = time.monotonic() - began
    moments = events.read_text(encoding="utf-8").splitlines()
    return Ended(process.returncode, said, moments, seconds)


def start(workdir: Path, arguments: Sequence[str], **options: object) -> subprocess.Popen[str]:
    """Start `tests.crash_recovery.child` with these options; it has begun when this returns."""
    flags = [f"--{name}={value}" for name, value in options.items()]
    module = [sys.executable, "-m", "tests.crash_recovery.child", f"--workdir={workdir}", *flags]
    process = subprocess.Popen(
        [*module, *arguments],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    wait_for_line(process, BEGAN)
    return process


def wait_for_line(process: subprocess.Popen[str], wanted: str) -> None:
    """Read what a process says until it says this."""
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        if line == f"{wanted}\n":
            return
        said.append(line)
    raise AssertionError(f"the process never said {wanted!r}, only this:\n{''.join(said)}")


def contents(workdir: Path) -> dict[str, Any]:
    """What a run consists of, but for times and for how often it was started.

    Arrays stand for themselves as (dtype, shape, bytes), so that `==` compares bits.

    Raises:
      CharlmError: a checkpoint is damaged.
    """
    values: dict[str, Any] = {"files": sorted(path.name for path in workdir.iterdir())}
    for name in ("config.json", "vocabulary.json"):
        values[name] = (workdir / name).read_bytes()
    facts = json.loads((workdir / "run.json").read_bytes())
    facts.pop("sha256")  # of the sessions as well, which differ
    environments = [session["environment"] for session in facts.pop("sessions")]
    values["run.json"] = facts, [e for n, e in enumerate(environments) if e not in environments[:n]]
    for number, row in enumerate(MetricsLog(workdir / "metrics.jsonl").rows(), start=1):
        values[f"row {number}"] = {name: row[name] for name in row if name not in TIMING}
    folder = workdir / "checkpoints"
    values["checkpoints"] = sorted(path.name for path in folder.iterdir())
    for step in Checkpoints(folder).steps():
        values |= {f"{step} {name}": value for name, value in _parts(Checkpoints(folder), step)}
    return values


def _parts(checkpoints: Checkpoints, step: int) -> Iterator[tuple[str, Any]]:
    checkpoint = checkpoints.open(step)
    meta, restore = checkpoint.meta, {"params": checkpoint.params, "training": checkpoint.training}
    for item, arrays in meta["arrays"].items():
        like = {
            name: jax.ShapeDtypeStruct(shape, jnp.dtype(dtype))
            for name, (shape, dtype) in arrays.items()
        }
        for name, array in restore[item](like).items():
            x = np.asarray(array)
            yield f"{item}/{name}", (str(x.dtype), x.shape, x.tobytes())
    tally = {name: value for name, value in meta["tally"].items() if name != "seconds"}
    for window in ("window", "epoch"):
        tally[window] = tally[window][:2]  # without its seconds
    yield "meta", {**meta, "tally": tally}


def differences(found: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    """The names of what two runs do not have in common."""
    nothing = object()
    names = [*expected, *(name for name in found if name not in expected)]
    return [name for name in names if found.get(name, nothing) != expected.get(name, nothing)]
