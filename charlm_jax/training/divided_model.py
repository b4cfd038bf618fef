"""Models whose weights are sharded, or whose rows are divided among devices."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import PartitionSpec

from charlm_jax.core.prng import root_key
from charlm_jax.core.types import ModelState, Params
from charlm_jax.models import LanguageModel
from charlm_jax.models.dropout import DropoutKey
from charlm_jax.training.devices import BY_ROWS, EVERYWHERE, ROWS, Devices


def weight_specs(model: LanguageModel, devices: Devices) -> Params:
    """Return the division of each of a model's weights among devices."""
    specs: Params = devices.specs(jax.eval_shape(model.init, root_key(0)))
    return specs


def gather_weights(model: LanguageModel, specs: Params) -> LanguageModel:
    """Return a model that reads sharded weights, in a function of one device (`jax.shard_map`).

    Each weight is gathered before it is used. The backward pass does not keep it, but gathers it
    again, except the kernels that an LSTM's own gradient keeps. The gradient of a weight is summed
    over the devices, of which each gets its part. This is stage 3 of ZeRO, or FSDP.

    Args:
      model: model that reads whole weights.
      specs: division of each weight.

    Source: Rajbhandari et al. (2020).
    """
    return model._replace(apply=with_gathered_weights(model.apply, specs))


def with_gathered_weights(
    read: Callable[..., tuple[Any, ModelState]], specs: Params
) -> Callable[..., Any]:
    """Return a forward pass that gathers sharded weights, as in `gather_weights`.

    Args:
      read: forward pass of a model that reads whole weights.
      specs: division of each weight.
    """
    if all(spec == EVERYWHERE for spec in jax.tree.leaves(specs)):
        return read

    def gather(x: jax.Array, spec: PartitionSpec) -> jax.Array:
        if spec == EVERYWHERE:
            return x
        axis = tuple(spec).index(ROWS)
        whole: jax.Array = jax.lax.all_gather(x, ROWS, axis=axis, tiled=True)
        return whole

    def read_divided(
        params: Params, ids_BT: jax.Array, state: ModelState, *, key: DropoutKey | None = None
    ) -> tuple[Any, ModelState]:
        def read_whole(params: Params) -> tuple[Any, ModelState]:
            return read(jax.tree.map(gather, params, specs), ids_BT, state, key=key)

        result: tuple[Any, ModelState] = jax.checkpoint(read_whole, policy=_is_kept)(params)
        return result

    return read_divided


def _is_kept(primitive: Any, *_: Any, **__: Any) -> bool:
    """Return whether the backward pass keeps an array, given what computed it."""
    return bool(primitive.name != "all_gather")


def divide_rows(model: LanguageModel, devices: Devices) -> LanguageModel:
    """Return a model that divides its rows among devices, for evaluation and sampling.

    A number of rows that the devices do not divide, such as one, is computed on each of them.

    Args:
      model: model of one device, without dropout.
      devices: devices of the weights; with a single one, the model itself is returned.
    """
    if devices.mesh is None:
        return model
    specs = weight_specs(model, devices)
    local = gather_weights(model, specs)

    def apply(
        params: Params, ids_BT: jax.Array, state: ModelState, *, key: DropoutKey | None = None
    ) -> tuple[jax.Array, ModelState]:
        assert key is None, "dropout is for training"
        rows = EVERYWHERE if len(ids_BT) % devices.number else BY_ROWS
        read = jax.shard_map(
            local.apply,
            mesh=devices.mesh,
            in_specs=(specs, rows, rows),
            out_specs=(rows, rows),
            check_vma=False,
        )
        return read(params, ids_BT, state)

    return model._replace(apply=apply)
