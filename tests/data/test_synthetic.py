import hashlib
import itertools
import math
from collections import Counter

import numpy as np
import pytest

from charlm_jax.core.errors import CharlmError
from charlm_jax.data.synthetic import SyntheticSource, parse_source

SOURCES = [
    SyntheticSource(),
    SyntheticSource(reach=1, symbols=2, copy=0.5, seed=1),
    SyntheticSource(reach=3, symbols=5, copy=0.0, seed=2),
    SyntheticSource(reach=13, symbols=62, copy=0.99, seed=3),
]


def codes_of(text):
    return np.frombuffer(text.encode("ascii"), np.uint8)


def enumerated_losses_nats(source):
    """Conditional entropies by summing over every text of reach + 2 characters."""
    length, k = source.reach + 2, source.symbols
    probability = {}
    for text in itertools.product(range(k), repeat=length):
        p = 1.0
        for t, symbol in enumerate(text):
            copied = t >= source.reach and symbol == text[t - source.reach]
            chance = (1 - source.copy) / k if t >= source.reach else 1 / k
            p *= source.copy * copied + chance
        probability[text] = p
    losses = []
    for seen in range(length):
        joint, past = Counter(), Counter()
        for text, p in probability.items():
            joint[text[length - seen - 1 :]] += p
            past[text[length - seen - 1 : -1]] += p
        losses.append(-sum(p * math.log(p / past[text[:-1]]) for text, p in joint.items() if p))
    return losses


@pytest.mark.parametrize(("reach", "symbols", "copy"), [(1, 2, 0.3), (2, 3, 0.9), (4, 2, 1.0)])
def test_the_closed_forms_equal_a_sum_over_all_texts(reach, symbols, copy):
    source = SyntheticSource(reach=reach, symbols=symbols, copy=copy)
    losses = [source.optimal_loss_nats(seen) for seen in range(reach + 2)]
    np.testing.assert_allclose(losses, enumerated_losses_nats(source), atol=1e-12)
    assert source.entropy_rate_nats == losses[-1]


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.spec)
def test_the_best_predictor_pays_the_entropy_rate(source):
    nll = source.nll_nats(source.text())
    assert len(nll) == source.characters
    assert np.all(nll[: source.reach] == math.log(source.symbols))
    rest = nll[source.reach :]
    allowed = 4 * rest.std() / math.sqrt(len(rest)) + 1e-12
    assert abs(rest.mean() - source.entropy_rate_nats) < allowed


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.spec)
def test_only_the_character_that_stands_reach_back_is_repeated_more_often_than_by_chance(source):
    codes = codes_of(source.text())
    for lag in range(1, source.reach + 1):
        repeats = np.mean(codes[lag:] == codes[:-lag])
        chance = 1 / source.symbols
        expected = source.copy + (1 - source.copy) * chance if lag == source.reach else chance
        # Copies make neighbouring repeats alike: the mean is of fewer independent draws.
        draws = len(codes) * (1 - source.copy) + 1
        assert abs(repeats - expected) < 5 * math.sqrt(chance / draws), lag


@pytest.mark.parametrize("symbols", [2, 5, 62])
def test_symbols_are_drawn_uniformly(symbols):
    source = SyntheticSource(symbols=symbols, copy=0.0)
    counts = np.array(list(Counter(source.text()).values()))
    assert len(counts) == symbols
    expected = source.characters / symbols
    chi_square = np.sum((counts - expected) ** 2 / expected)
    assert abs(chi_square - (symbols - 1)) < 5 * math.sqrt(2 * (symbols - 1))


def test_extremes_are_exact():
    certain = SyntheticSource(reach=3, copy=1.0, characters=10)
    assert certain.entropy_rate_nats == 0.0
    text = certain.text()
    assert text == (text[:3] * 4)[:10]
    assert np.all(certain.nll_nats(text)[3:] == 0)
    noise = SyntheticSource(copy=0.0)
    assert noise.entropy_rate_nats == pytest.approx(math.log(4), abs=1e-15)


def test_a_longer_text_begins_with_the_shorter_one():
    texts = [SyntheticSource(characters=n).text() for n in (9, 1_000, 1_003)]
    assert [len(text) for text in texts] == [9, 1_000, 1_003]
    assert texts[2].startswith(texts[1])
    assert texts[1].startswith(texts[0])


def test_the_text_depends_on_the_seed_and_on_nothing_else():
    assert SyntheticSource(seed=7).text() == SyntheticSource(seed=7).text()
    assert SyntheticSource(seed=7).text() != SyntheticSource(seed=8).text()
    sha256 = hashlib.sha256(SyntheticSource().text().encode()).hexdigest()
    assert sha256 == "0dfc1e0bd8ad4606e629103a7421d5a92eafd2e7f9d98bc6e77af9d15b242d2a"


def test_a_spec_sets_any_subset_and_reads_back():
    source = parse_source("synthetic:reach=3, copy=0.5,seed=12")
    assert source == SyntheticSource(reach=3, copy=0.5, seed=12)
    assert parse_source(source.spec) == source
    assert parse_source("synthetic") == parse_source("synthetic:") == SyntheticSource()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("synthetic:raech=8", r"no parameter 'raech'; it has reach, symbols, copy, characters"),
        ("synthetic:8", r"no parameter '8'"),
        ("synthetic:reach=2,reach=3", r"reach is given twice"),
        ("synthetic:reach=2.5", r"reach='2.5' is not a whole number"),
        ("synthetic:copy=much", r"copy='much' is not a number"),
        ("synthetic:copy=", r"copy='' is not a number"),
        ("synthetic:reach=0", r"reach=0 is not between 1 and 199999"),
        ("synthetic:reach=9,characters=9", r"reach=9 is not between 1 and 8"),
        ("synthetic:symbols=1", r"symbols=1 is not between 2 and 62"),
        ("synthetic:symbols=63", r"symbols=63 is not between 2 and 62"),
        ("synthetic:copy=1.01", r"copy=1.01 is not between 0 and 1"),
        ("synthetic:copy=nan", r"copy=nan is not between 0 and 1"),
        ("synthetic:characters=10000001", r"characters=10000001 is not between 2 and 10000000"),
        ("synthetic:seed=-1", r"seed=-1 is not between 0 and"),
    ],
)
def test_a_wrong_parameter_is_refused_in_one_line(spec, message):
    with pytest.raises(CharlmError, match=message) as caught:
        parse_source(spec)
    assert "\n" not in str(caught.value)
