"""Effective context: loss when the characters more than n before the target are changed.

Every target is predicted from the same number of characters, of which the nearest n are unchanged.
The others are

  truncated  not read at all: the model starts n characters before the target;
  shuffled   read in random order, which keeps the characters but not their positions;
  replaced   read from another position of the text, so that they are still text, but not that
             around the target.

The effective context is the smallest n such that, for it and every larger n, the loss is within 1 %
of the unchanged one.

Letters of this module: P targets, T positions, K blocks of text, D bootstrap samples, M contexts.

Source: Khandelwal et al. 2018 (Sharp Nearby, Fuzzy Far Away), sections 3 and 5.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from charlm_jax.core.errors import CharlmError
from charlm_jax.core.limits import require_within
from charlm_jax.core.numerics import fixed_numerics
from charlm_jax.core.types import Params
from charlm_jax.data.splits import Part
from charlm_jax.evaluation.block_sums import (
    BlockSums,
    check_same_blocks,
    validated,
    without_empty,
)
from charlm_jax.evaluation.bootstrap import check_bootstrap_options, times_drawn
from charlm_jax.evaluation.context_limits import check_length
from charlm_jax.evaluation.protocol import Sliding
from charlm_jax.evaluation.scoring import make_position_scorer
from charlm_jax.models import LanguageModel

# Each length is compiled once per model, for all changes and repetitions.
_shared_scorer = functools.lru_cache(maxsize=64)(make_position_scorer)


@fixed_numerics()
def losses_by_context(
    model: LanguageModel,
    params: Params,
    ids_N: np.ndarray,
    part: Part,
    *,
    change: str,
    contexts: Sequence[int],
    reach: int,
    targets: int,
    batch_size: int,
    seed: int = 0,
) -> Mapping[int, np.ndarray]:
    """Compute losses on the same targets, with only the nearest n characters unchanged.

    Args:
      model: model to score.
      params: weights of the model.
      ids_N: the text.
      part: part of the text that contains the targets.
      change: one of `CHANGES`.
      contexts: values of n, each from 1 to `reach`.
      reach: number of characters before a target, the n unchanged ones included.
      targets: number of targets, evenly spread; 0 means all.
      batch_size: number of targets scored at once; it changes the losses by rounding at most.
      seed: seed of the random orders and positions, from 0.

    Returns:
      n -> nll_P in nats, for n in `contexts` and for `reach` itself, where all are unchanged.

    Raises:
      CharlmError: the change is unknown, a number is not whole or out of range, the text is too
        short, the model has learned fewer positions, or a loss is not finite.
    """
    if change not in CHANGES:
        raise CharlmError(f"change={change!r} is not known: it must be one of {', '.join(CHANGES)}")
    protocol = Sliding(reach, targets)
    for context in contexts:
        require_within("context", context, 1, reach)
    require_within("seed", seed, 0)
    check_length(model, "the reach", reach, advice="choose a reach")
    positions_P = protocol.positions(part)
    rows_PT = rows_before(ids_N, positions_P, reach)
    changed = _CHANGES[change]
    losses = {}
    for context in sorted({*contexts, reach}):
        noise = np.random.default_rng(seed)  # the same for every n: a smooth curve
        far_PT = changed(noise, rows_PT, reach - context, ids_N, part, positions_P)
        read_PT = np.concatenate([far_PT, rows_PT[:, reach - context :]], axis=1)
        length = read_PT.shape[1]
        score = _shared_scorer(model, context=length - 1, batch_size=batch_size)
        ends_P = np.arange(1, len(read_PT) + 1) * length - 1
        losses[context] = score(params, read_PT.reshape(-1), ends_P)
        if not np.isfinite(losses[context]).all():
            raise CharlmError("a loss is not finite: the model has diverged")
    return losses


def rows_before(ids_N: np.ndarray, positions_P: np.ndarray, reach: int) -> np.ndarray:
    """Return rows_PT: each position's character, last, and those before it; T = reach + 1."""
    return np.lib.stride_tricks.sliding_window_view(ids_N, reach + 1)[positions_P - reach]


_Change = Callable[[np.random.Generator, np.ndarray, int, np.ndarray, Part, np.ndarray], np.ndarray]
"""(noise, rows_PT, far, ids_N, part, positions_P) -> what is read in place of the `far` first."""


def _truncated(noise: np.random.Generator, rows_PT: np.ndarray, far: int, *_: Any) -> np.ndarray:
    return rows_PT[:, :0]


