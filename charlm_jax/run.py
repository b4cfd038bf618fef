"""A trained run, picked up again: to draw text from it and to score text with it."""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from charlm_jax.checkpoint import Checkpoints
from charlm_jax.config import Config
from charlm_jax.dataset import load_dataset
from charlm_jax.download import Progress
from charlm_jax.evaluate import Scorer, make_stream_scorer, make_window_scorer, mean_score
from charlm_jax.generate import Rows, make_decoder
from charlm_jax.models import LanguageModel, build_model
from charlm_jax.sampling import check_scale, sample_keys
from charlm_jax.types import CharlmError, Params
from charlm_jax.vocab import Vocabulary
from charlm_jax.workdir import Workdir, write_json

EVALUATION_MODES = ("window", "stream")


@dataclasses.dataclass(frozen=True)
class Run:
    """A run's model at one of its checkpoints.

    Attributes:
      workdir: where it lies.
      config: what it was trained with.
      vocabulary: its symbols.
      model: its functions.
      params: its weights.
      checkpoint: the step that they are from.
    """

    workdir: Path
    config: Config
    vocabulary: Vocabulary
    model: LanguageModel
    params: Params
    checkpoint: int


def load_run(workdir: Path | str, *, checkpoint: str = "best") -> Run:
    """Pick up a run.

    Args:
      workdir: its folder.
      checkpoint: `best` (the latest, where nothing was validated), `latest`, or a step.

    Raises:
      CharlmError: no run there, or no such checkpoint.
    """
    place = Workdir(workdir)
    config, vocabulary = place.read_config(), place.read_vocabulary()
    model = build_model(config.model, len(vocabulary))
    if not place.checkpoints.is_dir():
        raise CharlmError(f"the run at {place.path} has no checkpoint yet: train it first")
    with Checkpoints(place.checkpoints) as checkpoints:
        step = checkpoints.choose(checkpoint)
        like = jax.eval_shape(lambda: model.init(jax.random.key(0)))
        params = jax.tree.map(jnp.asarray, checkpoints.restore(step, "params", like))
    return Run(place.path, config, vocabulary, model, params, step)


def draw(
    run: Run,
    prompt: str,
    *,
    characters: int,
    scales: Sequence[float],
    samples: int,
    seed: int,
    mode: str = "carried",
    context: int | None = None,
    unknown: str = "error",
    replacement: str = " ",
) -> Iterator[list[str]]:
    """Draw text that goes on from a prompt, piece by piece.

    Args:
      run: the model.
      prompt: at least one character.
      characters: how many to draw, beyond the prompt.
      scales: scale factors in [0, inf].
      samples: how many texts at each scale. Sample i is drawn with the same noise at every scale,
        and does not depend on the other samples.
      seed: root of the noise.
      mode: `carried` or `window`.
      context: characters in the window; the training length if None.
      unknown: what to do with characters of the prompt that the model does not know: `error`,
        `drop` or `replace`.
      replacement: what replaces them.

    Returns:
      An iterator; each item is the next characters of every text: all samples of the first scale,
      then of the second, ...

    Raises:
      CharlmError: an empty prompt, characters that the model does not know, a bad number.
    """
    if not prompt:
        raise CharlmError("the prompt is empty: give at least one character")
    for name, value, least in (("chars", characters, 0), ("num", samples, 1)):
        if value < least:
            raise CharlmError(f"{name}={value} is not allowed: it must be at least {least}")
    if not 0 <= seed < 2**32:
        raise CharlmError(f"seed={seed} is not allowed: it must lie in [0, 2**32)")
    if mode == "carried" and context is not None:
        raise CharlmError("mode=carried has no context to set: it reads all that came before")
    window = run.config.data.sequence_length if context is None else context
    if window < 1:
        raise CharlmError(f"context={window} is not allowed: it must be at least 1")
    pairs = list(itertools.product(map(check_scale, scales), range(samples)))
    prompt_N = run.vocabulary.encode(
        prompt, unknown=unknown, replacement=replacement, what="the prompt"
    )
    if not prompt_N.size:
        raise CharlmError("the prompt has no character that the model knows")
    rows = Rows(
        keys_B=sample_keys(seed, samples)[jnp.array([index for _, index in pairs])],
        scale_B=jnp.array([scale for scale, _ in pairs], jnp.float32),
    )
    decode = make_decoder(run.model, mode=mode, context=window)
    pieces = decode(run.params, prompt_N, rows, characters)
    return ([run.vocabulary.decode(ids_T) for ids_T in ids_BT] for ids_BT in pieces)


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """A held-out figure with everything that it depends on.

    `context` is the window's length; None under `stream`, whose context is all that was read.
    """

    loss_nats: float
    bits_per_char: float
    characters: int
    mode: str
    context: int | None
    split: str
    fingerprint: str
    checkpoint: int


def evaluate_run(
    run: Run,
    *,
    split: str = "valid",
    mode: str = "window",
    context: int | None = None,
    progress: Progress | None = None,
) -> tuple[Evaluation, np.ndarray]:
    """Score every character of a part of the run's text, under a named rule.

    Args:
      run: the model.
      split: `valid` or `train`.
      mode: `window` or `stream`; `charlm_jax.evaluate` defines them.
      context: the window's length; that of the run's own validation if None.
      progress: told how a download of the text goes.

    Returns:
      The figure, and nll_N in nats, one float32 for each character in the text's order.

    Raises:
      CharlmError: no such part, a text that has changed since, a context that makes no sense.
    """
    if mode not in EVALUATION_MODES:
        raise CharlmError(f"mode={mode!r} is not known: it must be {' or '.join(EVALUATION_MODES)}")
    if mode == "stream" and context is not None:
        raise CharlmError("mode=stream has no context to set: it reads all that came before")
    if context is not None and context < 1:
        raise CharlmError(f"context={context} is not allowed: it must be at least 1")
    dataset = load_dataset(run.config, progress=progress)
    if dataset.fingerprint != Workdir(run.workdir).read_fingerprint():
        raise CharlmError(
            f"the text of {run.config.data.corpus} has changed since {run.workdir} was trained: "
            f"a figure on it would not be comparable"
        )
    part = dataset.part(split)
    score: Scorer
    if mode == "window":
        context = context or run.config.evaluation_context
        batch_size = run.config.evaluation.batch_size
        score = make_window_scorer(run.model, context=context, batch_size=batch_size)
    else:
        score = make_stream_scorer(run.model, context=run.config.evaluation_context)
    nll_N = score(run.params, jnp.asarray(dataset.ids_N), part)
    result = mean_score(nll_N)
    fingerprint, step = dataset.fingerprint, run.checkpoint
    return Evaluation(*result, mode, context, split, fingerprint, step), nll_N


def save_evaluation(run: Run, evaluation: Evaluation, nll_N: np.ndarray) -> Path:
    """Keep the per-character array in the run's folder, with a JSON note beside it."""
    folder = Workdir(run.workdir).evaluation
    rule = evaluation.mode + (f"_{evaluation.context}" if evaluation.context else "")
    file = folder / f"{evaluation.split}_{rule}_step_{evaluation.checkpoint}.npy"
    try:
        folder.mkdir(exist_ok=True)
        np.save(file, nll_N)
        write_json(file.with_suffix(".json"), dataclasses.asdict(evaluation))
    except OSError as error:
        raise CharlmError(f"cannot write to {folder}: {error.strerror}") from error
    return file
