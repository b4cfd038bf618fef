"""A model with its weights and its vocabulary: draws text, scores text, shows its inside."""

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from charlm_jax.analysis.activations import Activations, capture_activations
from charlm_jax.config.schema import Config
from charlm_jax.core.errors import MAX_CHARACTERS, CharlmError, require_within
from charlm_jax.core.types import Params
from charlm_jax.data.vocabulary import Vocabulary
from charlm_jax.evaluation.scoring import SLIDING_TARGETS, Measure, Scorer, build_scorer, mean_score
from charlm_jax.evaluation.text_score import (
    TextScore,
    TopPredictions,
    known_characters,
    name_guesses,
    top_k_predictions,
)
from charlm_jax.inference.context_limits import check_context_is_used, check_length, check_part
from charlm_jax.models import LanguageModel
from charlm_jax.models.losses import negative_log_likelihood
from charlm_jax.sampling.categorical import sample_keys
from charlm_jax.sampling.decoding import SampleBatch, make_decoder
from charlm_jax.sampling.policies import Policy, build_policy
from charlm_jax.sampling.stop_strings import apply_stop_strings, check_stops

_MOST_TEXTS = 10_000  # drawn at once

# What is compiled for a model is shared by all that have it.
_shared_decoder = functools.lru_cache(maxsize=64)(make_decoder)
_shared_scorer = functools.lru_cache(maxsize=64)(build_scorer)


