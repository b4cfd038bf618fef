"""Damages the files of a run one at a time, and compares what commands then say.

    python -m tests.crash_recovery.damage --kind=files
    python -m tests.crash_recovery.damage --kind=bits --count=1000 --seed=0

`files`: every file of a run is deleted, halved, zeroed, emptied, or has one bit flipped, under ten
commands. `bits`: single bits of its config, symbols, facts, rows, notes and arrays, drawn from the
seed. An outcome is

    equal     the same output and files as without the damage
    said      another output or file, and a line on standard error that says why
    refused   an exit status other than 0, and one line
    silent    another output or file, exit status 0, and no word
    traceback

The exit status is 1 after a silent or traceback.
"""

import argparse
import contextlib
import io
import json
import os
import random
import re
import shutil
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from charlm_jax.cli import main as charlm
from charlm_jax.config.schema import Config
from charlm_jax.data.dataset import Dataset
from charlm_jax.training import loop
from charlm_jax.training.trainer import Trainer, build_trainer

TEXT = "the cat sat on the mat. a dog ran by the sea, and the sea was calm.\n" * 60
SMALL = {
    "model.embedding_size": 8,
    "model.hidden_size": 8,
    "model.dropout": 0,
    "data.sequence_length": 8,
    "data.batch_size": 8,
    "train.max_steps": 20,
    "train.evaluate_every_steps": 10,
    "train.log_every_steps": 5,
    "optimizer.schedule": "constant",
    "optimizer.warmup_steps": 0,
}
TRAIN = ["train", "--config=my_text:text.txt", "--workdir=run"]
TRAIN += [f"--config.{field}={value}" for field, value in SMALL.items()]
COMMANDS: dict[str, list[str]] = {
    "sample": ["sample", "--workdir=run", "--prompt=the ", "--chars=40"],
    "evaluate": ["evaluate", "--workdir=run"],
    "compare": ["compare", "run"],
    "report": ["report", "run", "--out=report.html"],
    "runs": ["runs", "run", "--json"],
    "score": ["score", "line.txt", "--workdir=run"],
    "inspect": ["inspect", "--workdir=run", "--text=the sea", "--json", "--out=out"],
    "export": ["export", "--workdir=run", "--out=exported"],
    "verify": ["verify", "--workdir=run", "--steps=5"],
    "train": [*TRAIN, "--config.train.max_steps=25"],
}