def _shuffled(noise: np.random.Generator, rows_PT: np.ndarray, far: int, *_: Any) -> np.ndarray:
    order_PT = noise.random(rows_PT.shape, np.float32)[:, :far].argsort(axis=1)
    return np.take_along_axis(rows_PT[:, :far], order_PT, axis=1)


def _replaced(
    noise: np.random.Generator,
    rows_PT: np.ndarray,
    far: int,
    ids_N: np.ndarray,
    part: Part,
    positions_P: np.ndarray,
) -> np.ndarray:
    reach = rows_PT.shape[1] - 1
    positions_N = Sliding(reach, targets=0).positions(part)
    if positions_N[-1] - positions_N[0] <= 2 * reach:  # some target would leave no choice
        raise CharlmError(
            f"the text is too short to replace {reach} characters by others of it: it needs more "
            f"than {3 * reach}"
        )
    chosen_P = noise.choice(positions_N, len(rows_PT))
    while (is_near_P := np.abs(chosen_P - positions_P) <= reach).any():
        chosen_P[is_near_P] = noise.choice(positions_N, int(is_near_P.sum()))
    return rows_before(ids_N, chosen_P, reach)[:, :far]


_CHANGES: Mapping[str, _Change] = {
    "truncated": _truncated,
    "shuffled": _shuffled,
    "replaced": _replaced,
}
CHANGES = tuple(_CHANGES)


def effective_context(loss_nats: Mapping[int, float], *, share: float = 0.01) -> int:
    """Return the smallest n such that all losses from n on are within a share of the last.

    Args:
      loss_nats: n -> mean loss; at the greatest n, all characters are unchanged.
      share: largest allowed increase, relative to the loss at the greatest n, from 0.

    Raises:
      CharlmError: there is no loss, one is not finite, or the share is out of range.

    >>> effective_context({1: 2.5, 4: 2.0, 16: 1.51, 64: 1.5})
    16
    """
    if not loss_nats:
        raise CharlmError("there are no losses: give that of at least one context")
    for context, loss in loss_nats.items():
        if not math.isfinite(loss):
            raise CharlmError(f"the loss at context={context} is {loss}: it must be finite")
    if not share >= 0:
        raise CharlmError(f"share={share} is not allowed: it must be at least 0")
    most = (1.0 + share) * loss_nats[max(loss_nats)]
    enough = max(loss_nats)
    for context in sorted(loss_nats, reverse=True):
        if loss_nats[context] > most:
            break
        enough = context
    return enough


class ContextReach(NamedTuple):
    """Effective context in characters, with its 95 % interval over the text."""

    characters: int
    low: int
    high: int


def effective_context_interval(
    losses: Mapping[int, BlockSums], *, draws: int = 2_000, seed: int = 0
) -> ContextReach:
    """Compute the effective context and its 95 % interval.

    The interval has the percentiles of the effective contexts of bootstrap samples of blocks. It
    covers the variation of the text, not that of seeds.

    Args:
      losses: n -> losses of one run with all but the nearest n characters changed, on the same
        blocks.
      draws: number of bootstrap samples.
      seed: seed of the bootstrap samples.

    Returns:
      The effective context. With a single block its interval is unknown: all contexts that were
      measured.

    Raises:
      CharlmError: there are no losses, they are of several runs or of different blocks, or a number
        is out of range or not finite.
    """
    check_bootstrap_options(draws=draws, level=0.95, seed=seed)
    if not losses:
        raise CharlmError("there are no losses: give those of at least one context")
    losses = {context: validated(sums) for context, sums in losses.items()}
    contexts = sorted(losses)
    for context in contexts:
        check_same_blocks(losses[context], losses[contexts[0]])
        if len(losses[context].sums_SK) != 1:
            raise CharlmError("an effective context is of one run: give the losses of one")
    sums = [without_empty(losses[context]) for context in contexts]
    counts_K, sums_MK = sums[0].counts_K, np.stack([each.sums_SK[0] for each in sums])

    def found(means_M: np.ndarray) -> int:
        return effective_context(dict(zip(contexts, means_M.tolist(), strict=True)))

    characters = found(sums_MK.sum(axis=1) / counts_K.sum())
    if len(counts_K) == 1:
        return ContextReach(characters, contexts[0], contexts[-1])
    times_DK = times_drawn(len(counts_K), draws, np.random.default_rng(seed))
    means_DM = times_DK @ sums_MK.T / (times_DK @ counts_K)[:, None]
    low, high = np.percentile(
        [found(means_M) for means_M in means_DM], (2.5, 97.5), method="nearest"
    )
    return ContextReach(characters, int(low), int(high))
