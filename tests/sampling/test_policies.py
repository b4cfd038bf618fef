"""What may be drawn is what the rules say, at every scale, and is drawn as often as they say."""

import functools
import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from charlm_jax.core.errors import CharlmError
from charlm_jax.sampling import policies
from charlm_jax.sampling.categorical import gumbel_noise, sample_keys, scaled_categorical
from charlm_jax.sampling.policies import MinP, Policy, TopK, TopP, build_policy

ROWS = 4  # in a batch, each with its own numbers
SIZES = [2, 3, 17, 80, 5000]
SCALES = [0.0, 1e-30, 0.1, 1.0, 3.0, 1e30, math.inf]


class Numbers(NamedTuple):
    """What one row of a policy is told; the least strict by default."""

    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0


def _policy(scales: Sequence[float], numbers: Sequence[Numbers]) -> Policy:
    """Every truncation is there, whether it leaves anything out or not: one program for all."""
    k_B, p_B, ratio_B = map(np.array, zip(*numbers, strict=True))
    truncations = (
        TopK(jnp.array(k_B, jnp.int32)),
        TopP(jnp.array(p_B, jnp.float32)),
        MinP(jnp.array(ratio_B, jnp.float32)),
    )
    return Policy(jnp.array(scales, jnp.float32), truncations)


probabilities = jax.jit(policies.probabilities)
draw = jax.jit(Policy.sample)
noise = jax.jit(gumbel_noise, static_argnums=2)


def _support(logits_BV: np.ndarray, numbers: Sequence[Numbers]) -> np.ndarray:
    """At scale 0 whatever may be drawn has the same probability, however improbable it was."""
    return np.asarray(probabilities(logits_BV, _policy([0.0] * len(numbers), numbers))) > 0


# A reference: one row, in float64, symbol by symbol.


def _best_first(logits_V: np.ndarray, few: Sequence[int]) -> list[int]:
    return sorted(few, key=lambda symbol: -logits_V[symbol])


def _with_ties(logits_V: np.ndarray, kept: Sequence[int], few: Sequence[int]) -> list[int]:
    least = min(logits_V[symbol] for symbol in kept)
    return [symbol for symbol in few if logits_V[symbol] >= least]


def _reference(logits_V: np.ndarray, numbers: Numbers, slack: float) -> set[int]:
    """What may be drawn; the smallest thresholds are moved by the slack, so that it is more."""
    logits_V = logits_V.astype(np.float64)
    few = [symbol for symbol in range(len(logits_V)) if logits_V[symbol] > -np.inf]
    if numbers.top_k:
        few = _with_ties(logits_V, _best_first(logits_V, few)[: numbers.top_k], few)
    if numbers.top_p < 1:
        weights_V = np.exp(logits_V - logits_V.max())
        wanted = (np.float32(numbers.top_p) + slack) * weights_V[few].sum()
        kept, mass = [], 0.0
        for symbol in _best_first(logits_V, few):
            kept.append(symbol)
            mass += weights_V[symbol]
            if mass >= wanted:
                break
        few = _with_ties(logits_V, kept, few)
    if np.float32(numbers.min_p):
        gap = math.log(np.float32(numbers.min_p))
        gap -= slack * (abs(logits_V.max()) + abs(gap))
        few = [symbol for symbol in few if logits_V[symbol] - logits_V.max() >= gap]
    return set(few)


def _expect_the_references(
    found_BV: np.ndarray, logits_BV: np.ndarray, numbers: Sequence[Numbers]
) -> None:
    for found_V, logits_V, told in zip(found_BV, logits_BV, numbers, strict=True):
        found = set(np.flatnonzero(found_V))
        assert _reference(logits_V, told, -2e-6) <= found <= _reference(logits_V, told, 2e-6)


# Rows of every kind.

shares = st.one_of(
    st.sampled_from([0.0, 0.05, 0.5, 0.9, 0.999, 1.0, 1e-30, math.nextafter(1, 0)]),
    st.floats(0.0, 1.0, width=32, allow_subnormal=False),  # XLA takes subnormals for 0
)
numbers = st.builds(
    Numbers, st.one_of(st.integers(0, 6), st.sampled_from([79, 80, 4999, 5000, 2**31 - 1])),
    shares, shares,
)  # fmt: skip
few_logits = st.floats(-(2.0**100), 2.0**100, width=32, allow_subnormal=False) | st.sampled_from(
    [-math.inf, 0.0, -0.0, 1.0, 2.0]
)


