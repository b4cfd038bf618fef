"""The optimiser and its learning rate over time, from plain scalars."""

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
    clip_norm: float,
) -> optax.GradientTransformation:
    """Adam (Kingma and Ba 2015, algorithm 1), after clipping by global norm if `clip_norm` > 0.

    Keras adds its epsilon (1e-7) to the root of the *uncorrected* second moment (the paper's
    epsilon-hat), optax to that of the corrected one. The same number is therefore weaker here in
    the first steps, by sqrt(1 - beta2^t); at 1e-7 it shows in neither.
    """
    adam = optax.adam(schedule, b1=beta1, b2=beta2, eps=epsilon)
    return optax.chain(optax.clip_by_global_norm(clip_norm), adam) if clip_norm > 0 else adam
