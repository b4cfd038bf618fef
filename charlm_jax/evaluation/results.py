"""Saved evaluations: held-out losses on disk, with everything that they depend on."""

import dataclasses
import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from charlm_jax.config.formats import NewerFormat, upgrade, with_format
from charlm_jax.core.arrays import parse_npy
from charlm_jax.core.caller_warnings import warn_caller
from charlm_jax.core.errors import write_error
from charlm_jax.core.files import atomic_write, read_regular
from charlm_jax.core.html_table import html_table
from charlm_jax.core.json_files import write_json
from charlm_jax.data.dataset import MOST_SCORED
from charlm_jax.evaluation.block_sums import BLOCK
from charlm_jax.evaluation.protocol import EvalProtocol, Sliding, build_protocol
from charlm_jax.evaluation.scoring import mean_score
from charlm_jax.storage.workdir import Workdir


@dataclasses.dataclass(frozen=True)
class EvaluationKey:
    """Everything that a held-out loss depends on.

    Attributes:
      protocol: evaluation protocol. The context of a stream is None if the model has only a
        recurrent state, which depends on everything it has read.
      split: name of the part of the text.
      fingerprint: hash of text, vocabulary and split.
      checkpoint: step of the weights.
      weights: `raw` or `average`.
      weights_hash: `content_hash` of the weights; None if an earlier version saved the evaluation.
      split_characters: number of characters of the part that have a predictor.
    """

    protocol: EvalProtocol
    split: str
    fingerprint: str
    checkpoint: int
    weights: str
    weights_hash: str | None
    split_characters: int

    @property
    def file_name(self) -> str:
        """Name of the array in the run's folder, unique among the run's keys."""
        average = "_average" if self.weights == "average" else ""
        return f"{self.split}_{self.protocol.file_part}{average}_step_{self.checkpoint}.npy"


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """A held-out loss.

    Attributes:
      key: everything that the loss depends on.
      loss_nats: mean negative log-likelihood over the characters that were scored.
      bits_per_char: the mean in bits.
      characters: number of characters that were scored.
      bits_per_byte: total in bits by bytes of these characters in UTF-8; None in notes of earlier
        versions.
    """

    key: EvaluationKey
    loss_nats: float
    bits_per_char: float
    characters: int
    bits_per_byte: float | None

    @property
    def protocol_description(self) -> str:
        """Description of the protocol, and of the choice of characters if not all are scored.

        >>> key = EvaluationKey(Sliding(40, 9), "valid", "f", 1, "raw", None, split_characters=90)
        >>> Evaluation(key, 2.0, 2.9, 9, None).protocol_description
        'sliding window of 40, 9 of 90 scored'
        """
        protocol, all_characters = self.key.protocol, self.key.split_characters
        if self.characters == all_characters:
            return str(protocol)
        if isinstance(protocol, Sliding):
            return f"{protocol}, {self.characters:,} of {all_characters:,} scored"
        return f"{protocol}, evenly spread among {all_characters:,}"

    @property
    def block(self) -> int:
        """Number of scored characters that make a block of `charlm_jax.evaluation.bootstrap`.

        >>> key = EvaluationKey(
        ...     Sliding(40, 9), "valid", "f", 1, "raw", None, split_characters=3_000
        ... )
        >>> Evaluation(key, 2.0, 2.9, 9, None).block
        3
        """
        return max(1, round(BLOCK * self.characters / self._among))

    @property
    def block_characters(self) -> int:
        """Number of characters of the text in a block: 1,000, or as near to it as targets allow.

        >>> key = EvaluationKey(
        ...     Sliding(40, 3), "valid", "f", 1, "raw", None, split_characters=2_000
        ... )
        >>> Evaluation(key, 2.0, 2.9, 3, None).block_characters
        1333
        """
        return round(self.block * self._among / self.characters)

    @property
    def _among(self) -> int:
        """Number of characters among which those that were scored are spread evenly.

        `Sliding` scores all that have enough text before them if there are no more than its
        targets.
        """
        protocol = self.key.protocol
        if isinstance(protocol, Sliding) and not 0 < protocol.targets <= self.characters:
            return self.characters
        return min(self.key.split_characters, MOST_SCORED)

    def _repr_html_(self) -> str:
        rows = [
            ["loss, nats", f"{self.loss_nats:.4f}"],
            ["loss, bits", f"{self.bits_per_char:.4f}"],
            ["scored", f"{self.characters:,} of {self.key.split_characters:,}"],
            ["part", self.key.split],
            ["protocol", self.protocol_description],
            ["checkpoint", f"{self.key.checkpoint:,}"],
            ["weights", self.key.weights],
        ]
        return html_table(rows)

    def to_json(self) -> dict[str, Any]:
        """Return the fields of the note that is saved with the losses."""
        return {
            "loss_nats": self.loss_nats,
            "bits_per_char": self.bits_per_char,
            "bits_per_byte": self.bits_per_byte,
            "characters": self.characters,
            "mode": self.key.protocol.mode,
            "context": self.key.protocol.context,
            "split": self.key.split,
            "fingerprint": self.key.fingerprint,
            "checkpoint": self.key.checkpoint,
            "weights": self.key.weights,
            "weights_hash": self.key.weights_hash,
            "targets": self.key.protocol.targets,
            "split_characters": self.key.split_characters,
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "Evaluation":
        """Return the evaluation that `to_json` described.

        Raises:
          CharlmError: the protocol does not exist.
          TypeError: a field is missing or unknown.
        """
        values = dict(fields)
        protocol = build_protocol(
            values.pop("mode", ""),
            context=values.pop("context", None),
            targets=values.pop("targets", None),
        )
        figures = {name: values.pop(name) for name in _FIGURES if name in values}
        return cls(EvaluationKey(protocol, **values), **figures)


_FIGURES = ("loss_nats", "bits_per_char", "characters", "bits_per_byte")


def save_evaluation(workdir: Workdir, evaluation: Evaluation, nll_N: np.ndarray) -> Path:
    """Save the per-character losses in a run's folder, with a JSON note next to them.

    Raises:
      CharlmError: the folder cannot be written.
    """
    file = workdir.evaluation / evaluation.key.file_name
    try:
        workdir.refuse_links()
        workdir.evaluation.mkdir(exist_ok=True)
        content = io.BytesIO()
        np.save(content, nll_N)
        atomic_write(file, content.getvalue())
        note = {**evaluation.to_json(), "sha256": _sha256(content.getvalue())}
        write_json(file.with_suffix(".json"), with_format(note))
    except OSError as error:
        raise write_error(workdir.evaluation, error) from error
    return file


def read_evaluation(workdir: Workdir, key: EvaluationKey) -> tuple[Evaluation, np.ndarray] | None:
    """Read what `save_evaluation` saved under a key.

    The mean is computed from the losses, and the losses are compared with the hash in the note.
    Earlier versions saved no hashes of the losses, or of the weights: then the mean must be the one
    in the note, and a warning says that the weights are not known.

    Args:
      workdir: the run's folder.
      key: key that the evaluation must have.

    Returns:
      The evaluation and nll_N; None if none was saved under this key or its files are damaged.

    Raises:
      NewerFormat: a later version of charlm_jax saved the evaluation.
    """
    file = workdir.evaluation / key.file_name
    note = file.with_suffix(".json")
    try:
        values = upgrade("evaluation", json.loads(read_regular(note).decode()), note)
        digest = values.pop("sha256")
        noted, data = Evaluation.from_json(values), read_regular(file)
        nll_N = parse_npy(data, shape=(noted.characters,), dtype=np.float32)
    except NewerFormat:
        raise
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
    if digest not in (None, _sha256(data)):
        return None
    evaluation = dataclasses.replace(noted, **mean_score(nll_N)._asdict())
    if digest is None and evaluation != noted:
        return None
    if evaluation.key == dataclasses.replace(key, weights_hash=None):
        warn_caller(
            f"{note} records the checkpoint that was scored, but not its weights: remove it to "
            f"score the text again",
        )
        return dataclasses.replace(evaluation, key=key), nll_N
    return (evaluation, nll_N) if evaluation.key == key else None


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
