"""Limits of a run: what its config, model and text allow, checked before anything is compiled."""

import math
from collections.abc import Mapping, Sequence

from charlm_jax.config.length_schedule import Phase
from charlm_jax.config.schema import Config
from charlm_jax.core.errors import CharlmError
from charlm_jax.core.limits import MAX_INT32
from charlm_jax.data.splits import Part
from charlm_jax.models import LanguageModel

# Bounds of `train.keep`: of disk, and of time, since a checkpoint takes about as long as a step.
_MOST_KEPT, _LEAST_APART = 50, 40


def count_steps(config: Config, steps_per_epoch: int) -> int:
    """Return the number of steps in a run."""
    steps = config.train.epochs * steps_per_epoch
    return min(steps, config.train.max_steps or steps)


def refuse_sequences(config: Config, model: LanguageModel) -> None:
    """Refuse sequences and segments that the model cannot be trained with.

    Raises:
      CharlmError: sequences are longer than the model's table of learned positions, segments do not
        divide them, or the model needs whole sequences.
    """
    _refuse_too_long(config, model)
    _refuse_segments(config, model)


def refuse_steps(config: Config, total_steps: int) -> None:
    """Refuse a number of steps that cannot be counted, or that other fields do not allow.

    Args:
      config: config of the run.
      total_steps: number of steps in the run.

    Raises:
      CharlmError: the run has too many steps, or no more than its schedule of lengths, or would
        keep too many checkpoints.
    """
    if total_steps > MAX_INT32:
        raise CharlmError(
            f"a run of {total_steps} steps is too long: lower config.train.epochs, or set "
            f"config.train.max_steps below 2**31"
        )
    _refuse_long_schedule(config, total_steps)
    _refuse_many_kept(config, total_steps)


def refuse_uneven_rows(config: Config, devices: int) -> None:
    """Refuse devices and microbatches that do not divide the rows of a batch.

    Args:
      config: config of the run.
      devices: number of devices that would train it.

    Raises:
      CharlmError: they do not divide the rows.
    """
    pieces = devices * config.train.microbatches
    named = f"config.train.devices={config.train.devices}"
    if not config.train.devices:
        named = f"all {devices} devices ({named})"
    fields = [named] if devices > 1 else []
    if config.train.microbatches > 1:
        fields.append(f"config.train.microbatches={config.train.microbatches}")
    for phase in config.data.phases:
        if phase.batch_size % pieces:
            raise CharlmError(
                f"{' times '.join(fields)} must divide the {phase.batch_size} sequences of "
                f"{phase.sequence_length} characters of a step"
            )


def refuse_long_pieces(phases: Sequence[Phase], part: Part) -> None:
    """Refuse sequences that are longer than any stretch of the training text.

    Args:
      phases: phases of the run.
      part: the training text.

    Raises:
      CharlmError: a sequence is longer.
    """
    longest, most = max(phase.sequence_length for phase in phases), max(map(len, part))
    if longest >= most:
        raise CharlmError(
            f"the training text is too short: its longest stretch has {most} characters, but the "
            f"length {longest} of config.data.length_schedule needs {longest + 1}: use a shorter "
            f"length"
        )


def _lengths(config: Config) -> Mapping[str, int]:
    """Return the sequence lengths of training, named by their fields."""
    last = config.data.sequence_length
    scheduled = [p.sequence_length for p in config.data.phases if p.sequence_length != last]
    return {
        f"config.data.sequence_length={last}": last,
        **{f"the {length} of config.data.length_schedule": length for length in scheduled},
    }


def _refuse_too_long(config: Config, model: LanguageModel) -> None:
    """Refuse sequences that are longer than the model's table of learned positions."""
    most, data = model.max_length, config.data
    if most is None:
        return
    position = config.model.position
    rule = f"config.model.position={position} has config.model.max_length={most} positions"
    if data.carries_state:
        raise CharlmError(f"{rule}, but config.data.loader=streams reads through the whole text")
    context = config.evaluation_context
    for name, length in {
        **_lengths(config),
        f"config.evaluation.context={context}": context,
    }.items():
        if length > most:
            raise CharlmError(f"{rule}, fewer than {name}")


def _refuse_segments(config: Config, model: LanguageModel) -> None:
    """Refuse unequal segments, and models whose state does not hold the whole past."""
    length = config.train.segment_length
    if not length:
        return
    field = f"config.train.segment_length={length}"
    for name, whole in _lengths(config).items():
        if whole % length:
            raise CharlmError(f"{field} must divide {name}")
    if model.keeps_positions or model.max_length is not None:
        raise CharlmError(f"{field} is for recurrent layers: attention needs the whole sequence")


def _refuse_long_schedule(config: Config, total_steps: int) -> None:
    """Refuse a schedule that leaves no step to the length at which a run ends."""
    scheduled, data = config.data.phases[-1].first_step, config.data
    if scheduled >= total_steps:
        raise CharlmError(
            f"config.data.length_schedule={data.length_schedule!r} has {scheduled} steps, but the "
            f"run has {total_steps}: it must have fewer, because the run ends with "
            f"config.data.sequence_length={data.sequence_length}"
        )


def _refuse_many_kept(config: Config, total_steps: int) -> None:
    """Refuse a series of checkpoints without a bound on disk space and time."""
    keep = config.train.keep
    least = max(_LEAST_APART, math.ceil((total_steps + 1) / (_MOST_KEPT + 1)))
    if keep not in ("", "log") and int(keep) < least:
        raise CharlmError(
            f"config.train.keep={keep} is not allowed in a run of {total_steps} steps: it must be "
            f"at least {least}, for at most {_MOST_KEPT} checkpoints, or log"
        )