@st.composite
def rows(draw: st.DrawFn) -> np.ndarray:
    """logits_BV of which every row has a finite one."""
    size = draw(st.sampled_from(SIZES))
    if size < 10 and draw(st.booleans()):
        row = st.lists(few_logits, min_size=size, max_size=size)
        logits_BV = np.array(draw(st.lists(row, min_size=ROWS, max_size=ROWS)), np.float32)
    else:
        random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
        logits_BV = random.standard_normal((ROWS, size)) * draw(
            st.sampled_from([0.0, 0.1, 1.0, 10.0, 1e4])
        )
        if draw(st.booleans()):  # many ties
            logits_BV = np.round(logits_BV)
        logits_BV[random.random((ROWS, size)) < draw(st.sampled_from([0.0, 0.3, 0.99]))] = -np.inf
    is_empty_B = (logits_BV == -np.inf).all(axis=1)
    logits_BV[is_empty_B, 0] = draw(st.sampled_from([0.0, 5.0, -100.0]))
    return logits_BV.astype(np.float32)


each_row = st.lists(numbers, min_size=ROWS, max_size=ROWS)
scales = st.lists(st.sampled_from(SCALES), min_size=ROWS, max_size=ROWS)


@given(rows(), each_row)
def test_what_may_be_drawn_is_the_references(logits_BV: np.ndarray, given: list[Numbers]) -> None:
    _expect_the_references(_support(logits_BV, given), logits_BV, given)


@pytest.mark.parametrize("name", Numbers._fields)
@given(rows(), each_row)
def test_a_truncation_alone_is_the_references(
    name: str, logits_BV: np.ndarray, given: list[Numbers]
) -> None:
    told_B = [getattr(told, name) for told in given]
    policy = build_policy(scale=[0.0] * ROWS, **{name: told_B})
    found_BV = np.asarray(probabilities(logits_BV, policy)) > 0
    _expect_the_references(found_BV, logits_BV, [Numbers(**{name: told}) for told in told_B])


@given(rows(), each_row, scales)
def test_probabilities_are_the_softmax_of_what_may_be_drawn(
    logits_BV: np.ndarray, given: list[Numbers], scales: list[float]
) -> None:
    probs_BV = np.asarray(probabilities(logits_BV, _policy(scales, given)), np.float64)
    np.testing.assert_allclose(probs_BV.sum(axis=1), 1.0, atol=1e-5)
    for probs_V, logits_V, may_V, scale in zip(
        probs_BV, logits_BV.astype(np.float64), _support(logits_BV, given), scales, strict=True
    ):
        gap_V = logits_V - logits_V.max()
        expected_V = np.zeros(len(gap_V))
        if scale == math.inf:
            expected_V[np.argmax(gap_V)] = 1.0  # the first of the largest
        else:
            expected_V[may_V] = np.exp(np.maximum(np.float32(scale) * gap_V[may_V], -1e3))
        np.testing.assert_allclose(probs_V, expected_V / expected_V.sum(), atol=1e-5)
        assert (probs_V[~may_V] == 0).all()


@given(rows(), each_row, scales, st.integers(0, 2**32 - 1))
def test_a_draw_is_the_plain_one_unless_it_may_not_be(
    logits_BV: np.ndarray, given: list[Numbers], scales: list[float], seed: int
) -> None:
    gumbel_BV = noise(sample_keys(seed, ROWS), jnp.int32(0), logits_BV.shape[1])
    scale_B = jnp.array(scales, jnp.float32)
    plain_B = np.asarray(scaled_categorical(jnp.asarray(logits_BV), gumbel_BV, scale_B))
    drawn_B = np.asarray(draw(_policy(scales, given), logits_BV, gumbel_BV))
    may_BV, row_B = _support(logits_BV, given), np.arange(ROWS)
    assert may_BV[row_B, drawn_B].all() and (logits_BV[row_B, plain_B] > -np.inf).all()
    assert (drawn_B == plain_B)[may_BV[row_B, plain_B]].all()


@given(rows(), each_row, each_row)
def test_stricter_numbers_allow_nothing_more(
    logits_BV: np.ndarray, ones: list[Numbers], others: list[Numbers]
) -> None:
    def order(k: int) -> float:
        return k or math.inf

    strict = [
        Numbers(min(a.top_k, b.top_k, key=order), min(a.top_p, b.top_p), max(a.min_p, b.min_p))
        for a, b in zip(ones, others, strict=True)
    ]
    may_BV = _support(logits_BV, strict)
    assert not (may_BV & ~_support(logits_BV, ones)).any()
    assert not (may_BV & ~_support(logits_BV, others)).any()


# Frequencies.

