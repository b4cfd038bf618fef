"""The optimiser and its learning rate over time, from plain scalars."""

import jax
import jax.numpy as jnp
import optax

from charlm_jax.types import look_up


def make_schedule(
    *,
    schedule: str,
    learning_rate: float,
    warmup_steps: int,
    final_learning_rate: float,
    total_steps: int,
) -> optax.Schedule:
    """Learning rate as a function of the step, from 0.

    Args:
      schedule: `constant`, or `cosine` from the peak down to the final rate at `total_steps`.
      learning_rate: the constant rate, or the peak.
      warmup_steps: a linear rise over so many first steps; step s runs at (s + 1) / warmup_steps
        of the peak, so the first step already learns.
      final_learning_rate: where the cosine ends.
      total_steps: the run's length.

    Returns:
      step -> learning rate.
    """
    decays = {
        "constant": optax.constant_schedule(learning_rate),
        "cosine": optax.cosine_decay_schedule(
            learning_rate,
            decay_steps=max(total_steps - warmup_steps, 1),
            alpha=final_learning_rate / learning_rate,
        ),
    }
    after = look_up(decays, schedule, "optimizer.schedule")
    if warmup_steps == 0:
        return after
    first = learning_rate / warmup_steps
    rise = optax.linear_schedule(first, learning_rate, max(warmup_steps - 1, 1))
    return optax.join_schedules([rise, after], [warmup_steps])


def build_optimizer(
    schedule: optax.Schedule,
    *,
    beta1: float,
    beta2: float,
    epsilon: float,
    epsilon_hat: bool,
    clip_norm: float,
) -> optax.GradientTransformation:
    """Adam, after clipping by global norm if `clip_norm` > 0.

        update = -rate * m_hat / (sqrt(v_hat) + epsilon)

    Args:
      schedule: step -> rate.
      beta1: decay of the mean of gradients, m.
      beta2: decay of the mean of squared gradients, v.
      epsilon: keeps the quotient finite.
      epsilon_hat: add epsilon to sqrt(v) and not to sqrt(v_hat), as Keras and TensorFlow do; to
        sqrt(v_hat) as optax and PyTorch do otherwise. The same number is then stronger in step t
        by 1 / sqrt(1 - beta2^t), 30 times at first. Where gradients are as small as those of an
        embedding at the start, the loss curve shows it for many epochs.
      clip_norm: largest global norm of the gradient; 0 does not clip.

    Source: Kingma and Ba 2015, algorithm 1; epsilon-hat is from the end of its section 2.
    """

    def epsilon_at(step: jax.Array) -> jax.Array:
        return epsilon / jnp.sqrt(1.0 - beta2 ** (step + 1.0))

    if epsilon_hat:
        adam = optax.inject_hyperparams(optax.adam, static_args=("b1", "b2"))(
            schedule, b1=beta1, b2=beta2, eps=epsilon_at
        )
    else:
        adam = optax.adam(schedule, b1=beta1, b2=beta2, eps=epsilon)
    return optax.chain(optax.clip_by_global_norm(clip_norm), adam) if clip_norm > 0 else adam
