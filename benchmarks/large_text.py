"""Cost of a text that is larger than memory: start, anonymous memory, and training speed.

    .venv/bin/python -m benchmarks.large_text --characters=2000000000

Two texts of random words are written: one of the given length, and one of a million characters. For
the large one, `charlm corpora` is timed as it encodes the text, and again as it finds it encoded;
`charlm train` then makes 100 steps, while its anonymous memory (RssAnon, which leaves out mapped
files) is sampled every 0.2 s. Last, one process trains a model on both texts in turns of 20 steps,
with a dispatch always under way, as `charlm train` does. Linux only.

Cost: 4 GB of disk for two billion characters, and ten minutes on a busy 2-core machine.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import add_counts, run_command
from benchmarks.machine import describe_machine
from charlm_jax.cli.parser import Parser
from charlm_jax.core.errors import CharlmError
from charlm_jax.core.numerics import fixed_numerics

SMALL = 1_000_000
TURN = 20
SETTINGS = ("model.hidden_size=128", "evaluation.max_characters=20000")
_BASE = 20_000_000  # characters of which slices are repeated
_SECONDS = 0.2


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print one JSON object."""
    parser = Parser(description="Measure the cost of a large text.", allow_abbrev=False)
    parser.add_argument("--folder", help="folder for texts and cache (default: a temporary one)")
    add_counts(parser, characters=2_000_000_000, symbols=90, rounds=10)
    return run_command(parser, arguments, measure)


def measure(options: argparse.Namespace) -> int:
    """Write the texts, measure, and print the figures."""
    if not Path("/proc/self/status").exists():
        raise CharlmError("this benchmark reads /proc: it needs Linux")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        os.environ["XDG_CACHE_HOME"] = folder  # of this process and its children
        small, large = Path(folder, "small.txt"), Path(folder, "large.txt")
        write_text(small, SMALL, symbols=options.symbols)
        write_text(large, options.characters, symbols=options.symbols)
        time.sleep(3)  # a text that was just written would be read again at the second start
        train = ["train", f"--config=my_text:{large}", f"--workdir={folder}/run"]
        train += [f"--config.{setting}" for setting in (*SETTINGS, "train.max_steps=100")]
        starts = [run_charlm(["corpora", str(large)]) for _ in range(2)]
        trained = run_charlm(train)
        figures = {
            "characters": options.characters,
            "symbols": options.symbols,
            "first_start_seconds": starts[0]["seconds"],
            "second_start_seconds": starts[1]["seconds"],
            "peak_anonymous_mb": max(run["peak_mb"] for run in (*starts, trained)),
            "anonymous_mb_over_time": trained["mb_over_time"],
            **compare_speeds([small, large], rounds=options.rounds),
            "machine": describe_machine(),
        }
    print(json.dumps(figures))
    return 0


def write_text(path: Path, characters: int, *, symbols: int) -> None:
    """Write words of a random lexicon by Zipf's law, with the same seed each time."""
    noise = np.random.default_rng(0)
    first = 0x21 if symbols <= 90 else 0x4E00
    letters = [*map(chr, range(first, first + symbols - 2))]
    frequencies = 1 / np.arange(1, len(letters) + 1)
    words = [
        "".join(noise.choice(letters, noise.integers(1, 9), p=frequencies / frequencies.sum()))
        for _ in range(20_000)
    ]
    ranks = 1 / np.arange(1, len(words) + 1)
    base, length = ["".join(letters)], min(characters, _BASE)
    while sum(map(len, base)) < length:
        chosen = noise.choice(len(words), 100_000, p=ranks / ranks.sum())
        base.append(" ".join([words[index] for index in chosen]) + "\n")
    text, left = "".join(base)[:length], characters - length
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        while left:
            start = int(noise.integers(len(text)))
            left -= file.write(text[start : start + min(left, 50_000)])


def run_charlm(arguments: Sequence[str]) -> dict[str, Any]:
    """Run a command; return its time, peak of anonymous memory, and samples of it over time."""
    start, samples = time.monotonic(), []
    process = subprocess.Popen(
        [sys.executable, "-m", "charlm_jax", *arguments], stdout=subprocess.DEVNULL
    )
    while process.poll() is None:
        if found := re.search(r"RssAnon:\s+(\d+)", _status(process.pid)):
            samples.append((round(time.monotonic() - start), int(found[1]) // 1024))
        time.sleep(_SECONDS)
    if process.returncode:
        raise CharlmError(f"charlm {arguments[0]} ended with status {process.returncode}")
    return {
        "seconds": round(time.monotonic() - start, 1),
        "peak_mb": max(mb for _, mb in samples),
        "mb_over_time": samples[:: max(1, len(samples) // 20)],
    }


def _status(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    except OSError:  # it has just ended
        return ""


@fixed_numerics()
def compare_speeds(paths: Sequence[Path], *, rounds: int) -> dict[str, Any]:
    """Train on texts in turns; return median speeds, and that of the last relative to the first."""
    from charlm_jax.config.loading import load_config
    from charlm_jax.data.dataset import load_dataset
    from charlm_jax.training.trainer import build_trainer

    configs = [load_config(f"my_text:{path}", SETTINGS) for path in paths]
    trainers = [build_trainer(config, load_dataset(config)) for config in configs]
    texts = [trainer.devices.put_text(trainer.dataset.ids_N) for trainer in trainers]
    states = [trainer.init_state() for trainer in trainers]
    steps = [0 for _ in paths]
    speeds: list[list[float]] = [[] for _ in paths]
    for turn in range(rounds + 1):
        for index in sorted(range(len(paths)), reverse=bool(turn % 2)):
            trainer, start, before, last = trainers[index], time.monotonic(), None, steps[index]
            while steps[index] < last + TURN:
                step = steps[index]
                count = min(trainer.steps_to_next_stop(step), last + TURN - step)
                states[index], dispatch = trainer.dispatch(states[index], texts[index], step, count)
                steps[index] += count
                if before is not None:
                    before.state_hash.block_until_ready()
                before = dispatch
            dispatch.state_hash.block_until_ready()
            data = trainer.config.data
            characters = TURN * data.batch_size * data.sequence_length
            speeds[index].append(characters / (time.monotonic() - start))
    measured = [values[1:] for values in speeds]  # the first turn compiles
    ratios = [large / small for small, large in zip(measured[0], measured[-1], strict=True)]
    return {
        "small_chars_per_second": round(statistics.median(measured[0])),
        "large_chars_per_second": round(statistics.median(measured[-1])),
        "ratio": round(statistics.median(ratios), 3),
        "ratios": [round(ratio, 3) for ratio in sorted(ratios)],
        "is_on_host": isinstance(texts[-1], np.ndarray),
    }


if __name__ == "__main__":
    sys.exit(main())
