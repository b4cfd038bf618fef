"""The tutorial's programs in Keras on TensorFlow: `fit` over a tf.data pipeline, and its sampler.

Source: Raschka and Mirjalili, Python Machine Learning (3rd edition, 2019), chapter 16, second part.
The steps are the chapter's; the code is ours.
"""

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from benchmarks.data import cut_chunks, load_text
from benchmarks.worker import TakeTurn
from charlm_jax.config.loading import load_config
from charlm_jax.data.dataset import load_dataset

SHUFFLE_BUFFER = 10_000


def build_model(symbols: int, embedding_size: int, hidden_size: int, *, jit: bool = False) -> Any:
    """Build the chapter's model, uncompiled.

    Keras passes an LSTM to XLA only if cuDNN is disabled. A CPU has no cuDNN, so the layer is the
    same either way.
    """
    return keras.Sequential(
        [
            keras.layers.Embedding(symbols, embedding_size),
            keras.layers.LSTM(
                hidden_size, return_sequences=True, use_cudnn=False if jit else "auto"
            ),
            keras.layers.Dense(symbols),
        ]
    )


def compile_model(model: Any, **options: Any) -> None:
    """Compile a model with the chapter's optimizer and loss."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer="adam", loss=loss, **options)


def make_pipeline(chunks_CN: np.ndarray, batch_size: int) -> Any:
    """Return shuffled batches of inputs and targets; the chapter also cuts the chunks here."""
    chunks = tf.data.Dataset.from_tensor_slices((chunks_CN[:, :-1], chunks_CN[:, 1:]))
    return chunks.shuffle(SHUFFLE_BUFFER).batch(batch_size)


def train(
    *,
    jit: bool,
    embedding_size: int,
    hidden_size: int,
    batch_size: int,
    sequence_length: int,
    corpus: str,
    steps: int,
) -> TakeTurn:
    """Build a program whose turn is `steps` steps of `fit`, without output."""
    text = load_text(corpus, batch_size=batch_size, sequence_length=sequence_length)
    chunks_CN = cut_chunks(text, sequence_length=sequence_length)
    batches = make_pipeline(chunks_CN, batch_size).repeat().prefetch(tf.data.AUTOTUNE)
    model = build_model(len(text.symbols), embedding_size, hidden_size, jit=jit)
    compile_model(model, **({"jit_compile": True} if jit else {}))

    def turn() -> float:
        model.fit(batches, epochs=1, steps_per_epoch=steps, verbose=0)
        return steps * batch_size * sequence_length

    return turn


def sample(
    *, embedding_size: int, hidden_size: int, symbols: int, prompt: int, characters: int
) -> TakeTurn:
    """Build a program whose turn samples `characters` characters as in the chapter.

    For each of them the model rereads the last `prompt` characters from a zero state, in eager mode
    with a batch of one. Each turn continues the text of the previous one.
    """
    model = build_model(symbols, embedding_size, hidden_size)
    ids_1T = tf.constant((np.arange(prompt) % symbols)[None, :])

    def turn() -> float:
        nonlocal ids_1T
        drawn = []
        for _ in range(characters):
            logits_TV = tf.squeeze(model(ids_1T), 0)
            ids_T1 = tf.random.categorical(logits_TV, num_samples=1)
            drawn.append(tf.squeeze(ids_T1)[-1].numpy())
            ids_1T = tf.concat([ids_1T, [[drawn[-1]]]], axis=1)[:, -prompt:]
        return len(drawn)

    return turn


def train_epochs(*, config: str, changes: Mapping[str, Any]) -> TakeTurn:
    """Build a program whose turn is an epoch of `fit` on a config's training part.

    A turn returns the held-out loss: every held-out character is scored once, in windows of T
    characters from a zero state.
    """
    loaded = load_config(config, changes)
    data, model_config = loaded.data, loaded.model
    dataset = load_dataset(loaded)
    (train_part,), (valid_part,) = dataset.part("train"), dataset.part("valid")
    piece = data.sequence_length + 1
    ids_N = dataset.ids_N.astype(np.int64)
    train_N = ids_N[train_part.start : train_part.stop]
    chunks_CN = train_N[: len(train_N) // piece * piece].reshape(-1, piece)
    batches = make_pipeline(chunks_CN, data.batch_size).prefetch(tf.data.AUTOTUNE)
    model = build_model(
        len(dataset.vocabulary), model_config.embedding_size, model_config.hidden_size
    )
    compile_model(model)

    def turn() -> float:
        model.fit(batches, epochs=1, verbose=0)
        held_out_N = ids_N[valid_part.start - 1 : valid_part.stop]
        return held_out_loss(model, held_out_N, data.sequence_length)

    return turn


def held_out_loss(model: Any, ids_N: np.ndarray, window: int) -> float:
    """Return the mean loss in nats of all ids but the first, in windows; the last may be short."""
    inputs_N, targets_N = ids_N[:-1], ids_N[1:]
    whole = len(targets_N) // window * window
    parts = [
        (inputs_N[:whole].reshape(-1, window), targets_N[:whole].reshape(-1, window)),
        (inputs_N[None, whole:], targets_N[None, whole:]),
    ]
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="sum")
    total = sum(
        float(loss(targets_BT, model.predict(inputs_BT, batch_size=256, verbose=0)))
        for inputs_BT, targets_BT in parts
        if inputs_BT.size
    )
    return total / len(targets_N)


PROGRAMS: Mapping[str, Callable[..., TakeTurn]] = {
    "train": train,
    "sample": sample,
    "train_epochs": train_epochs,
}