LOGITS = [1.0, 1.0, 3.0, -2.0, 2.0, -math.inf, 0.5, 2.0]
POLICIES = [
    {"top_k": 3},
    {"top_k": 4},  # the fourth and the fifth tie
    {"top_p": 0.8},
    {"min_p": 0.1},
    {"top_k": 5, "top_p": 0.9, "min_p": 0.15},
]


@pytest.mark.core
@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 2.0])
def test_draws_are_as_frequent_as_the_probabilities_say(scale: float) -> None:
    samples = 4000
    gumbel_BV = noise(sample_keys(0, samples), jnp.int32(0), len(LOGITS))
    logits_BV = jnp.tile(jnp.array([LOGITS]), (samples, 1))
    for told in POLICIES:
        policy = build_policy(scale=[scale] * samples, **told)
        drawn_B = np.asarray(policy.sample(logits_BV, gumbel_BV))
        expected_V = samples * np.asarray(probabilities(logits_BV, policy)[0], np.float64)
        counts_V = np.bincount(drawn_B, minlength=len(LOGITS))
        assert (counts_V[expected_V == 0] == 0).all() and expected_V.sum() == pytest.approx(samples)
        assert (expected_V[expected_V > 0] > 5).all()  # chi-square wants five of each
        may_V = expected_V > 0
        expected_V = expected_V * samples / expected_V.sum()
        assert stats.chisquare(counts_V[may_V], expected_V[may_V]).pvalue > 1e-3


# What the numbers mean, by example.


def _symbols(probs: Sequence[float], scale: float = 1.0, **told: object) -> set[int]:
    policy = build_policy(scale=[scale], **told)
    found_BV = probabilities(jnp.log(jnp.array([probs], jnp.float32)), policy)
    return set(np.flatnonzero(np.asarray(found_BV)[0]))


@pytest.mark.core
def test_each_truncation_sees_what_the_one_before_it_left() -> None:
    # 0.4 and 0.3 are 0.7 of all, and 0.78 of the three that top-k leaves.
    assert _symbols([0.4, 0.3, 0.2, 0.1], top_k=3, top_p=0.75) == {0, 1}
    # 0.5 is not 0.6 of all, but it would be of the two that min-p leaves.
    assert _symbols([0.5, 0.3, 0.15, 0.05], top_p=0.6, min_p=0.55) == {0, 1}
    log_BV = jnp.log(jnp.array([[0.4, 0.3, 0.2, 0.1]]))
    other = (TopP(jnp.array([0.75])), TopK(jnp.array([3])))
    assert (probabilities(log_BV, Policy(jnp.ones(1), other))[0] > 0).tolist() == [1, 1, 1, 0]


@pytest.mark.parametrize("scale", [0.0, 1e-30, 0.1, 1.0, 5.0])
def test_the_scale_comes_last(scale: float) -> None:
    assert _symbols([0.4, 0.3, 0.2, 0.1], scale, top_p=0.6) == {0, 1}
    assert _symbols([0.4, 0.3, 0.2, 0.1], scale, min_p=0.4) == {0, 1, 2}


@pytest.mark.parametrize("k", [1, 2, 3, 5, 6, 7, 10**30])
def test_top_k_leaves_k_symbols(k: int) -> None:
    assert _symbols([0.1, 0.4, 0.05, 0.3, 0.02, 0.13], top_k=k) == set([1, 3, 5, 0, 2, 4][:k])


def test_all_that_tie_for_the_last_place_stay() -> None:
    assert _symbols([0.4, 0.2, 0.2, 0.2], top_k=2) == {0, 1, 2, 3}
    assert _symbols([0.4, 0.2, 0.2, 0.2], top_p=0.5) == {0, 1, 2, 3}
    assert _symbols([0.3, 0.3, 0.2, 0.2], top_p=0.0) == {0, 1}
    assert _symbols([0.3, 0.3, 0.2, 0.2], min_p=1.0) == {0, 1}
    assert _symbols([0.3, 0.3, 0.2, 0.2], math.inf, top_k=2) == {0}


def test_the_widest_numbers_leave_out_nothing_however_improbable() -> None:
    logits_BV = jnp.array([-np.arange(5000.0)], jnp.float32)
    for told in ({"top_k": 5000}, {"top_k": 0}, {"top_p": 1.0}, {"min_p": 0.0}):
        for beside in ({}, {"top_k": [0, 7]}, {"top_p": [1.0, 0.5]}, {"min_p": [0.0, 0.5]}):
            if not set(told) & set(beside):
                policy = build_policy(scale=[0.0, 0.0], **told, **beside)
                found_BV = probabilities(jnp.tile(logits_BV, (2, 1)), policy)
                assert (found_BV[0] > 0).all()


