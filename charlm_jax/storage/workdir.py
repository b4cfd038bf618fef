"""A run on disk: its folder, the files that identify it, and exclusive write access."""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charlm_jax.config.formats import NewerFormat, upgrade, with_format
from charlm_jax.config.schema import Config
from charlm_jax.core.caller_warnings import warn_caller
from charlm_jax.core.errors import CharlmError, read_error, write_error
from charlm_jax.core.files import (
    atomic_write,
    final_name,
    read_regular,
    remove_temporary_files,
    user_path,
)
from charlm_jax.core.folders import EXPORT, RUN, own_folder
from charlm_jax.core.json_files import write_json
from charlm_jax.data.vocabulary import Vocabulary
from charlm_jax.storage import lock

if TYPE_CHECKING:
    from charlm_jax.data.dataset import Dataset


# Fields of run.json and their types, without the training sessions and the mixers.
_FACTS = {
    "config_spec": str,
    "point": list,
    "overrides": list,
    "corpus": str,
    "parameters": int,
    "steps_per_epoch": int,
    "total_steps": int,
    "started_from": dict,
    "finished": str,
}

# Name of the hash of all other values in run.json.
_SHA256 = "sha256"

# Fields of a record in `mixers`, of run.json and of exports; the last two may be null.
_MIXER_SOURCE = ("layer", "module", "file", "sha256")

_MEND = "restore it from a copy, or begin again with fresh=True"
MEND_EXPORTED = "restore it from a copy, or export the model again"

# If `checkpoints` is a link: a file in its target, with the path of the run that owns it.
_OWNER = ".run"

# Files that may be left by a run that died before it was claimed.
_CLAIM = {"lock", *lock.CLAIM_FILES, "checkpoints", "vocabulary.json"}


def are_mixer_sources(values: object) -> bool:
    """Return whether a value is a list of the records of mixers outside the package, or None."""
    if values is None:
        return True
    return isinstance(values, list) and all(
        isinstance(source, dict)
        and set(source) == set(_MIXER_SOURCE)
        and all(isinstance(source[name], str) for name in _MIXER_SOURCE[:2])
        and all(isinstance(source[name], (str, type(None))) for name in _MIXER_SOURCE[2:])
        for source in values
    )


