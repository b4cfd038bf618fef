"""Kills runs at random moments, finishes them, and compares them with runs that nobody killed.

    python -m tests.crash_recovery.campaign --kills=120 --seed=0 --by=both --table=FILE

Every trial is drawn from the seed and its own number, and adds a row to the table when it is over:
the same command goes on where it was stopped. The exit status is 1 if any run came out different.
"""

import argparse
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from charlm_jax.core.errors import CharlmError
from tests.crash_recovery.runs import KILLED, VARIATIONS, Ended, Scene, differences, run

_HEAD = (
    "| trial | seed | variation | kills | moment | checkpoints then | result |\n"
    "| ----: | ---: | --------- | ----: | ------ | ---------------- | ------ |\n"
)
# An event of the file system, the call of a function, a time.
_KINDS = {"event": ["event", "call"], "time": ["time"], "both": ["event", "call", "time"]}
_THEN = "; then "
_EQUAL = "equal"


class Reference(NamedTuple):
    """A run that nobody killed, and what it consists of."""

    ended: Ended
    contents: dict[str, Any]


class Row(NamedTuple):
    """A row of the table."""

    trial: int
    seed: int
    variation: str
    kills: int
    moment: str
    checkpoints: str
    result: str

    def __str__(self) -> str:
        return f"| {' | '.join(str(value).replace('|', '/') for value in self)} |"

    @classmethod
    def parse(cls, line: str) -> "Row":
        """What `str` gave."""
        trial, seed, variation, kills, *texts = line.strip("| ").split(" | ")
        return cls(int(trial), int(seed), variation, int(kills), *texts)

    @property
    def kinds(self) -> list[str]:
        """The kind of every kill."""
        moments = self.moment.split(_THEN)[: self.kills]
        return [
            "time" if m.startswith("after") else "call" if ": call " in m else "event"
            for m in moments
        ]


class Campaign:
    """Trials in a folder, one after the other."""

    def __init__(self, folder: Path, seed: int, kinds: Sequence[str]) -> None:
        self._scene, self._seed, self._kinds = Scene(folder), seed, kinds
        self._cache = folder / "cache"  # not that of the tests: a kill may cut a file of it short
        self._references = {name: self._reference(name) for name in VARIATIONS}

    def _reference(self, variation: str) -> Reference:
        """Run twice: the first compiles, and the second must not differ from it."""
        both = []
        for name in (variation, f"{variation}-again"):
            workdir = self._scene.prepare(variation, name)
            ended = self._run(variation, workdir)
            if ended.status:
                raise SystemExit(f"{variation} does not run:\n{ended.said}")
            both.append(Reference(ended, self._scene.contents(variation, workdir)))
        first, second = both
        if found := differences(second.contents, first.contents):
            raise SystemExit(f"{variation} differs even where nothing kills it: {found}")
        count, seconds = len(second.ended.moments), second.ended.seconds
        print(f"{variation}: {count} moments in {seconds:.1f} s", flush=True)
        return second

    def _run(self, variation: str, workdir: Path, **options: Any) -> Ended:
        return run(workdir, self._scene.arguments(variation), cache=self._cache, **options)

    def trial(self, number: int) -> Row:
        """Kill a run once or twice, finish it, compare it."""
        draw = random.Random(f"{self._seed}/{number}")
        variation = draw.choice(list(VARIATIONS))
        workdir = self._scene.prepare(variation, f"trial-{number}")
        moments, checkpoints = [], []
        for _ in range(draw.choice([1, 1, 2])):
            ended, moment = self._kill(variation, workdir, draw.choice(self._kinds), draw)
            moments.append(moment)
            if ended.status != KILLED:
                break
            checkpoints.append(_checkpoints(workdir))
        if ended.status == KILLED:
            ended = self._run(variation, workdir)
        result = self._result(variation, workdir, ended)
        if result == _EQUAL:
            shutil.rmtree(workdir.parent)
        return Row(
            trial=number,
            seed=self._seed,
            variation=variation,
            kills=len(checkpoints),
            moment=_THEN.join(moments),
            checkpoints=_THEN.join(checkpoints),
            result=result,
        )

    def _kill(
        self, variation: str, workdir: Path, kind: str, draw: random.Random
    ) -> tuple[Ended, str]:
        """Run until a moment, and say in words which it was."""
        reference = self._references[variation].ended
        if kind == "time":
            seconds = draw.uniform(0, reference.seconds)
            ended = self._run(variation, workdir, kill_after=seconds)
            moment = f"after {seconds:.2f} s, " + (
                f"past {ended.moments[-1]}" if ended.moments else "past nothing"
            )
        else:
            number = draw.choice(
                [
                    number
                    for number, text in enumerate(reference.moments, start=1)
                    if text.startswith("call ") == (kind == "call")
                ]
            )
            ended = self._run(variation, workdir, kill=number)
            last = ended.moments[-1] if ended.moments else "nothing"
            moment = f"moment {number} of {len(reference.moments)}: {last}"
        return ended, moment if ended.status == KILLED else f"{moment}: it had ended"

    def _result(self, variation: str, workdir: Path, ended: Ended) -> str:
        if ended.status:
            last = ended.said.strip().splitlines()[-1:]
            return f"DIFFERENT: exit status {ended.status}: {''.join(last)}"
        try:
            found = self._scene.contents(variation, workdir)
        except (CharlmError, OSError) as error:
            return f"DIFFERENT: {error}"
        names = differences(found, self._references[variation].contents)
        return f"DIFFERENT: {', '.join(names)}" if names else _EQUAL


def _checkpoints(workdir: Path) -> str:
    folder = workdir / "checkpoints"
    if not folder.is_dir():
        return "no folder"
    return ", ".join(sorted(path.name for path in folder.iterdir())) or "none"


def _summary(rows: Sequence[Row]) -> str:
    kinds = Counter(kind for row in rows for kind in row.kinds)
    variations = Counter[str]()
    for row in rows:
        variations[row.variation] += row.kills
    different = [row.trial for row in rows if row.result != _EQUAL]
    return (
        f"{sum(row.kills for row in rows)} kills in {len(rows)} trials "
        f"({', '.join(f'{kinds[kind]} by {kind}' for kind in sorted(kinds))}; "
        f"{', '.join(f'{count} of {name}' for name, count in sorted(variations.items()))}): "
        + (f"DIFFERENT in trials {different}" if different else "all equal")
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run trials until there are enough kills; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--kills", type=int, default=120, help="how many at least (default: 120)")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn (default: 0)")
    parser.add_argument("--by", choices=_KINDS, default="both", help="how moments are drawn")
    parser.add_argument("--table", type=Path, required=True, help="a Markdown file to add rows to")
    options = parser.parse_args(arguments)
    if not options.table.exists():
        options.table.write_text(_HEAD, encoding="utf-8")
    _, _, *lines = options.table.read_text(encoding="utf-8").splitlines()
    rows = [row for row in map(Row.parse, lines) if row.seed == options.seed]
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    campaign = Campaign(folder, options.seed, _KINDS[options.by])
    while sum(row.kills for row in rows) < options.kills:
        rows.append(campaign.trial(len(rows) + 1))
        with options.table.open("a", encoding="utf-8") as file:
            file.write(f"{rows[-1]}\n")
        print(rows[-1], flush=True)
    print(_summary(rows))
    if any(row.result != _EQUAL for row in rows):
        print(f"the runs that came out different lie in {folder}")
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
