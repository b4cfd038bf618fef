"""Sequence lengths of a run's first steps, as a person types them: `10:500,40:500`."""

import itertools
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from charlm_jax.core.errors import CharlmError
from charlm_jax.core.limits import MAX_INT32
from charlm_jax.core.typed_numbers import parse_whole_number

_NEVER = MAX_INT32 + 1  # after the last step of any run


class LengthSteps(NamedTuple):
    """A sequence length and the number of steps that have it."""

    sequence_length: int
    steps: int


class Phase(NamedTuple):
    """Consecutive steps of a run that train on sequences of one length.

    Attributes:
      first_step: number of steps before the phase.
      end_step: number of steps up to the end of the phase; 2**31 for the last one.
      earlier_steps: number of steps in earlier phases of this length.
      sequence_length: characters per sequence (T).
      batch_size: sequences per step (B).
      carried_context: past positions that attention layers carry from batch to batch; 0 if no state
        is carried.
    """

    first_step: int
    end_step: int
    earlier_steps: int
    sequence_length: int
    batch_size: int
    carried_context: int

    def position(self, step: int) -> int:
        """Return the number of steps of this length before a step of the phase."""
        return self.earlier_steps + step - self.first_step


def parse_length_schedule(text: str) -> tuple[LengthSteps, ...]:
    """Parse a schedule of sequence lengths.

    Args:
      text: `LENGTH:STEPS` for each phase, separated by commas; empty for no schedule.

    Raises:
      CharlmError: the text is something else, or a number is not in [1, 2**31).

    >>> [tuple(phase) for phase in parse_length_schedule("10:500,40:500")]
    [(10, 500), (40, 500)]
    """
    if not text:
        return ()
    schedule = tuple(_parse_phase(item.strip(), text) for item in text.split(","))
    total = sum(phase.steps for phase in schedule)
    if total > MAX_INT32:
        raise _refusal(text, f"its {total} steps are not below 2**31")
    return schedule


def _parse_phase(item: str, text: str) -> LengthSteps:
    numbers = [parse_whole_number(number) or 0 for number in item.split(":")]
    if len(numbers) != 2 or not all(1 <= number <= MAX_INT32 for number in numbers):
        raise _refusal(text, f"{item!r} is not a length and a number of steps, each in [1, 2**31)")
    return LengthSteps(*numbers)


def _refusal(text: str, what: str) -> CharlmError:
    return CharlmError(
        f"config.data.length_schedule={text!r} is not allowed: {what}; write LENGTH:STEPS for each "
        f"length, such as 10:500,40:500"
    )


def list_phases(
    schedule: Sequence[LengthSteps], *, sequence_length: int, batch_size: int, carries_state: bool
) -> tuple[Phase, ...]:
    """Return the phases of a run; neighbours of the same length are one phase.

    Args:
      schedule: lengths of the first steps, each of which divides the characters of a step.
      sequence_length: T of all later steps.
      batch_size: B of all later steps; every step has as many characters.
      carries_state: whether a row may continue from the previous batch.
    """
    last = LengthSteps(sequence_length, _NEVER)
    phases: list[Phase] = []
    step, made = 0, Counter[int]()
    for length, group in itertools.groupby([*schedule, last], lambda part: part.sequence_length):
        steps = sum(part.steps for part in group)
        phases.append(
            Phase(
                first_step=step,
                end_step=min(step + steps, _NEVER),
                earlier_steps=made[length],
                sequence_length=length,
                batch_size=batch_size * sequence_length // length,
                carried_context=length if carries_state else 0,
            )
        )
        step += steps
        made[length] += steps
    return tuple(phases)


def phase_at(phases: Sequence[Phase], step: int) -> Phase:
    """Return the phase of update `step`, from 0."""
    return next(phase for phase in phases if step < phase.end_step)


def count_shared_steps(one: Sequence[Phase], other: Sequence[Phase]) -> int:
    """Return the number of first steps that have the same lengths in two runs."""
    for here, there in zip(one, other, strict=False):
        if here.sequence_length != there.sequence_length:
            return here.first_step
        if here.end_step != there.end_step:
            return min(here.end_step, there.end_step)
    return _NEVER


def describe_phases(phases: Sequence[Phase]) -> str:
    """Return the lengths of a run's phases in words.

    >>> describe_phases(
    ...     list_phases(
    ...         [LengthSteps(10, 500)], sequence_length=40, batch_size=64, carries_state=False
    ...     )
    ... )
    '10 for 500 steps, then 40'
    """
    parts = []
    for phase in phases[:-1]:
        steps = phase.end_step - phase.first_step
        parts.append(f"{phase.sequence_length} for {steps} {'step' if steps == 1 else 'steps'}")
    return ", then ".join([*parts, str(phases[-1].sequence_length)])
