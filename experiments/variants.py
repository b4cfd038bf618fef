"""What changes when the LSTM becomes self-attention, a transformer, or something between?

Six models of about 0.8 million parameters learn The Mysterious Island, each from the same number of
characters, in the same sequences and batches; the last tenth of the book is held out. The peak
learning rate is chosen for each from the same seven, by the held-out loss of a shorter run whose
schedule ends with it; then three seeds are trained at the chosen one.

    python experiments/variants.py --speed

The models are those of configs/lstm.py, gru.py, attention.py, transformer.py, mingru.py and
hybrid.py. Finished runs in the workdir are used and not trained again, and an interrupted one goes
on. `--only=lstm,gru` does it for some of them, so that several processes can share the work;
`--speed` times training at the end, all models in turn, and wants a machine to itself.

Cost: about 50 minutes on a 2-core AMD EPYC with AVX2.

Expected: held-out loss in windows of 64, nats per character, mean of three seeds: hybrid 1.428, GRU
1.476, LSTM 1.526, transformer 1.581, minGRU 1.626, one layer of attention 1.859.
"""

import argparse
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from charlm_jax.cli.exit_status import run_program
from charlm_jax.config.loading import load_config
from charlm_jax.config.schema import Config
from charlm_jax.core.errors import CharlmError
from charlm_jax.core.trees import count_parameters
from charlm_jax.data.download import DownloadProgress
from charlm_jax.evaluation.results import Evaluation
from charlm_jax.inference.run import load_run
from charlm_jax.training.loop import train_and_evaluate
from charlm_jax.training.progress_bar import training_view
from charlm_jax.training.throughput import measure_speeds

MODELS = ("lstm", "gru", "attention", "transformer", "mingru", "hybrid")
RATES = (1.25e-3, 2.5e-3, 5e-3, 1e-2, 2e-2, 4e-2, 8e-2)
SEEDS = (1, 2, 3)
TUNING_CHARACTERS = 250_000
CHARACTERS = 750_000


class Row(NamedTuple):
    """What is known of a model.

    Attributes:
      name: of its config.
      parameters: how many it has.
      rate: the learning rate that was chosen.
      tried: held-out loss by learning rate, of the shorter runs.
      window: of each seed, in nats.
      stream: likewise.
    """

    name: str
    parameters: int
    rate: float
    tried: dict[float, float]
    window: list[Evaluation]
    stream: list[Evaluation]


def main(arguments: Sequence[str] | None = None) -> int:
    """Train what is missing, and print the table."""
    parser = argparse.ArgumentParser(
        description="Six models, one text, equal characters.",
        usage=argparse.SUPPRESS,  # so that a mistake is told in one line
        allow_abbrev=False,
    )
    parser.add_argument("--workdir", default="runs/variants", help="default: %(default)s")
    parser.add_argument("--only", default=",".join(MODELS), help="default: %(default)s")
    parser.add_argument(
        "--tuning_characters", type=int, default=TUNING_CHARACTERS, help="default: %(default)s"
    )
    parser.add_argument("--characters", type=int, default=CHARACTERS, help="default: %(default)s")
    parser.add_argument("--speed", action="store_true", help="time them too; nothing else may run")
    options = parser.parse_args(arguments)
    return run_program(parser.prog, lambda: compare(options), goes_on=True)


def compare(options: argparse.Namespace) -> None:
    """Study every model that is asked for, and print the tables."""
    names = options.only.split(",")
    for name in names:
        if name not in MODELS:
            raise CharlmError(f"no model {name!r}: name some of {','.join(MODELS)}")
        refuse_less_than_a_batch(name, options)
    rows = [study(name, Path(options.workdir), options) for name in names]
    timed = rows if options.speed else []
    speeds = measure_speeds(
        {row.name: make_config(row.name, CHARACTERS, row.rate, 1) for row in timed}
    )
    print_tuning(rows)
    print_table(rows, speeds)


