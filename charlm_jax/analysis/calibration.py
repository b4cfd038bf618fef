"""Calibration on held-out text: loss and entropy by scale factor, and a reliability diagram.

Sampling multiplies the logits by a scale factor. One pass over held-out text gives, for every
scale, the loss and the entropy of the distribution that would be sampled from; no sample is needed.
With z the logits, p the softmax of a * z, y the next character:

    loss(a)    = log sum exp(a z) - a z_y
    entropy(a) = log sum exp(a z) - a E_p[z]
    d loss / d a = E_p[z] - z_y = (loss - entropy) / a

So the loss, which is convex in a, is least exactly where its mean equals the mean entropy: where
the model's uncertainty matches its error. If that scale is below 1, the model is overconfident.

Letters of this module: N held-out characters, A scale factors, K bins of probability, X any axes.

Sources: scaling logits on held-out data, Guo et al. 2017 (On calibration of modern neural
networks); entropy against loss, Braverman et al. 2020 (Calibration, entropy rates, and memory in
language models).
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from charlm_jax.core.errors import CharlmError
from charlm_jax.core.limits import require_within
from charlm_jax.evaluation.block_sums import BLOCK
from charlm_jax.evaluation.bootstrap import Interval, mean_interval
from charlm_jax.evaluation.scoring import Measure
from charlm_jax.models.losses import negative_log_likelihood

# Upper ends of the bins of predicted probability: geometric, since most symbols are improbable.
BIN_ENDS = (*(2.0**-power for power in range(12, 1, -1)), 0.35, 0.5, 0.65, 0.8, 0.9, 0.95, 1.0)


def scale_grid(minimum: float = 0.25, maximum: float = 5.0, count: int = 61) -> np.ndarray:
    """Return scales_A, spaced geometrically.

    Args:
      minimum: smallest scale factor, positive.
      maximum: largest scale factor, finite.
      count: number of scale factors, from 2.

    Raises:
      CharlmError: a number is out of range.
    """
    require_within("count", count, 2)
    _check_scales(np.array([minimum, maximum]))
    return np.geomspace(minimum, maximum, count)


def _check_scales(scales_A: np.ndarray) -> None:
    """Refuse scale factors whose logarithms are not finite and ascending."""
    is_ascending_A = np.diff(scales_A, prepend=0.0) > 0  # False next to NaN
    if not is_ascending_A.size or not is_ascending_A.all() or np.isinf(scales_A[-1]):
        raise CharlmError(
            f"the scale factors {np.asarray(scales_A).tolist()} are not allowed: they must be "
            f"positive, finite and ascending"
        )


class Predictions(NamedTuple):
    """Predictions along a text, at every scale.

    Attributes:
      loss_NA: loss of the next character, in nats.
      entropy_NA: entropy of the predicted distribution, in nats.
      symbols_NK: number of symbols whose probability, at scale 1, lies in each bin.
      probability_NK: total probability of these symbols.
      hits_NK: 1 if the next character is one of them, else 0.
    """

    loss_NA: np.ndarray
    entropy_NA: np.ndarray
    symbols_NK: np.ndarray
    probability_NK: np.ndarray
    hits_NK: np.ndarray


def measure_predictions(scales_A: np.ndarray) -> Measure:
    """Return a measure for `build_scorer`, whose scorer then returns `Predictions`."""

    def measure(logits_BTV: jax.Array, targets_BT: jax.Array) -> Predictions:
        logits_BTV = logits_BTV.astype(jnp.float32)

        def at(scale: jax.Array) -> tuple[jax.Array, jax.Array]:
            log_p_BTV = jax.nn.log_softmax(scale * logits_BTV)
            entropy_BT = -jnp.sum(jnp.exp(log_p_BTV) * log_p_BTV, axis=-1)
            return negative_log_likelihood(scale * logits_BTV, targets_BT), entropy_BT

        loss_ABT, entropy_ABT = jax.lax.map(at, jnp.asarray(scales_A, jnp.float32))
        by_scale_BTA = [jnp.moveaxis(x_ABT, 0, -1) for x_ABT in (loss_ABT, entropy_ABT)]
        by_bin_BTK = _by_bin(jax.nn.softmax(logits_BTV), targets_BT.astype(jnp.int32))
        values: list[Any] = by_scale_BTA + by_bin_BTK  # the scorer makes NumPy arrays of them
        return Predictions(*values)

    return measure


def _by_bin(p_BTV: jax.Array, targets_BT: jax.Array) -> list[jax.Array]:
    """Return symbols_BTK, probability_BTK, hits_BTK."""
    bin_BTV = jnp.searchsorted(jnp.asarray(BIN_ENDS[:-1], p_BTV.dtype), p_BTV)
    bin_BT = jnp.take_along_axis(bin_BTV, targets_BT[..., None], axis=-1)[..., 0]

    def of(number: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        is_in_BTV = bin_BTV == number
        symbols_BT = jnp.sum(is_in_BTV, axis=-1, dtype=p_BTV.dtype)
        together_BT = jnp.sum(jnp.where(is_in_BTV, p_BTV, 0.0), axis=-1)
        return symbols_BT, together_BT, (bin_BT == number).astype(p_BTV.dtype)

    by_bin_KBT = jax.lax.map(of, jnp.arange(len(BIN_ENDS)))
    return [jnp.moveaxis(x_KBT, 0, -1) for x_KBT in by_bin_KBT]


def calibrated_scale(scales_A: np.ndarray, predictions: Predictions) -> Interval:
    """Return the scale with the least held-out loss, which is where loss and entropy are equal.

    Args:
      scales_A: scale factors, positive and ascending.
      predictions: predictions at these scales.

    Raises:
      CharlmError: the scale lies outside `scales_A`, these are not allowed, or a loss or entropy is
        not finite.
    """
    scale = zero_crossing(scales_A, predictions.loss_NA - predictions.entropy_NA)
    if scale is None:
        raise CharlmError(
            f"the scale with the lowest held-out loss is outside [{scales_A[0]:g}, "
            f"{scales_A[-1]:g}]: the model has not learned to predict this text"
        )
    return scale


def zero_crossing(
    scales_A: np.ndarray,
    values_NA: np.ndarray,
    *,
    block: int = BLOCK,
    others_M: np.ndarray | None = None,
    others_block: int = BLOCK,
) -> Interval | None:
    """Find the scale at which the mean over N of scale-dependent values is 0.

    The mean is interpolated linearly in the logarithm of the scale. The interval is that of the
    mean there (`charlm_jax.evaluation.bootstrap`), divided by the slope: the delta method.

    Args:
      scales_A: scale factors, positive and ascending.
      values_NA: values at each scale, in the text's order.
      block: number of consecutive values per bootstrap block.
      others_M: values whose mean has been subtracted from `values_NA`; the interval includes the
        uncertainty of that mean. None if nothing was subtracted.
      others_block: number of consecutive values of `others_M` per bootstrap block.

    Returns:
      The scale, with its interval, which is infinite if there is only one block; None if the mean
      does not change its sign.

    Raises:
      CharlmError: the scale factors are not allowed, or a value is not finite.
    """
    _check_scales(scales_A)
    mean_A = values_NA.mean(axis=0, dtype=np.float64)
    changes = np.flatnonzero(np.sign(mean_A[1:]) != np.sign(mean_A[:-1]))
    if not changes.size:
        return None
    left = int(changes[0])
    low, high = mean_A[left], mean_A[left + 1]
    weight = low / (low - high)
    log_low, log_high = np.log(scales_A[left : left + 2])
    slope = (high - low) / (log_high - log_low)
    values_N = values_NA[:, left] + weight * (values_NA[:, left + 1] - values_NA[:, left])
    half = _half(values_N, block)
    if others_M is not None:
        half = float(np.hypot(half, _half(others_M, others_block)))
    log_scale = log_low + weight * (log_high - log_low)
    if not np.isfinite(half):
        return Interval(float(np.exp(log_scale)), -np.inf, np.inf)
    ends = (log_scale - half / abs(slope), log_scale + half / abs(slope))
    return Interval(float(np.exp(log_scale)), *map(float, np.exp(ends)))


def loss_between(
    scale: float, scales_A: np.ndarray, loss_XA: np.ndarray, entropy_XA: np.ndarray
) -> np.ndarray:
    """Interpolate loss_X, in nats, at a scale between those of a grid.

    The slope of the loss in the logarithm of the scale is known, loss - entropy, so the loss is
    interpolated by the cubic with both values and both slopes (Hermite's). Linear interpolation
    would lie above a convex loss, and the least loss could come out above others.

    Args:
      scale: scale factor within the range of the grid.
      scales_A: scale factors of the grid, positive and ascending.
      loss_XA: loss at these scales, in nats.
      entropy_XA: entropy at these scales, in nats.

    Raises:
      CharlmError: the scale factors of the grid are not allowed.
    """
    _check_scales(scales_A)
    logs_A = np.log(scales_A)
    left = min(int(np.searchsorted(scales_A, scale, "right")) - 1, len(scales_A) - 2)
    width = logs_A[left + 1] - logs_A[left]
    way = (math.log(scale) - logs_A[left]) / width
    low_X, high_X = loss_XA[..., left], loss_XA[..., left + 1]
    low_slope_X, high_slope_X = (
        width * (loss_XA[..., index] - entropy_XA[..., index]) for index in (left, left + 1)
    )
    return np.asarray(
        (1 + 2 * way) * (1 - way) ** 2 * low_X
        + way * (1 - way) ** 2 * low_slope_X
        + way**2 * (3 - 2 * way) * high_X
        - way**2 * (1 - way) * high_slope_X
    )


def _half(values_N: np.ndarray, block: int) -> float:
    """Return half the width of the interval of a mean."""
    interval = mean_interval([values_N], block=block)
    return (interval.high - interval.low) / 2


def _share(hits_N: np.ndarray, wholes_N: np.ndarray) -> Interval:
    """Return the sum of hits over that of wholes, with its 95 % interval in [0, 1].

    The interval is that of the mean of hit - share * whole, divided by the mean whole: the delta
    method. A share of 0 or 1 has no variance to estimate; its interval is then the exact one of as
    many independent draws (Clopper and Pearson 1934).
    """
    count = float(wholes_N.sum(dtype=np.float64))
    share = float(hits_N.sum(dtype=np.float64)) / count
    if share in (0.0, 1.0):
        least = 0.025 ** (1 / count)
        return Interval(share, 0.0, 1 - least) if share == 0.0 else Interval(share, least, 1.0)
    half = _half(hits_N - share * wholes_N, BLOCK) / (count / len(wholes_N))
    return Interval(share, max(share - half, 0.0), min(share + half, 1.0))


class Bin(NamedTuple):
    """Observed frequency of the symbols in one bin of predicted probability.

    Attributes:
      predicted: mean probability, at scale 1, of the symbols in the bin.
      observed: share of them that occurred, with its interval in [0, 1].
      expected: expected number of occurrences, the sum of the bin's probabilities.
    """

    predicted: float
    observed: Interval
    expected: float


def reliability(predictions: Predictions) -> list[Bin]:
    """Return the points of a reliability diagram, one per bin; empty bins are left out.

    Every symbol counts at every position, not only the most probable: sampling uses all of them.
    """
    bins = []
    parts = (predictions.symbols_NK, predictions.probability_NK, predictions.hits_NK)
    for symbols_N, together_N, hits_N in zip(*(part.T for part in parts), strict=True):
        symbols, expected = (float(x.sum(dtype=np.float64)) for x in (symbols_N, together_N))
        if not symbols:
            continue
        observed = _share(hits_N, symbols_N)
        bins.append(Bin(expected / symbols, observed, expected))
    return bins
