"""Speed on a GPU: training, sampling, nanoGPT's recipe, and two runs at once on one card.

    PYTHONPATH=. python benchmarks/gpu.py path/to/tinyshakespeare.txt

It runs from a bare checkout, with jax 0.10.2 or later for CUDA 12 or 13, and prints one line of
JSON. A package that is missing is named. A part that fails, or for which no time is left, is listed
in `left_out`; the others are measured nevertheless. `--tiny` tries every part at a small size, on
any device.

- `train_step`: characters per second of updates of LSTM, minGRU and transformer, in float32 and
  bfloat16, in turns.
- `sampling`: characters per second of one text, and of 64 texts at once.
- `two_runs`: seconds of two runs, one after the other and at once, by `charlm_jax.sweeps`.
- `recipe`: nanoGPT's recipe for a GPU (shakespeare_char), until its held-out loss of 1.47 nats.

Cost: at most eight minutes, on one GPU that does nothing else.
"""

import argparse
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("jax", "flax", "optax", "ml_collections", "numpy", "rich", "safetensors", "scipy")
LIMIT_SECONDS = 480.0
TARGET_NATS = 1.47
_LEAST_SECONDS = 60.0  # for a part

LAYERS = ("lstm", "mingru", "transformer")
PRECISIONS = ("float32", "bfloat16")

