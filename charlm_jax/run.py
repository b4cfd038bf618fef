"""A trained run, picked up again: to draw text from it and to score text with it."""

import contextlib
import dataclasses
import itertools
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from charlm_jax.checkpoint import Checkpoints, DamagedCheckpoint
from charlm_jax.config import Config
from charlm_jax.dataset import load_dataset
from charlm_jax.download import Progress
from charlm_jax.evaluate import Scorer, make_stream_scorer, make_window_scorer, mean_score
from charlm_jax.generate import Rows, make_decoder
from charlm_jax.models import LanguageModel, build_model
from charlm_jax.sampling import check_scale, sample_keys
from charlm_jax.types import CharlmError, Params, cannot_write
from charlm_jax.vocab import Vocabulary
from charlm_jax.workdir import Workdir, write_json

EVALUATION_MODES = ("window", "stream")

_MOST_CHARACTERS = 2**31 - 1
_MOST_TEXTS = 10_000  # drawn at once


class TextScore(NamedTuple):
    """How surprising a text is to a model.

    Attributes:
      nll_N: -log p of every character but the first, in nats, float32.
      loss_nats: their mean.
      bits_per_char: the same in bits.
      characters: how many they are.
    """

    nll_N: np.ndarray
    loss_nats: float
    bits_per_char: float
    characters: int


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
    params: Params = dataclasses.field(repr=False)
    checkpoint: int

    def generate(
        self,
        prompt: str,
        *,
        characters: int = 500,
        scale: float = 1.0,
        seed: int = 0,
        mode: str = "carried",
        context: int | None = None,
        unknown: str = "error",
        replacement: str = " ",
    ) -> str:
        """Draw one text that goes on from a prompt.

        Args:
          prompt: at least one character.
          characters: how many to draw, beyond the prompt. A longer text begins with the shorter.
          scale: the scale factor of the logits, 1 / temperature, in [0, inf].
          seed: root of the noise; the same noise is drawn at every scale.
          mode: `carried` or `window`; `charlm_jax.generate` defines them.
          context: as in `draw`.
          unknown: as in `draw`.
          replacement: as in `draw`.

        Returns:
          The characters that follow the prompt.

        Raises:
          CharlmError: as in `draw`.
        """
        pieces = self.draw(
            prompt,
            characters=characters,
            scales=[scale],
            samples=1,
            seed=seed,
            mode=mode,
            context=context,
            unknown=unknown,
            replacement=replacement,
        )
        return "".join(text for (text,) in pieces)

    def draw(
        self,
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
        """Draw texts that go on from a prompt, piece by piece.

        Args:
          prompt: at least one character.
          characters: how many to draw, beyond the prompt.
          scales: scale factors in [0, inf].
          samples: how many texts at each scale. Sample i is drawn with the same noise at every
            scale, and does not depend on the other samples.
          seed: root of the noise.
          mode: `carried` or `window`.
          context: characters in the window; the training length if None.
          unknown: what to do with characters of the prompt that the model does not know: `error`,
            `drop` or `replace`.
          replacement: what replaces them.

        Returns:
          An iterator; each item is the next characters of every text: all samples of the first
          scale, then of the second, ...

        Raises:
          CharlmError: an empty prompt, characters that the model does not know, a bad number.
        """
        if not prompt:
            raise CharlmError("the prompt is empty: give at least one character")
        _require_within("chars", characters, 0, _MOST_CHARACTERS)
        _require_within("num", samples, 1, _MOST_TEXTS // max(len(scales), 1))
        _require_within("seed", seed, 0, 2**32 - 1)
        if mode == "carried" and context is not None:
            raise CharlmError(
                "mode=carried has no context to set, it reads all that came before; "
                "mode=window has one"
            )
        window = self.config.data.sequence_length if context is None else context
        _require_within("context", window, 1, _MOST_CHARACTERS)
        window = min(window, len(prompt) + characters + 1)  # it is never filled beyond that
        pairs = list(itertools.product(map(check_scale, scales), range(samples)))
        prompt_N = self.vocabulary.encode(
            prompt, unknown=unknown, replacement=replacement, what="the prompt"
        )
        if not prompt_N.size:
            raise CharlmError("the prompt has no character that the model knows")
        rows = Rows(
            keys_B=sample_keys(seed, samples)[jnp.array([index for _, index in pairs])],
            scale_B=jnp.array([scale for scale, _ in pairs], jnp.float32),
        )
        decode = make_decoder(self.model, mode=mode, context=window)
        pieces = decode(self.params, prompt_N, rows, characters)
        return ([self.vocabulary.decode(ids_T) for ids_T in ids_BT] for ids_BT in pieces)

    def score(
        self,
        text: str,
        *,
        mode: str = "stream",
        context: int | None = None,
        unknown: str = "error",
        replacement: str = " ",
    ) -> TextScore:
        """How surprising a text is to the model, character by character.

        Args:
          text: at least two characters: the first predicts the second, and is not scored.
          mode: `stream` (each character from all before it) or `window`; `charlm_jax.evaluate`
            defines them.
          context: the window's length; that of the run's own validation if None.
          unknown: what to do with characters that the model does not know: `error`, `drop` or
            `replace`.
          replacement: what replaces them.

        Raises:
          CharlmError: a text too short, characters that the model does not know.
        """
        score = self._scorer(mode, context)
        ids_N = self.vocabulary.encode(text, unknown=unknown, replacement=replacement)
        if len(ids_N) < 2:
            raise CharlmError(
                f"the text is too short to score ({len(ids_N)} known characters): it takes two, "
                f"since the first is not predicted"
            )
        nll_N = score(self.params, jnp.asarray(ids_N), (range(len(ids_N)),))
        return TextScore(nll_N, *mean_score(nll_N))

    def evaluate(
        self,
        *,
        split: str = "valid",
        mode: str = "window",
        context: int | None = None,
        progress: Progress | None = None,
    ) -> tuple[Evaluation, np.ndarray]:
        """Score every character of a part of the run's own text, under a named rule.

        Args:
          split: `valid`, `test` or `train`.
          mode: `window` or `stream`; `charlm_jax.evaluate` defines them.
          context: the window's length; that of the run's own validation if None.
          progress: told how a download of the text goes.

        Returns:
          The figure, and nll_N in nats, one float32 for each character in the text's order.

        Raises:
          CharlmError: no such part, a text that has changed since, a context that makes no sense.
        """
        score = self._scorer(mode, context)
        dataset = load_dataset(self.config, progress=progress)
        if dataset.fingerprint != Workdir(self.workdir).read_fingerprint():
            raise CharlmError(
                f"the text of {self.config.data.corpus} has changed since {self.workdir} was "
                f"trained: a figure on it would not be comparable"
            )
        nll_N = score(self.params, jnp.asarray(dataset.ids_N), dataset.part(split))
        window = (context or self.config.evaluation_context) if mode == "window" else None
        evaluation = Evaluation(
            *mean_score(nll_N),
            mode=mode,
            context=window,
            split=split,
            fingerprint=dataset.fingerprint,
            checkpoint=self.checkpoint,
        )
        return evaluation, nll_N

    def save_evaluation(self, evaluation: Evaluation, nll_N: np.ndarray) -> Path:
        """Keep the per-character array in the run's folder, with a JSON note beside it."""
        place = Workdir(self.workdir)
        rule = evaluation.mode + (f"_{evaluation.context}" if evaluation.context else "")
        name = f"{evaluation.split}_{rule}_step_{evaluation.checkpoint}.npy"
        file = place.evaluation / name
        try:
            place.refuse_links()
            place.evaluation.mkdir(exist_ok=True)
            partial = file.with_name(file.name + ".partial")
            with partial.open("wb") as opened:
                np.save(opened, nll_N)
            partial.replace(file)
            write_json(file.with_suffix(".json"), dataclasses.asdict(evaluation))
        except OSError as error:
            raise cannot_write(place.evaluation, error) from error
        return file

    def _scorer(self, mode: str, context: int | None) -> Scorer:
        if mode not in EVALUATION_MODES:
            known = " or ".join(EVALUATION_MODES)
            raise CharlmError(f"mode={mode!r} is not known: it must be {known}")
        if mode == "stream":
            if context is not None:
                raise CharlmError(
                    "mode=stream has no context to set, it reads all that came before; "
                    "mode=window has one"
                )
            return make_stream_scorer(self.model, context=self.config.evaluation_context)
        window = self.config.evaluation_context if context is None else context
        _require_within("context", window, 1, _MOST_CHARACTERS)
        batch_size = self.config.evaluation.batch_size
        return make_window_scorer(self.model, context=window, batch_size=batch_size)


def load_run(workdir: Path | str, *, checkpoint: str | int = "best") -> Run:
    """Pick up a run.

    Args:
      workdir: its folder.
      checkpoint: `best` (the latest, where nothing was validated), `latest`, or a step. In place of
        a damaged `latest` the one before is taken, with a warning.

    Raises:
      CharlmError: no run there, no such checkpoint, or one that is damaged.
    """
    place = Workdir(workdir)
    config, vocabulary = place.read_config(), place.read_vocabulary()
    try:
        model = build_model(config.model, len(vocabulary))
    except CharlmError as error:
        raise CharlmError(f"{place.config_file} does not fit: {error}") from error
    checkpoints = Checkpoints(place.checkpoints)
    if not checkpoints.steps():
        raise CharlmError(f"the run at {place.path} has no checkpoint yet: train it first")
    like = jax.eval_shape(lambda: model.init(jax.random.key(0)))
    fingerprint = place.read_fingerprint()
    try:
        step = checkpoints.choose(str(checkpoint))
        if checkpoint == "latest":
            sound, damages = checkpoints.latest_sound()
            for damage in damages if sound is not None else ():
                warnings.warn(f"{damage}: checkpoint {sound} is used", stacklevel=2)
            step = step if sound is None else sound
        if checkpoints.read_meta(step).get("fingerprint") != fingerprint:
            raise CharlmError(
                f"checkpoint {step} of {place.path} was trained on another text or other symbols "
                f"than {place.vocabulary_file.name} says: put the right file back"
            )
        params = jax.tree.map(jnp.asarray, checkpoints.restore(step, "params", like))
    except DamagedCheckpoint as error:
        raise CharlmError(f"{error}; {_others(checkpoints)}") from error
    return Run(place.path, config, vocabulary, model, params, step)


def _others(checkpoints: Checkpoints) -> str:
    """Which checkpoints could be named in place of a damaged one."""
    sound = []
    for step in checkpoints.steps():
        with contextlib.suppress(DamagedCheckpoint):
            checkpoints.verify(step)
            sound.append(str(step))
    if not sound:
        return "no other is sound"
    noun, verb = ("checkpoint", "is") if len(sound) == 1 else ("checkpoints", "are")
    return f"{noun} {', '.join(sound)} {verb} sound"


def _require_within(name: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise CharlmError(f"{name}={value} is not allowed: it must lie in [{least}, {most}]")
