"""Sizes of parts as they are typed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charlm_jax.config.counts import parse_counts
from charlm_jax.core.errors import CharlmError

COUNTS = st.lists(st.integers(1, 10**12), min_size=2, max_size=3)


@pytest.mark.core
@given(COUNTS, st.sampled_from(["{}", "{:,}", "{:_}", " {} "]))
def test_counts_are_read_however_digits_are_grouped(counts: list[int], style: str) -> None:
    assert parse_counts("/".join(map(style.format, counts))) == tuple(counts)


@pytest.mark.core
@given(COUNTS, st.sampled_from([("K", 3), ("k", 3), ("M", 6), ("m", 6)]))
def test_units_are_powers_of_ten(counts: list[int], unit: tuple[str, int]) -> None:
    letter, power = unit
    wanted = tuple(count * 10**power for count in counts)
    assert parse_counts("/".join(f"{count}{letter}" for count in counts)) == wanted


def test_a_point_is_exact() -> None:
    assert parse_counts("4.35M/0.001K/1.0") == (4_350_000, 1, 1)


def test_one_count_may_be_the_rest() -> None:
    assert parse_counts("rest/5M/5M") == (None, 5_000_000, 5_000_000)
    assert parse_counts("90M/REST") == (90_000_000, None)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("90M", "it has 1 count;"),
        ("1/2/3/4", "it has 4 counts;"),
        ("1/x", "'x' is not a count;"),
        ("1/", "'' is not a count;"),
        ("rest/0,5M", r"'0,5M' is not a count \(decimals follow a point\);"),
        ("1,00/5", r"'1,00' is not a count \(decimals follow a point\);"),
        ("1_0000/5", "'1_0000' is not a count;"),
        ("0/5", "'0' is not a whole number"),
        ("1.5/5", "'1.5' is not a whole number"),
        ("0.0001K/5", "'0.0001K' is not a whole number"),
        ("rest/rest/5", "only one count"),
    ],
)
def test_what_is_no_count_is_named(text: str, what: str) -> None:
    with pytest.raises(CharlmError, match=f"split.counts=.*{what}.*such as 90M/5M/5M"):
        parse_counts(text)
