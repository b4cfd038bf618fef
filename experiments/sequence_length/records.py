"""Records of the study: what is kept of a text, of a trial and of a run.

Every number and interval of the study follows from its records, without training anything again.
Losses are kept as sums over blocks of consecutive characters (`charlm_jax.evaluation.block_sums`),
rounded; results are always computed from the rounded sums.

Files in a folder of records:

  speeds.json       training speed of each model and length, in characters per second
  text.json         sizes of the text's parts, its simple predictors, characters in each block
  runs/NAME.json    losses of one run and what else was measured of it
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from charlm_jax.analysis.text_quality import TextQuality
from charlm_jax.core.json_files import to_jsonable
from experiments.block_records import Sums
from experiments.recorded_training import SETTINGS, RecordFolder
from experiments.sequence_length.arms import Arm

SPEEDS, TEXT = "speeds", "text"
RULES = ("window", "stream")


class TextRecord(NamedTuple):
    """The text, and simple predictors of its third part.

    Attributes:
      corpus: name of the text.
      fingerprint: hash of the text and its split.
      symbols: number of distinct characters.
      characters: number of characters of each part.
      compressed: compressed size of the third part in nats per character, by compressor.
      ngram_order: length of the longest strings of the n-gram.
      ngram: its losses on the third part, summed over blocks, by rule (`window` or `stream`).
      ngram_watched: its loss in nats per character in the windows by which runs are watched, by
        their length.
      sizes: sizes of the measurements.
      counts: number of characters in each block of 1,000.
      class_counts: the same in wider blocks, by kind of character.
      place_counts: the same, by number of characters read before.
      target_counts: number of targets of the effective context in each wider block.
      human: measures of held-out text, as many samples as are generated.
    """

    corpus: str
    fingerprint: str
    symbols: int
    characters: Mapping[str, int]
    compressed: Mapping[str, float]
    ngram_order: int
    ngram: Mapping[str, Sums]
    ngram_watched: Mapping[str, float]
    sizes: Mapping[str, int]
    counts: Sequence[int]
    class_counts: Mapping[str, Sequence[int]]
    place_counts: Mapping[str, Sequence[int]]
    target_counts: Sequence[int]
    human: Mapping[str, Any]


class RunRecord(NamedTuple):
    """One run, at its best checkpoint on the second part.

    Attributes:
      arm: its arm.
      seed: its seed.
      commit: commit of the project that trained it; empty if unknown.
      rate: learning rate.
      parameters: number of parameters of the model.
      characters: characters read by the whole training, at most.
      curve: characters read and loss on the second part in nats per character, at every
        evaluation, in windows of `Preset.watched_context`.
      best_characters: characters read by the best checkpoint.
      flops: floating-point operations in the matrix products of the whole training.
      second: mean loss on the second part in nats per character, by rule.
      window: losses on the third part in windows, summed over blocks.
      stream: losses with the state carried through it.
      by_class: stream losses by kind of character.
      by_place: losses by number of characters read before, less the difficulty of the characters.
      by_context: change -> n -> losses with all but the nearest n characters changed; None if not
        measured.
      gradients: number of characters between a character and the prediction -> mean norm of the
        gradient of the prediction's loss; None if not measured.
      quality: measures of generated text, with intervals; None if not measured.
      has_more: whether the last three were measured.
    """

    arm: Arm
    seed: int
    commit: str
    rate: float
    parameters: int
    characters: int
    curve: Sequence[tuple[int, float]]
    best_characters: int
    flops: float
    second: Mapping[str, float]
    window: Sums
    stream: Sums
    by_class: Mapping[str, Sums]
    by_place: Mapping[str, Sums]
    by_context: Mapping[str, Mapping[str, Sums]] | None
    gradients: Mapping[str, float] | None
    quality: Mapping[str, Any] | None
    has_more: bool = False


class Records(RecordFolder):
    """A folder of records."""

    def speeds(self) -> dict[str, float] | None:
        """Return characters per second by model and length; None before they are measured."""
        return self.read(SPEEDS)

    def text(self) -> TextRecord | None:
        """Return the record of the text; None before there is one."""
        values = self.read(TEXT)
        return None if values is None else self._record(TEXT, TextRecord, values)

    def run(self, name: str, values: Mapping[str, Any]) -> RunRecord:
        """Return the record of a run.

        Args:
          name: name of the record.
          values: its values, with or without its settings.
        """
        measured = {key: value for key, value in values.items() if key not in SETTINGS}
        record = self._record(name, RunRecord, measured)
        arm = self._record(name, Arm, record.arm)
        found: RunRecord = record._replace(arm=arm._replace(lengths=tuple(arm.lengths)))
        return found

    def _record(self, name: str, kind: Any, values: Any) -> Any:
        try:
            return kind(**values)
        except TypeError as error:
            raise self.damaged(name) from error


def quality_values(quality: TextQuality) -> dict[str, Any]:
    """Return measures of generated text as JSON values, without the copied passage."""
    values: dict[str, Any] = to_jsonable(quality._replace(longest_copy=None))
    del values["longest_copy"]
    return values
