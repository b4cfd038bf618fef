"""Kills one of two processes at random moments, and compares the finished runs.

    python -m tests.crash_recovery.processes --kills=40 --seed=0 --table=FILE

Each trial is drawn from the seed and its own number: a process that is killed just before a moment
(see `tests.crash_recovery.child`) or after a time. The other one must end by itself. Then the same
commands finish the run, which must have the bits of a run that nobody killed. The exit status is 1
if one does not.
"""

import argparse
import random
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from charlm_jax.core.errors import CharlmError
from charlm_jax.core.processes import LOST
from tests.crash_recovery.runs import KILLED, contents, differences
from tests.training.test_processes import pair

_HEAD = (
    "| trial | killed | moment | other: status | other: seconds | checkpoints then | result |\n"
    "| ----: | -----: | ------ | ------------: | -------------: | ---------------- | ------ |\n"
)
_MOST_SECONDS = 60  # in which the other process must end
_EQUAL = "equal"


def _options(folder: Path) -> list[dict[str, object]]:
    """Options of the two processes: where each writes its moments."""
    return [{"events": folder / f"events-{n}", "cache": folder.parent / "cache"} for n in range(2)]


def _train(folder: Path) -> str:
    """Train a run to its end; return an empty text, or what the processes said."""
    with pair(folder / "run", options=_options(folder)) as two:
        return "" if two.wait() == [0, 0] else f"{two.said}"


def _reference(folder: Path) -> tuple[dict[str, Any], list[int], float]:
    """Return the contents of an uninterrupted run, its numbers of moments and its seconds."""
    for name in ("compiles", "reference"):
        (folder / name).mkdir()
        began = time.monotonic()
        if said := _train(folder / name):
            raise SystemExit(said)
    counts = [len(x["events"].read_text().splitlines()) for x in _options(folder / name)]  # type: ignore[attr-defined]
    return contents(folder / name / "run"), counts, time.monotonic() - began


def _trial(
    number: int, seed: int, folder: Path, reference: tuple[dict[str, Any], list[int], float]
) -> tuple[str, bool, bool]:
    """Return a row of the table, whether a process was killed, and whether all is well."""
    wanted, counts, whole = reference
    draw = random.Random(f"{seed}/{number}")
    place, victim = folder / f"trial-{number}", draw.randrange(2)
    place.mkdir()
    options = _options(place)
    seconds = draw.uniform(0, whole / 2) if draw.random() < 0.25 else None
    if seconds is None:
        options[victim]["kill"] = draw.randint(1, counts[victim])
    with pair(place / "run", options=options) as two:
        killed, other = two.processes[victim], two.processes[1 - victim]
        if seconds is not None:
            time.sleep(seconds)
            killed.kill()
        killed.communicate()
        ended = time.monotonic()
        said = other.communicate(timeout=_MOST_SECONDS)[0]
        ended = time.monotonic() - ended
    moments = options[victim]["events"].read_text().splitlines()  # type: ignore[attr-defined]
    moment = moments[-1] if moments else "nothing"
    moment = f"before {moment}" if seconds is None else f"after {seconds:.2f} s, past {moment}"
    is_killed = killed.returncode == KILLED
    has_line = said.count("charlm train: process ") == 1 and other.returncode == LOST
    checkpoints = place / "run" / "checkpoints"
    kept = sorted(x.name for x in checkpoints.iterdir()) if checkpoints.is_dir() else ["no folder"]
    result = _train(place)
    if not result:
        try:
            result = ", ".join(differences(contents(place / "run"), wanted)) or _EQUAL
        except (CharlmError, OSError) as error:
            result = str(error)
    is_well = result == _EQUAL and (has_line or other.returncode == 0 or not is_killed)
    values = [
        number,
        victim if is_killed else "none",
        moment,
        other.returncode,
        f"{ended:.1f}",
        ", ".join(kept) or "none",
        result if is_well else f"DIFFERENT: {result}: {said[-300:]!r}",
    ]
    row = " | ".join(str(value).replace("|", "/") for value in values)
    if is_well:
        shutil.rmtree(place)
    return f"| {row} |\n", is_killed, is_well


def main(arguments: Sequence[str] | None = None) -> int:
    """Run trials until there are enough kills; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--kills", type=int, default=40, help="least number (default: 40)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the trials (default: 0)")
    parser.add_argument("--table", type=Path, required=True, help="Markdown file to write")
    options = parser.parse_args(arguments)
    folder = Path(tempfile.mkdtemp(prefix="processes-"))
    reference = _reference(folder)
    options.table.write_text(_HEAD, encoding="utf-8")
    number = kills = wrong = 0
    while kills < options.kills:
        number += 1
        row, is_killed, is_well = _trial(number, options.seed, folder, reference)
        kills, wrong = kills + is_killed, wrong + (not is_well)
        with options.table.open("a", encoding="utf-8") as file:
            file.write(row)
        print(row, end="", flush=True)
    print(f"{kills} kills in {number} trials: {wrong} went wrong")
    if wrong:
        print(f"their runs are in {folder}")
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
