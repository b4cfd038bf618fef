"""Write `runs_of_format_1/`: small runs, evaluations and an export, made by commit 08577fb.

    git worktree add ../format_1 08577fb
    PYTHONPATH=../format_1 python tests/goldens/make_runs_of_format_1.py

That commit was the last before files carried a format number. A later version must sample from,
evaluate and resume these runs (`tests/storage/test_old_runs.py`), so the folders are whole, as
`charlm train`, `charlm evaluate` and `charlm export` leave them:

    lstm/     with an evaluation, and an export in `export/`
    hybrid/   an LSTM below attention, with averaged weights
    streams/  a GRU below attention, whose states are carried from batch to batch

`recorded.json` holds what that commit then computed: text sampled with a seed, evaluations, and the
metrics of the same runs trained on to `RESUMED_STEPS`, with the environment that computed them.
Text is synthetic, so no path of the machine is in any file.
"""

import dataclasses
import json
import shutil
import tempfile
from pathlib import Path

from charlm_jax.environment import environment  # of 08577fb
from charlm_jax.logbook import Logbook
from charlm_jax.loop import train_and_evaluate

import charlm_jax

FOLDER = Path(__file__).parent / "runs_of_format_1"
STEPS, RESUMED_STEPS = 12, 24
TINY = {
    "data.corpus": "synthetic:reach=2,symbols=4,characters=3000,seed=1",
    "data.sequence_length": 8,
    "data.batch_size": 16,
    "model.embedding_size": 6,
    "model.hidden_size": 6,
    "optimizer.schedule": "constant",  # the schedules of the configs end with the run
    "train.epochs": 2,
    "train.max_steps": STEPS,
    "train.log_every_steps": 4,
    "train.evaluate_every_steps": 6,
    "train.steps_per_dispatch": 4,
    "evaluation.batch_size": 7,
}
RUNS = {
    "lstm": ("lstm", {}),
    "hybrid": ("hybrid", {"model.heads": 1, "optimizer.average_decay": 0.9}),
    "streams": (
        "base.py",
        {"model.layers": ("gru", "attention"), "data.loader": "streams", "data.sequence_length": 5},
    ),
}
SAMPLE = {"prompt": "ab", "characters": 60, "seed": 3}
MODES = ("window", "sliding", "stream")


def main() -> None:
    package = Path(charlm_jax.__file__).parent
    if not (package / "loop.py").is_file():
        raise SystemExit(f"{package} is not charlm_jax of 08577fb: see the docstring")
    shutil.rmtree(FOLDER, ignore_errors=True)
    recorded = {
        "about": {"commit": "08577fb", "resumed_steps": RESUMED_STEPS},
        "environment": environment(),
        "sample": SAMPLE,
    }
    for name, (config, fields) in RUNS.items():
        spec = str(package.parent / "configs" / config) if config.endswith(".py") else config
        train_and_evaluate(charlm_jax.load_config(spec, {**TINY, **fields}), FOLDER / name)
        recorded[name] = record(name, spec, {**TINY, **fields, "train.max_steps": RESUMED_STEPS})
    charlm_jax.write_export(charlm_jax.load_run(FOLDER / "lstm", checkpoint="latest"))
    text = json.dumps(recorded, indent=1) + "\n"
    (FOLDER / "recorded.json").write_text(text, encoding="utf-8")
    for file in FOLDER.rglob("*"):
        if file.is_file() and str(Path.home().anchor + "tmp").encode() in file.read_bytes():
            raise SystemExit(f"{file} names a folder of this machine")


def record(name: str, spec: str, longer: dict) -> dict:
    """What a run computes at its latest checkpoint, and its metrics when trained on."""
    run = charlm_jax.load_run(FOLDER / name, checkpoint="latest")
    evaluations = []
    for mode in MODES:
        evaluation, nll_N = run.evaluate(mode=mode)
        evaluations.append(dataclasses.asdict(evaluation))
        if name == "lstm" and mode == "window":
            run.save_evaluation(evaluation, nll_N)
    with tempfile.TemporaryDirectory() as folder:
        resumed = shutil.copytree(FOLDER / name, Path(folder) / name)
        train_and_evaluate(charlm_jax.load_config(spec, longer), resumed)
        rows = Logbook(resumed / "metrics.jsonl").rows()
    return {"text": run.generate(**SAMPLE), "evaluations": evaluations, "resumed_rows": rows}


if __name__ == "__main__":
    main()
