"""Checkpoints of a run: written atomically, and verified byte for byte when read.

Why not orbax-checkpoint: as of 0.12.8 it silently casts arrays to the dtypes of the tree that they
are restored into, and it does not detect a flipped bit. Runs here resume bit for bit, and can
afford neither. Of the processes that train a run, one writes here. When orbax reaches version 1.0,
the choice should be reconsidered.

A checkpoint is a folder named by its step:

    meta.json      what identifies the run, its progress, and the shapes and dtypes of all arrays
    params.npz     the model's arrays by path, for `numpy.load`
    training.npz   the rest of the training state; sampling does not use it
    rows.jsonl     the metrics up to this step
    contents.json  size and sha256 of every other file

It is assembled under another name and then renamed, so a process that dies leaves a complete
checkpoint or none. Opening one reads each file that is needed once and compares it with
`contents.json`; arrays are built from the verified bytes, after a comparison with `meta.json`.
`charlm_jax.storage.seal` compares the run's other files with them.
"""

import contextlib
import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from charlm_jax.config.formats import NewerFormat, upgrade, with_format
from charlm_jax.core.arrays import parse_npz
from charlm_jax.core.caller_warnings import warn_caller
from charlm_jax.core.errors import CharlmError, write_error
from charlm_jax.core.files import atomic_write, read_regular, synced_file
from charlm_jax.core.trees import describe_leaf, leaves_by_path, tree_mismatch
from charlm_jax.core.typed_numbers import parse_whole_number

Tree = TypeVar("Tree")

SCORES_BEFORE_END = "scores_before_end"
"""Name in `meta.json` of the best before an evaluation that only the end of a run asked for."""

_LATEST_KEPT = 2
_TRIES = 10  # reads beside a run in training, which removes checkpoints
_ITEMS = {"params": "params.npz", "training": "training.npz", "rows": "rows.jsonl"}
_ARRAYS = ("params", "training")
_FILES = ("meta.json", *_ITEMS.values())


class DamagedCheckpoint(CharlmError):
    """A checkpoint differs from what was written.

    Attributes:
      step: step of the checkpoint.
    """

    def __init__(self, step: int, what: str) -> None:
        super().__init__(f"checkpoint {step} is damaged: {what}")
        self.step = step


