"""Splits: every character where it belongs, and a text too short is told what would do."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charlm_jax.core.errors import CharlmError
from charlm_jax.data.splits import SplitRule, size, split_text, thin

TAIL = SplitRule("tail", 0.1, 0.0, (), blocks=1, guard=0, rounding="exact", part_starts={})


@given(
    characters=st.integers(2, 5000),
    rule=st.builds(
        SplitRule,
        kind=st.sampled_from(["tail", "interleaved", "none"]),
        valid_fraction=st.floats(0.001, 0.7),
        test_fraction=st.sampled_from([0.0, 0.05, 0.29]),
        counts=st.just(()),
        blocks=st.integers(1, 12),
        guard=st.integers(0, 50),
        rounding=st.sampled_from(["exact", "float"]),
        part_starts=st.just({}),
    ),
    length=st.integers(1, 400),
)
def test_a_split_fits_the_text_or_names_a_length_that_would_do(
    characters: int, rule: SplitRule, length: int
) -> None:
    try:
        parts = split_text(characters, rule, sequence_length=length)
    except CharlmError as error:
        smallest = int(str(error).split(": a text of ")[1].split()[0])
        assert smallest > characters
        split_text(smallest, rule, sequence_length=length)
        with pytest.raises(CharlmError):
            split_text(smallest - 1, rule, sequence_length=length)
        return
    held_out = {"none": set(), "tail": {"valid"}, "interleaved": {"valid"}}[rule.kind]
    held_out |= {"test"} if held_out and rule.test_fraction else set()
    assert set(parts) == {"train"} | held_out
    stretches = sorted((s for part in parts.values() for s in part), key=lambda s: s.start)
    assert all(len(stretch) for stretch in stretches)
    assert stretches[0].start == 0 and stretches[-1].stop == characters
    guard = rule.guard if rule.kind == "interleaved" else 0
    assert all(a.stop + guard == b.start for a, b in itertools.pairwise(stretches))
    assert max(map(len, parts["train"])) > length
    for name in held_out:
        fraction = rule.valid_fraction if name == "valid" else rule.test_fraction
        sections = rule.blocks if rule.kind == "interleaved" else 1
        assert len(parts[name]) == sections
        assert size(parts[name]) == pytest.approx(characters * fraction, abs=2 * sections)


def test_interleaved_holds_out_the_middle_of_every_section() -> None:
    rule = TAIL._replace(kind="interleaved", blocks=2, guard=5)
    assert split_text(200, rule, sequence_length=4) == {
        "train": (range(0, 40), range(60, 140), range(160, 200)),
        "valid": (range(45, 55), range(145, 155)),
    }


def test_eighty_ten_ten() -> None:
    parts = split_text(1000, TAIL._replace(test_fraction=0.1), sequence_length=4)
    assert parts == {
        "train": (range(0, 800),),
        "valid": (range(800, 900),),
        "test": (range(900, 1000),),
    }


@pytest.mark.core
def test_tiny_shakespeare_is_cut_where_others_cut_it() -> None:
    parts = split_text(1_115_394, TAIL, sequence_length=40)
    assert {name: size(part) for name, part in parts.items()} == {
        "train": 1_003_854,
        "valid": 111_540,
    }


@pytest.mark.core
@given(
    percent=st.tuples(st.integers(1, 49), st.integers(0, 49)),
    hundreds=st.integers(50, 10**7),
    kind=st.sampled_from(["tail", "interleaved"]),
)
def test_percents_of_a_round_length_are_exact(
    percent: tuple[int, int], hundreds: int, kind: str
) -> None:
    valid, test = percent
    rule = TAIL._replace(kind=kind, valid_fraction=valid / 100, test_fraction=test / 100)
    sizes = {
        name: size(part)
        for name, part in split_text(100 * hundreds, rule, sequence_length=1).items()
    }
    wanted = {"train": 100 - valid - test, "valid": valid, "test": test}
    assert sizes == {name: share * hundreds for name, share in wanted.items() if share}


def test_the_rounding_of_earlier_versions_can_be_named() -> None:
    rule = TAIL._replace(valid_fraction=0.05, test_fraction=0.05)
    ends = {}
    for rounding in ("exact", "float"):
        parts = split_text(10**8, rule._replace(rounding=rounding), sequence_length=1)
        ends[rounding] = [part[0].stop for part in parts.values()]
    assert ends == {
        "exact": [90_000_000, 95_000_000, 100_000_000],
        "float": [89_999_999, 95_000_000, 100_000_000],
    }
    with pytest.raises(CharlmError, match=r"split.rounding='down' .* exact, float"):
        split_text(100, TAIL._replace(rounding="down"), sequence_length=4)


@pytest.mark.core
@given(sizes=st.lists(st.integers(9, 1000), min_size=2, max_size=3), rest=st.integers(0, 3))
def test_counts_are_the_sizes_of_the_parts(sizes: list[int], rest: int) -> None:
    counts = tuple(None if index == rest else count for index, count in enumerate(sizes))
    parts = split_text(sum(sizes), TAIL._replace(counts=counts), sequence_length=8)
    assert [size(part) for part in parts.values()] == sizes
    assert list(parts) == ["train", "valid", "test"][: len(sizes)]
    stretches = [stretch for (stretch,) in parts.values()]
    assert stretches[0].start == 0 and stretches[-1].stop == sum(sizes)
    assert all(a.stop == b.start for a, b in itertools.pairwise(stretches))


def test_counts_and_fractions_of_the_same_sizes_are_the_same_parts() -> None:
    fives = TAIL._replace(valid_fraction=0.05, test_fraction=0.05)
    counts = TAIL._replace(counts=(90_000_000, 5_000_000, 5_000_000))
    of_fives, of_counts = (split_text(10**8, rule, sequence_length=9) for rule in (fives, counts))
    assert of_fives == of_counts


@pytest.mark.parametrize(
    ("counts", "says"),
    [
        ((80, 21), "too short: 100 characters, and config.split.counts takes 101:"),
        ((None, 60, 40), "too short: 100 characters, and .* takes 100 and a rest:"),
        ((80, 10, 9), "adds up to 99 characters of the text's 100: write rest .* the other 1 "),
        ((8, 92), "a part is too short: 8 train, 92 valid, but .*=8 needs 9 for training"),
        ((None, 92), "a part is too short: 8 train, 92 valid, but .*=8 needs 9 for training"),
    ],
)
def test_counts_that_do_not_fit_the_text_are_refused(
    counts: tuple[int | None, ...], says: str
) -> None:
    with pytest.raises(CharlmError, match=says):
        split_text(100, TAIL._replace(counts=counts), sequence_length=8)


def test_an_unknown_kind_lists_the_known() -> None:
    with pytest.raises(CharlmError, match="tail, interleaved, files, none"):
        split_text(100, TAIL._replace(kind="head"), sequence_length=4)


@given(
    lengths=st.lists(st.integers(1, 300), min_size=1, max_size=6),
    most=st.integers(20, 900),
    stretches=st.integers(1, 20),
)
def test_a_part_is_thinned_evenly(lengths: list[int], most: int, stretches: int) -> None:
    """A place of the thinned part is as far into the whole, on the average, as any place of it."""
    starts = itertools.accumulate((length + 7 for length in lengths), initial=3)
    part = tuple(range(start, start + n) for start, n in zip(starts, lengths, strict=False))
    found, whole = thin(part, most=most, stretches=stretches), sum(lengths)
    if whole <= most:
        assert found == part
        return
    places = [place for stretch in part for place in stretch]
    chosen = [places.index(place) for stretch in found for place in stretch]
    each = most // stretches
    assert len(chosen) == len({*chosen}) == each * stretches <= most
    assert all(found) and chosen == sorted(chosen)
    for number in range(stretches):
        middle = sum(chosen[number * each : (number + 1) * each]) / each
        assert abs(middle - (number + 0.5) * whole / stretches) <= 1.5
