"""A run on disk: its folder, the files that identify it, and who may write to it."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from charlm_jax.config.schema import Config
from charlm_jax.core.errors import CharlmError, write_error
from charlm_jax.core.files import final_name
from charlm_jax.core.json_files import write_json
from charlm_jax.data.vocabulary import Vocabulary
from charlm_jax.storage.compatibility import config_changes
from charlm_jax.storage.lock import _locked, _locked_soon

if TYPE_CHECKING:
    from charlm_jax.data.dataset import Dataset


# What a run writes down about itself, beside the sittings in which it trained.
_FACTS = {
    "corpus": str,
    "parameters": int,
    "steps_per_epoch": int,
    "total_steps": int,
    "started_from": dict,
    "finished": str,
}


_MEND = "restore it from a copy, or begin again with --fresh"
_MEND_EXPORTED = "restore it from a copy, or export the model again"

# What a run that died before it was claimed may have left.
_CLAIM = {"lock", "checkpoints", "vocabulary.json"}


class Workdir:
    """Paths inside a run's folder, and the files that identify the run."""

    def __init__(self, path: Path | str) -> None:
        if "\0" in str(path):
            raise CharlmError(f"{str(path)!r} is not a path: it has a NUL byte")
        self.path = Path(os.path.expanduser(path))
        self.lock_file = self.path / "lock"
        self.exported_file = self.path / "model.safetensors"
        self.config_file = self.path / "config.json"
        self.vocabulary_file = self.path / "vocabulary.json"
        self.facts_file = self.path / "run.json"
        self.metrics_file = self.path / "metrics.jsonl"
        self.checkpoints = self.path / "checkpoints"
        self.damaged = self.path / "damaged"
        self.fault = self.path / "fault"
        self.evaluation = self.path / "evaluation"
        self.export = self.path / "export"
        self.inspect = self.path / "inspect"
        self.tensorboard = self.path / "tensorboard"
        self.folders = (
            self.checkpoints,
            self.damaged,
            self.fault,
            self.evaluation,
            self.export,
            self.inspect,
            self.tensorboard,
        )

    @property
    def is_exported(self) -> bool:
        """Whether it is an exported model, and not a run."""
        return os.path.lexists(self.exported_file) and not self.checkpoints.exists()

    def refuse_exported(self) -> None:
        """An exported model has a run's config and symbols, and nothing of its training.

        Raises:
          CharlmError: this is one.
        """
        if self.is_exported:
            raise CharlmError(f"{self.path} is an exported model, not a run: name another folder")

    @contextmanager
    def held(self) -> Iterator[None]:
        """Make the folder if need be, and keep every other process from writing to it.

        The lock is the system's: it goes with the process, however that ends.

        Raises:
          CharlmError: another process holds it; the folder is not a run, or cannot be written.
        """
        self._refuse_foreign()
        with self._open_lock() as file:
            if not _locked_soon(file.fileno()):
                file.seek(0)
                raise CharlmError(
                    f"{self.path} is in use by process {file.read().strip() or '?'}: wait for it, "
                    f"stop it, or choose another --workdir"
                )
            if not self._is_lock(file):
                raise CharlmError(f"{self.path} was moved aside just now: try again")
            self._refuse_foreign()  # again, now that nobody else writes
            try:
                file.truncate(0)
                file.write(f"{os.getpid()}\n")
                file.flush()
            except OSError as error:
                raise write_error(self.lock_file, error) from error
            yield

    def _open_lock(self) -> TextIO:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            return self.lock_file.open("a+", encoding="utf-8")
        except OSError as error:
            raise write_error(self.path, error) from error

    def _is_lock(self, file: TextIO) -> bool:
        """Whether an open file is still the one that lies in the folder."""
        try:
            return os.path.samestat(os.fstat(file.fileno()), self.lock_file.stat())
        except FileNotFoundError:
            return False

    def is_held(self) -> bool:
        """Whether a process is writing to the folder."""
        try:
            with self.lock_file.open(encoding="utf-8") as file:
                return not _locked(file.fileno())
        except OSError:
            return False

    def move_aside(self) -> Path | None:
        """Rename a run that is there, to a name that is free; None where there is nothing.

        Raises:
          CharlmError: what is there is not a run, or a process is writing to it.
        """
        self._refuse_foreign()
        if not self.config_file.exists():
            return None
        path, number = self.path.resolve(), 1
        if Path.cwd().is_relative_to(path):
            raise CharlmError(
                f"{self.path} is the folder that this command runs in and cannot be moved aside: "
                f"go elsewhere, or choose another --workdir"
            )
        while os.path.lexists(target := path.with_name(f"{path.name}.{number}")):
            number += 1
        with self.held():
            try:
                path.rename(target)
            except OSError as error:
                raise write_error(self.path, error) from error
        return self.path.parent / target.name if self.path.name else target

    def refuse_other(self, config: Config, dataset: "Dataset") -> None:
        """See that the folder does not hold another run.

        Raises:
          CharlmError: it does, and that has written more than what it is to be.
        """
        if self.config_file.exists() and self.has_something_to_lose():
            self._refuse_other_config(config)
            self._refuse_other_text(dataset)

    def claim(self, config: Config, dataset: "Dataset") -> None:
        """Make a folder that is held this run's.

        Raises:
          CharlmError: it cannot be written.
        """
        try:
            self.checkpoints.mkdir(exist_ok=True)
            symbols = dataset.vocabulary.symbols
            words = {"symbols": symbols, "fingerprint": dataset.fingerprint}
            write_json(self.vocabulary_file, words)
            write_json(self.config_file, config.to_dict())  # last: it marks a whole claim
        except OSError as error:
            raise write_error(self.path, error) from error

    def has_something_to_lose(self) -> bool:
        """Whether the run has written more than what it is to be."""
        has_rows = self.metrics_file.exists() and self.metrics_file.stat().st_size > 0
        return has_rows or self.fault.exists() or any(self.checkpoints.glob("*"))

    def read_config(self) -> Config:
        """The run's config."""
        values = self._read_json(self.config_file)
        try:
            return Config.from_dict(values)
        except CharlmError as error:
            raise CharlmError(f"{self.config_file} does not fit: {error}") from error

    def read_vocabulary(self) -> Vocabulary:
        """The run's symbols."""
        symbols = self._read_word(self.vocabulary_file, "symbols")
        try:
            return Vocabulary(symbols)
        except CharlmError as error:
            raise self._damaged(self.vocabulary_file, str(error)) from error

    def read_fingerprint(self) -> str:
        """The fingerprint of the text that the run was started on."""
        return self._read_word(self.vocabulary_file, "fingerprint")

    def read_facts(self) -> dict[str, Any]:
        """What the run has written down about itself; {} before it has."""
        if not self.facts_file.exists():
            return {}
        facts = self._read_json(self.facts_file)
        sittings = facts.get("sittings", [])
        are_sound = isinstance(sittings, list) and all(
            isinstance(sitting, dict)
            and isinstance(sitting.get("environment"), dict)
            and isinstance(sitting.get("from_step"), int)
            for sitting in sittings
        )
        for name, kind in _FACTS.items():
            are_sound &= isinstance(facts.get(name), (kind, type(None)))
        if not are_sound:
            raise self._damaged(self.facts_file, "a value has a wrong type")
        return facts

    def write_facts(self, **changes: Any) -> None:
        """Add to what is written down about the run."""
        try:
            write_json(self.facts_file, {**self.read_facts(), **changes})
        except OSError as error:
            raise write_error(self.path, error) from error

    def _damaged(self, file: Path, what: str) -> CharlmError:
        mend = _MEND_EXPORTED if self.is_exported else _MEND
        return CharlmError(f"{file} is damaged: {what}; {mend}")

    def _read_word(self, file: Path, name: str) -> str:
        word = self._read_json(file).get(name)
        if not isinstance(word, str):
            raise self._damaged(file, f"it has no {name!r}")
        return word

    def _read_json(self, file: Path) -> dict[str, Any]:
        try:
            is_there = self.path.exists()
        except OSError as error:
            raise CharlmError(f"no run at {self.path}: {error.strerror}") from error
        if not is_there:
            raise CharlmError(f"no run at {self.path}: there is no such folder")
        if not self.path.is_dir():
            raise CharlmError(f"no run at {self.path}: it is a file, not the folder of a run")
        if self.config_file.exists():
            self.refuse_links()
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise CharlmError(f"no run at {self.path}: it has no {file.name}") from error
        except OSError as error:
            raise CharlmError(f"cannot read {file}: {error.strerror}") from error
        except (ValueError, RecursionError) as error:
            where = ""
            if isinstance(error, json.JSONDecodeError):
                where = f" at line {error.lineno}, column {error.colno}"
            raise self._damaged(file, f"it is not JSON{where}") from error
        if not isinstance(values, dict):
            raise self._damaged(file, "it is not a JSON object")
        return values

    def _refuse_foreign(self) -> None:
        """A folder is a run, empty, or what is left of a claim that was cut short."""
        if not os.path.lexists(self.path):
            return
        if not self.path.is_dir():
            raise CharlmError(f"{self.path} is not a folder: choose another --workdir")
        self.refuse_links()
        self.refuse_exported()
        for folder in self.folders:
            if folder.exists() and not folder.is_dir():
                raise CharlmError(f"{folder} is not a folder: move it out of the run")
        if self.config_file.exists():
            return
        names = {final_name(path.name) for path in self.path.iterdir()}
        is_begun = self.lock_file.exists() and names <= {*_CLAIM, self.config_file.name}
        if "checkpoints" in names and not is_begun:
            raise CharlmError(
                f"{self.path} has checkpoints but no config.json: restore it from a copy, or "
                f"choose another --workdir"
            )
        if names and not is_begun:
            raise CharlmError(f"{self.path} exists and is not a run: choose another --workdir")

    def refuse_links(self) -> None:
        """What lies in the folder of a run must not make it write anywhere else."""
        for folder in (self.path, *self.folders):
            for path in folder.iterdir() if folder.is_dir() else ():
                if path.is_symlink():
                    raise CharlmError(f"{path} is a link: a run keeps its files in its own folder")

    def _refuse_other_config(self, config: Config) -> None:
        changes = config_changes(self.read_config(), config)
        if changes:
            raise CharlmError(
                f"{self.path} holds another run: {'; '.join(changes)}: choose another --workdir, "
                f"or move that run aside with --fresh"
            )

    def _refuse_other_text(self, dataset: "Dataset") -> None:
        if self.read_fingerprint() != dataset.fingerprint:
            raise CharlmError(
                f"the text of {dataset.corpus.name} is not the one that {self.path} was started "
                f"on: restore the text, choose another --workdir, or begin again with --fresh"
            )
