"""Loss and gradient of a batch: at once, in pieces of its rows, or on several devices."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from charlm_jax.core.prng import key_from_row
from charlm_jax.core.types import ModelState, Params
from charlm_jax.models import LanguageModel
from charlm_jax.models.language_model import Read, Reading
from charlm_jax.models.losses import (
    masked_sum,
    negative_log_likelihood,
    sum_activation_penalty,
    sum_temporal_penalty,
)
from charlm_jax.training.devices import (
    BY_ROWS,
    EVERYWHERE,
    ONE_DEVICE,
    ROWS,
    Devices,
)
from charlm_jax.training.divided_model import (
    gather_weights,
    weight_specs,
    with_gathered_weights,
)


class Batch(NamedTuple):
    """Training data of one update, or some of its rows.

    Attributes:
      inputs_BT: ids, int32.
      targets_BT: the ids that follow them.
      mask_B: False for rows that do not count.
      fresh_B: True for rows that start from the model's initial state.
      key: key for dropout; it draws from the first of the rows on.
    """

    inputs_BT: jax.Array
    targets_BT: jax.Array
    mask_B: jax.Array
    fresh_B: jax.Array
    key: jax.Array

    @property
    def mask_BT(self) -> jax.Array:
        """The mask of every position."""
        return jnp.broadcast_to(self.mask_B[:, None], self.inputs_BT.shape)


class Penalties(NamedTuple):
    """Penalties on the outputs of a model's last layer, which training adds to the loss.

    Attributes:
      read: forward pass of the model that returns these outputs.
      activation: weight of their mean square; see `losses.sum_activation_penalty`.
      temporal: weight of the mean square of their change; see `losses.sum_temporal_penalty`.
    """

    read: Read
    activation: float
    temporal: float


class BatchLoss(NamedTuple):
    """Loss of a batch, and the states at the end of its rows.

    Attributes:
      loss_nats: mean loss over the characters that count; of some rows, their share of it.
      penalty: what training adds to it, or the share of it; None if there are no penalties.
      end: final model state of the rows.
    """

    loss_nats: jax.Array
    penalty: jax.Array | None
    end: ModelState

    @property
    def minimized(self) -> jax.Array:
        """The sum of loss and penalty."""
        return self.loss_nats if self.penalty is None else self.loss_nats + self.penalty


class BatchGradient(NamedTuple):
    """Loss of a batch, its gradient, and the states at the end of its rows.

    Attributes:
      loss_nats: mean loss over the characters that count; of some rows, their share of it.
      gradient: gradient of the loss and its penalties with respect to the parameters.
      end: final model state of the rows; () if the loader carries none over.
    """

    loss_nats: jax.Array
    gradient: Params
    end: ModelState


GradientOfBatch = Callable[[Params, ModelState, Batch], BatchGradient]
"""(params, carried state, batch) -> loss, gradient and final state of the batch."""

GradientOfRows = Callable[[Params, ModelState, Batch, jax.Array], BatchGradient]
"""(params, carried state of the rows, rows, characters of the whole batch) -> their shares."""


def count_characters(batch: Batch) -> jax.Array:
    """Return the number of a batch's characters that count, float32; 1 if there are none."""
    return jnp.maximum(jnp.sum(batch.mask_BT.astype(jnp.float32)), 1.0)


def initial_batch_state(
    model: LanguageModel, carried: ModelState, fresh_B: jax.Array, *, context: int
) -> ModelState:
    """Return the state that the rows of a batch start from: carried over, or initial if fresh.

    Args:
      model: model that the state belongs to.
      carried: final state of the previous batch; () if no state is carried over.
      fresh_B: True for rows that start from the initial state.
      context: number of past positions that an attention layer caches.
    """
    initial = model.initial_state(len(fresh_B), context)
    if not jax.tree.leaves(carried):
        return initial

    def choose(first: jax.Array, on: jax.Array) -> jax.Array:
        return jnp.where(jnp.expand_dims(fresh_B, range(1, on.ndim)), first, on)

    return jax.tree.map(choose, initial, carried)