def _flip(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << (bit % 8)
    return bytes(changed)


DAMAGES: dict[str, Callable[[bytes, random.Random], bytes | None]] = {
    "deleted": lambda data, draw: None,
    "halved": lambda data, draw: data[: len(data) // 2],
    "zeroed": lambda data, draw: bytes(len(data)),
    "emptied": lambda data, draw: b"",
    "one bit": lambda data, draw: _flip(data, draw.randrange(8 * len(data))) if data else b"\1",
}


class Outcome(NamedTuple):
    """What a command did: its exit status, output, and the files that count."""

    status: int
    output: str
    errors: str
    files: dict[str, Any]


def run(command: list[str]) -> Outcome:
    """Run a command in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        warnings.resetwarnings()
        try:
            status = charlm(command)
        except SystemExit as ended:
            status = ended.code if isinstance(ended.code, int) else 1
        except BaseException:
            return Outcome(-1, "", traceback.format_exc(), {})
    return Outcome(status, _without_times(out.getvalue()), err.getvalue(), _files())


def _without_times(output: str) -> str:
    """The output without what differs between two runs of one command."""
    return re.sub('"seconds_ago": [0-9.e+-]+| +[0-9,]+ chars/s +[0-9]+ s', "", output)


def _files() -> dict[str, Any]:
    """What a command leaves: metrics without times, and pages and exports byte for byte."""
    found: dict[str, Any] = {}
    for path in [Path("report.html"), *Path("exported").glob("*")]:
        if path.exists():
            found[str(path)] = path.read_bytes()
    with contextlib.suppress(OSError, ValueError):
        found["rows"] = [
            {key: x for key, x in json.loads(line).items() if "second" not in key}
            for line in Path("run/metrics.jsonl").read_text().splitlines()
        ]
    return found


def judge(found: Outcome, sound: Outcome, damaged: str) -> str:
    """Name the outcome of a command on a damaged run."""
    if found.status == -1 or "Traceback" in found.errors:
        return "traceback"
    if found.status != 0:
        return "refused"
    files = {name: x for name, x in found.files.items() if name != "rows" or damaged != "rows"}
    is_equal = found.output == sound.output and all(
        sound.files.get(name) == content for name, content in files.items()
    )
    if is_equal:
        return "equal"
    added = set(found.output.splitlines()) - set(sound.output.splitlines())
    words = 'checkpoint|run.json|"state": "unreadable"'  # notes of training, and of a list of runs
    is_note = any(re.search(words, line) for line in added)
    return "said" if found.errors.strip() or is_note else "silent"


@contextlib.contextmanager
def scene() -> Iterator[Path]:
    """A folder with a run that has all its files, and a text; it is the current folder."""
    trainers: dict[tuple[Config, str], Trainer] = {}

    def build_once(config: Config, dataset: Dataset) -> Trainer:
        key = (config, dataset.fingerprint)
        if key not in trainers:
            trainers[key] = build_trainer(config, dataset)
        return trainers[key]

    before, loop.build_trainer = Path.cwd(), build_once
    with tempfile.TemporaryDirectory() as name:
        os.chdir(name)
        try:
            Path("text.txt").write_text(TEXT)
            Path("line.txt").write_text("the dog sat\n")
            for command in (TRAIN, ["compare", "run"], ["evaluate", "--workdir=run"]):
                assert run(command).status == 0, run(command)
            Path("run").rename("sound")
            yield Path(name)
        finally:
            os.chdir(before)
            loop.build_trainer = build_trainer


def _restore() -> None:
    for path in (Path("run"), Path("exported"), Path("out")):
        shutil.rmtree(path, ignore_errors=True)
    Path("report.html").unlink(missing_ok=True)
    shutil.copytree("sound", "run")


def attempt(command: list[str], file: Path, data: bytes | None) -> Outcome:
    """Run a command on a run with one damaged file."""
    _restore()
    target = Path("run") / file
    if data is None:
        target.unlink()
    else:
        target.write_bytes(data)
    return run(command)


def trials(kind: str, count: int, draw: random.Random) -> Iterator[tuple[str, Path, str]]:
    """Yield command, file and damage of every trial."""
    files = sorted(path.relative_to("sound") for path in Path("sound").rglob("*") if path.is_file())
    if kind == "files":
        every = [(name, file, how) for name in COMMANDS for file in files for how in DAMAGES]
        yield from (draw.sample(every, count) if 0 < count < len(every) else every)
        return
    # Exact for the files whose values mean something; archives are drawn by size.
    small = [file for file in files if file.suffix in (".json", ".jsonl", ".npy", ".npz")]
    names = ("sample", "compare", "runs", "train")
    for number in range(count):
        yield names[number % len(names)], draw.choice(small), "one bit"


def main() -> int:
    """Run the campaign; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", choices=["files", "bits"], default="files")
    parser.add_argument("--count", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draw, totals, bad = random.Random(options.seed), Counter[str](), 0
    with scene():
        sound = {}
        for name, command in COMMANDS.items():
            _restore()
            sound[name] = run(command)
            _restore()
            again = run(command)
            assert sound[name].status == 0, (name, sound[name])
            assert judge(again, sound[name], "") == "equal", (name, again, sound[name])
        for name, file, how in trials(options.kind, options.count, draw):
            data = DAMAGES[how]((Path("sound") / file).read_bytes(), draw)
            found = attempt(COMMANDS[name], file, data)
            damaged = "rows" if str(file) == "metrics.jsonl" and name != "train" else ""
            verdict = judge(found, sound[name], damaged)
            totals[verdict] += 1
            if verdict in ("silent", "traceback"):
                bad += 1
                line = (found.errors or found.output).strip().splitlines()[-1:]
                print(f"{verdict}: {name}, {file} {how}: {line}", flush=True)
    print(dict(totals), "of", sum(totals.values()))
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
