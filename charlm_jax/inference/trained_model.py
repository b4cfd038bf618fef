"""A model with its weights and vocabulary: sampling, scoring and inspection of text."""

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Never, Unpack

import jax
import jax.numpy as jnp
import numpy as np

from charlm_jax.analysis.activations import Activations, capture_activations
from charlm_jax.config.schema import Config
from charlm_jax.core.errors import CharlmError, NotFinite, closest
from charlm_jax.core.foreign_names import suggest_flag
from charlm_jax.core.limits import MAX_INT32, require_within
from charlm_jax.core.numerics import fixed_numerics
from charlm_jax.core.powers import next_power_of_two
from charlm_jax.core.progress import Report, report_nothing
from charlm_jax.core.types import Params
from charlm_jax.data.splits import Part
from charlm_jax.data.vocabulary import Vocabulary
from charlm_jax.evaluation.context_limits import (
    check_context_is_used,
    check_length,
    check_part,
    resolve_protocol,
)
from charlm_jax.evaluation.protocol import EvalProtocol, Sliding, Stream, Window
from charlm_jax.evaluation.scoring import Measure, Scorer, build_scorer, mean_score
from charlm_jax.evaluation.text_score import (
    TextScore,
    TopPredictions,
    known_characters,
    name_predictions,
    parts_by_length,
    split_lines,
    top_k_predictions,
)
from charlm_jax.models import LanguageModel
from charlm_jax.models.losses import negative_log_likelihood
from charlm_jax.sampling.categorical import sample_keys
from charlm_jax.sampling.decoding import SampleBatch, make_decoder, rows_at_once, split_rows
from charlm_jax.sampling.params import SamplingFields, SamplingParams
from charlm_jax.sampling.policies import build_policy
from charlm_jax.sampling.stop_strings import (
    Chunk,
    apply_stop_strings,
    check_stops,
    in_turn,
    join_bytes,
)

MAX_TEXTS = 10_000
"""Largest number of texts that are sampled at once."""

# Old names of methods and properties, and their replacements.
_RENAMED = {
    "checkpoint_in_words": "checkpoint_label",
    "draw": "sample",
    "evaluate_once": "evaluate(..., cache=True)",
    "go_on": "continue_text",
    "guesses": "top_predictions",
}

# Compiled functions are shared by all objects with the same model.
_shared_decoder = functools.lru_cache(maxsize=64)(make_decoder)
_shared_scorer = functools.lru_cache(maxsize=64)(build_scorer)


