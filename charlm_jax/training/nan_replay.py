"""NaN replay: save a step with a non-finite loss or gradient, and repeat it array by array."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from charlm_jax.config.length_schedule import Phase, phase_at
from charlm_jax.config.schema import Config
from charlm_jax.core.errors import CharlmError
from charlm_jax.core.numerics import fixed_numerics
from charlm_jax.core.prng import IMPLEMENTATION, root_key
from charlm_jax.core.trees import leaves_by_path
from charlm_jax.data.vocabulary import Vocabulary
from charlm_jax.models import LanguageModel, build_model, rematerialize
from charlm_jax.models.losses import negative_log_likelihood
from charlm_jax.storage.checkpoint import Checkpoint, Checkpoints, DamagedCheckpoint
from charlm_jax.storage.mixer_sources import find_recorded_mixers
from charlm_jax.storage.seal import check_files, read_seal, sealed_values
from charlm_jax.storage.workdir import Workdir
from charlm_jax.training.batch_gradient import (
    Batch,
    Penalties,
    count_characters,
    initial_batch_state,
    loss_and_gradient,
)
from charlm_jax.training.train_step import TrainState
from charlm_jax.training.trainer import (
    Trainer,
    build_optimizer,
    build_penalties,
    build_train_step,
)

_FORWARD = "forward"  # prefix of the stages whose arrays are (B, T, ...)


def write_fault(workdir: Workdir, trainer: Trainer, state: TrainState, batch: Batch) -> None:
    """Save the state before an update that failed, and its batch.

    Raises:
      CharlmError: the files cannot be written.
    """
    step = int(state.step) + 1
    batch = batch._replace(key=jax.random.key_data(batch.key))
    Checkpoints(workdir.fault).save(
        step,
        params=state.params,
        training=_training(state, batch),
        meta={
            "total_steps": trainer.total_steps,
            **sealed_values(trainer.config, trainer.dataset),
        },
        loss_nats=None,
    )


def _training(state: TrainState, batch: Batch) -> dict[str, Any]:
    """Return the arrays of a saved step that are not weights."""
    return {
        "step": state.step,
        "opt_state": state.opt_state,
        "carried": state.carried,
        "batch": batch._asdict(),
    }


class ArrayStats(NamedTuple):
    """Statistics of one array of a step.

    Attributes:
      name: stage and path, such as `forward layer_0/cell` or `gradient/embedding`.
      largest: largest absolute value among the finite values; 0 if no value is finite.
      bad: number of non-finite values.
      size: number of values.
      first: index of the first non-finite value; None if all are finite. Arrays over positions are
        searched by position first, then by row.
    """

    name: str
    largest: float
    bad: int
    size: int
    first: tuple[int, ...] | None


class Replay(NamedTuple):
    """Result of a repeated step.

    Attributes:
      step: number of the step, from 1.
      loss_nats: loss of the repeated step.
      gradient_norm: global norm of its gradient.
      arrays: statistics of its arrays, in the order of computation.
      ids_BT: rows of its batch.
      vocabulary: vocabulary of the run.
    """

    step: int
    loss_nats: float
    gradient_norm: float
    arrays: list[ArrayStats]
    ids_BT: np.ndarray
    vocabulary: Vocabulary

    @property
    def first_bad(self) -> ArrayStats | None:
        """First array with a non-finite value; None if all are finite."""
        return next((seen for seen in self.arrays if seen.bad), None)

    def text_before(self, seen: ArrayStats) -> str | None:
        """Return the text a row had read at its first non-finite value; None if not applicable."""
        if not seen.name.startswith(_FORWARD) or seen.first is None:
            return None
        row, position = seen.first[:2]
        return self.vocabulary.shown(self.vocabulary.decode(self.ids_BT[row, : position + 1]))


@fixed_numerics()
def replay_fault(workdir: Path | str) -> Replay:
    """Repeat the step at which a run failed last, and measure each of its arrays.

    Raises:
      CharlmError: there is no run, it did not fail, or the saved step is damaged or was made with
        another config or other symbols.
    """
    run_dir = Workdir(workdir)
    run_dir.refuse_exported()
    run_dir.check_readable()
    config = run_dir.read_config()
    vocabulary = run_dir.read_vocabulary().with_unit(config.data.unit)
    kept = Checkpoints(run_dir.fault)
    if not kept.steps():
        raise CharlmError(f"the run at {run_dir.path} has not failed: there is nothing to replay")
    number = max(kept.steps(), key=lambda step: (run_dir.fault / f"{step}").stat().st_mtime_ns)
    find_recorded_mixers(run_dir, config.model)
    model = build_model(config.model, len(vocabulary))
    try:
        checkpoint = kept.open(number)
    except DamagedCheckpoint as error:
        raise CharlmError(f"{run_dir.fault}/{number} cannot be read: {error}") from error
    if "config" in checkpoint.meta:  # earlier versions did not save it
        check_files(run_dir, read_seal(checkpoint), config, vocabulary)
    total_steps = checkpoint.meta.get("total_steps")
    if not isinstance(total_steps, int):
        raise CharlmError(f"{run_dir.fault}/{number} is not the saved step of a failed run")
    _, optimizer = build_optimizer(config, total_steps)
    phase = phase_at(config.data.phases, number - 1)
    state, batch = _restore(checkpoint, _fault_shapes(config, phase, model, optimizer))
    penalties = build_penalties(config, len(vocabulary))
    train_step = build_train_step(config, model, penalties, optimizer, phase)
    _, metrics = jax.jit(train_step)(state, batch)
    if length := config.train.segment_length:
        model = rematerialize(model, segment_length=length)
    context = phase.carried_context
    stages = _stages(model, optimizer, state, batch, context=context, penalties=penalties)
    return Replay(
        step=number,
        loss_nats=float(metrics.loss_nats),
        gradient_norm=float(metrics.gradient_norm),
        arrays=[seen for stage, tree in stages.items() for seen in _look(stage, tree)],
        ids_BT=np.asarray(batch.inputs_BT),
        vocabulary=vocabulary,
    )


def _fault_shapes(
    config: Config, phase: Phase, model: LanguageModel, optimizer: optax.GradientTransformation
) -> tuple[TrainState, Batch]:
    """Return the shapes and dtypes of the state and the batch of a step."""
    rows, length = phase.batch_size, phase.sequence_length

    def make(key: jax.Array) -> tuple[TrainState, Batch]:
        carries = config.data.carries_state
        carried = model.initial_state(rows, phase.carried_context) if carries else ()
        ids_BT, flags_B = jnp.zeros((rows, length), jnp.int32), jnp.zeros(rows, bool)
        batch = Batch(ids_BT, ids_BT, flags_B, flags_B, jax.random.key_data(key))
        return TrainState.create(model.init(key), optimizer, carried), batch

    return jax.eval_shape(make, root_key(0))


def _restore(checkpoint: Checkpoint, like: tuple[TrainState, Batch]) -> tuple[TrainState, Batch]:
    state, batch = like
    params = checkpoint.params(state.params)
    training = checkpoint.training(_training(state, batch))
    found = jax.tree.map(jnp.asarray, {"params": params, **training})
    batch = Batch(**found.pop("batch"))
    key = jax.random.wrap_key_data(batch.key, impl=IMPLEMENTATION)
    return TrainState(**found), batch._replace(key=key)


def _stages(
    model: LanguageModel,
    optimizer: optax.GradientTransformation,
    state: TrainState,
    batch: Batch,
    *,
    context: int,
    penalties: Penalties | None,
) -> Mapping[str, Any]:
    """Return the arrays of an update, computed without jit, in the order of computation."""
    start = initial_batch_state(model, state.carried, batch.fresh_B, context=context)
    characters = count_characters(batch)
    loss, gradient = loss_and_gradient(model, state.params, start, batch, characters, penalties)
    captured = dict(model.inspect(state.params, batch.inputs_BT, start, key=batch.key))
    logits_BTV = captured.pop("logits")
    update, opt_state = optimizer.update(gradient, state.opt_state, state.params)
    params = optax.apply_updates(state.params, update)
    return {
        "before params": state.params,
        "before optimizer": state.opt_state,
        "before state": start,
        **{f"{_FORWARD} {name}": layer for name, layer in captured.items()},
        f"{_FORWARD} logits": logits_BTV,
        f"{_FORWARD} loss of a character": negative_log_likelihood(logits_BTV, batch.targets_BT),
        "after state": loss.end,
        "loss": loss.loss_nats,
        **({} if loss.penalty is None else {"penalty": loss.penalty}),
        "gradient": gradient,
        "norm of gradient": optax.tree.norm(gradient),
        "after optimizer": opt_state,
        "after params": params,
        "after norm of params": optax.tree.norm(params),
    }


def _look(stage: str, tree: Any) -> list[ArrayStats]:
    if not stage.startswith(_FORWARD):
        leaves = leaves_by_path(tree)
        return [_measure(f"{stage}/{name}".rstrip("/"), x) for name, x in leaves.items()]
    arrays = tree if isinstance(tree, Mapping) else {"": tree}  # in the order of computation
    seen = [_measure(f"{stage}/{n}".rstrip("/"), x, by_position=True) for n, x in arrays.items()]
    # A scan computes all arrays of a layer position by position.
    return sorted(seen, key=lambda one: one.first[1] if one.first else math.inf)


def _measure(name: str, x: Any, *, by_position: bool = False) -> ArrayStats:
    values = np.asarray(x, np.float64)
    is_bad = ~np.isfinite(values)
    finite = np.abs(values[~is_bad])
    first = None
    if is_bad.any():
        # (B, T, ...) is searched position by position.
        searched = np.swapaxes(is_bad, 0, 1) if by_position else is_bad
        index = [int(i) for i in np.argwhere(searched)[0]]
        if by_position:
            index[0], index[1] = index[1], index[0]
        first = tuple(index)
    return ArrayStats(name, float(finite.max(initial=0.0)), int(is_bad.sum()), values.size, first)
