"""Time from the start of a command to a held-out loss, here and in the tutorial's Keras.

    .venv/bin/python -m benchmarks.time_to_loss --config=tutorial_heldout
    .venv/bin/python -m benchmarks.time_to_loss --keras

Wall-clock time is measured from the start of the process and includes imports, compilation and
scoring. The last tenth of the book is held out, and every character of it is scored once in windows
of 40. Ours is `charlm train` with a config that must train long enough and validate often enough
(--config.FIELD=VALUE changes it); it is stopped at the first score that reaches the target. Keras
trains the tutorial's model on the rest of the book, with a score after every epoch, until two
consecutive epochs bring no improvement; its time is that of its best score. The two run one after
the other.

Cost: the training time of the config; with --keras about an hour more on a 2-core machine. No other
process may run.

Expected: 1.331 is the best loss of configs/tutorial_heldout.py, after 15 epochs. Keras 3.15 on
TensorFlow reaches it after 9 and 1.317 after 12. Its update rule differs slightly: if a symbol
occurs several times in a batch, its gradients are squared separately and then summed for Adam's
second moment, so the embedding takes larger steps.
"""

import argparse
import math
import sys
import tempfile
import time
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.charlm_process import CharlmProcess
from benchmarks.harness import note, print_json, run_command
from benchmarks.interleaved import LeftOut, Program, Worker
from charlm_jax.cli.parser import Parser
from charlm_jax.core.errors import CharlmError

TARGET_NATS = 1.331
PATIENCE_EPOCHS = 2


class Score(NamedTuple):
    """Held-out loss, and the time from the command's start at which it was known."""

    seconds: float
    loss_nats: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print the times or JSON."""
    parser = Parser(description="Measure the time to reach a held-out loss.", allow_abbrev=False)
    add = parser.add_argument
    add("--config", default="lstm", help="a shipped config or a file (default: %(default)s)")
    add("--corpus", default="mysterious-island", help="default: %(default)s")
    add("--target", type=float, default=TARGET_NATS, metavar="NATS", help="default: %(default)s")
    add("--keras", action="store_true", help="then train the tutorial's model in Keras")
    add("--json", action="store_true", help="print the results as one line of JSON")
    parser.set_defaults(counts=[])
    return run_command(parser, arguments, measure)


def measure(options: argparse.Namespace) -> int:
    if not options.target > 0:
        raise CharlmError(f"--target={options.target} must be above 0")
    ours = follow("ours", our_scores(options), target=options.target)
    if not ours:
        raise CharlmError(
            "the run has no held-out loss: it never validates, or has no held-out text"
        )
    reached = ours[-1].loss_nats <= options.target
    best = ours[-1] if reached else min(ours, key=lambda score: score.loss_nats)
    facts: dict[str, Any] = {"ours": best._asdict(), "reached": reached, "scores": ours}
    words = [describe("ours", best) + ("" if reached else f": {options.target} was not reached")]
    if options.keras:
        keras = follow("Keras", keras_scores(options), patience=PATIENCE_EPOCHS)
        if keras:
            theirs = min(keras, key=lambda score: score.loss_nats)
            facts |= {"keras": theirs._asdict(), "keras_scores": keras}
            words.append(describe("Keras, best score", theirs))
            if reached:
                facts["ratios"] = {"seconds_keras_over_ours": theirs.seconds / best.seconds}
                words.append(f"Keras / ours, seconds: {theirs.seconds / best.seconds:.2f}")
    if options.json:
        asked = {"config": options.config, "overrides": options.overrides}
        print_json(
            "time_to_loss", options, corpus=options.corpus, target=options.target, **asked, **facts
        )
    else:
        print("\n".join(words))
    return 0 if reached else 1


def describe(who: str, score: Score) -> str:
    return f"{who}: {score.loss_nats:.4f} nats after {score.seconds:.1f} s"


def follow(
    who: str, scores: Generator[Score], *, target: float = -math.inf, patience: int = 0
) -> list[Score]:
    """Collect scores until one reaches the target, or `patience` in a row bring no improvement.

    The generator is then closed, which stops the training process.
    """
    seen: list[Score] = []
    for score in scores:
        seen.append(score)
        note(describe(who, score))
        best = min(range(len(seen)), key=lambda index: seen[index].loss_nats)
        if score.loss_nats <= target or 0 < patience <= len(seen) - 1 - best:
            break
    scores.close()
    return seen


def our_scores(options: argparse.Namespace) -> Generator[Score]:
    """Yield the scores of a `charlm train` run in a temporary folder."""
    with tempfile.TemporaryDirectory() as name:
        run = Path(name) / "run"
        arguments = [
            f"--config={options.config}",
            f"--workdir={run}",
            f"--config.data.corpus={options.corpus}",
            "--config.split.kind=tail",
            "--config.split.valid_fraction=0.1",
            "--config.evaluation.context=40",
            *options.overrides,
        ]
        with CharlmProcess("train", *arguments) as process:
            for row in process.rows(run / "metrics.jsonl"):
                if row["split"] == "valid":
                    yield Score(process.seconds, row["loss_nats"])


def keras_scores(options: argparse.Namespace) -> Generator[Score]:
    """Yield the scores of the tutorial in Keras, one per epoch, endlessly; none without Keras."""
    changes = {"data.corpus": options.corpus}
    settings = {"config": "tutorial_heldout", "changes": changes}
    start = time.perf_counter()
    worker = Worker(Program("benchmarks.keras_peer", "train_epochs", settings))
    try:
        worker.wait_until_ready()
        while True:
            loss_nats = worker.turn().amount
            yield Score(time.perf_counter() - start, loss_nats)
    except LeftOut as why:
        note(f"Keras is left out: {why}")
    finally:
        worker.close()


if __name__ == "__main__":
    sys.exit(main())