@dataclasses.dataclass(frozen=True)
class TrainedModel:
    """A trained model that scores and samples text.

    If its unit is bytes, a text stands for its bytes in UTF-8, numbers of characters and positions
    count bytes, and losses are per byte; see `charlm_jax.data.vocabulary` for bytes that are not
    UTF-8.

    Sampling methods take `SamplingParams`, or its fields as keyword arguments, which override those
    of the params.

    Attributes:
      config: training config.
      vocabulary: symbols of the model.
      model: functions of the model.
      params: weights of the model.
    """

    config: Config
    vocabulary: Vocabulary
    model: LanguageModel
    params: Params = dataclasses.field(repr=False)

    @property
    def default_mode(self) -> str:
        """Sampling mode if none is given: `window` for a model with learned positions."""
        return "carried" if self.model.max_length is None else "window"

    def generate(
        self,
        prompt: str,
        sampling: SamplingParams | None = None,
        *,
        characters: int = 500,
        **changes: Unpack[SamplingFields],
    ) -> str:
        """Sample one text that continues a prompt.

        Args:
          prompt: text of at least one character.
          sampling: sampling parameters; `SamplingParams()` if None.
          characters: number of characters to sample. Without stop strings, a longer text begins
            with the shorter.
          **changes: fields of `sampling` to override, such as `scale=2.0`.

        Returns:
          The characters that follow the prompt. If the model's unit is bytes, those that are not
          UTF-8 appear as U+FFFD; `sample` has them exactly.

        Raises:
          CharlmError: the same errors as `sample`.
        """
        for name in ("samples", "scales"):
            if name in changes:
                raise CharlmError(f"{name} is not for one text: sample returns several")
        chunks = self.sample(prompt, sampling, characters=characters, **changes)
        return self.vocabulary.shown("".join(chunk.text for (chunk,) in chunks))

    @fixed_numerics()
    def sample(
        self,
        prompt: str,
        sampling: SamplingParams | None = None,
        *,
        characters: int = 500,
        samples: int = 1,
        scales: Sequence[float] | None = None,
        **changes: Unpack[SamplingFields],
    ) -> Iterator[list[Chunk]]:
        """Sample texts that continue a prompt, piece by piece.

        Args:
          prompt: text of at least one character.
          sampling: sampling parameters; `SamplingParams()` if None.
          characters: number of characters to sample in each text.
          samples: number of texts at each scale. Sample i uses the same noise at every scale, and
            does not depend on the other samples, but for rounding: an LSTM in bfloat16 rounds
            otherwise in batches of 8 and more.
          scales: scale factors in [0, inf], in place of `scale`; that of `sampling` alone if None.
          **changes: fields of `sampling` to override.

        Returns:
          An iterator; each item is the next characters of every text: all samples of the first
          scale, then of the second, ... Texts that do not fit into memory at once are sampled in
          batches, one after another: those of later batches are empty at first.

        Raises:
          CharlmError: an empty prompt, characters that the model does not know, no scale or both
            kinds of it, an invalid number, more text than the model has positions for, or logits
            that are not finite.
        """
        if scales is not None and "scale" in changes:
            raise CharlmError("scale and scales are given: give one of them")
        sampling = _changed(sampling, changes)
        try:
            scales = [sampling.scale] if scales is None else [*scales]
        except TypeError as error:
            what = f"scales={scales!r} is not a list of numbers: write scales=[1.0]"
            raise CharlmError(what) from error
        if len(scales) == 0:
            raise CharlmError("scales is empty: give at least one, such as scales=[1.0]")
        if len(scales) > MAX_TEXTS:
            raise CharlmError(f"scales has {len(scales):,} numbers: give at most {MAX_TEXTS:,}")
        require_within("samples", samples, 1, MAX_TEXTS // len(scales))
        pairs = list(itertools.product(scales, range(samples)))
        policy = build_policy(scale=[scale for scale, _ in pairs], **sampling.truncations)
        keys_B = sample_keys(sampling.seed, samples)[jnp.array([index for _, index in pairs])]
        return self._decode(prompt, SampleBatch(keys_B, policy), characters, sampling)

    @fixed_numerics()
    def continue_text(
        self,
        text: str,
        sampling: SamplingParams | None = None,
        *,
        characters: int = 500,
        sample: int = 0,
        sampled: int = 0,
        **changes: Unpack[SamplingFields],
    ) -> Iterator[Chunk]:
        """Continue one text, with parameters that may differ each time.

        Changing numbers in `sampling` does not recompile anything. In window mode, and for
        attention with a context, each new power of two of the text's length is compiled once.

        Args:
          text: prompt, followed by what was sampled so far.
          sampling: sampling parameters; `SamplingParams()` if None.
          characters: number of characters to sample.
          sample: index of the text among those of `sample`.
          sampled: number of characters (or bytes) at the end of `text` that were sampled: the noise
            continues after theirs, so that sampling in several parts gives the same text as in one.
            But a stop string that begins in `text` has no effect.
          **changes: fields of `sampling` to override.

        Returns:
          An iterator over the next characters.

        Raises:
          CharlmError: the same errors as `sample`.
        """
        sampling = _changed(sampling, changes)
        require_within("sample", sample, 0, 2**31 - 1)
        policy = build_policy(scale=[sampling.scale], **sampling.truncations, keep_idle=True)
        batch = SampleBatch(sample_keys(sampling.seed, 1, first=sample), policy)
        chunks = self._decode(text, batch, characters, sampling, sampled=sampled)
        return (chunk for (chunk,) in chunks)

    def _decode(
        self,
        text: str,
        batch: SampleBatch,
        characters: int,
        sampling: SamplingParams,
        *,
        sampled: int = 0,
    ) -> Iterator[list[Chunk]]:
        text_N = self._encode(text, sampling.unknown, sampling.replacement, what="prompt")
        require_within("sampled", sampled, 0, len(text_N))
        check_stops(sampling.stop, self.vocabulary)
        require_within("characters", characters, 0, MAX_INT32)
        mode = self.default_mode if sampling.mode is None else sampling.mode
        window = self.config.data.sequence_length if sampling.context is None else sampling.context
        whole = len(text_N) + characters
        if mode == "carried":
            check_context_is_used(self.model, mode, sampling.context)
            check_length(self.model, "prompt plus text", whole - 1)
        else:
            check_length(self.model, "the window", min(window, max(whole - 1, 1)))
        if mode == "window" or sampling.context is not None:
            window = min(
                window, next_power_of_two(max(whole - 1, 1)), self.model.max_length or window
            )
        decode = _shared_decoder(self.model, mode=mode, context=window)
        vocabulary = self.vocabulary
        stops = [vocabulary.to_symbols(stop) for stop in sampling.stop]

        def sample_batch(rows: SampleBatch) -> Iterator[list[Chunk]]:
            pieces = decode(self.params, text_N, rows, characters, sampled=sampled)
            symbols = ([vocabulary.decode_symbols(ids_T) for ids_T in ids_BT] for ids_BT in pieces)
            return apply_stop_strings(symbols, stops, texts=len(rows.keys_B))

        most = rows_at_once(self.model, mode=mode, context=window, symbols=len(vocabulary))
        chunks = in_turn(map(sample_batch, split_rows(batch, most)), texts=len(batch.keys_B))
        if vocabulary.unit == "bytes":
            return join_bytes(chunks, sampling.stop, vocabulary)
        return chunks

    @fixed_numerics()
    def score(
        self,
        text: str,
        protocol: EvalProtocol | None = None,
        *,
        unknown: str = "error",
        replacement: str = " ",
        separate_lines: bool = False,
        report: Report = report_nothing,
    ) -> TextScore:
        """Return the surprisal of every character of a text.

        Args:
          text: at least two characters: the first predicts the second, and is not scored.
          protocol: evaluation protocol; `Stream()`, each character from all before it, if None.
          unknown: treatment of characters that the model does not know: `error`, `drop` or
            `replace`.
          replacement: character that replaces them.
          separate_lines: whether each line is read from the model's initial state, after a newline
            and up to one: its score does not depend on the other lines.
          report: callback for the progress of scoring.

        Raises:
          CharlmError: a text that is too short, characters that the model does not know, numbers
            that are not finite, or `Sliding`, which reads across lines, for separate ones.
        """
        protocol = self._resolve(protocol or Stream())
        measure = self._score_lines if separate_lines else self._score_positions
        nll_N, positions_N = measure(
            negative_log_likelihood,
            text,
            protocol,
            report,
            unknown=unknown,
            replacement=replacement,
        )
        return TextScore(nll_N, *mean_score(nll_N), positions_N, protocol, separate_lines)

    @fixed_numerics()
    def top_predictions(
        self,
        text: str,
        protocol: EvalProtocol | None = None,
        *,
        unknown: str = "error",
        replacement: str = " ",
        separate_lines: bool = False,
    ) -> TopPredictions:
        """Return the most probable characters at every position that `score` scores.

        Arguments and errors are those of `score`.
        """
        protocol = self._resolve(protocol or Stream())
        measure = self._score_lines if separate_lines else self._score_positions
        top, positions_N = measure(
            top_k_predictions,
            text,
            protocol,
            report_nothing,
            unknown=unknown,
            replacement=replacement,
        )
        return name_predictions(top, positions_N, self.vocabulary.symbols)

    def _score_positions(
        self, measure: Measure, text: str, protocol: EvalProtocol, report: Report, **unknown: str
    ) -> tuple[Any, np.ndarray]:
        """Return a measure of every scored character, and their positions in the text."""
        score = self._scorer(protocol, measure)
        ids_N, positions_N = known_characters(text, self.vocabulary, **unknown)
        whole = (range(len(ids_N)),)
        check_part(self.model, whole, protocol)
        values = score(self.params, ids_N, whole, advance=functools.partial(report, "scoring"))
        refuse_non_finite(values)
        return values, positions_N[protocol.positions(whole)]

    def _score_lines(
        self, measure: Measure, text: str, protocol: EvalProtocol, report: Report, **unknown: str
    ) -> tuple[Any, np.ndarray]:
        """Return the same for lines that are read one by one.

        Under `Stream`, lines that fit its context are read in windows, many at once.
        """
        if isinstance(protocol, Sliding):
            raise CharlmError("mode=sliding reads across lines: score them with stream or window")
        ids_N, positions_N, part = split_lines(text, self.vocabulary, **unknown)
        check_part(self.model, part, protocol)
        groups: list[tuple[EvalProtocol, Part]] = [(protocol, part)]
        if isinstance(protocol, Stream) and protocol.longest_read(part) <= (
            protocol.context or MAX_INT32
        ):
            groups = [(Window(size), lines) for size, lines in parts_by_length(part)]
        scored = [
            self._scorer(group, measure)(
                self.params,
                ids_N,
                lines,
                advance=functools.partial(report, f"scoring, part {n} of {len(groups)}"),
            )
            for n, (group, lines) in enumerate(groups, start=1)
        ]
        places_N = np.concatenate([group.positions(lines) for group, lines in groups])
        order_N = np.argsort(places_N)
        values = jax.tree.map(lambda *arrays: np.concatenate(arrays)[order_N], *scored)
        refuse_non_finite(values)
        return values, positions_N[places_N[order_N]]

    @fixed_numerics()
    def inspect(self, text: str, *, unknown: str = "error", replacement: str = " ") -> Activations:
        """Return the model's activations while it reads a text: attention, gates, states.

        Args:
          text: at least one character.
          unknown: treatment of characters that the model does not know: `error`, `drop` or
            `replace`.
          replacement: character that replaces them.

        Raises:
          CharlmError: an empty text, or one that is too long; characters that the model does not
            know; activations that are not finite.
        """
        ids_T = self._encode(text, unknown, replacement, what="text")
        symbols, kinds = self.vocabulary.symbols, self.config.model.layers
        return capture_activations(self.model, self.params, ids_T, symbols=symbols, kinds=kinds)

    def _encode(self, text: str, unknown: str, replacement: str, *, what: str) -> np.ndarray:
        ids_N = self.vocabulary.encode(
            text, unknown=unknown, replacement=replacement, what=f"the {what}"
        )
        if not text:
            raise CharlmError(f"the {what} is empty: give at least one character")
        if not ids_N.size:
            raise CharlmError(f"the {what} has no character that the model knows")
        return ids_N

    def _resolve(self, protocol: EvalProtocol | None) -> EvalProtocol:
        return resolve_protocol(protocol, self.model, context=self.config.evaluation_context)

    def _scorer(self, protocol: EvalProtocol, measure: Measure = negative_log_likelihood) -> Scorer:
        size = self.config.evaluation.batch_size
        return _shared_scorer(self.model, protocol, batch_size=size, measure=measure)

    if not TYPE_CHECKING:  # hidden from type checkers, which would accept any name

        def __getattr__(self, name: str) -> Never:
            """Raise `AttributeError`, with the new name of a renamed attribute."""
            new = f": it is now {_RENAMED[name]}" if name in _RENAMED else ""
            kind = type(self).__name__
            raise AttributeError(
                f"{kind!r} object has no attribute {name!r}{new}", name=name, obj=self
            )


def _changed(sampling: SamplingParams | None, changes: SamplingFields) -> SamplingParams:
    if sampling is None:
        sampling = SamplingParams()
    if not isinstance(sampling, SamplingParams):
        raise CharlmError(
            f"sampling={sampling!r} is not SamplingParams: give a number of characters as "
            f"characters=N"
        )
    known = [field.name for field in dataclasses.fields(SamplingParams)]
    for name in changes:
        if name not in known:
            raise _unknown_parameter(name, known)
    return dataclasses.replace(sampling, **changes)


# Flags of `charlm sample` and the parameters of `sample` that have other names.
_PARAMETERS = {"--prompt": "prompt", "--chars": "characters", "--num": "samples"}


def _unknown_parameter(name: str, known: Sequence[str]) -> CharlmError:
    """Return the error for an unknown keyword argument; it suggests ours."""
    if ours := _PARAMETERS.get(f"--{name}"):
        return CharlmError(f"{name} is not a parameter; did you mean {ours}?")
    flags = [*_PARAMETERS, *(f"--{field}" for field in known)]
    foreign = suggest_flag(name, flags, lambda flag: _PARAMETERS.get(flag, flag.lstrip("-")))
    names = [*_PARAMETERS.values(), *known]
    close = closest(name, names)
    hint = foreign or (f"did you mean {close}?" if close else f"known: {', '.join(names)}")
    return CharlmError(f"{name} is not a parameter; {hint}")


def refuse_non_finite(values: Any, model: str = "the model") -> None:
    """Refuse a tree of arrays that a model computed on a text.

    Args:
      values: tree of arrays.
      model: name of the model in the error message.

    Raises:
      NotFinite: a number is not finite.
    """
    if not all(np.isfinite(x).all() for x in jax.tree.leaves(values)):
        raise NotFinite(f"{model} computes numbers that are not finite on this text")
