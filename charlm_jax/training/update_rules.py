"""Update rules other than Adam: Muon and schedule-free AdamW; and the average of weights.

`optimizer.py` has Adam, whose arguments are explained there.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax.contrib import (
    MuonDimensionNumbers,
    ScheduleFreeState,
    schedule_free,
    schedule_free_eval_params,
)
from optax.contrib import muon as orthogonalized_momentum

from charlm_jax.core.types import Params
from charlm_jax.models.language_model import layer_name
from charlm_jax.training.optimizer import build_adam, weight_decay_mask

_MOMENTUM = 0.95
_RMS = 0.2  # of an update, as Adam's usually is, so that both have one learning rate

# Kernels that are one matrix however wide they are, by layer and by the beginning of their names:
# their parts have different widths, or they have no parts.
_WHOLE = {"gated_deltanet": "input", "mamba2": "input", "mlstm": "input", "lstm": "round_"}


def build_muon(
    schedule: optax.Schedule,
    *,
    width: int,
    layers: Sequence[str],
    beta1: float,
    beta2: float,
    epsilon: float,
    weight_decay: float,
) -> optax.GradientTransformation:
    """Build Muon for the matrices of layers, and Adam for all other weights.

    A matrix moves by its momentum (0.95, Nesterov) with all singular values made about equal,
    scaled so that the root mean square of an update is 0.2 of the learning rate. Kernels that lie
    side by side, as those of an LSTM's gates, and the blocks of a block-diagonal one are matrices
    of their own, but not the parts of the `input` kernel of `gated_deltanet`, `mamba2` and `mlstm`.
    The embedding, the output layer, convolutions, biases and norms are updated by Adam.

    The joint kernel of an LSTM, (D, 4H), is thus four matrices (D, H). This is our choice: gates of
    one matrix share its singular values, so that a gate with large gradients takes most of the
    update. As optax does it, momentum and gradient are corrected for their start at 0 before they
    are combined, as in Nadam (Dozat 2016); Jordan et al. correct neither. This changes the share of
    the gradient in the first steps.

    Args:
      schedule: step -> rate, for both.
      width: number of units of a layer, which is the width of a gate.
      layers: names of the model's layers.
      beta1: Adam's decay of the mean of gradients; the momentum of matrices does not depend on it.
      beta2: Adam's decay of the mean of squared gradients.
      epsilon: term that keeps Adam's quotient finite.
      weight_decay: decay of the weights selected by `weight_decay_mask`.

    Source: Jordan et al. 2024 (Muon: An optimizer for hidden layers); the scale is from Liu et al.
    2025 (Muon is scalable for LLM training), section 2.2.
    """

    def matrices(params: Params) -> Params:
        return jax.tree.map(lambda x: MuonDimensionNumbers(x.ndim - 2, x.ndim - 1), params)

    muon = orthogonalized_momentum(
        schedule,
        beta=_MOMENTUM,
        weight_decay=weight_decay,
        consistent_rms=_RMS,
        muon_weight_dimension_numbers=matrices,
    )
    adam = build_adam(
        schedule,
        beta1=beta1,
        beta2=beta2,
        epsilon=epsilon,
        epsilon_hat=False,
        weight_decay=weight_decay,
    )
    return optax.partition({"muon": split_gates(muon, width, layers), "adam": adam}, _rule_of_each)


def _rule_of_each(params: Params) -> Params:
    """Return `muon` for the matrices of layers, `adam` for other weights."""

    def rule(path: tuple[jax.tree_util.DictKey, ...], weights: jax.Array) -> str:
        names = [str(key.key) for key in path]
        is_matrix = weights.ndim > 1 and names[-1].endswith("kernel") and names[-2] != "convolution"
        return "muon" if is_matrix and names[0].startswith("layer_") else "adam"

    return jax.tree_util.tree_map_with_path(rule, params)


def split_gates(
    inner: optax.GradientTransformation, width: int, layers: Sequence[str]
) -> optax.GradientTransformation:
    """Return a transformation that sees kernels that lie side by side as separate matrices.

    A mixer's kernel (D, G x width) becomes (G, D, width); one of blocks, (B, D, G x D), becomes
    (G, B, D, D). Other weights stay as they are, also kernels of parts with different widths.

    Args:
      inner: transformation of the separate matrices.
      width: width of a gate.
      layers: names of the model's layers.
    """
    whole = {layer_name(n): _WHOLE[layer] for n, layer in enumerate(layers) if layer in _WHOLE}

    def split(tree: Any) -> Any:
        def apart(path: tuple[jax.tree_util.DictKey, ...], weights: jax.Array) -> jax.Array:
            layer, part, name, *_ = (str(key.key) for key in path)
            each = width if weights.ndim == 2 else weights.shape[-2]
            gates, rest = divmod(weights.shape[-1], each)
            is_whole = layer in whole and name.startswith(whole[layer])
            if part != "mixer" or is_whole or rest or gates < 2:
                return weights
            return jnp.moveaxis(weights.reshape(*weights.shape[:-1], gates, each), -2, 0)

        return jax.tree_util.tree_map_with_path(apart, tree)

    def joined(part: jax.Array, like: jax.Array) -> jax.Array:
        whole = part if part.ndim == like.ndim else jnp.moveaxis(part, 0, -2)
        return whole.reshape(like.shape)

    def init(params: optax.Params) -> optax.OptState:
        return inner.init(split(params))

    def update(
        gradient: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        updates, state = inner.update(split(gradient), state, split(params))
        return jax.tree.map(joined, updates, gradient), state

    return optax.GradientTransformation(init, update)


def build_schedule_free(
    schedule: optax.Schedule,
    *,
    beta1: float,
    beta2: float,
    epsilon: float,
    weight_decay: float,
) -> optax.GradientTransformation:
    """Build schedule-free AdamW: averaging takes the place of a decay of the learning rate.

    Gradients are taken at the weights, between a fast sequence and its average; the average is what
    is scored and sampled from (`next_average`). In step t, from 1, the weights y, the fast sequence
    z and its average x become

        g = rate * sqrt(1 - beta2^t)
        z' = z - g * gradient(y) / sqrt(v) - rate * weight_decay * y
        x' = (1 - c) * x + c * z'        c = g^2 / (sum of g^2 up to t)
        y' = (1 - beta1) * z' + beta1 * x'

    This is the paper's algorithm but for two details: epsilon is added to sqrt(v_hat), as in Adam,
    instead of to sqrt(v), and the decay has the rate in place of g.

    Args:
      schedule: step -> rate, from 0; constant after its warm-up.
      beta1: weight of the average in the point at which gradients are taken, above 0.
      beta2: decay of the mean of squared gradients.
      epsilon: term that keeps the quotient finite.
      weight_decay: decay of the weights selected by `weight_decay_mask`.

    Source: Defazio et al. 2024 (The Road Less Scheduled), algorithm 1.
    """

    def averaged_rate(step: jax.Array) -> jax.Array:  # optax counts its steps from 1
        return jnp.sqrt(1.0 - beta2**step) * schedule(step - 1)

    fast = optax.adamw(
        schedule, b1=0.0, b2=beta2, eps=epsilon, weight_decay=weight_decay, mask=weight_decay_mask
    )
    return schedule_free(fast, averaged_rate, b1=beta1)


def next_average(
    average: Params,
    params: Params,
    opt_state: optax.OptState,
    step: jax.Array,
    *,
    average_decay: float,
) -> Params:
    """Return the average of weights after an update.

    Args:
      average: average before the update.
      params: the new weights.
      opt_state: the new state of the optimizer, which has an average of its own if schedule-free.
      step: number of updates made before this one.
      average_decay: decay of the average otherwise, see `update_average`.
    """

    def is_schedule_free(state: Any) -> bool:
        return isinstance(state, ScheduleFreeState)

    for state in filter(is_schedule_free, jax.tree.leaves(opt_state, is_leaf=is_schedule_free)):
        own: Params = schedule_free_eval_params(state, params)
        return own
    return update_average(average, params, step, average_decay=average_decay)


def update_average(
    average: Params, params: Params, step: jax.Array, *, average_decay: float
) -> Params:
    """Update an exponential moving average of weights.

        average' = d * average + (1 - d) * params
        d = min(average_decay, (1 + step) / (10 + step))

    Args:
      average: average before the update.
      params: the new weights.
      step: number of updates made before this one.
      average_decay: limit of d, which is smaller at first so that the random start is forgotten.

    Source: Polyak and Juditsky 1992 for averages; the first steps as in TensorFlow's
    `ExponentialMovingAverage`.
    """
    decay = jnp.minimum(average_decay, (1.0 + step) / (10.0 + step)).astype(jnp.float32)
    return jax.tree.map(lambda old, new: decay * old + (1.0 - decay) * new, average, params)