def loss_of_batch(
    model: LanguageModel,
    params: Params,
    start: ModelState,
    batch: Batch,
    characters: jax.Array,
    penalties: Penalties | None = None,
) -> BatchLoss:
    """Return the cross-entropy of the characters that count, the penalties, and the final state.

    Args:
      model: model to train.
      params: its weights.
      start: state before the first position.
      batch: a batch, or some of its rows.
      characters: number that sums are divided by, that of the whole batch: the losses of its
        rows add up to the mean, and their gradients to its gradient.
      penalties: penalties of training; None for none.
    """
    penalty = None
    if penalties is None:
        logits_BTV, end = model.apply(params, batch.inputs_BT, start, key=batch.key)
    else:
        reading, end = penalties.read(params, batch.inputs_BT, start, key=batch.key)
        logits_BTV = reading.logits_BTV
        penalty = _penalty(reading, batch.mask_BT, characters, penalties)
    nll_BT = negative_log_likelihood(logits_BTV, batch.targets_BT)
    return BatchLoss(masked_sum(nll_BT, batch.mask_BT) / characters, penalty, end)


def _penalty(
    reading: Reading, mask_BT: jax.Array, characters: jax.Array, penalties: Penalties
) -> jax.Array:
    """Return the weighted means over characters, and over pairs of successive ones."""
    length = mask_BT.shape[1]
    pairs = characters * max(length - 1, 1) / length
    activation = sum_activation_penalty(reading.dropped_BTD, mask_BT) / characters
    temporal = sum_temporal_penalty(reading.output_BTD, mask_BT) / pairs
    return penalties.activation * activation + penalties.temporal * temporal


def loss_and_gradient(
    model: LanguageModel,
    params: Params,
    start: ModelState,
    batch: Batch,
    characters: jax.Array,
    penalties: Penalties | None = None,
) -> tuple[BatchLoss, Params]:
    """Return the result of `loss_of_batch`, whose arguments these are, and its gradient."""

    def minimized(params: Params) -> tuple[jax.Array, BatchLoss]:
        loss = loss_of_batch(model, params, start, batch, characters, penalties)
        return loss.minimized, loss

    gradient, loss = jax.grad(minimized, has_aux=True)(params)
    return loss, gradient


def make_gradient_of_rows(
    model: LanguageModel, *, context: int, penalties: Penalties | None = None
) -> GradientOfRows:
    """Return a function that computes the shares of some rows at once.

    Args:
      model: model to train.
      context: past positions that an attention layer caches; 0 if no state is carried over.
      penalties: penalties of training; None for none.
    """

    def compute(
        params: Params, carried: ModelState, batch: Batch, characters: jax.Array
    ) -> BatchGradient:
        start = initial_batch_state(model, carried, batch.fresh_B, context=context)
        loss, gradient = loss_and_gradient(model, params, start, batch, characters, penalties)
        end = loss.end if jax.tree.leaves(carried) else carried
        return BatchGradient(loss.loss_nats, gradient, end)

    return compute