RECIPE = {
    "data.sequence_length": 256,
    "data.batch_size": 64,
    "model.layers": ",".join(["attention"] * 6),
    "model.embedding_size": 384,
    "model.hidden_size": 384,
    "model.heads": 6,
    "model.max_length": 256,
    "model.dropout": 0.2,
    "model.precision": "bfloat16",
    "evaluation.context": 256,
    "train.max_steps": 5000,
    "train.evaluate_every_steps": 250,
}
TINY = {
    "data.sequence_length": 8,
    "data.batch_size": 4,
    "model.embedding_size": 16,
    "model.hidden_size": 16,
    "model.heads": 4,
    "evaluation.context": 8,
    "evaluation.max_characters": 100,
}
TINY_RECIPE = {
    "model.precision": "float32",  # a CPU may lack products of bfloat16
    "train.max_steps": 4,
    "train.evaluate_every_steps": 2,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(description="Measure the speed on a GPU.", allow_abbrev=False)
    parser.add_argument("corpus", help="path of tiny Shakespeare")
    parser.add_argument("--tiny", action="store_true", help="try every part at a small size")
    parser.add_argument("--only", metavar="PART,...", help=f"parts of {', '.join(PARTS)}")
    options = parser.parse_args(arguments)
    chosen = options.only.split(",") if options.only else [*PARTS]
    if unknown := [name for name in chosen if name not in PARTS]:
        print(f"gpu.py: {unknown[0]} is not one of {', '.join(PARTS)}", file=sys.stderr)
        return 2
    if missing := [name for name in PACKAGES if importlib.util.find_spec(name) is None]:
        print(f"gpu.py: missing packages: {', '.join(missing)}", file=sys.stderr)
        return 2
    if not Path(options.corpus).is_file():
        print(f"gpu.py: there is no file {options.corpus}", file=sys.stderr)
        return 2
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # its children need memory too
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    sys.path.insert(0, str(ROOT))
    print(json.dumps(measure(os.path.abspath(options.corpus), chosen, is_tiny=options.tiny)))
    return 0


def measure(corpus: str, chosen: Sequence[str], *, is_tiny: bool) -> dict[str, Any]:
    """Return the figures of the chosen parts."""
    import jax

    from charlm_jax.core.errors import describe_exception

    start = time.monotonic()
    device = jax.devices()[0]
    left_out: dict[str, str] = {}
    figures: dict[str, Any] = {
        "device": f"{device.platform}: {device.device_kind}",
        "jax": jax.__version__,
        "is_tiny": is_tiny,
    }
    for name in chosen:
        left = (3600 if is_tiny else LIMIT_SECONDS) - (time.monotonic() - start)
        note(f"{name}: {left:.0f} seconds are left")
        if left < _LEAST_SECONDS:
            left_out[name] = "no time was left"
            continue
        try:
            figures[name] = PARTS[name](corpus, is_tiny=is_tiny, limit_seconds=left)
        except Exception as error:  # the other parts are worth the machine's time
            left_out[name] = describe_exception(error)
    return figures | {"left_out": left_out, "seconds": round(time.monotonic() - start)}


def note(text: str) -> None:
    """Print progress to standard error."""
    print(text, file=sys.stderr, flush=True)


def settings(corpus: str, changes: Mapping[str, Any], *, is_tiny: bool) -> tuple[str, ...]:
    """Return the overrides of a config."""
    fields = {"data.corpus": corpus, **changes, **(TINY if is_tiny else {})}
    return tuple(f"{field}={value}" for field, value in fields.items())


def measure_training(corpus: str, *, is_tiny: bool, limit_seconds: float) -> dict[str, float]:
    """Return characters per second of updates, by layer and precision."""
    from charlm_jax.config.loading import load_config
    from charlm_jax.training.throughput import measure_speeds

    configs = {
        f"{name}, {precision}": load_config(
            name, settings(corpus, {"model.precision": precision}, is_tiny=is_tiny)
        )
        for name in LAYERS
        for precision in PRECISIONS
    }
    rounds, steps = (1, 2) if is_tiny else (5, 100)
    return {
        name: round(speed)
        for name, speed in measure_speeds(configs, rounds=rounds, steps=steps).items()
    }


def measure_sampling(corpus: str, *, is_tiny: bool, limit_seconds: float) -> dict[str, float]:
    """Return characters per second of sampling, by layer and number of texts."""
    from charlm_jax.config.loading import load_config
    from charlm_jax.data.dataset import load_dataset
    from charlm_jax.inference.trained_model import TrainedModel
    from charlm_jax.training.trainer import build_trainer

    characters = 20 if is_tiny else 1000
    speeds: dict[str, float] = {}
    for name in LAYERS:
        config = load_config(name, settings(corpus, {}, is_tiny=is_tiny))
        trainer = build_trainer(config, load_dataset(config))
        vocabulary = trainer.dataset.vocabulary
        model = TrainedModel(config, vocabulary, trainer.model, trainer.init_params())
        for samples in (1, 64):
            seconds = []
            for _ in range(3):  # the first compiles
                start = time.monotonic()
                for _ in model.sample("The ", characters=characters, samples=samples):
                    pass
                seconds.append(time.monotonic() - start)
            speeds[f"{name}, {samples}"] = round(samples * characters / min(seconds[1:]))
    return speeds


def measure_two_runs(corpus: str, *, is_tiny: bool, limit_seconds: float) -> dict[str, float]:
    """Return seconds of two runs in turn, and at once."""
    from charlm_jax.sweeps.local import run_points
    from charlm_jax.sweeps.points import Point

    steps = 2 if is_tiny else 500
    overrides = settings(corpus, {}, is_tiny=is_tiny)
    overrides += (f"train.max_steps={steps}", f"train.evaluate_every_steps={steps}")
    seconds = {}
    for jobs in (1, 2):
        points = [Point(f"seed_{seed}", "lstm", (*overrides, f"seed={seed}")) for seed in (1, 2)]
        with tempfile.TemporaryDirectory() as folder:
            start = time.monotonic()
            outcomes = run_points(points, folder, jobs=jobs)
            seconds["at_once" if jobs == 2 else "in_turn"] = round(time.monotonic() - start, 1)
        if failed := [outcome.says for outcome in outcomes if outcome.state != "done"]:
            raise RuntimeError(f"with jobs={jobs}: {failed[0]}")
    return seconds


def measure_recipe(corpus: str, *, is_tiny: bool, limit_seconds: float) -> dict[str, Any]:
    """Return held-out losses of nanoGPT's recipe over time; it is stopped at the target."""
    changes = RECIPE | (TINY_RECIPE if is_tiny else {})
    overrides = settings(corpus, changes, is_tiny=is_tiny)
    deadline, start = time.monotonic() + limit_seconds - 30, time.monotonic()
    scores: list[tuple[float, int, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        flags = [f"--config.{override}" for override in overrides]
        command = [sys.executable, "-m", "charlm_jax", "train", "--config=nanogpt_cpu"]
        process = subprocess.Popen(
            [*command, f"--workdir={folder}/run", *flags],
            stdout=subprocess.DEVNULL,
        )
        while process.poll() is None:
            time.sleep(0.2)
            for row in read_rows(Path(folder, "run", "metrics.jsonl"))[len(scores) :]:
                scores.append((round(time.monotonic() - start, 1), row["step"], row["loss_nats"]))
            is_reached = bool(scores) and scores[-1][2] <= TARGET_NATS
            if is_reached or time.monotonic() > deadline:
                process.send_signal(signal.SIGTERM)
                process.wait()
        if not scores and process.returncode:
            raise RuntimeError(f"charlm train ended with status {process.returncode}")
        rows = read_rows(Path(folder, "run", "metrics.jsonl"))
    best = min(rows, key=lambda row: row["loss_nats"])
    return {
        "target_nats": TARGET_NATS,
        "is_reached": best["loss_nats"] <= TARGET_NATS,
        "best_nats": best["loss_nats"],
        "best_step": best["step"],
        "seconds_step_nats": scores,
    }


def read_rows(file: Path) -> list[dict[str, Any]]:
    """Return the rows of held-out scores in a run's metrics; the last may be incomplete."""
    if not file.exists():
        return []
    lines = file.read_text(encoding="utf-8").split("\n")[:-1]
    return [row for row in map(json.loads, lines) if row["split"] == "valid"]


PARTS: Mapping[str, Callable[..., Any]] = {
    "train_step": measure_training,
    "sampling": measure_sampling,
    "two_runs": measure_two_runs,
    "recipe": measure_recipe,
}


if __name__ == "__main__":
    sys.exit(main())