def refuse_less_than_a_batch(name: str, options: argparse.Namespace) -> None:
    """No step would be made, and to a config no steps are no limit."""
    least = batch_characters(name)
    for flag in ("tuning_characters", "characters"):
        if getattr(options, flag) < least:
            raise CharlmError(
                f"--{flag}={getattr(options, flag)} is not allowed: it must be at least {least}, "
                f"one batch of {name}"
            )


def batch_characters(name: str) -> int:
    """Characters that one step of a model's config reads."""
    data = load_config(name).data
    return data.batch_size * data.sequence_length


def study(name: str, folder: Path, options: argparse.Namespace) -> Row:
    """Choose a learning rate, train the seeds, score them."""
    tried = {
        rate: train(name, folder / f"{name}_{rate:g}_tuning", options.tuning_characters, rate, 1)
        for rate in RATES
    }
    rate = min(tried, key=lambda rate: tried[rate])
    window: list[Evaluation] = []
    stream: list[Evaluation] = []
    for seed in SEEDS:
        place = folder / f"{name}_{rate:g}_seed_{seed}"
        train(name, place, options.characters, rate, seed)
        run = load_run(place, checkpoint="latest")
        for mode, figures in (("window", window), ("stream", stream)):
            evaluation, nll_N = run.evaluate(mode=mode)
            run.save_evaluation(evaluation, nll_N)
            figures.append(evaluation)
    return Row(name, count_parameters(run.params), rate, tried, window, stream)


def make_config(name: str, characters: int, rate: float, seed: int) -> Config:
    """A model's config, for a run over so many characters, validated at its end alone."""
    steps = characters // batch_characters(name)
    return load_config(
        name,
        {
            "seed": seed,
            "optimizer.learning_rate": rate,
            "train.epochs": 1000,
            "train.max_steps": steps,
            "train.evaluate_every_steps": steps,
        },
    )


def train(name: str, place: Path, characters: int, rate: float, seed: int) -> float:
    """Train one run; its held-out loss at the end."""
    config = make_config(name, characters, rate, seed)
    with training_view() as view:
        result = train_and_evaluate(config, place, view=view, progress=DownloadProgress())
    assert result.best_loss_nats is not None
    print(f"{place}: {result.best_loss_nats:.4f} nats", flush=True)
    return result.best_loss_nats


def print_tuning(rows: Sequence[Row]) -> None:
    print("\nHeld-out loss of the shorter runs, by peak learning rate\n")
    print("| model | " + " | ".join(f"{rate:g}" for rate in RATES) + " |")
    print("|---|" + "---|" * len(RATES))
    for row in rows:
        cells = [
            f"**{x:.4f}**" if rate == row.rate else f"{x:.4f}" for rate, x in row.tried.items()
        ]
        print(f"| {row.name} | " + " | ".join(cells) + " |")


def print_table(rows: Sequence[Row], speeds: dict[str, float]) -> None:
    print("\nHeld-out loss in nats per character: mean over seeds, and half their range\n")
    print("| model | parameters | rate | characters/s | window | stream |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        speed = f"{speeds[row.name]:,.0f}" if row.name in speeds else ""
        print(
            f"| {row.name} | {row.parameters:,} | {row.rate:g} | {speed} | "
            f"{_spread(row.window)} | {_spread(row.stream)} |"
        )
    (window, *_), (stream, *_) = rows[0].window, rows[0].stream
    print(
        f"\nwindow: of {window.context}, over {window.characters:,} characters. stream: the state "
        f"carried through all of them; attention keeps {window.context} positions."
    )
    assert stream.characters == window.characters


def _spread(figures: Sequence[Evaluation]) -> str:
    losses = [figure.loss_nats for figure in figures]
    return f"{statistics.mean(losses):.4f} ± {(max(losses) - min(losses)) / 2:.4f}"


if __name__ == "__main__":
    sys.exit(main())