def in_microbatches(compute: GradientOfRows, *, count: int) -> GradientOfRows:
    """Return a function that computes the same in `count` pieces, one after the other.

    The memory for activations is that of a piece, a `count`-th of the rows. Dropout of a row does
    not depend on the pieces, and losses and gradients are equal up to rounding.

    Args:
      compute: function that computes a piece.
      count: number of pieces, which divides the rows; 1 returns `compute` itself.
    """
    if count == 1:
        return compute

    def compute_pieces(
        params: Params, carried: ModelState, batch: Batch, characters: jax.Array
    ) -> BatchGradient:
        rows = len(batch.mask_B) // count

        def cut(tree: Any) -> Any:
            return jax.tree.map(lambda x: x.reshape(count, rows, *x.shape[1:]), tree)

        def add(
            sums: tuple[jax.Array, Params], piece: tuple[jax.Array, ModelState, Any]
        ) -> tuple[tuple[jax.Array, Params], ModelState]:
            first, carried, (inputs_BT, targets_BT, mask_B, fresh_B) = piece
            key = key_from_row(batch.key, first)
            some = Batch(inputs_BT, targets_BT, mask_B, fresh_B, key)
            loss, gradient, end = compute(params, carried, some, characters)
            return jax.tree.map(jnp.add, sums, (loss, gradient)), end

        pieces = rows * jnp.arange(count), cut(carried), cut(batch[:-1])
        nothing = jnp.zeros(()), jax.tree.map(jnp.zeros_like, params)
        (loss, gradient), ends = jax.lax.scan(add, nothing, pieces)
        end = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), ends)
        return BatchGradient(loss, gradient, end)

    return compute_pieces


def over_devices(compute: GradientOfRows, *, devices: Devices, specs: Params) -> GradientOfRows:
    """Return a function that computes the same on several devices, each with some of the rows.

    The devices' losses and gradients are summed in one all-reduce, except the gradients of sharded
    weights, which `compute` sums. Dropout of a row does not depend on the number of devices.

    Args:
      compute: function that computes the rows of a device.
      devices: several devices, whose number divides the rows.
      specs: division of each weight.
    """

    def compute_local(
        params: Params, carried: ModelState, batch: Batch, characters: jax.Array
    ) -> BatchGradient:
        first = jax.lax.axis_index(ROWS) * len(batch.mask_B)
        batch = batch._replace(key=key_from_row(batch.key, first))
        loss, gradient, end = compute(params, carried, batch, characters)
        # None for weights that are sharded.
        whole = jax.tree.map(lambda x, spec: x if spec == EVERYWHERE else None, gradient, specs)
        summed: Any = jax.lax.psum((loss, whole), ROWS)  # type: ignore[no-untyped-call]
        loss, whole = summed
        gradient = jax.tree.map(lambda x, total: x if total is None else total, gradient, whole)
        return BatchGradient(loss, gradient, end)

    rows: Any = BY_ROWS
    everywhere: Any = EVERYWHERE
    of_batch = Batch(rows, rows, rows, rows, key=everywhere)
    # With check_vma JAX would sum the gradient of a replicated array by itself, once a microbatch.
    return jax.shard_map(
        compute_local,
        mesh=devices.mesh,
        in_specs=(specs, rows, of_batch, everywhere),
        out_specs=BatchGradient(everywhere, specs, rows),
        check_vma=False,
    )


def make_gradient_of_batch(
    model: LanguageModel,
    *,
    context: int = 0,
    penalties: Penalties | None = None,
    microbatches: int = 1,
    devices: Devices = ONE_DEVICE,
) -> GradientOfBatch:
    """Return a function that computes the loss and the gradient of a batch.

    Args:
      model: model to train.
      context: past positions that an attention layer caches; 0 if no state is carried over.
      penalties: penalties of training; None for none.
      microbatches: number of pieces that the rows of a device are computed in.
      devices: devices among which the rows, and sharded weights, are divided.
    """
    specs = None if devices.mesh is None else weight_specs(model, devices)
    if specs is not None:
        model = gather_weights(model, specs)
        if penalties is not None:
            penalties = penalties._replace(read=with_gathered_weights(penalties.read, specs))
    of_rows = make_gradient_of_rows(model, context=context, penalties=penalties)
    compute = in_microbatches(of_rows, count=microbatches)
    if specs is not None:
        compute = over_devices(compute, devices=devices, specs=specs)

    def compute_batch(params: Params, carried: ModelState, batch: Batch) -> BatchGradient:
        return compute(params, carried, batch, count_characters(batch))

    return compute_batch