class VanishedCheckpoint(DamagedCheckpoint):
    """A checkpoint was removed while it was read, as a run in training does."""


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

    @property
    def rows(self) -> bytes | None:
        """Lines of `metrics.jsonl` up to this step; None if an earlier version saved it."""
        return self._files.get("rows")

    def params(self, like: Tree) -> Tree:
        """Return the model's arrays, on the host, in a tree with the structure of `like`.

        Args:
          like: tree whose leaves have the required shapes and dtypes.

        Raises:
          CharlmError: the checkpoint has different arrays; the message names the first difference.
        """
        return self._restore("params", like)

    def training(self, like: Tree) -> Tree:
        """Return the rest of the training state; arguments and errors are those of `params`."""
        return self._restore("training", like)

    def _restore(self, item: str, like: Tree) -> Tree:
        import jax

        needed = leaves_by_path(like)
        there = {
            path: describe_leaf(dtype, shape)
            for path, (shape, dtype) in self.meta["arrays"][item].items()
        }
        here = {path: describe_leaf(x.dtype, x.shape) for path, x in needed.items()}
        if mismatch := tree_mismatch(there, here):
            raise CharlmError(f"checkpoint {self.step} does not fit this model: {mismatch}")
        schema = {path: (x.shape, x.dtype) for path, x in needed.items()}
        try:
            arrays = parse_npz(self._files[item], schema)
        except ValueError as error:
            raise DamagedCheckpoint(self.step, f"{_ITEMS[item]}: {error}") from error
        return jax.tree.unflatten(jax.tree.structure(like), list(arrays.values()))


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
        """Return the steps of all checkpoints, valid or not, in ascending order.

        Raises:
          CharlmError: a file or a link has the name of a checkpoint.
        """
        if not self._folder.is_dir():
            return []
        paths = [p for p in self._folder.iterdir() if re.fullmatch("0|[1-9][0-9]*", p.name)]
        for path in paths:
            is_folder = path.is_dir() and not path.is_symlink()
            if not is_folder and os.path.lexists(path):  # a run in training may have removed it
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
        best_step: int | None = None,
        scores_before_end: Mapping[str, Any] | None = None,
        rows: bytes = b"",
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
          best_step: step of the lowest held-out loss of the run so far, 0 if there is none. If
            None, the losses of the checkpoints decide which is the best.
          scores_before_end: if the held-out text was scored only because the run ends here, JSON
            values of the best before, among them its `best_step`. That checkpoint is kept, so that
            a longer run can take up where this one would have gone on without its end.
          rows: lines of the metrics up to this step.
          replace: whether to replace an existing checkpoint of this step; otherwise it is left
            unchanged.

        Raises:
          CharlmError: it could not be written; earlier checkpoints are unchanged.
        """
        import jax

        self.clear_partial()
        is_there = step in self.steps()
        if is_there and not replace:
            return
        items = {"params": leaves_by_path(params), "training": leaves_by_path(training)}
        items = {name: jax.tree.map(np.array, arrays) for name, arrays in items.items()}
        schema = {
            name: {path: [list(x.shape), str(x.dtype)] for path, x in arrays.items()}
            for name, arrays in items.items()
        }
        partial = self._folder / f"partial-{step}"
        try:
            partial.mkdir(parents=True)
            for name, arrays in items.items():
                with synced_file(partial / _ITEMS[name]) as file:
                    np.savez(file, **arrays)
            with synced_file(partial / "rows.jsonl") as file:
                file.write(rows)
            facts = {
                "step": step,
                "loss_nats": loss_nats,
                "best_step": best_step,
                SCORES_BEFORE_END: scores_before_end,
            }
            values = with_format({**meta, **facts, "arrays": schema})
            with synced_file(partial / "meta.json") as file:
                file.write(json.dumps(values).encode())
            contents = {name: _size_and_hash((partial / name).read_bytes()) for name in _FILES}
            with synced_file(partial / "contents.json") as file:
                file.write(json.dumps(contents).encode())
            if is_there:  # under a name that `clear_partial` removes, or renames back
                self._path(step).rename(self._folder / f"partial-0{step}")
            partial.rename(self._path(step))
        except OSError as error:
            shutil.rmtree(partial, ignore_errors=True)
            with contextlib.suppress(OSError):
                self.clear_partial()
            raise CharlmError(
                f"cannot save checkpoint {step}: {error.strerror}; earlier checkpoints are "
                f"unchanged: fix this to resume from the latest"
            ) from error
        self.prune()

    def copy(self, step: int, target: "Checkpoints", rows: bytes) -> None:
        """Copy a valid checkpoint into another run's folder, with the metrics of that run.

        Args:
          step: step of the checkpoint.
          target: checkpoints of the other run.
          rows: lines of its metrics up to the step.

        Raises:
          DamagedCheckpoint: it is not valid.
          VanishedCheckpoint: it was removed meanwhile.
          CharlmError: it cannot be written.
        """
        has_rows = self.open(step).rows is not None
        partial = target._folder / f"partial-{step}"
        target.clear_partial()
        try:
            shutil.copytree(self._path(step), partial)
            if has_rows:
                contents = json.loads((partial / "contents.json").read_bytes())
                contents["rows.jsonl"] = _size_and_hash(rows)
                atomic_write(partial / "rows.jsonl", rows)
                atomic_write(partial / "contents.json", json.dumps(contents).encode())
            partial.rename(target._path(step))
        except OSError as error:
            shutil.rmtree(partial, ignore_errors=True)
            if not os.path.lexists(self._path(step)):
                raise VanishedCheckpoint(step, "it was removed while it was copied") from error
            raise write_error(target._folder, error) from error

    def prune(self) -> None:
        """Remove all but the two latest, the best, the series that is kept, and damaged ones.

        A damaged checkpoint may have been the best. At the end of a run, the best without its last
        evaluation is kept too if a longer run would not have made that one.
        """
        losses, damages = self._losses()
        keep = {*self.steps()[-_LATEST_KEPT:], *losses[:1], *(error.step for error in damages)}
        latest, _ = self.latest_valid(items=())
        if latest is not None and (before := latest.meta.get(SCORES_BEFORE_END)):
            keep.add(before["best_step"])
        for step in self.steps():
            if step not in keep and not self._keeps(step):
                # Renamed first: a half-removed folder must not look like a checkpoint.
                self._path(step).rename(self._folder / f"partial-{step}")
        self.clear_partial()

    def clear_partial(self) -> None:
        """Remove checkpoints that a killed process left half written or half removed.

        One that was to be replaced gets its name back if its successor does not have that name.
        """
        for path in self._folder.glob("partial-*"):
            replaced = re.fullmatch("partial-0([0-9]+)", path.name)
            if not path.is_dir() or path.is_symlink():
                path.unlink()
            elif replaced and not os.path.lexists(self._path(int(replaced[1]))):
                path.rename(self._path(int(replaced[1])))
            else:
                shutil.rmtree(path)

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
        """Return the step of `latest`, `best` (the latest, if nothing was validated) or a number.

        A best checkpoint that is not there is a warning, and the best of the others is taken.

        Raises:
          CharlmError: there is no such checkpoint; the message lists the existing ones.
          DamagedCheckpoint: the latest cannot be read, so that the best is unknown.
        """
        steps = self.steps()
        if not steps:
            raise CharlmError("this run has no checkpoint yet: train it first")
        if which == "latest":
            return steps[-1]
        if which == "best":
            return self._best()
        step = parse_whole_number(which)
        if step is not None and step in steps:
            return step
        raise CharlmError(
            f"{self._folder.parent} has no checkpoint {which!r}: name best, latest or one of "
            f"{', '.join(map(str, steps))}"
        )

    def open(self, step: int, items: Collection[str] = tuple(_ITEMS)) -> Checkpoint:
        """Read a checkpoint, and verify each file that is read.

        Args:
          step: step of the checkpoint.
          items: what will be used, of `params`, `training` and `rows`; other files are not read.

        Raises:
          DamagedCheckpoint: a file is missing, or its size or content has changed.
          VanishedCheckpoint: the checkpoint is not there any more.
        """
        try:
            contents = self._read_contents(step)
            meta = self._parse_meta(step, self._read_file(step, "meta.json", contents))
            saved = _ITEMS if "best_step" in meta else _ARRAYS  # earlier versions had no rows
            files = {
                item: self._read_file(step, _ITEMS[item], contents)
                for item in items
                if item in saved
            }
        except DamagedCheckpoint as error:
            if not os.path.lexists(self._path(step)):
                raise VanishedCheckpoint(step, "it was removed while it was read") from error
            raise
        return Checkpoint(step, meta, files)

    def latest_valid(
        self, items: Collection[str] = tuple(_ITEMS)
    ) -> tuple[Checkpoint | None, list[DamagedCheckpoint]]:
        """Return the latest valid checkpoint, and the errors of the damaged ones after it."""
        for _ in range(_TRIES):
            damages: list[DamagedCheckpoint] = []
            for step in reversed(self.steps()):
                try:
                    return self.open(step, items), damages
                except VanishedCheckpoint:
                    break  # there are newer ones
                except DamagedCheckpoint as error:
                    damages.append(error)
            else:
                break
        return None, damages

    def open_chosen(self, which: str, items: Collection[str] = tuple(_ITEMS)) -> Checkpoint:
        """Read the checkpoint that `choose` returns; a run may be training meanwhile.

        Raises:
          CharlmError: see `choose` and `open`.
        """
        for _ in range(_TRIES):
            try:
                return self.open(self.choose(which), items)
            except VanishedCheckpoint as error:
                vanished = error
        raise vanished

    def _best(self) -> int:
        """Return the step of the best checkpoint."""
        steps = self.steps()
        latest, damages = self.latest_valid(items=())
        if latest is not None and not damages and latest.meta.get("best_step") is not None:
            best = int(latest.meta["best_step"])
            if best in steps:
                return best
            by_loss, _ = self._losses()
            chosen = by_loss[0] if by_loss else steps[-1]
            if best:
                warn_caller(
                    f"checkpoint {best}, the best of {self._folder.parent}, is not there: using "
                    f"{chosen} instead",
                )
            return chosen
        by_loss, damages = self._losses()
        if damages:
            raise damages[0]
        return by_loss[0] if by_loss else steps[-1]

    def _losses(self) -> tuple[list[int], list[DamagedCheckpoint]]:
        """Return steps by held-out loss, lowest and earliest first; and damaged checkpoints."""
        losses, damages = [], []
        for step in self.steps():
            try:
                loss_nats = self.open(step, items=()).meta["loss_nats"]
            except VanishedCheckpoint:
                continue
            except DamagedCheckpoint as error:
                damages.append(error)
            else:
                if loss_nats is not None:
                    losses.append((loss_nats, step))
        return [step for _, step in sorted(losses)], damages

    def _read_contents(self, step: int) -> dict[str, Any]:
        path = self._path(step) / "contents.json"
        try:
            data = b"" if path.is_symlink() else read_regular(path)
        except OSError as error:
            raise DamagedCheckpoint(step, "it has no valid contents.json") from error
        return _parse_json(step, "contents.json", data)

    def _read_file(self, step: int, name: str, contents: Mapping[str, Any]) -> bytes:
        """Return the verified content of a file; a link is not followed."""
        path = self._path(step) / name
        if not os.path.lexists(path):
            raise DamagedCheckpoint(step, f"{name} is missing")
        if name not in contents:
            raise DamagedCheckpoint(step, "it has no valid contents.json")
        try:
            data = None if path.is_symlink() else read_regular(path)
        except OSError:
            data = None
        if data is None or _size_and_hash(data) != contents[name]:
            raise DamagedCheckpoint(step, f"{name} has changed")
        return data

    def _parse_meta(self, step: int, data: bytes) -> dict[str, Any]:
        meta = _parse_json(step, "meta.json", data)
        try:
            meta = upgrade("checkpoint", meta, self._path(step) / "meta.json")
            is_sound = meta["step"] == step and _is_meta(meta)
        except NewerFormat:
            raise
        except (KeyError, TypeError, ValueError, AttributeError):
            is_sound = False
        if not is_sound:
            raise DamagedCheckpoint(step, "it has no valid meta.json")
        return meta

    def _path(self, step: int) -> Path:
        return self._folder / str(step)


def _is_meta(meta: Mapping[str, Any]) -> bool:
    """Return whether the values that this module wrote have their types."""
    loss_nats, best_step = meta["loss_nats"], meta.get("best_step")
    before = meta.get(SCORES_BEFORE_END)
    has_before = before is None or type(before["best_step"]) is int
    has_loss = loss_nats is None or (isinstance(loss_nats, float) and math.isfinite(loss_nats))
    has_best = best_step is None or (type(best_step) is int and best_step >= 0)
    return (
        has_loss
        and has_best
        and has_before
        and all(
            isinstance(dtype, str) and all(type(size) is int and size >= 0 for size in shape)
            for item in _ARRAYS
            for shape, dtype in meta["arrays"][item].values()
        )
    )


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
