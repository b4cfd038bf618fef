"""Reproduction of the textbook chapter, figure by figure.

Raschka and Mirjalili, Python Machine Learning (3rd edition, 2019), chapter 16, second part: a
character-level LSTM on The Mysterious Island, text sampled from it, and self-attention.

    python -m experiments.tutorial

A finished run in the workdir is reused without training. `--skip_training` uses whatever the
workdir holds.

Cost: 41 minutes of training on a 2-core AMD EPYC with AVX2, half a minute for the rest.

Expected: every count, id and probability as in the chapter. The training loss falls from 2.329 to
1.017 nats per character (the book: 2.301 to 1.034). It cannot match the book exactly, because
weights and batches come from different random numbers. Text at scale 2 is the most predictable, at
0.5 the most random.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from charlm_jax.cli.exit_status import run_program
from charlm_jax.config.loading import load_config
from charlm_jax.config.schema import Config
from charlm_jax.core.errors import CharlmError
from charlm_jax.data.corpora import BOOK_MARKERS, REGISTRY
from charlm_jax.data.dataset import Dataset, load_dataset
from charlm_jax.data.decoding import decode
from charlm_jax.data.download import MYSTERIOUS_ISLAND, DownloadProgress, fetch
from charlm_jax.data.loaders import build_loader, gather_batch
from charlm_jax.data.vocabulary import Vocabulary
from charlm_jax.inference.run import Run, load_run
from charlm_jax.models.summary import summarize
from charlm_jax.report.figures.base import save_figure
from charlm_jax.report.figures.loss_curve import draw_learning_curves
from charlm_jax.sampling.categorical import (
    gumbel_noise,
    sample_keys,
    scaled_categorical,
    scaled_probabilities,
    temperature,
)
from charlm_jax.storage.metrics_log import MetricsLog
from charlm_jax.storage.workdir import Workdir
from charlm_jax.training.loop import train_and_evaluate
from charlm_jax.training.progress_bar import training_view
from experiments.tutorial.attention import basic_self_attention, self_attention

# Training loss by epoch, in nats per character, printed by the authors' own run of the chapter:
# ch16/ch16_part2.ipynb of github.com/rasbt/python-machine-learning-book-3rd-edition.
# fmt: off
BOOK_LOSS_NATS = (
    2.3011, 1.7332, 1.5343, 1.4204, 1.3477, 1.2976, 1.2597, 1.2286, 1.2030, 1.1817,
    1.1618, 1.1446, 1.1283, 1.1126, 1.0985, 1.0845, 1.0718, 1.0589, 1.0458, 1.0337,
)
# fmt: on
BOOK_CHARACTERS = REGISTRY["mysterious-island"].characters
BOOK_SYMBOLS = 80

SEED = 1
PROMPT = "The island"
PHRASE = "the sea"
HEAD_WIDTH = 64  # width of q, k and v; the chapter does not fix it


class Book(NamedTuple):
    """Text of the whole file, and the slice of it used for training."""

    file_text: str
    dataset: Dataset


def main(arguments: Sequence[str] | None = None) -> int:
    """Walk through the chapter; the exit status is 1 if its text is unavailable."""
    parser = argparse.ArgumentParser(
        prog="experiments.tutorial",
        description="Reproduce the textbook's chapter figure by figure.",
        usage=argparse.SUPPRESS,  # one-line errors
        allow_abbrev=False,
    )
    parser.add_argument("--workdir", default="runs/tutorial", help="default: %(default)s")
    parser.add_argument("--epochs", type=int, help="default: the book's 20")
    parser.add_argument(
        "--skip_training", action="store_true", help="use the run in --workdir as it is"
    )
    parser.add_argument("--figure", metavar="PATH", help="save the loss curves as .png or .svg")
    options = parser.parse_args(arguments)
    return run_program(parser.prog, lambda: walk(options))


def walk(options: argparse.Namespace) -> int:
    shorter = {} if options.epochs is None else {"train.epochs": options.epochs}
    config = load_config("tutorial", shorter)
    book = read_book(config)
    if book:
        show_slice(book)
        show_encoding(book.dataset)
        show_chunks(config, book.dataset)
    show_shift()
    show_batches(config)
    show_model(config)
    if book and not options.skip_training:
        train(config, options.workdir)
    run = pick_up(options.workdir)
    if run:
        show_losses(run, options.figure)
    show_scaling()
    show_draws()
    if run:
        show_next_character(run)
        show_samples(run)
        show_greedy(run)
    show_attention(run)
    return 0 if book else 1


def heading(title: str) -> None:
    print(f"\n{title}\n{'-' * len(title)}")


def read_book(config: Config) -> Book | None:
    heading("The text")
    try:
        data, source = fetch(MYSTERIOUS_ISLAND, progress=DownloadProgress())
        dataset = load_dataset(config)
    except CharlmError as error:
        print(f"{error}\n(skipped: the text, its encoding, its chunks, and training)")
        return None
    return Book(decode(data, encoding="utf-8", source=source), dataset)


def show_slice(book: Book) -> None:
    start, end = map(book.file_text.find, BOOK_MARKERS)
    text = book.dataset.corpus.text
    print(f"the slice starts at {start} and ends at {end}")
    print(f"characters {len(text):,}, symbols {len(book.dataset.vocabulary)}")


def show_encoding(dataset: Dataset) -> None:
    heading("Characters as ids")
    text, ids_N, vocabulary = dataset.corpus.text, dataset.ids_N, dataset.vocabulary
    print(f"{text[:15]!r} -> {vocabulary.encode(text[:15])}")
    print(f"{ids_N[15:21]} -> {vocabulary.decode(ids_N[15:21])!r}")
    for id_ in ids_N[:5]:
        print(f"{id_} -> {vocabulary.decode(id_[None])!r}")


def show_chunks(config: Config, dataset: Dataset) -> None:
    heading("Chunks as inputs and targets")
    length, vocabulary = config.data.sequence_length, dataset.vocabulary
    ids_N, starts_B = jnp.asarray(dataset.ids_N), jnp.array([0, length + 1])
    inputs_BT, targets_BT = map(np.asarray, gather_batch(ids_N, starts_B, sequence_length=length))
    next_1 = targets_BT[0, -1:]
    print(f"{inputs_BT[0]} -> {next_1[0]}")
    print(f"{vocabulary.decode(inputs_BT[0])!r} -> {vocabulary.decode(next_1)!r}")
    for x_T, y_T in zip(inputs_BT, targets_BT, strict=True):
        print(f"\nx {vocabulary.decode(x_T)!r}\ny {vocabulary.decode(y_T)!r}")


def show_shift() -> None:
    heading("Targets are the inputs shifted by one character")
    text = "Deep Learni"
    vocabulary = Vocabulary.from_text(text)
    ids_N = jnp.asarray(vocabulary.encode(text))
    shifted = gather_batch(ids_N, jnp.array([0]), sequence_length=len(text) - 1)
    x, y = (vocabulary.decode(np.asarray(ids_BT[0])) for ids_BT in shifted)
    print(f"x {x!r}\ny {y!r}\nso {x!r} should be followed by {y[-1]!r}")


def show_batches(config: Config) -> None:
    heading("Batches")
    data = config.data
    loader = build_loader(
        data.loader,
        part=(range(BOOK_CHARACTERS),),
        sequence_length=data.sequence_length,
        batch_size=data.batch_size,
    )
    mask_EB = loader.plan(jax.random.key(SEED), 0).mask_EB
    chunks = loader.characters_per_epoch // data.sequence_length
    print(f"{chunks:,} chunks of {data.sequence_length + 1} characters")
    print(f"{loader.steps_per_epoch} steps per epoch; the last one has {mask_EB[-1].sum()} chunks")


def show_model(config: Config) -> None:
    heading("The model")
    modules = summarize(config.model, BOOK_SYMBOLS)
    for name, kind, shape, parameters in modules:
        output = f"({', '.join(map(str, shape))})"
        print(f"{name:<10} {kind:<10} {output:<12} {parameters:>10,}")
    print(f"{'total':<34} {sum(module.parameters for module in modules):>10,}")


def train(config: Config, workdir: str) -> None:
    heading("Training")
    with training_view() as view:
        result = train_and_evaluate(config, workdir, view=view)
    print(f"{workdir}: {result.step:,} steps" + (", already trained" if result.was_done else ""))


def pick_up(workdir: str) -> Run | None:
    heading("The trained model")
    try:
        run = load_run(workdir, checkpoint="latest")
    except CharlmError as error:
        print(f"{error}\n(skipped: the loss curve, and text sampled from the model)")
        return None
    print(f"{workdir}, step {run.checkpoint:,}")
    return run


def show_losses(run: Run, figure: str | None) -> None:
    heading("Training loss by epoch, nats per character")
    loss_nats = [
        row["loss_nats"]
        for row in MetricsLog(Workdir(run.workdir).metrics_file).rows()
        if (row["split"], row["scope"]) == ("train", "epoch")
    ]
    print("epoch    ours    book  difference" if loss_nats else "no epoch is complete yet")
    for epoch, (ours, book) in enumerate(zip(loss_nats, BOOK_LOSS_NATS, strict=False), start=1):
        print(f"{epoch:>5}  {ours:.4f}  {book:.4f}     {ours - book:+.4f}")
    if figure:
        file = os.path.expanduser(figure)
        curves = {"charlm_jax": loss_nats, "the book": BOOK_LOSS_NATS}
        save_figure(draw_learning_curves(curves), file)
        print(f"saved to {file}")


def show_scaling() -> None:
    heading("Probabilities of the logits 1, 1, 3, scaled")
    scale_B = jnp.array([1.0, 0.5, 0.1])
    probs_BV = scaled_probabilities(jnp.array([[1.0, 1.0, 3.0]] * 3), scale_B)
    for scale, probs_V in zip(scale_B, probs_BV, strict=True):
        print(f"scale {scale:.1f}  " + "  ".join(f"{p:.6f}" for p in probs_V))


def show_draws() -> None:
    heading("Ten samples")
    noise_BV = gumbel_noise(sample_keys(SEED, 10), jnp.array(0), 3)
    for logits_V, scale in (
        ([1.0, 1.0, 1.0], 1.0),
        ([1.0, 1.0, 3.0], 1.0),
        ([1.0, 1.0, 3.0], jnp.inf),
    ):
        ids_B = scaled_categorical(jnp.array([logits_V] * 10), noise_BV, jnp.full(10, scale))
        print(f"logits {logits_V}, scale {scale:g}: {ids_B}")


def show_next_character(run: Run) -> None:
    heading("Most probable characters after 'Deep Learn'")
    ids_BT = jnp.asarray(run.vocabulary.encode("Deep Learn"))[None, :]
    logits_BTV, _ = run.model.apply(run.params, ids_BT, run.model.initial_state(1, 0))
    (probs_V,) = scaled_probabilities(logits_BTV[:, -1], jnp.ones(1))
    for id_ in jnp.argsort(-probs_V)[:3]:
        print(f"{run.vocabulary.decode(id_[None])!r} {probs_V[id_]:.3f}")


def show_samples(run: Run) -> None:
    scales = (1.0, 2.0, 0.5)
    chunks = run.sample(PROMPT, characters=500, scales=scales, seed=SEED, mode="window")
    for scale, text in zip(scales, zip(*chunks, strict=True), strict=True):
        heading(f"Text at scale {scale:g} (temperature {temperature(scale):g})")
        print(PROMPT + "".join(chunk.text for chunk in text))


def show_greedy(run: Run) -> None:
    heading("Greedy text, from one character and two seeds")
    for seed in (SEED, SEED + 1):
        text = run.generate(PROMPT[0], characters=60, scale=np.inf, seed=seed)
        print(repr(PROMPT[0] + text))


def show_attention(run: Run | None) -> None:
    table_key, *matrix_keys = jax.random.split(jax.random.key(SEED + 2), 4)
    if run:
        vocabulary, table_VD = run.vocabulary, run.params["embedding"]
    else:
        vocabulary, width = Vocabulary.from_text(PHRASE), 256
        table_VD = jax.random.normal(table_key, (len(vocabulary), width)) / np.sqrt(width)
    x_TD = table_VD[vocabulary.encode(PHRASE)]
    where = f"{PHRASE!r}, {'trained' if run else 'random'} embeddings"
    show_weights(f"Self-attention without parameters ({where})", *basic_self_attention(x_TD))
    # Queries and keys get a variance of about 1, as the factor 1 / sqrt(K) assumes.
    spread = 1 / jnp.sqrt(jnp.mean(jnp.sum(x_TD**2, axis=1)))
    shape = (x_TD.shape[1], HEAD_WIDTH)
    matrices = [spread * jax.random.normal(key, shape) for key in matrix_keys]
    title = f"Self-attention with random U_q, U_k and U_v ({where})"
    show_weights(title, *self_attention(x_TD, *matrices))


def show_weights(title: str, o_TD: jax.Array, weights_TS: jax.Array) -> None:
    heading(title)
    print("     " + "".join(f"{character!r:>6}" for character in PHRASE))
    for character, weights_S in zip(PHRASE, weights_TS, strict=True):
        print(f"{character!r:>5}" + "".join(f"{weight:>6.2f}" for weight in weights_S))
    print(f"outputs of shape {o_TD.shape}")


if __name__ == "__main__":
    sys.exit(main())