def _digest(values: Mapping[str, Any]) -> str:
    """Return a hash of JSON values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


class Workdir:
    """Paths inside a run's folder, and the files that identify the run."""

    def __init__(self, path: Path | str) -> None:
        self.path = user_path(path)
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
        """True for an exported model, False for a run."""
        return os.path.lexists(self.exported_file) and not os.path.lexists(self.checkpoints)

    def refuse_exported(self) -> None:
        """Refuse an exported model, which has a run's config and symbols but no training state.

        Raises:
          CharlmError: the folder is an exported model.
        """
        if self.is_exported:
            raise CharlmError(f"{self.path} is an exported model, not a run: name another folder")

    @contextmanager
    def held(self) -> Iterator[Callable[[], bool]]:
        """Create the directory if necessary, and lock out writes by other processes.

        Yields:
          A function that returns whether the directory is still there and still this one.

        Raises:
          CharlmError: another process holds it, it is not a run's, or it cannot be written.
        """
        self._refuse_foreign()
        with lock.held(self.lock_file) as opened:
            self._refuse_foreign()  # again, now that no other process writes
            lock.record_owner(opened)
            for file in (self.config_file, self.vocabulary_file, self.facts_file):
                remove_temporary_files(file)
            remove_temporary_files(self.metrics_file)
            yield lambda: lock.is_still(self.lock_file, opened)

    def is_held(self) -> bool | None:
        """Return whether a process is writing to the directory; None if nothing can tell."""
        return lock.is_held(self.lock_file)

    def holder(self) -> str:
        """Return the id of the process that writes to the directory; ? if it has left none."""
        return lock.read_owner(self.lock_file)

    def move_aside(self) -> Path | None:
        """Rename an existing run to an unused name; returns its new path, None if there is no run.

        If the folder is a link, its target is renamed, and the link leads to a new, empty folder.

        Raises:
          CharlmError: the folder is not a run's, or a process is writing to it.
        """
        self._refuse_foreign()
        if not self.config_file.exists():
            return None
        path, number = self.path.resolve(), 1
        if Path.cwd().is_relative_to(path):
            raise CharlmError(
                f"{self.path} is the folder that this command runs in and cannot be moved aside: "
                f"change directory, or choose another workdir"
            )
        while os.path.lexists(target := path.with_name(f"{path.name}.{number}")):
            number += 1
        with self.held():
            try:
                path.rename(target)
                if self.path.is_symlink():
                    path.mkdir()
            except OSError as error:
                raise write_error(self.path, error) from error
        beside = self.path.parent / target.name
        return beside if beside.resolve() == target else target

    def claim(self, config: Config, dataset: "Dataset") -> None:
        """Assign a held folder to this run.

        Raises:
          CharlmError: the folder cannot be written.
        """
        try:
            self.checkpoints.mkdir(exist_ok=True)
            if self.checkpoints.is_symlink():
                atomic_write(self.checkpoints / _OWNER, os.fsencode(self.path.resolve()) + b"\n")
            symbols = dataset.vocabulary.symbols
            words = {"symbols": symbols, "fingerprint": dataset.fingerprint}
            write_json(self.vocabulary_file, words)
            write_json(self.config_file, config.to_dict())  # last: it marks a complete claim
        except OSError as error:
            raise write_error(self.path, error) from error

    def has_started(self) -> bool:
        """Return whether the run has written more than its config and vocabulary."""
        has_rows = self.metrics_file.exists() and self.metrics_file.stat().st_size > 0
        has_checkpoints = any(not path.name.startswith(".") for path in self.checkpoints.glob("*"))
        return has_rows or self.fault.exists() or has_checkpoints

    def check_readable(self) -> None:
        """Check that a run or an exported model can be read here.

        Raises:
          CharlmError: there is no directory, or a run's directory contains links.
        """
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

    def read_config(self) -> Config:
        """Return the run's config."""
        values = self._read_json(self.config_file)
        try:
            return Config.from_dict(values)
        except NewerFormat as error:
            raise NewerFormat(f"{self.config_file}: {error}") from error
        except CharlmError as error:
            raise CharlmError(f"{self.config_file} is not valid: {error}") from error

    def read_vocabulary(self) -> Vocabulary:
        """Return the run's vocabulary."""
        symbols = self._read_word(self.vocabulary_file, "symbols")
        try:
            return Vocabulary(symbols)
        except CharlmError as error:
            raise self._damaged(self.vocabulary_file, str(error)) from error

    def read_fingerprint(self) -> str:
        """Return the fingerprint of the text that the run was started on."""
        return self._read_word(self.vocabulary_file, "fingerprint")

    def read_facts(self) -> dict[str, Any]:
        """Return the content of run.json; {} before the run has written it."""
        if not self.facts_file.exists():
            return {}
        values = self._read_json(self.facts_file)
        try:
            facts = upgrade("run", values, self.facts_file)
            digest = facts.pop(_SHA256, None)  # earlier versions wrote none
        except NewerFormat:
            raise
        except CharlmError as error:
            raise self._damaged(self.facts_file, str(error)) from error
        sessions = facts.get("sessions", [])
        are_sound = isinstance(sessions, list) and all(
            isinstance(session, dict)
            and isinstance(session.get("environment"), dict)
            and isinstance(session.get("from_step"), int)
            and isinstance(session.get("division", {}), dict)  # earlier versions wrote none
            and are_mixer_sources(session.get("mixers"))
            for session in sessions
        )
        for name, kind in _FACTS.items():
            are_sound &= isinstance(facts.get(name), (kind, type(None)))
            if kind is list:
                are_sound &= all(isinstance(text, str) for text in facts.get(name) or [])
        are_sound &= are_mixer_sources(facts.get("mixers"))
        if not are_sound:
            raise self._damaged(self.facts_file, "a value has the wrong type")
        if digest not in (None, _digest({key: x for key, x in values.items() if key != _SHA256})):
            raise self._damaged(self.facts_file, "its content is not what was written")
        return facts

    def warn_of_lost_facts(self) -> None:
        """Warn if a run has checkpoints but no run.json, which is written before them."""
        if not self.facts_file.exists() and any(self.checkpoints.glob("[0-9]*")):
            warn_caller(
                f"{self.facts_file} is missing: the run's sessions, command and size are not known",
            )

    def write_facts(self, facts: Mapping[str, Any]) -> None:
        """Replace run.json.

        Raises:
          CharlmError: the file cannot be written.
        """
        values = with_format(facts)
        try:
            write_json(self.facts_file, {**values, _SHA256: _digest(values)})
        except OSError as error:
            raise write_error(self.path, error) from error

    def _damaged(self, file: Path, what: str) -> CharlmError:
        mend = MEND_EXPORTED if self.is_exported else _MEND
        return CharlmError(f"{file} is damaged: {what}; {mend}")

    def _read_word(self, file: Path, name: str) -> str:
        word = self._read_json(file).get(name)
        if not isinstance(word, str):
            raise self._damaged(file, f"it has no {name!r}")
        return word

    def _read_json(self, file: Path) -> dict[str, Any]:
        try:
            values = json.loads(read_regular(file).decode())
        except FileNotFoundError as error:
            self.check_readable()
            raise CharlmError(f"no run at {self.path}: it has no {file.name}") from error
        except OSError as error:
            raise read_error(file, error) from error
        except (ValueError, RecursionError) as error:
            where = ""
            if isinstance(error, json.JSONDecodeError):
                where = f" at line {error.lineno}, column {error.colno}"
            raise self._damaged(file, f"it is not JSON{where}") from error
        if not isinstance(values, dict):
            raise self._damaged(file, "it is not a JSON object")
        return values

    def _refuse_foreign(self) -> None:
        """Refuse any folder but a run's, an empty one, or one left by an interrupted claim."""
        if not os.path.lexists(self.path):
            return
        if not self.path.is_dir():
            raise CharlmError(f"{self.path} is not a folder: choose another workdir")
        self.refuse_links()
        self.refuse_exported()
        for folder in self.folders:
            if folder.exists() and not folder.is_dir():
                raise CharlmError(f"{folder} is not a folder: move it out of the run")
        if self.checkpoints.is_symlink():
            self._refuse_foreign_checkpoints()
        found = {path.name for path in self.path.iterdir()}
        foreign = f"{self.path} exists and is not a run: choose another workdir"
        if self.config_file.exists():
            if own_folder(str(self.path), found) not in (RUN, EXPORT):
                raise CharlmError(foreign)  # the config is another program's
            return
        names = {*map(final_name, found)}
        is_begun = self.lock_file.exists() and names <= {*_CLAIM, self.config_file.name}
        if names == {self.checkpoints.name} and not any(self.checkpoints.iterdir()):
            return  # an empty folder, or a link to one, made for the run
        if self.checkpoints.name in names and not is_begun:
            raise CharlmError(
                f"{self.path} has checkpoints but no config.json: restore it from a copy, or "
                f"choose another workdir"
            )
        if names and not is_begun:
            raise CharlmError(foreign)

    def _refuse_foreign_checkpoints(self) -> None:
        """Refuse a link to a folder with other content: checkpoints are added and removed there."""
        for path in self.checkpoints.iterdir():
            if not re.fullmatch(r"(partial-)?[0-9]+|\..*", path.name):
                raise CharlmError(
                    f"{self.checkpoints} is a link to a folder that holds {path.name}: link it to "
                    f"a folder that holds only this run's checkpoints"
                )
        owner_file = self.checkpoints / _OWNER
        if owner_file.is_file():
            owner = Path(os.fsdecode(owner_file.read_bytes()).strip())
            is_this = owner == self.path.resolve()  # if not, it may be this run's earlier path
            if not is_this and (owner / "checkpoints").resolve() == self.checkpoints.resolve():
                raise CharlmError(
                    f"{self.checkpoints} is a link to the checkpoints of {owner}, and each run "
                    f"deletes checkpoints that it no longer needs: link it to another folder"
                )

    def refuse_links(self) -> None:
        """Refuse links in the directory: a run must not write outside it.

        `checkpoints` itself may be a link to a folder, such as one on a larger disk.

        Raises:
          CharlmError: there is another link, or the target of `checkpoints` does not exist.
        """
        for folder in (self.path, *self.folders):
            for path in folder.iterdir() if folder.is_dir() else ():
                if path.is_symlink() and path != self.checkpoints:
                    raise CharlmError(f"{path} is a link: a run keeps its files in its own folder")
        if self.checkpoints.is_symlink() and not self.checkpoints.exists():
            raise CharlmError(
                f"{self.checkpoints} is a link to {os.readlink(self.checkpoints)}, which does not "
                f"exist: restore that folder, or remove the link"
            )