@dataclasses.dataclass(frozen=True)
class TrainedModel:
    """A model that reads and writes text.

    Attributes:
      config: what it was trained with.
      vocabulary: its symbols.
      model: its functions.
      params: its weights.
    """

    config: Config
    vocabulary: Vocabulary
    model: LanguageModel
    params: Params = dataclasses.field(repr=False)

    @property
    def default_mode(self) -> str:
        """How text is drawn unless told: `window` where a model cannot read on for ever."""
        return "carried" if self.model.max_length is None else "window"

    def generate(
        self,
        prompt: str,
        *,
        characters: int = 500,
        scale: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        seed: int = 0,
        stop: Sequence[str] = (),
        mode: str | None = None,
        context: int | None = None,
        unknown: str = "error",
        replacement: str = " ",
    ) -> str:
        """Draw one text that goes on from a prompt.

        Args:
          prompt: at least one character.
          characters: how many to draw, beyond the prompt. A longer text begins with the shorter.
          scale: the scale factor of the logits, 1 / temperature, in [0, inf].
          top_k: as in `draw`.
          top_p: as in `draw`.
          min_p: as in `draw`.
          seed: root of the noise; the same noise is drawn at every scale.
          stop: strings, the first of which ends the text and is not part of it; those of the
            prompt do not count.
          mode: as in `draw`.
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
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            seed=seed,
            mode=mode,
            context=context,
            unknown=unknown,
            replacement=replacement,
        )
        check_stops(stop, self.vocabulary)
        return "".join(piece.text for (piece,) in apply_stop_strings(pieces, stop, texts=1))

    def draw(
        self,
        prompt: str,
        *,
        characters: int,
        scales: Sequence[float],
        samples: int,
        seed: int,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        mode: str | None = None,
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
          top_k: draw from the k most probable symbols alone; 0 is all.
          top_p: of these, from the fewest whose probability reaches p; 1 is all, 0 the best one.
          min_p: of these, from those at least so many times as probable as the best; 0 is all.
            `charlm_jax.sampling.policies` defines the three; the scale acts after them.
          mode: `carried` or `window`, which `charlm_jax.sampling.decoding` defines;
            `default_mode` if None.
          context: characters in the window, or past positions that attention keeps; the training
            length if None.
          unknown: what to do with characters of the prompt that the model does not know: `error`,
            `drop` or `replace`.
          replacement: what replaces them.

        Returns:
          An iterator; each item is the next characters of every text: all samples of the first
          scale, then of the second, ... `apply_stop_strings` ends them at stop strings.

        Raises:
          CharlmError: an empty prompt, characters that the model does not know, no scale, a bad
            number, more text than the model has places for.
        """
        if len(scales) == 0:
            raise CharlmError("scales is empty: name at least one, such as scales=[1.0]")
        require_within("num", samples, 1, _MOST_TEXTS // len(scales))
        require_within("seed", seed, 0, 2**32 - 1)
        pairs = list(itertools.product(scales, range(samples)))
        policy = build_policy(
            scale=[scale for scale, _ in pairs], top_k=top_k, top_p=top_p, min_p=min_p
        )
        keys_B = sample_keys(seed, samples)[jnp.array([index for _, index in pairs])]
        prompt_N = self._encode(prompt, unknown, replacement, what="prompt")
        return self._decode(prompt_N, SampleBatch(keys_B, policy), characters, mode, context)

    def go_on(
        self,
        text: str,
        *,
        characters: int,
        policy: Policy,
        seed: int,
        sample: int = 0,
        drawn: int = 0,
        mode: str | None = None,
        context: int | None = None,
        unknown: str = "error",
        replacement: str = " ",
    ) -> Iterator[str]:
        """Draw more of one text, under a policy that may be another one each time.

        Args:
          text: the prompt, and what was drawn of the text so far.
          characters: how many to draw.
          policy: of one row. Policies that differ in numbers alone share what is compiled.
          seed: root of the noise.
          sample: which of the samples of `draw` this is.
          drawn: characters at the end of `text` that were drawn: the noise goes on behind theirs,
            so that in several parts a text is what it would be in one.
          mode: as in `draw`.
          context: as in `draw`.
          unknown: as in `draw`.
          replacement: as in `draw`.

        Returns:
          An iterator over the next characters.

        Raises:
          CharlmError: as in `draw`.
        """
        require_within("seed", seed, 0, 2**32 - 1)
        rows = SampleBatch(sample_keys(seed, 1, first=sample), policy)
        text_N = self._encode(text, unknown, replacement, what="prompt")
        pieces = self._decode(text_N, rows, characters, mode, context, drawn=drawn)
        return (piece for (piece,) in pieces)

    def _decode(
        self,
        text_N: np.ndarray,
        rows: SampleBatch,
        characters: int,
        mode: str | None,
        context: int | None,
        *,
        drawn: int = 0,
    ) -> Iterator[list[str]]:
        require_within("chars", characters, 0, MAX_CHARACTERS)
        mode = self.default_mode if mode is None else mode
        window = self.config.data.sequence_length if context is None else context
        require_within("context", window, 1, MAX_CHARACTERS)
        whole = len(text_N) + characters
        if mode == "carried":
            check_context_is_used(self.model, mode, context)
            check_length(self.model, "prompt and text", whole - 1)
        else:
            check_length(self.model, "the window", min(window, whole + 1))
        if mode == "window" or context is not None:
            window = min(window, _power_of_two(whole + 1), self.model.max_length or window)
        decode = _shared_decoder(self.model, mode=mode, context=window)
        pieces = decode(self.params, text_N, rows, characters, drawn=drawn)
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
          mode: `stream` (each character from all before it), `window` or `sliding`, which leaves
            out those that fewer than `context` precede; `charlm_jax.evaluation.scoring` has them.
          context: the window's length, the characters read before each, or the past positions
            that attention keeps; that of the run's own validation if None.
          unknown: what to do with characters that the model does not know: `error`, `drop` or
            `replace`.
          replacement: what replaces them.

        Raises:
          CharlmError: a text too short, characters that the model does not know, numbers that are
            not finite.
        """
        how = {"unknown": unknown, "replacement": replacement}
        nll_N, places_N = self._measure(negative_log_likelihood, text, mode, context, **how)
        return TextScore(nll_N, *mean_score(nll_N), places_N, **self._rule(mode, context))

    def guesses(
        self,
        text: str,
        *,
        mode: str = "stream",
        context: int | None = None,
        unknown: str = "error",
        replacement: str = " ",
    ) -> TopPredictions:
        """Which characters the model held likeliest at every place that `score` scores.

        The arguments, and what is refused, are those of `score`.
        """
        how = {"unknown": unknown, "replacement": replacement}
        found, places_N = self._measure(top_k_predictions, text, mode, context, **how)
        return name_guesses(found, places_N, self.vocabulary.symbols)

    def _measure(
        self, measure: Measure, text: str, mode: str, context: int | None, **how: str
    ) -> tuple[np.ndarray, np.ndarray]:
        """What a measure gives for every character with a predictor, and where these stand."""
        score = self._scorer(mode, context, targets=0, measure=measure)
        ids_N, places_N = known_characters(text, self.vocabulary, **how)
        whole = (range(len(ids_N)),)
        check_part(self.model, whole, mode=mode, context=self._context(context))
        found_N = score(self.params, jnp.asarray(ids_N), whole)
        if not np.isfinite(found_N).all():
            raise CharlmError("the model computes numbers that are not finite on this text")
        return found_N, places_N[-len(found_N) :]

    def inspect(self, text: str, *, unknown: str = "error", replacement: str = " ") -> Activations:
        """What happens inside the model while it reads a text: attention, gates, states, guesses.

        Args:
          text: at least one character.
          unknown: what to do with characters that the model does not know: `error`, `drop` or
            `replace`.
          replacement: what replaces them.

        Raises:
          CharlmError: an empty text, or one that is too long; characters that the model does not
            know.
        """
        ids_T = self._encode(text, unknown, replacement, what="text")
        symbols, kinds = self.vocabulary.symbols, self.config.model.layers
        return capture_activations(self.model, self.params, ids_T, symbols=symbols, kinds=kinds)

    def _encode(self, text: str, unknown: str, replacement: str, *, what: str) -> np.ndarray:
        if not text:
            raise CharlmError(f"the {what} is empty: give at least one character")
        ids_N = self.vocabulary.encode(
            text, unknown=unknown, replacement=replacement, what=f"the {what}"
        )
        if not ids_N.size:
            raise CharlmError(f"the {what} has no character that the model knows")
        return ids_N

    def _rule(self, mode: str, context: int | None) -> dict[str, Any]:
        """A rule as results name it: no context where nothing depends on one."""
        has_context = mode != "stream" or self.model.keeps_positions
        return {"mode": mode, "context": self._context(context) if has_context else None}

    def _scorer(
        self,
        mode: str,
        context: int | None,
        targets: int = SLIDING_TARGETS,
        measure: Measure = negative_log_likelihood,
    ) -> Scorer:
        if mode == "stream":
            check_context_is_used(self.model, mode, context)
        context = self._context(context)
        require_within("context", context, 1, MAX_CHARACTERS)
        require_within("targets", targets, 0, MAX_CHARACTERS)
        size = self.config.evaluation.batch_size
        rule = {"mode": mode, "context": context, "targets": targets}
        return _shared_scorer(self.model, batch_size=size, measure=measure, **rule)

    def _context(self, context: int | None) -> int:
        return self.config.evaluation_context if context is None else context


def _power_of_two(number: int) -> int:
    """The least that is not below a number: so many lengths are compiled for, and no more."""
    return 1 << (number - 1).bit_length()
