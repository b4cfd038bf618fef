"""Calibration, on texts of a known source and models too sure of it by a known factor."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from charlm_jax.analysis.calibration import (
    BIN_ENDS,
    Predictions,
    calibrated_scale,
    loss_between,
    measure_predictions,
    reliability,
    scale_grid,
    zero_crossing,
)
from charlm_jax.core.errors import CharlmError
from charlm_jax.evaluation.protocol import build_protocol
from charlm_jax.evaluation.scoring import build_scorer
from charlm_jax.models import LanguageModel

V, N = 5, 20_000
SCALES = scale_grid(0.25, 4.0, 33)
P_VV = np.random.default_rng(0).dirichlet(np.full(V, 0.7), size=V)


@pytest.fixture(scope="module")
def ids_N() -> np.ndarray:
    """A text of the Markov chain."""
    uniform_N = np.random.default_rng(1).random(N)
    ends_VV = np.cumsum(P_VV, axis=1)
    ids = [0]
    for uniform in uniform_N[1:]:
        ids.append(int(np.searchsorted(ends_VV[ids[-1], :-1], uniform)))
    return np.array(ids, np.int32)


def _predict(ids_N: np.ndarray, sureness: float, *, mode: str = "stream") -> Predictions:
    """Of a model that knows the chain, and multiplies what it knows by a factor of its own."""
    table_VV = jnp.asarray(sureness * np.log(P_VV) + 3.0, jnp.float32)  # a constant means nothing

    def apply(params: dict, ids_BT: jax.Array, state: tuple, *, key: object = None) -> tuple:
        return table_VV[ids_BT], state

    model = LanguageModel(lambda key: {}, apply, lambda batch, context: (), apply, None, False)
    measure = measure_predictions(SCALES)
    score = build_scorer(
        model, build_protocol(mode, context=7, targets=0), batch_size=64, measure=measure
    )
    return score({}, jnp.asarray(ids_N), (range(N),))


@pytest.mark.parametrize("sureness", [0.5, 1.0, 2.5])
def test_the_scale_undoes_what_a_model_is_too_sure_of(ids_N: np.ndarray, sureness: float) -> None:
    predictions = _predict(ids_N, sureness)
    found = calibrated_scale(SCALES, predictions)
    assert found.low < 1 / sureness < found.high
    assert found.high - found.low < 0.1 / sureness
    loss_A = predictions.loss_NA.mean(axis=0)
    least = int(np.argmin(loss_A))
    assert SCALES[least - 1] < found.mean < SCALES[least + 1]


def test_loss_less_entropy_is_the_slope_of_the_loss(ids_N: np.ndarray) -> None:
    predictions = _predict(ids_N, 1.5)
    loss_A = predictions.loss_NA.mean(axis=0, dtype=np.float64)
    entropy_A = predictions.entropy_NA.mean(axis=0, dtype=np.float64)
    slope_A = np.gradient(loss_A, np.log(SCALES))
    np.testing.assert_allclose((loss_A - entropy_A)[1:-1], slope_A[1:-1], atol=5e-3)


def test_what_is_noted_of_a_character(ids_N: np.ndarray) -> None:
    predictions = _predict(ids_N, 1.0)
    before_N, ids_N = ids_N[:-1], ids_N[1:]
    for place, scale in enumerate(SCALES):
        p_VV = P_VV**scale / np.sum(P_VV**scale, axis=1, keepdims=True)
        want_N = -np.log(p_VV[before_N, ids_N])
        np.testing.assert_allclose(predictions.loss_NA[:, place], want_N, rtol=1e-3, atol=1e-4)
        want_N = -np.sum(p_VV * np.log(p_VV), axis=1)[before_N]
        np.testing.assert_allclose(predictions.entropy_NA[:, place], want_N, rtol=1e-3, atol=1e-4)
    bin_VV = np.searchsorted(np.array(BIN_ENDS, np.float32)[:-1], P_VV.astype(np.float32))
    for number in range(len(BIN_ENDS)):
        is_in_NV = (bin_VV == number)[before_N]
        np.testing.assert_array_equal(predictions.symbols_NK[:, number], is_in_NV.sum(axis=1))
        want_N = np.sum(P_VV[before_N] * is_in_NV, axis=1)
        np.testing.assert_allclose(predictions.probability_NK[:, number], want_N, atol=1e-5)
        hits_N = is_in_NV[np.arange(len(ids_N)), ids_N]
        np.testing.assert_array_equal(predictions.hits_NK[:, number], hits_N)


def test_a_rule_changes_nothing_for_a_model_without_memory(ids_N: np.ndarray) -> None:
    for stream, window in zip(
        _predict(ids_N, 1.5), _predict(ids_N, 1.5, mode="window"), strict=True
    ):
        np.testing.assert_allclose(stream, window, atol=1e-5)


def test_reliability_of_a_calibrated_and_of_an_overconfident_model(ids_N: np.ndarray) -> None:
    calibrated = reliability(_predict(ids_N, 1.0))
    assert sum(b.expected for b in calibrated) == pytest.approx(N - 1, rel=1e-4)
    for b in calibrated:
        assert b.observed.low - 1e-3 < b.predicted < b.observed.high + 1e-3
    sure = reliability(_predict(ids_N, 2.5))
    assert all(b.observed.low > b.predicted for b in sure if b.predicted < 0.02)
    assert all(b.observed.high < b.predicted for b in sure if b.predicted > 0.9)


@pytest.mark.parametrize("hits", [0, 1])
def test_a_rare_bin_is_not_certain(hits: int) -> None:
    """Of ten symbols at 0.7, either none occurs or all do; a bin of few has an honest interval."""
    symbols_NK, hits_NK = np.zeros((2, 8_000, len(BIN_ENDS)), np.float32)
    place = np.searchsorted(BIN_ENDS, 0.7)
    symbols_NK[:10, place] = 1
    hits_NK[:10, place] = hits
    none_NA = np.zeros((8_000, 1))
    ((_, observed, _),) = reliability(
        Predictions(none_NA, none_NA, symbols_NK, 0.7 * symbols_NK, hits_NK)
    )
    bound = 0.025**0.1  # ten hits of ten have at least this probability, at a level of 2.5 %
    assert observed == (hits, *((bound, 1.0) if hits else (0.0, 1 - bound)))


def test_how_sure_a_share_is_does_not_depend_on_how_often_its_bin_comes() -> None:
    bins, rng, is_held = len(BIN_ENDS), np.random.default_rng(0), []
    for _ in range(100):
        often_N = np.repeat(rng.beta(0.5, 2.0, 40), 1000)  # by block
        symbols_NK, hits_NK = np.zeros((2, len(often_N), bins), np.float32)
        symbols_NK[:, -1] = rng.random(len(often_N)) < often_N
        hits_NK[:, -1] = symbols_NK[:, -1] * (rng.random(len(often_N)) < 0.98)
        none_NA = np.zeros((len(often_N), 1))
        predictions = Predictions(none_NA, none_NA, symbols_NK, 0.97 * symbols_NK, hits_NK)
        ((predicted, observed, _),) = reliability(predictions)
        assert predicted == pytest.approx(0.97)
        assert observed.high - observed.low < 6 * (0.98 * 0.02 / symbols_NK.sum()) ** 0.5
        is_held.append(observed.low < 0.98 < observed.high)
    assert 0.88 < np.mean(is_held) < 0.99


def test_a_model_that_knows_nothing_has_no_calibrated_scale(ids_N: np.ndarray) -> None:
    backwards = _predict(ids_N, -1.0)
    with pytest.raises(CharlmError, match=r"is outside \[0.25, 4\]"):
        calibrated_scale(SCALES, backwards)


def test_a_crossing_and_its_interval() -> None:
    scales_A = np.array([0.5, 1.0, 2.0, 4.0])
    values_NA = np.tile(3 * np.log(scales_A / 1.5), (60, 1))
    assert zero_crossing(scales_A, values_NA, block=1) == pytest.approx((1.5, 1.5, 1.5))
    assert zero_crossing(scales_A, values_NA + 9.0) is None
    generator = np.random.default_rng(0)
    is_held = []
    for _ in range(200):
        noisy_NA = values_NA + generator.normal(0, 0.5, (60, 1))
        alone = zero_crossing(scales_A, noisy_NA, block=1)
        taken_M = generator.normal(0, 0.5, 60)
        both = zero_crossing(
            scales_A, noisy_NA - taken_M.mean(), block=1, others_M=taken_M, others_block=1
        )
        is_held.append([found.low < 1.5 < found.high for found in (alone, both)])
    assert np.all(np.abs(np.mean(is_held, axis=0) - 0.95) < 0.04)


@pytest.mark.parametrize(
    "scales", [[0.0, 1.0, 2.0], [-1.0, 1.0, 2.0], [1.0, 1.0, 2.0], [1.0, 2.0, math.inf], [math.nan]]
)
def test_scales_without_ascending_logarithms_are_refused(scales: list[float]) -> None:
    scales_A = np.array(scales)
    values_NA = np.tile(scales_A - 1.5, (60, 1))
    for refused in (
        lambda: zero_crossing(scales_A, values_NA),
        lambda: loss_between(1.0, scales_A, values_NA, values_NA),
    ):
        with pytest.raises(CharlmError, match="they must be positive, finite and ascending"):
            refused()


def test_a_grid_of_scales_has_two_positive_ends() -> None:
    for minimum in (0, -1, 5, math.nan):
        with pytest.raises(CharlmError, match="they must be positive, finite and ascending"):
            scale_grid(minimum)
    with pytest.raises(CharlmError, match="count=1 is not allowed: it must be at least 2"):
        scale_grid(count=1)


def test_what_comes_many_times_makes_a_crossing_no_surer() -> None:
    scales_A, generator = np.array([0.5, 1.0, 2.0, 4.0]), np.random.default_rng(0)
    values_NA = np.log(scales_A / 1.5) + generator.normal(0, 0.5, (60, 1))
    taken_M = generator.normal(0, 0.5, 40)
    alone = zero_crossing(scales_A, values_NA, block=1)
    both = zero_crossing(scales_A, values_NA, block=1, others_M=taken_M, others_block=1)
    assert alone and both
    often_NA, often_M = np.repeat(values_NA, 5, axis=0), np.repeat(taken_M, 3)
    found = zero_crossing(scales_A, often_NA, block=5, others_M=often_M, others_block=3)
    assert found == pytest.approx(tuple(both))
    one_block = zero_crossing(scales_A, values_NA)
    assert one_block == pytest.approx((alone.mean, -math.inf, math.inf))
    # Blocks are of 1,000 unless said otherwise.
    often_NA, often_M = np.repeat(values_NA, 1000, axis=0), np.repeat(taken_M, 1000)
    assert zero_crossing(scales_A, often_NA, others_M=often_M) == pytest.approx(tuple(both))
    predictions = Predictions(often_NA + 2.0, np.full_like(often_NA, 2.0), *np.zeros((3, 1, 1)))
    assert calibrated_scale(scales_A, predictions) == pytest.approx(tuple(alone))


@pytest.mark.parametrize("count", [2, 9])
def test_between_two_scales_the_loss_is_the_cubic_with_both_slopes(count: int) -> None:
    """Of any cubic in the logarithm of the scale nothing is lost."""
    scales_A = scale_grid(0.25, 4.0, count)
    factors = np.random.default_rng(0).normal(size=(3, 4))

    def loss_and_slope(scale: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
        logs = np.log(np.asarray(scale))
        powers = np.stack([logs**power for power in range(4)])
        slopes = np.stack([power * logs ** max(power - 1, 0) for power in range(4)])
        return factors @ powers, factors @ slopes

    loss_XA, slope_XA = loss_and_slope(scales_A)
    for scale in (0.25, 0.3, 0.99, 1.0, 2.7, 4.0):
        found_X = loss_between(scale, scales_A, loss_XA, loss_XA - slope_XA)
        np.testing.assert_allclose(found_X, loss_and_slope(scale)[0], atol=1e-12)
