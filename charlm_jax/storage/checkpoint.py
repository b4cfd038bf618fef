"""Checkpoints of a run: written whole or not at all, and read back only where every byte is right.

A checkpoint is a folder named by its step:

    meta.json      whatever the run wants to know before it touches the arrays
    params.npz     the model's arrays by their paths, for `numpy.load`
    training.npz   the rest of what an update needs; drawing text does not use it
    contents.json  size and sha256 of every other file

It is put together under another name and then renamed, so a process that dies leaves a whole
checkpoint or none. Every file is compared with `contents.json` before anything is made of it.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import NoneType
from typing import IO, Any, TypeVar

import jax
import numpy as np

from charlm_jax.core.errors import CharlmError, write_error

Tree = TypeVar("Tree")

_LATEST_KEPT = 2
_ITEMS = ("params", "training")
_FILES = ("meta.json", *(f"{item}.npz" for item in _ITEMS))


class DamagedCheckpoint(CharlmError):
    """A checkpoint is not what was written.

    Attributes:
      step: which one.
    """

    def __init__(self, step: int, what: str) -> None:
        super().__init__(f"checkpoint {step} is damaged: {what}")
        self.step = step


class Checkpoints:
    """The folder of a run's checkpoints: the two latest and, where losses are given, the best."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def steps(self) -> list[int]:
        """Steps of the checkpoints that are there, sound or not, ascending.

        Raises:
          CharlmError: something else lies where a checkpoint would.
        """
        if not self._folder.is_dir():
            return []
        paths = [p for p in self._folder.iterdir() if re.fullmatch("0|[1-9][0-9]*", p.name)]
        for path in paths:
            if path.is_symlink() or not path.is_dir():
                raise CharlmError(f"{path} is not a folder: move it out of the run")
        return sorted(int(path.name) for path in paths)

    def save(
        self,
        step: int,
        *,
        params: Any,
        training: Any,
        meta: Mapping[str, Any],
        loss_nats: float | None,
    ) -> None:
        """Write a checkpoint, then remove those that are no longer wanted.

        Args:
          step: its name; one that is already there is left as it is.
          params: a tree of arrays. Both trees are copied to the host first, so their buffers may
            be donated as soon as this returns.
          training: a tree of arrays.
          meta: JSON values.
          loss_nats: the held-out loss, by which the best is kept; None where there is none.

        Raises:
          CharlmError: it could not be written. What was there before still is.
        """
        if step in self.steps():
            return
        items = {"params": _by_name(params), "training": _by_name(training)}
        items = {name: jax.tree.map(np.array, arrays) for name, arrays in items.items()}
        schema = {
            name: {path: _fit(array) for path, array in arrays.items()}
            for name, arrays in items.items()
        }
        self.clear_partial()
        partial = self._folder / f"partial-{step}"
        try:
            partial.mkdir(parents=True)
            for name, arrays in items.items():
                with (partial / f"{name}.npz").open("wb") as file:
                    np.savez(file, **arrays)
                    _flush(file)
            values = {**meta, "step": step, "loss_nats": loss_nats, "arrays": schema}
            _write_json(partial / "meta.json", values)
            contents = {file: _facts(partial / file) for file in _FILES}
            _write_json(partial / "contents.json", contents)
            partial.rename(self._path(step))
        except OSError as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise CharlmError(
                f"cannot save checkpoint {step}: {error.strerror}; those before are as they were: "
                f"mend that, and the run goes on from the last of them"
            ) from error
        self.prune()

    def prune(self) -> None:
        """Remove all but the two latest and the best; one that may have been the best stays."""
        losses, damages = self._losses()
        keep = {*self.steps()[-_LATEST_KEPT:], *losses[:1], *(error.step for error in damages)}
        for step in self.steps():
            if step not in keep:
                # Renamed first: what is half removed must not look like a checkpoint.
                self._path(step).rename(self._folder / f"partial-{step}")
        self.clear_partial()

    def clear_partial(self) -> None:
        """Remove what a process that died has left half written or half removed."""
        for path in self._folder.glob("partial-*"):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()

    def quarantine(self, step: int, folder: Path) -> Path:
        """Move a checkpoint into another folder, under a name that is free there."""
        number = 1
        try:
            folder.mkdir(exist_ok=True)
            while (target := folder / f"{step}-{number}").exists():
                number += 1
            return self._path(step).rename(target)
        except OSError as error:
            raise write_error(folder, error) from error

    def choose(self, which: str) -> int:
        """The step of `latest`, of `best` (the latest, if nothing was validated), or of a number.

        Raises:
          CharlmError: there is no such checkpoint; the message lists those that there are.
          DamagedCheckpoint: nobody can say which is the best.
        """
        steps = self.steps()
        if not steps:
            raise CharlmError("this run has no checkpoint yet: train it first")
        if which == "latest":
            return steps[-1]
        if which == "best":
            by_loss, damages = self._losses()
            if damages:
                raise damages[0]
            return by_loss[0] if by_loss else steps[-1]
        if which.isascii() and which.isdecimal() and int(which) in steps:
            return int(which)
        raise CharlmError(
            f"{self._folder.parent} has no checkpoint {which!r}: name best, latest or one of "
            f"{', '.join(map(str, steps))}"
        )

    def _losses(self) -> tuple[list[int], list[DamagedCheckpoint]]:
        """Steps by held-out loss, the lowest and earliest first; and whose loss is not known."""
        losses, damages = [], []
        for step in self.steps():
            try:
                self._verify_file(step, "meta.json", self._read_json(step, "contents.json"))
                loss_nats = self._read_sound_meta(step)["loss_nats"]
            except DamagedCheckpoint as error:
                damages.append(error)
            else:
                if loss_nats is not None:
                    losses.append((loss_nats, step))
        return [step for _, step in sorted(losses)], damages

    def verify(self, step: int) -> None:
        """Compare every file of a checkpoint with what was written; others do not count.

        Raises:
          DamagedCheckpoint: a file is missing, of another size or of other content.
        """
        contents = self._read_json(step, "contents.json")
        for file in _FILES:
            self._verify_file(step, file, contents)
        self._read_sound_meta(step)

    def _verify_file(self, step: int, file: str, contents: Mapping[str, Any]) -> None:
        path = self._path(step) / file
        if not os.path.lexists(path):
            raise DamagedCheckpoint(step, f"it lacks {file}")
        if file not in contents:
            raise DamagedCheckpoint(step, "it has no sound contents.json")
        if _facts(path) != contents[file]:
            raise DamagedCheckpoint(step, f"{file} has changed")

    def latest_valid(self) -> tuple[int | None, list[DamagedCheckpoint]]:
        """The step of the latest checkpoint that is sound, and what is wrong with those after."""
        damages = []
        for step in reversed(self.steps()):
            try:
                self.verify(step)
            except DamagedCheckpoint as error:
                damages.append(error)
            else:
                return step, damages
        return None, damages

    def read_meta(self, step: int) -> dict[str, Any]:
        """The JSON part of a sound checkpoint."""
        self.verify(step)
        return self._read_sound_meta(step)

    def restore(self, step: int, item: str, like: Tree) -> Tree:
        """The item `params` or `training`, as NumPy arrays in a tree like `like`.

        Args:
          step: the checkpoint.
          item: which of its trees.
          like: a tree whose leaves have shape and dtype.

        Raises:
          DamagedCheckpoint: it is not what was written.
          CharlmError: the checkpoint holds other arrays; the message names the first.
        """
        there, here = self.read_meta(step)["arrays"][item], _by_name(like)
        for name in sorted({*there, *here}):
            fit_there, fit_here = there.get(name), _fit(here[name]) if name in here else None
            if fit_there != fit_here:
                raise CharlmError(
                    f"checkpoint {step} does not fit this model: {name} is "
                    f"{_describe(fit_there)} there and {_describe(fit_here)} here"
                )
        with np.load(self._path(step) / f"{item}.npz", allow_pickle=False) as arrays:
            # NumPy's files know no bfloat16: it comes back as bytes without a type.
            leaves = [arrays[name].view(x.dtype) for name, x in here.items()]
        return jax.tree.unflatten(jax.tree.structure(like), leaves)

    def _path(self, step: int) -> Path:
        return self._folder / str(step)

    def _read_sound_meta(self, step: int) -> dict[str, Any]:
        meta = self._read_json(step, "meta.json")
        try:
            is_sound = isinstance(meta["loss_nats"], (float, NoneType)) and all(
                isinstance(shape, list) and isinstance(dtype, str)
                for item in _ITEMS
                for shape, dtype in meta["arrays"][item].values()
            )
        except (KeyError, TypeError, ValueError, AttributeError):
            is_sound = False
        if not is_sound:
            raise DamagedCheckpoint(step, "it has no sound meta.json")
        return meta

    def _read_json(self, step: int, file: str) -> dict[str, Any]:
        path = self._path(step) / file
        try:
            values = None if path.is_symlink() else json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise DamagedCheckpoint(step, f"it has no sound {file}") from error
        if not isinstance(values, dict):
            raise DamagedCheckpoint(step, f"it has no sound {file}")
        return values


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    with path.open("wb") as file:
        file.write(json.dumps(values).encode())
        _flush(file)


def _flush(file: IO[bytes]) -> None:
    """Wait until a file is on the disk: some file systems tell only then that they are full."""
    file.flush()
    os.fsync(file.fileno())


def _facts(file: Path) -> list[Any]:
    """Size and sha256 of a file; nothing that a link leads to is read."""
    if file.is_symlink() or not file.is_file():
        return []
    with file.open("rb") as opened:
        return [file.stat().st_size, hashlib.file_digest(opened, "sha256").hexdigest()]


def _by_name(tree: Any) -> dict[str, Any]:
    """The leaves of a tree in its order, by their paths."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): x for path, x in leaves}


def _fit(x: Any) -> list[Any]:
    """Shape and dtype of an array, as JSON would give them back."""
    return [list(x.shape), str(x.dtype)]


def _describe(fit: list[Any] | None) -> str:
    return "missing" if fit is None else f"{fit[1]} of shape {tuple(fit[0])}"
