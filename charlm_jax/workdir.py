"""A run on disk: its folder, the config and vocabulary that it was started with."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from charlm_jax.config import Config
from charlm_jax.dataset import Dataset
from charlm_jax.types import CharlmError
from charlm_jax.vocab import Vocabulary

# What may change when a run goes on: how it is watched, and that it gets longer.
_WATCHING = (
    "train.log_every_steps",
    "train.evaluate_every_steps",
    "evaluation.batch_size",
)


def _may_change(field: str, there: Any, here: Any, *, is_constant_rate: bool) -> bool:
    if field == "train.epochs":
        return is_constant_rate and here > there
    if field == "train.max_steps":  # 0 is no limit
        return is_constant_rate and (here == 0 or 0 < there < here)
    return field in _WATCHING


class Workdir:
    """Paths inside a run's folder, and the files that identify the run."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.config_file = self.path / "config.json"
        self.vocabulary_file = self.path / "vocabulary.json"
        self.metrics_file = self.path / "metrics.jsonl"
        self.checkpoints = self.path / "checkpoints"
        self.evaluation = self.path / "evaluation"

    def claim(self, config: Config, dataset: Dataset) -> None:
        """Make the folder this run's, or see that it already is.

        Raises:
          CharlmError: it holds another run, or something that is not a run, or cannot be written.
        """
        if self.config_file.exists():
            self._refuse_other_config(config)
            self._refuse_other_text(dataset)
        try:
            if not self.config_file.exists() and not self._is_free():
                raise CharlmError(
                    f"{self.path} exists and is not a run: choose another --workdir, or empty it"
                )
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            write_json(
                self.vocabulary_file,
                {"symbols": dataset.vocabulary.symbols, "fingerprint": dataset.fingerprint},
            )
            write_json(self.config_file, config.to_dict())  # last: it marks a whole claim
        except OSError as error:
            raise CharlmError(f"cannot write to {self.path}: {error.strerror}") from error

    def _is_free(self) -> bool:
        return not self.path.exists() or (self.path.is_dir() and not any(self.path.iterdir()))

    def read_config(self) -> Config:
        """The run's config."""
        values = self._read_json(self.config_file)
        try:
            return Config.from_dict(values)
        except CharlmError as error:
            raise CharlmError(f"cannot read {self.config_file}: {error}") from error

    def read_vocabulary(self) -> Vocabulary:
        """The run's symbols."""
        return Vocabulary(self._read_word(self.vocabulary_file, "symbols"))

    def read_fingerprint(self) -> str:
        """The fingerprint of the text that the run was started on."""
        return self._read_word(self.vocabulary_file, "fingerprint")

    def _read_word(self, file: Path, name: str) -> str:
        word = self._read_json(file).get(name)
        if not isinstance(word, str):
            raise CharlmError(f"cannot read {file}: it has no {name!r}")
        return word

    def _read_json(self, file: Path) -> dict[str, Any]:
        if not self.path.is_dir():
            raise CharlmError(f"no run at {self.path}: there is no such folder")
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise CharlmError(f"no run at {self.path}: it has no {file.name}") from error
        except (OSError, ValueError) as error:
            raise CharlmError(f"cannot read {file}: {error}") from error
        if not isinstance(values, dict):
            raise CharlmError(f"cannot read {file}: it is not a JSON object")
        return values

    def _refuse_other_config(self, config: Config) -> None:
        here, there = config.flatten(), self.read_config().flatten()
        constant = config.optimizer.schedule == "constant"
        changes = [
            f"config.{field} is {there[field]!r} there and {value!r} here"
            for field, value in here.items()
            if value != there[field]
            and not _may_change(field, there[field], value, is_constant_rate=constant)
        ]
        if changes:
            raise CharlmError(
                f"{self.path} holds another run: {'; '.join(changes)}: choose another --workdir"
            )

    def _refuse_other_text(self, dataset: Dataset) -> None:
        if self.read_fingerprint() != dataset.fingerprint:
            raise CharlmError(
                f"the text of {dataset.corpus.name} is not the one that {self.path} was started "
                f"on: restore the text, or choose another --workdir"
            )


def write_json(file: Path, values: Mapping[str, Any]) -> None:
    """Replace a JSON file as a whole."""
    partial = file.with_name(file.name + ".partial")
    partial.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    os.replace(partial, file)
