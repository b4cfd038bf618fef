"""Checkpoints of a run: written atomically, and verified byte for byte when read.

Why not orbax-checkpoint: as of 0.12.8 it silently casts arrays to the dtypes of the tree that they
are restored into, and it does not detect a flipped bit. Runs here resume bit for bit, and can
afford neither. This module serves one process on one host; for runs on many hosts, and when orbax
reaches version 1.0, the choice should be reconsidered.

A checkpoint is a folder named by its step:

    meta.json      values that the run needs before it reads the arrays
    params.npz     the model's arrays by path, for `numpy.load`
    training.npz   the rest of the training state; sampling does not use it
    contents.json  size and sha256 of every other file

It is assembled under another name and then renamed, so a process that dies leaves a complete
checkpoint or none. Opening one reads every file once and compares it with `contents.json`; arrays
are built from the verified bytes.
"""

import hashlib
import io
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, TypeVar

import jax
import numpy as np

from charlm_jax.config.formats import NewerFormat, upgrade, with_format
from charlm_jax.core.errors import CharlmError, write_error
from charlm_jax.core.files import synced_file
from charlm_jax.core.trees import describe_leaf, leaves_by_path, tree_mismatch

Tree = TypeVar("Tree")

_LATEST_KEPT = 2
_ITEMS = ("params", "training")
_FILES = ("meta.json", *(f"{item}.npz" for item in _ITEMS))


class DamagedCheckpoint(CharlmError):
    """A checkpoint differs from what was written.

    Attributes:
      step: step of the checkpoint.
    """

    def __init__(self, step: int, what: str) -> None:
        super().__init__(f"checkpoint {step} is damaged: {what}")
        self.step = step


class Checkpoint:
    """One checkpoint, read from disk and verified.

    Attributes:
      step: number of updates before it was saved.
      meta: JSON values saved with it.
    """

    def __init__(self, step: int, meta: dict[str, Any], files: Mapping[str, bytes]) -> None:
        self.step = step
        self.meta = meta
        self._files = files

    def params(self, like: Tree) -> Tree:
        """Returns the model's arrays, on the host, in a tree with the structure of `like`.

        Args:
          like: tree whose leaves have the required shapes and dtypes.

        Raises:
          CharlmError: the checkpoint has different arrays; the message names the first difference.
        """
        return self._restore("params", like)

    def training(self, like: Tree) -> Tree:
        """Returns the rest of the training state; arguments and errors are those of `params`."""
        return self._restore("training", like)

    def _restore(self, item: str, like: Tree) -> Tree:
        needed = leaves_by_path(like)
        there = {
            path: describe_leaf(dtype, shape)
            for path, (shape, dtype) in self.meta["arrays"][item].items()
        }
        here = {path: describe_leaf(x.dtype, x.shape) for path, x in needed.items()}
        if mismatch := tree_mismatch(there, here):
            raise CharlmError(f"checkpoint {self.step} does not fit this model: {mismatch}")
        with np.load(io.BytesIO(self._files[f"{item}.npz"]), allow_pickle=False) as arrays:
            # NumPy's files do not support bfloat16: it is loaded as untyped bytes.
            leaves = [arrays[path].view(x.dtype) for path, x in needed.items()]
        return jax.tree.unflatten(jax.tree.structure(like), leaves)


