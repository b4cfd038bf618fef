"""Weights of a trained model, from the checkpoints of a run or from an exported model."""

import contextlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from charlm_jax.config.schema import Config
from charlm_jax.core.caller_warnings import warn_caller
from charlm_jax.core.errors import CharlmError
from charlm_jax.core.trees import leaves_by_path
from charlm_jax.core.types import Params
from charlm_jax.data.vocabulary import Vocabulary
from charlm_jax.storage.checkpoint import Checkpoint, Checkpoints, DamagedCheckpoint
from charlm_jax.storage.safetensors_format import read_exported
from charlm_jax.storage.seal import check_files, read_seal
from charlm_jax.storage.workdir import Workdir


class Weights(NamedTuple):
    """Weights with their step and kind.

    Attributes:
      params: a tree of arrays.
      checkpoint: step of the weights.
      kind: `raw`, or `average` for a moving average.
    """

    params: Params
    checkpoint: int
    kind: str


def describe_average(kind: str) -> str:
    """Return the suffix of a checkpoint's label if its weights are a moving average.

    >>> print("checkpoint 7" + describe_average("average"))
    checkpoint 7, averaged weights
    """
    return ", averaged weights" if kind == "average" else ""


def read_weights(
    workdir: Workdir,
    config: Config,
    vocabulary: Vocabulary,
    like: Params,
    *,
    checkpoint: str,
    kind: str | None,
) -> Weights:
    """Read the weights of a run or of an exported model.

    Args:
      workdir: folder of the run, or of the exported model.
      config: training config.
      vocabulary: symbols of the model.
      like: tree whose leaves have the required shapes and dtypes.
      checkpoint: `best` (the latest, if nothing was validated), `latest`, or a step. If the latest
        is damaged, `latest` falls back to the one before, with a warning.
      kind: `raw` or `average`; if None, the average if there is one.

    Raises:
      CharlmError: there is no such checkpoint or kind, it is damaged or has weights that are not
        finite, or config or symbols are not those that it was trained with.
    """
    if workdir.is_exported:
        exported = Weights(*read_exported(workdir, like, checkpoint=checkpoint, weights=kind))
        refuse_non_finite(exported.params, str(workdir.exported_file))
        return exported
    averages = config.optimizer.averages
    kinds = ("average", "raw") if averages else ("raw",)
    kind = kinds[0] if kind is None else kind
    if kind not in kinds:
        raise CharlmError(f"{workdir.path} has no weights={kind!r}; available: {', '.join(kinds)}")
    if not workdir.checkpoints.exists():
        raise CharlmError(
            f"no weights at {workdir.path}: it has neither {workdir.checkpoints.name}/ nor "
            f"{workdir.exported_file.name}"
        )
    checkpoints = Checkpoints(workdir.checkpoints)
    if not checkpoints.steps():
        raise _no_checkpoint(workdir)
    try:
        opened = _open(checkpoints, checkpoint)
        seal = read_seal(opened)
        check_files(workdir, seal, config, vocabulary)
        saved = opened.params({"raw": like, "average": like} if averages else like)
    except DamagedCheckpoint as error:
        raise CharlmError(f"{error}; {_others(checkpoints)}") from error
    if seal.symbols is None:
        warn_caller(
            f"checkpoint {seal.step} of {workdir.path} was saved by an earlier version, which did "
            f"not seal symbols and metrics: {workdir.vocabulary_file.name} and "
            f"{workdir.metrics_file.name} are read as they are",
        )
    params = saved[kind] if averages else saved
    refuse_non_finite(params, f"checkpoint {opened.step} of {workdir.path}")
    return Weights(jax.tree.map(jnp.asarray, params), opened.step, kind)


def refuse_non_finite(params: Params, source: str) -> None:
    """Refuse weights with a value that is not finite, which would give a meaningless text.

    Raises:
      CharlmError: there is one; the message names its array.
    """
    for path, leaf in leaves_by_path(params).items():
        if not np.isfinite(np.asarray(leaf, np.float32)).all():
            raise CharlmError(
                f"{source} has weights that are not finite, first in {path}: take another "
                f"checkpoint"
            )


def _open(checkpoints: Checkpoints, which: str) -> Checkpoint:
    if which != "latest":
        return checkpoints.open_chosen(which, items=["params"])
    latest, damages = checkpoints.latest_valid(items=["params"])
    if latest is None:
        raise damages[0]
    for damage in damages:
        warn_caller(f"{damage}: using checkpoint {latest.step} instead")
    return latest


def _others(checkpoints: Checkpoints) -> str:
    """List the valid checkpoints, in words, as alternatives to a damaged one."""
    sound = []
    for step in checkpoints.steps():
        with contextlib.suppress(DamagedCheckpoint):
            read_seal(checkpoints.open(step, items=["params"]))
            sound.append(str(step))
    if not sound:
        return "no other checkpoint is valid"
    noun, verb = ("checkpoint", "is") if len(sound) == 1 else ("checkpoints", "are")
    return f"{noun} {', '.join(sound)} {verb} valid"


def _no_checkpoint(workdir: Workdir) -> CharlmError:
    """Return the error for a run that has not saved a checkpoint, or failed before its first."""
    if not workdir.fault.is_dir():
        return CharlmError(f"the run at {workdir.path} has no checkpoint yet: train it first")
    return CharlmError(
        f"the run at {workdir.path} failed before its first checkpoint: a loss or gradient was not "
        f"finite; charlm replay --workdir={workdir.path} shows where, from {workdir.fault}"
    )