def test_what_no_row_uses_is_not_in_the_policy() -> None:
    assert build_policy(scale=[1.0, 2.0]).truncations == ()
    policy = build_policy(scale=[1.0, 2.0], top_p=[1.0, 0.5], min_p=0.0)
    (only,) = policy.truncations
    assert isinstance(only, TopP) and only.p_B.tolist() == [1.0, 0.5]


@pytest.mark.core
def test_policies_with_other_truncations_have_other_structures() -> None:
    """Of equal structures, JAX may run the program compiled for the one on the other's numbers."""
    alone = [{"top_k": 3}, {"top_p": 0.5}, {"min_p": 0.5}]
    pairs = [one | other for one, other in itertools.combinations(alone, 2)]
    for few in (alone, pairs):
        for one, other in itertools.combinations([build_policy(scale=[1.0], **t) for t in few], 2):
            assert jax.tree.structure(one) != jax.tree.structure(other)


def test_an_idle_truncation_that_is_kept_leaves_out_nothing() -> None:
    idle, plain = build_policy(scale=[0.0, 2.0], keep_idle=True), build_policy(scale=[0.0, 2.0])
    assert list(map(type, idle.truncations)) == [TopK, TopP, MinP]
    logits_BV = jnp.array([[0.0, -50.0, 3.0, 3.0]] * 2)
    np.testing.assert_array_equal(probabilities(logits_BV, idle), probabilities(logits_BV, plain))
    used = build_policy(scale=[1.0, inf := math.inf], top_k=3, top_p=0.5, min_p=[0.1, 0.0])
    same = build_policy(scale=[1.0, inf], top_k=3, top_p=0.5, min_p=[0.1, 0.0], keep_idle=True)
    assert jax.tree.structure(used) == jax.tree.structure(same) == jax.tree.structure(idle)


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"top_k": -1}, "top_k=-1 is not allowed"),
        ({"top_k": 2.5}, "top_k=2.5 is not allowed"),
        ({"top_k": math.nan}, "top_k=nan is not allowed"),
        ({"top_k": math.inf}, "top_k=inf is not allowed"),
        (
            {"top_p": -0.1},
            r"top_p=-0.1 is not allowed: it must lie in \[0, 1\]; 1 keeps all symbols",
        ),
        ({"top_p": 1.0000001}, "top_p=1.0000001 is not allowed"),
        ({"top_p": math.nan}, "top_p=nan is not allowed"),
        ({"min_p": 2.0}, r"min_p=2.0 is not allowed: it must lie in \[0, 1\]; 0 keeps all symbols"),
        ({"min_p": [0.1, -0.1]}, "min_p=-0.1 is not allowed"),
        ({"min_p": math.nan}, "min_p=nan is not allowed"),
        ({"top_k": [1, 2, 3]}, "top_k has 3 values for 2 rows"),
        ({"scale": [1.0, math.nan]}, "scale=nan is not allowed"),
        ({"scale": [-1.0, 1.0]}, "scale=-1.0 is not allowed"),
    ],
)
def test_a_number_that_is_not_allowed_is_refused(told: dict, message: str) -> None:
    with pytest.raises(CharlmError, match=message) as caught:
        build_policy(**{"scale": [1.0, 1.0], **told})
    assert len(str(caught.value).splitlines()) == 1


def test_the_types_are_kept_under_strict_promotion() -> None:
    with jax.numpy_dtype_promotion("strict"):
        policy = build_policy(scale=[0.5, 2.0], top_k=2, top_p=0.9, min_p=0.1)
        logits_BV = jnp.array([[0.0, 1.0, 2.0]] * 2)
        assert policy.sample(logits_BV, jnp.zeros((2, 3))).dtype == jnp.int32
        assert probabilities(logits_BV, policy).dtype == jnp.float32


def test_other_numbers_compile_nothing_new() -> None:
    step = jax.jit(functools.partial(Policy.sample))
    logits_BV, gumbel_BV = jnp.zeros((2, 9)), jnp.ones((2, 9))
    first = build_policy(scale=[1.0, 2.0], top_k=3, top_p=0.9)
    other = build_policy(scale=[0.0, math.inf], top_k=[0, 10**9], top_p=[0.0, 1.0])
    fewer = build_policy(scale=[0.0, math.inf], top_k=[0, 1])
    step(first, logits_BV, gumbel_BV)
    with jax.no_tracing():
        step(other, logits_BV, gumbel_BV)
        with pytest.raises(RuntimeError):  # which shows that it would be noticed
            step(fewer, logits_BV, gumbel_BV)