class Checkpoints:
    """Folder of a run's checkpoints: the two latest and, if losses are given, the best.

    Args:
      folder: the folder, which need not exist.
      keeps: whether the checkpoint of a step is kept too; None for no other.
    """

    def __init__(self, folder: Path, keeps: Callable[[int], bool] | None = None) -> None:
        self._folder = folder
        self._keeps = keeps or (lambda step: False)

    def steps(self) -> list[int]:
        """Returns the steps of all checkpoints, valid or not, in ascending order.

        Raises:
          CharlmError: a file or a link has the name of a checkpoint.
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
        replace: bool = False,
    ) -> None:
        """Write a checkpoint, then remove those that are no longer needed.

        Args:
          step: name of the checkpoint.
          params: a tree of arrays. Both trees are copied to the host first, so their buffers may
            be donated as soon as this returns.
          training: a tree of arrays.
          meta: JSON values.
          loss_nats: held-out loss, by which the best is kept; None if there is none.
          replace: whether to replace an existing checkpoint of this step; otherwise it is left
            unchanged.

        Raises:
          CharlmError: it could not be written; earlier checkpoints are unchanged.
        """
        is_there = step in self.steps()
        if is_there and not replace:
            return
        items = {"params": leaves_by_path(params), "training": leaves_by_path(training)}
        items = {name: jax.tree.map(np.array, arrays) for name, arrays in items.items()}
        schema = {
            name: {path: [list(x.shape), str(x.dtype)] for path, x in arrays.items()}
            for name, arrays in items.items()
        }
        self.clear_partial()
        partial = self._folder / f"partial-{step}"
        try:
            partial.mkdir(parents=True)
            for name, arrays in items.items():
                with synced_file(partial / f"{name}.npz") as file:
                    np.savez(file, **arrays)
            values = with_format({**meta, "step": step, "loss_nats": loss_nats, "arrays": schema})
            with synced_file(partial / "meta.json") as file:
                file.write(json.dumps(values).encode())
            contents = {name: _size_and_hash((partial / name).read_bytes()) for name in _FILES}
            with synced_file(partial / "contents.json") as file:
                file.write(json.dumps(contents).encode())
            if is_there:  # under a name that `clear_partial` removes
                self._path(step).rename(self._folder / f"partial-0{step}")
            partial.rename(self._path(step))
        except OSError as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise CharlmError(
                f"cannot save checkpoint {step}: {error.strerror}; earlier checkpoints are "
                f"unchanged: fix this to resume from the latest"
            ) from error
        self.prune()

    def prune(self) -> None:
        """Remove all but the two latest, the best, the series that is kept, and damaged ones.

        A damaged checkpoint may have been the best.
        """
        losses, damages = self._losses()
        keep = {*self.steps()[-_LATEST_KEPT:], *losses[:1], *(error.step for error in damages)}
        for step in self.steps():
            if step not in keep and not self._keeps(step):
                # Renamed first: a half-removed folder must not look like a checkpoint.
                self._path(step).rename(self._folder / f"partial-{step}")
        self.clear_partial()

    def clear_partial(self) -> None:
        """Remove checkpoints that a killed process left half written or half removed."""
        for path in self._folder.glob("partial-*"):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()

    def quarantine(self, step: int, folder: Path) -> Path:
        """Move a checkpoint into another folder, under an unused name.

        The two folders may be on different disks.
        """
        number = 1
        try:
            folder.mkdir(exist_ok=True)
            while (target := folder / f"{step}-{number}").exists():
                number += 1
            shutil.move(self._path(step), target)
        except OSError as error:
            raise write_error(folder, error) from error
        return target

    def choose(self, which: str) -> int:
        """Returns the step of `latest`, `best` (the latest, if nothing was validated) or a number.

        Raises:
          CharlmError: there is no such checkpoint; the message lists the existing ones.
          DamagedCheckpoint: a loss cannot be read, so that the best is unknown.
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

    def open(self, step: int, items: Sequence[str] = _ITEMS) -> Checkpoint:
        """Read a checkpoint and verify each of its files.

        Args:
          step: step of the checkpoint.
          items: arrays that will be restored; the others are not kept in memory.

        Raises:
          DamagedCheckpoint: a file is missing, or its size or content has changed.
        """
        contents = self._read_contents(step)
        meta = self._parse_meta(step, self._read_file(step, "meta.json", contents))
        files = {}
        for item in _ITEMS:
            name = f"{item}.npz"
            data = self._read_file(step, name, contents)
            if item in items:
                files[name] = data
        return Checkpoint(step, meta, files)

    def latest_valid(
        self, items: Sequence[str] = _ITEMS
    ) -> tuple[Checkpoint | None, list[DamagedCheckpoint]]:
        """Returns the latest valid checkpoint, and the errors of the damaged ones after it."""
        damages: list[DamagedCheckpoint] = []
        for step in reversed(self.steps()):
            try:
                return self.open(step, items), damages
            except DamagedCheckpoint as error:
                damages.append(error)
        return None, damages

    def _losses(self) -> tuple[list[int], list[DamagedCheckpoint]]:
        """Returns steps by held-out loss, lowest and earliest first; and damaged checkpoints."""
        losses, damages = [], []
        for step in self.steps():
            try:
                meta = self._read_file(step, "meta.json", self._read_contents(step))
                loss_nats = self._parse_meta(step, meta)["loss_nats"]
            except DamagedCheckpoint as error:
                damages.append(error)
            else:
                if loss_nats is not None:
                    losses.append((loss_nats, step))
        return [step for _, step in sorted(losses)], damages

    def _read_contents(self, step: int) -> dict[str, Any]:
        path = self._path(step) / "contents.json"
        try:
            data = b"" if path.is_symlink() else path.read_bytes()
        except OSError as error:
            raise DamagedCheckpoint(step, "it has no valid contents.json") from error
        return _parse_json(step, "contents.json", data)

    def _read_file(self, step: int, name: str, contents: Mapping[str, Any]) -> bytes:
        """Returns the verified content of a file; a link is not followed."""
        path = self._path(step) / name
        if not os.path.lexists(path):
            raise DamagedCheckpoint(step, f"{name} is missing")
        if name not in contents:
            raise DamagedCheckpoint(step, "it has no valid contents.json")
        data = None if path.is_symlink() or not path.is_file() else path.read_bytes()
        if data is None or _size_and_hash(data) != contents[name]:
            raise DamagedCheckpoint(step, f"{name} has changed")
        return data

    def _parse_meta(self, step: int, data: bytes) -> dict[str, Any]:
        meta = _parse_json(step, "meta.json", data)
        try:
            meta = upgrade("checkpoint", meta, self._path(step) / "meta.json")
            is_sound = isinstance(meta["loss_nats"], (float, NoneType)) and all(
                isinstance(shape, list) and isinstance(dtype, str)
                for item in _ITEMS
                for shape, dtype in meta["arrays"][item].values()
            )
        except NewerFormat:
            raise
        except (KeyError, TypeError, ValueError, AttributeError):
            is_sound = False
        if not is_sound:
            raise DamagedCheckpoint(step, "it has no valid meta.json")
        return meta

    def _path(self, step: int) -> Path:
        return self._folder / str(step)


def _size_and_hash(data: bytes) -> list[Any]:
    return [len(data), hashlib.sha256(data).hexdigest()]


def _parse_json(step: int, name: str, data: bytes) -> dict[str, Any]:
    try:
        values = json.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise DamagedCheckpoint(step, f"it has no valid {name}") from error
    if not isinstance(values, dict):
        raise DamagedCheckpoint(step, f"it has no valid {name}")
    return values
