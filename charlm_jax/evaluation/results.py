"""A held-out figure: what it depends on, and the losses of which it is the mean, kept on disk."""

import contextlib
import dataclasses
import io
import json
from pathlib import Path

import numpy as np

from charlm_jax.core.errors import write_error
from charlm_jax.core.files import atomic_write
from charlm_jax.core.json_files import write_json
from charlm_jax.evaluation.bootstrap import BLOCK
from charlm_jax.evaluation.scoring import rule_in_words
from charlm_jax.storage.workdir import Workdir


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """A held-out figure with everything that it depends on.

    Attributes:
      loss_nats: mean over the characters that were scored.
      bits_per_char: the same in bits.
      characters: how many were scored.
      mode: the rule, which `charlm_jax.evaluation.scoring` defines.
      context: the window's length; under `sliding` the characters before each target; under
        `stream` how many positions before a character attention saw, None where there is only a
        recurrent state, which has read all.
      split: the part of the text.
      fingerprint: of text, vocabulary and split.
      checkpoint: the step that the weights are from.
      weights: `raw` or `average`.
      targets: how many were asked for under `sliding`, 0 for all; None under other rules.
      split_characters: how many the part has.
    """

    loss_nats: float
    bits_per_char: float
    characters: int
    mode: str
    context: int | None
    split: str
    fingerprint: str
    checkpoint: int
    weights: str
    targets: int | None
    split_characters: int

    @property
    def rule(self) -> str:
        """The rule in words.

        >>> Evaluation(2.0, 2.9, 9, "sliding", 40, "valid", "f", 1, "raw", 9, 90).rule
        'sliding, 40 read before each of 9 among 90'
        """
        rule = rule_in_words(self.mode, self.context)
        if self.mode != "sliding":
            return rule
        is_all = self.characters == self.split_characters
        among = "" if is_all else f" among {self.split_characters:,}"
        return f"{rule} of {self.characters:,}{among}"

    @property
    def block(self) -> int:
        """How many of the scored characters stand for a block of `charlm_jax.evaluation.bootstrap`.

        >>> Evaluation(2.0, 2.9, 9, "sliding", 40, "valid", "f", 1, "raw", 9, 3_000).block
        3
        """
        return max(1, round(BLOCK * self.characters / self.split_characters))

    @property
    def file_name(self) -> str:
        """Of the array in the run's folder: no other rule or checkpoint has the same."""
        rule = self.mode + (f"_{self.context}" if self.context else "")
        rule += f"_at_{self.targets or 'all'}" if self.mode == "sliding" else ""
        rule += "_average" if self.weights == "average" else ""
        return f"{self.split}_{rule}_step_{self.checkpoint}.npy"


def save_evaluation(workdir: Workdir, evaluation: Evaluation, nll_N: np.ndarray) -> Path:
    """Keep the per-character losses in a run's folder, with a JSON note beside them.

    Raises:
      CharlmError: the folder cannot be written.
    """
    file = workdir.evaluation / evaluation.file_name
    try:
        workdir.refuse_links()
        workdir.evaluation.mkdir(exist_ok=True)
        content = io.BytesIO()
        np.save(content, nll_N)
        atomic_write(file, content.getvalue())
        write_json(file.with_suffix(".json"), dataclasses.asdict(evaluation))
    except OSError as error:
        raise write_error(workdir.evaluation, error) from error
    return file


def read_evaluation(workdir: Workdir, wanted: Evaluation) -> tuple[Evaluation, np.ndarray] | None:
    """What `save_evaluation` kept of the same rule and checkpoint.

    Args:
      workdir: the run's folder.
      wanted: its figures need not be known: the rest says what is looked for.

    Returns:
      The figure and nll_N; None where none was kept, or where its files do not agree.
    """
    file = workdir.evaluation / wanted.file_name
    with contextlib.suppress(OSError, ValueError, TypeError):
        found = Evaluation(**json.loads(file.with_suffix(".json").read_text(encoding="utf-8")))
        nll_N = np.load(file, allow_pickle=False)
        figures = ("loss_nats", "bits_per_char", "characters")
        same = {name: getattr(found, name) for name in figures}
        if dataclasses.replace(wanted, **same) == found and nll_N.shape == (found.characters,):
            return found, nll_N
    return None
