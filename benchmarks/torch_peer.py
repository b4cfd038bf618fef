"""PyTorch programs for the same models, trained and sampled from as is usual on a CPU.

Batches are tensors before the clock starts, optimizers are fused, no result is read before a turn
ends, and PyTorch chooses the number of threads. Models are not compiled: `torch.compile` unrolls an
LSTM over its time steps and needs a C++ compiler.

On a processor without bfloat16 instructions oneDNN rejects the LSTM under autocast, and without
oneDNN a step takes many times as long as in float32. Those programs then fail and are left out.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch.nn import functional as F

from benchmarks.data import Text, cut_batches, load_text
from benchmarks.torch_models import LSTM, Transformer
from benchmarks.worker import TakeTurn
from charlm_jax.config.loading import load_config


def autocast(precision: str) -> Any:
    """Return the context of computation: bfloat16 where PyTorch considers it safe, or float32."""
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bfloat16")


def train(
    *,
    precision: str,
    embedding_size: int,
    hidden_size: int,
    batch_size: int,
    sequence_length: int,
    corpus: str,
    steps: int,
) -> TakeTurn:
    """Build a program whose turn is `steps` updates of the tutorial's model with Adam."""
    text = load_text(corpus, batch_size=batch_size, sequence_length=sequence_length)
    model = LSTM(len(text.symbols), embedding_size, hidden_size)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    batches = cycle_batches(text, batch_size=batch_size, sequence_length=sequence_length)

    def turn() -> float:
        for _ in range(steps):
            inputs_BT, targets_BT = next(batches)
            optimizer.zero_grad(set_to_none=True)
            with autocast(precision):
                loss = cross_entropy(model(inputs_BT), targets_BT)
            loss.backward()
            optimizer.step()
        loss.item()
        return steps * batch_size * sequence_length

    return turn


def train_transformer(*, config: str, corpus: str, steps: int) -> TakeTurn:
    """Build a program whose turn is `steps` AdamW updates of a transformer, with clipping.

    The learning rate is constant. Ours follows its schedule, at a small cost.
    """
    loaded = load_config(config)
    data, adam = loaded.data, loaded.optimizer
    sizes = {"batch_size": data.batch_size, "sequence_length": data.sequence_length}
    text = load_text(corpus, **sizes)
    model = Transformer(loaded.model, len(text.symbols), data.sequence_length)
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=adam.learning_rate,
        betas=(adam.beta1, adam.beta2),
        eps=adam.epsilon,
        weight_decay=adam.weight_decay,
        fused=True,
    )
    batches = cycle_batches(text, **sizes)

    def turn() -> float:
        for _ in range(steps):
            inputs_BT, targets_BT = next(batches)
            optimizer.zero_grad(set_to_none=True)
            loss = cross_entropy(model(inputs_BT), targets_BT)
            loss.backward()
            if adam.clip_norm > 0:
                torch.nn.utils.clip_grad_norm_(model.parameters(), adam.clip_norm)
            optimizer.step()
        loss.item()
        return steps * data.batch_size * data.sequence_length

    return turn


def sample(
    *,
    precision: str,
    embedding_size: int,
    hidden_size: int,
    symbols: int,
    streams: int,
    prompt: int,
    characters: int,
) -> TakeTurn:
    """Build a program whose turn reads a prompt and samples with carried state, step by step."""
    model = LSTM(symbols, embedding_size, hidden_size).eval()
    prompt_BT = (torch.arange(prompt) % symbols).repeat(streams, 1)

    def turn() -> float:
        drawn = []
        with torch.inference_mode(), autocast(precision):
            logits_BTV, state = model.read(prompt_BT, None)
            for _ in range(characters):
                probs_BV = logits_BTV[:, -1].float().softmax(dim=-1)
                drawn.append(torch.multinomial(probs_BV, 1))
                logits_BTV, state = model.read(drawn[-1], state)
            ids_BT = torch.cat(drawn, dim=1).numpy()
        return ids_BT.size

    return turn


def cross_entropy(logits_BTV: Any, targets_BT: Any) -> Any:
    """Return the mean loss over all characters, in nats."""
    return F.cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten())


def cycle_batches(
    text: Text, *, batch_size: int, sequence_length: int
) -> Iterator[tuple[Any, Any]]:
    """Return an endless iterator over pairs of inputs and targets."""
    batches_EBN = cut_batches(text, batch_size=batch_size, sequence_length=sequence_length)
    ids = torch.from_numpy(batches_EBN)
    pairs = [(batch[:, :-1].contiguous(), batch[:, 1:].contiguous()) for batch in ids]
    return itertools.cycle(pairs)


PROGRAMS: Mapping[str, Callable[..., TakeTurn]] = {
    "train": train,
    "train_transformer": train_transformer,
    "sample": sample,
}
