"""Checkpoints of a run: saved by orbax, read back only where they fit.

A checkpoint has three items. `meta` is JSON: whatever the run wants to know before it touches the
arrays. `params` is the model; `training` is the rest of what an update needs. So drawing text reads
a third of what training wrote.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as managers

from charlm_jax.types import CharlmError

Tree = TypeVar("Tree")

ARRAYS = ("params", "training")


class Checkpoints:
    """The folder of a run's checkpoints: the two latest and, where losses are given, the best.

    Use it as a context manager, so that what is being written is finished.
    """

    def __init__(self, folder: Path) -> None:
        logging.getLogger("absl").setLevel(logging.ERROR)
        policy = managers.AnyPreservationPolicy(
            [
                managers.LatestN(2),
                managers.BestN(
                    n=1,
                    get_metric_fn=lambda metrics: -metrics["loss_nats"],
                    keep_checkpoints_without_metrics=False,
                ),
            ]
        )
        self._manager = ocp.CheckpointManager(
            folder.resolve(),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=policy,
                best_fn=lambda metrics: metrics["loss_nats"],
                best_mode="min",
                enable_async_checkpointing=False,
            ),
            item_names=("meta", *ARRAYS),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._manager.close()

    def steps(self) -> list[int]:
        """Steps of the checkpoints that are kept, ascending."""
        return sorted(self._manager.all_steps())

    def save(
        self,
        step: int,
        *,
        params: Any,
        training: Any,
        meta: Mapping[str, Any],
        loss_nats: float | None,
    ) -> None:
        """Write a checkpoint; one of the same step is left as it is.

        Args:
          step: its name.
          params: a tree of arrays. Both trees are copied to the host first, so their buffers may
            be donated as soon as this returns.
          training: a tree of arrays.
          meta: JSON values.
          loss_nats: the held-out loss, by which the best is kept; None where there is none.
        """
        if step in self._manager.all_steps():
            return
        trees = {"params": params, "training": training}
        trees = {name: jax.tree.map(np.array, tree) for name, tree in trees.items()}
        schema = {name: _schema(tree) for name, tree in trees.items()}
        items = {name: ocp.args.StandardSave(tree) for name, tree in trees.items()}
        self._manager.save(
            step,
            args=ocp.args.Composite(meta=ocp.args.JsonSave({**meta, "arrays": schema}), **items),
            metrics=None if loss_nats is None else {"loss_nats": loss_nats},
        )

    def choose(self, which: str) -> int:
        """The step of `latest`, of `best` (the latest, if nothing was validated), or of a number.

        Raises:
          CharlmError: there is no such checkpoint; the message lists those that there are.
        """
        steps = self.steps()
        if not steps:
            raise CharlmError("this run has no checkpoint yet: train it first")
        if which == "latest":
            return steps[-1]
        if which == "best":
            best = self._manager.best_step()
            return steps[-1] if best is None else best
        if which.isdecimal() and int(which) in steps:
            return int(which)
        raise CharlmError(
            f"no checkpoint {which!r}: name best, latest or one of {', '.join(map(str, steps))}"
        )

    def read_meta(self, step: int) -> dict[str, Any]:
        """The JSON part."""
        args = ocp.args.Composite(meta=ocp.args.JsonRestore())
        return dict(self._manager.restore(step, args=args)["meta"])

    def restore(self, step: int, item: str, like: Tree) -> Tree:
        """The item `params` or `training`, as NumPy arrays in a tree like `like`.

        Args:
          step: the checkpoint.
          item: which of its trees.
          like: a tree whose leaves have shape and dtype.

        Raises:
          CharlmError: the checkpoint holds other arrays; the message names the first. (orbax
            itself would cast a dtype and accept another shape without a word.)
        """
        saved = {name: fit for name, *fit in self.read_meta(step)["arrays"][item]}
        wanted = {name: fit for name, *fit in _schema(like)}
        for name in sorted(saved.keys() | wanted.keys()):
            if saved.get(name) != wanted.get(name):
                raise CharlmError(
                    f"checkpoint {step} does not fit this model: {name} is "
                    f"{_describe(saved.get(name))} there and {_describe(wanted.get(name))} here"
                )
        template = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), like)
        args = ocp.args.Composite(**{item: ocp.args.StandardRestore(template)})
        return self._manager.restore(step, args=args)[item]


def _schema(tree: Any) -> list[list[Any]]:
    """Path, shape and dtype of every leaf, as JSON would give them back."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [
        [jax.tree_util.keystr(path, simple=True, separator="/"), list(x.shape), str(x.dtype)]
        for path, x in leaves
    ]


def _describe(fit: list[Any] | None) -> str:
    return "missing" if fit is None else f"{fit[1]} of shape {tuple(fit[0])}"
