"""Adam and the learning rate schedules, from plain scalars."""

import functools

import jax
import jax.numpy as jnp
import optax

from charlm_jax.core.errors import lookup
from charlm_jax.core.types import Params


def make_schedule(
    *,
    schedule: str,
    learning_rate: float,
    warmup_steps: int,
    final_learning_rate: float,
    decay_fraction: float,
    total_steps: int,
) -> optax.Schedule:
    """Return the learning rate as a function of the step, from 0.

    Args:
      schedule: `constant`; `cosine` from the peak down to the final rate at `total_steps`; or `wsd`
        (warm-up, stable, decay; Hu et al. 2024, section 4), which stays at the peak and
        decays linearly at the end.
      learning_rate: the constant rate, or the peak.
      warmup_steps: number of first steps with a linear rise; step s runs at (s + 1) / warmup_steps
        of the peak, so the first step already learns.
      final_learning_rate: rate of cosine and wsd at `total_steps`, just after the last step.
      decay_fraction: fraction of all steps in which wsd decays, after the warm-up.
      total_steps: length of the run in steps.

    Returns:
      step -> learning rate.
    """
    decay_steps = max(min(round(decay_fraction * total_steps), total_steps - warmup_steps), 1)
    stable_steps = max(total_steps - warmup_steps - decay_steps, 0)
    fall = optax.linear_schedule(learning_rate, final_learning_rate, decay_steps)
    schedules = {
        "constant": optax.constant_schedule(learning_rate),
        "cosine": optax.cosine_decay_schedule(
            learning_rate,
            decay_steps=max(total_steps - warmup_steps, 1),
            alpha=final_learning_rate / learning_rate,
        ),
        "wsd": optax.join_schedules([optax.constant_schedule(learning_rate), fall], [stable_steps]),
    }
    after = lookup(schedules, schedule, "config.optimizer.schedule")
    if warmup_steps == 0:
        return after
    first = learning_rate / warmup_steps
    rise = optax.linear_schedule(first, learning_rate, max(warmup_steps - 1, 1))
    return optax.join_schedules([rise, after], [warmup_steps])


def build_adam(
    schedule: optax.Schedule,
    *,
    beta1: float,
    beta2: float,
    epsilon: float,
    epsilon_hat: bool,
    weight_decay: float,
) -> optax.GradientTransformation:
    """Build Adam, or AdamW if `weight_decay` > 0.

        update = -rate * (m_hat / (sqrt(v_hat) + epsilon) + weight_decay * kernel)

    Args:
      schedule: step -> rate.
      beta1: decay of the mean of gradients, m.
      beta2: decay of the mean of squared gradients, v.
      epsilon: term that keeps the quotient finite.
      epsilon_hat: whether to add epsilon to sqrt(v), as Keras and TensorFlow do, instead of to
        sqrt(v_hat), as optax and PyTorch do. This multiplies its effect in step t by
        1 / sqrt(1 - beta2^t), 30 at first. With gradients as small as those of an embedding at the
        start, the difference is visible in the loss curve for many epochs.
      weight_decay: decay of the weights selected by `weight_decay_mask`; 0 is plain Adam.

    Source: Kingma and Ba 2015, algorithm 1; epsilon-hat is from the end of its section 2.
    Loshchilov and Hutter 2019, algorithm 2, for the decay.
    """

    def epsilon_at(step: jax.Array) -> jax.Array:
        return epsilon / jnp.sqrt(1.0 - beta2 ** (step + 1.0))

    adam = optax.adam
    if weight_decay > 0:
        adam = functools.partial(optax.adamw, weight_decay=weight_decay, mask=weight_decay_mask)
    if not epsilon_hat:
        return adam(schedule, b1=beta1, b2=beta2, eps=epsilon)
    static = ("b1", "b2", "weight_decay", "mask") if weight_decay > 0 else ("b1", "b2")
    return optax.inject_hyperparams(adam, static_args=static)(
        schedule, b1=beta1, b2=beta2, eps=epsilon_at
    )


def weight_decay_mask(params: Params) -> Params:
    """Return a tree of booleans: True for weights that decay, those of matrix products.

    Biases and the scales of norms do not decay: they have few values and do not overfit. Nor do
    tables of vectors: a step uses some of their rows, but decay would shrink all of them.
    """

    def is_kernel(path: tuple[jax.tree_util.DictKey, ...], weights: jax.Array) -> bool:
        return str(path[-1].key).endswith("kernel")

    return jax.tree_util.tree_map_with_path(is_kernel, params)
