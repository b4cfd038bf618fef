"""Schedules of sequence lengths as they are typed, and the phases that they give."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charlm_jax.config.length_schedule import (
    LengthSteps,
    Phase,
    count_shared_steps,
    describe_phases,
    list_phases,
    parse_length_schedule,
    phase_at,
)
from charlm_jax.core.errors import CharlmError
from tests.conftest import make_tiny_config

NUMBERS = st.integers(1, 2**24)
SCHEDULES = st.lists(
    st.builds(LengthSteps, st.sampled_from([1, 2, 4, 8]), st.integers(1, 4)), max_size=6
)
LAST = st.sampled_from([1, 2, 4, 8])


def _as_text(schedule: list[LengthSteps], comma: str = ",") -> str:
    return comma.join(f"{length}:{steps}" for length, steps in schedule)


def _phases(schedule: list[LengthSteps], last: int) -> tuple[Phase, ...]:
    """The phases of a run with 16 characters in a step."""
    return list_phases(
        schedule, sequence_length=last, batch_size=16 // last, carries_state=last > 2
    )


def _lengths(schedule: list[LengthSteps], last: int, steps: int) -> list[int]:
    """The length of every step, from a loop over the schedule."""
    first = [length for length, count in schedule for _ in range(count)]
    return [*first, *itertools.repeat(last, steps)][:steps]


@pytest.mark.core
@given(
    st.lists(st.builds(LengthSteps, NUMBERS, NUMBERS), max_size=9),
    st.sampled_from([",", ", ", " ,", "\t, "]),
)
def test_a_schedule_is_read_as_it_is_written(schedule: list[LengthSteps], comma: str) -> None:
    assert parse_length_schedule(_as_text(schedule, comma)) == tuple(schedule)


@given(st.text("0123456789:, x-²", max_size=12))
def test_any_text_is_read_or_refused_in_one_line(text: str) -> None:
    try:
        schedule = parse_length_schedule(text)
    except CharlmError as error:
        message = str(error)
        assert message.endswith("such as 10:500,40:500") and len(message.splitlines()) == 1
    else:
        assert all(1 <= number < 2**31 for phase in schedule for number in phase)
        spaced = [item.strip() for item in text.split(",")] if text else []
        assert [[int(n) for n in item.split(":")] for item in spaced] == [*map(list, schedule)]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("10", "'10' is not a length and a number of steps"),
        ("10:5:3", "'10:5:3' is not"),
        ("10:5,", "'' is not"),
        (" ", "'' is not"),
        ("10:0", "'10:0' is not"),
        ("0:10", "'0:10' is not"),
        ("10:-5", "'10:-5' is not"),
        ("10: 5", "'10: 5' is not"),
        ("10:1e3", "'10:1e3' is not"),
        ("²:5", "'²:5' is not"),
        ("10:2147483648", r"each in \[1, 2\*\*31\)"),
        ("10:" + "9" * 5000, r"each in \[1, 2\*\*31\)"),
        ("10:2147483647,20:1", r"its 2147483648 steps are not below 2\*\*31"),
    ],
)
def test_what_is_no_schedule_is_named(text: str, what: str) -> None:
    message = f"^config.data.length_schedule=.* is not allowed: .*{what}.*10:500,40:500$"
    with pytest.raises(CharlmError, match=message):
        parse_length_schedule(text)


def test_each_length_divides_the_characters_of_a_step() -> None:
    for text in ("1:1,2:1,64:1", "128:9"):  # of the 8 x 16 of a step
        assert make_tiny_config(**{"data.length_schedule": text})
    for text, length in {"4:1,6:1": 6, "256:1": 256}.items():
        message = f"not allowed: {length} must divide the 128 characters of a step, .*=8 times .*16"
        with pytest.raises(CharlmError, match=message):
            make_tiny_config(**{"data.length_schedule": text})


@pytest.mark.core
@given(SCHEDULES, LAST)
def test_phases_have_the_lengths_of_the_schedule(schedule: list[LengthSteps], last: int) -> None:
    phases, steps = _phases(schedule, last), 30
    lengths = _lengths(schedule, last, steps)
    assert [phase_at(phases, step).sequence_length for step in range(steps)] == lengths
    for step in range(steps):
        phase = phase_at(phases, step)
        assert phase.first_step <= step < phase.end_step
        assert phase.position(step) == lengths[:step].count(lengths[step])
        assert phase.sequence_length * phase.batch_size == 16
        assert phase.carried_context == (phase.sequence_length if last > 2 else 0)
    for one, other in itertools.pairwise(phases):
        assert one.end_step == other.first_step and one.sequence_length != other.sequence_length
    assert phases[0].first_step == 0 and phases[-1].end_step == 2**31


@given(st.integers(1, 5), st.integers(1, 5), LAST)
def test_a_constant_schedule_is_none(one: int, other: int, length: int) -> None:
    schedule = [LengthSteps(length, one), LengthSteps(length, other)]
    assert _phases(schedule, length) == _phases([], length)


@given(SCHEDULES, SCHEDULES, LAST)
def test_runs_share_steps_while_their_lengths_agree(
    one: list[LengthSteps], other: list[LengthSteps], last: int
) -> None:
    lengths = zip(_lengths(one, last, 30), _lengths(other, last, 30), strict=True)
    first = next((step for step, (a, b) in enumerate(lengths) if a != b), math.inf)
    shared = count_shared_steps(_phases(one, last), _phases(other, last))
    assert shared == (2**31 if first == math.inf else first)


def test_phases_are_named_in_words() -> None:
    schedule = parse_length_schedule("2:300,2:200,8:1")
    assert describe_phases(_phases([*schedule], 4)) == "2 for 500 steps, then 8 for 1 step, then 4"
    assert describe_phases(_phases([], 4)) == "4"
