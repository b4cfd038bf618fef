"""Sampling policies: top-k, top-p and min-p truncation, then a scale factor (1 / temperature).

A policy first truncates the model's own distribution, at scale 1. Each truncation sees the symbols
left by the previous one, renormalized, and the scale factor comes last:

  top-k   the k most probable symbols.
  top-p   the fewest of these, most probable first, whose probability reaches p (the nucleus).
  min-p   those of these that are at least min_p times as probable as the best.
  scale   one of these is sampled, with probability proportional to exp(scale * logit).

The candidate symbols therefore do not depend on the scale: scale 0 is uniform over them, infinity
is the best symbol under every truncation, and all scales choose from the same symbols. The order is
that of llama.cpp's default chain, which has more stages. Hugging Face's transformers apply the
temperature first and then the same three truncations: there a flat distribution lets more symbols
into the nucleus and past min-p.

Every truncation is a minimum logit, so tied symbols are kept or removed together: if several tie
for the last rank, all of them are kept.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from charlm_jax.core.errors import CharlmError
from charlm_jax.sampling.categorical import scaled_categorical, scaled_probabilities
from charlm_jax.sampling.params import check_scale, check_share, check_top_k


# Truncations and policies are named tuples, whose structures JAX distinguishes. It treats those of
# two registered dataclasses with equally many fields as equal (seen in 0.10.2), so a program
# compiled for one would occasionally run for the other.
class Truncation(Protocol):
    """Rule that removes symbols, with a separate number for every row."""

    @property
    def in_order(self) -> bool:
        """True if the logits must be in descending order, which costs a sort."""

    def floor(self, left_BV: jax.Array) -> jax.Array:
        """Return the smallest logit that is kept.

        Args:
          left_BV: logits; -inf for symbols that are already removed.

        Returns:
          floor_B; -inf removes no further symbols.
        """


class TopK(NamedTuple):
    """The k most probable symbols; all of them if k is 0 or exceeds their number.

    Source: Fan, Lewis and Dauphin 2018 (Hierarchical neural story generation, section 5).
    """

    k_B: jax.Array

    @property
    def in_order(self) -> bool:
        return True

    def floor(self, left_BV: jax.Array) -> jax.Array:
        last_B = jnp.clip(self.k_B, 1, left_BV.shape[-1]) - 1
        return jnp.where(self.k_B == 0, -jnp.inf, _pick(left_BV, last_B))


class TopP(NamedTuple):
    """The smallest set of symbols whose probability reaches p; 0 is only the best, 1 is all.

    A set whose probability is within float32's rounding of p may fall on either side of it, but
    p = 1 removes no symbol, however small its probability.

    Source: Holtzman et al. 2020 (The curious case of neural text degeneration, section 3.1).
    """

    p_B: jax.Array

    @property
    def in_order(self) -> bool:
        return True

    def floor(self, left_BV: jax.Array) -> jax.Array:
        mass_BV = jnp.cumsum(jnp.exp(left_BV - left_BV[:, :1]), axis=-1)
        is_short_BV = mass_BV < self.p_B[:, None] * mass_BV[:, -1:]
        last_B = jnp.sum(is_short_BV, axis=-1, dtype=jnp.int32)
        return jnp.where(self.p_B >= 1.0, -jnp.inf, _pick(left_BV, last_B))


class MinP(NamedTuple):
    """Symbols at least `ratio` times as probable as the best; 0 is all, 1 only the best.

    Source: Nguyen et al. 2024 (Turning up the heat: min-p sampling, arXiv 2407.01082).
    """

    ratio_B: jax.Array

    @property
    def in_order(self) -> bool:
        return False

    def floor(self, left_BV: jax.Array) -> jax.Array:
        return jnp.max(left_BV, axis=-1) + jnp.log(self.ratio_B)


class Policy(NamedTuple):
    """Truncations and then a scale. Other numbers in the same arrays cause no recompilation.

    Attributes:
      scale_B: each row's scale factor, in [0, inf].
      truncations: truncations in the order of application; each costs time in every row.
    """

    scale_B: jax.Array
    truncations: tuple[Truncation, ...] = ()

    def sample(self, logits_BV: jax.Array, gumbel_BV: jax.Array) -> jax.Array:
        """Sample one symbol for each row, by `scaled_categorical` from the truncated logits.

        Args:
          logits_BV: scores, float32. A symbol with score -inf is never sampled, but a row of only
            -inf gives symbol 0.
          gumbel_BV: standard Gumbel noise.

        Returns:
          ids_B, int32.
        """
        return scaled_categorical(truncate(logits_BV, self.truncations), gumbel_BV, self.scale_B)


def probabilities(logits_BV: jax.Array, policy: Policy) -> jax.Array:
    """Return the distribution of `policy.sample`: probs_BV, float32, exactly 0 if removed."""
    return scaled_probabilities(truncate(logits_BV, policy.truncations), policy.scale_B)


def truncate(logits_BV: jax.Array, truncations: Sequence[Truncation]) -> jax.Array:
    """Return the logits with -inf for the symbols that the truncations, in order, remove."""
    if not truncations:
        return logits_BV
    in_order = any(truncation.in_order for truncation in truncations)
    left_BV = _descending(logits_BV) if in_order else logits_BV
    floor_B = jnp.full(len(logits_BV), -jnp.inf)
    for truncation in truncations:
        floor_B = jnp.maximum(floor_B, truncation.floor(left_BV))
        left_BV = jnp.where(left_BV >= floor_B[:, None], left_BV, -jnp.inf)
    return jnp.where(logits_BV >= floor_B[:, None], logits_BV, -jnp.inf)


def build_policy(
    *,
    scale: Sequence[float],
    top_k: int | Sequence[int] = 0,
    top_p: float | Sequence[float] = 1.0,
    min_p: float | Sequence[float] = 0.0,
    keep_idle: bool = False,
) -> Policy:
    """Build a policy with one row for each scale.

    Each truncation is one number, or one for each row.

    Args:
      scale: scale factors in [0, inf].
      top_k: number of symbols to choose from, from 1; 0 is all of them.
      top_p: probability of the nucleus, in [0, 1]; 1 is everything, 0 the best symbol.
      min_p: minimum probability relative to the best symbol's, in [0, 1]; 0 is everything, 1 the
        best symbol.
      keep_idle: whether to include truncations that no row uses. They cost time, but other numbers
        for the same number of rows then cause no recompilation.

    Raises:
      CharlmError: a number is not allowed, or their count differs from the number of rows.
    """
    rows = len(scale)
    k_B = [check_top_k(k) for k in _each_row("top_k", top_k, rows)]
    p_B = [check_share("top_p", p) for p in _each_row("top_p", top_p, rows)]
    ratio_B = [check_share("min_p", ratio) for ratio in _each_row("min_p", min_p, rows)]
    truncations: list[Truncation] = []
    if keep_idle or any(k > 0 for k in k_B):
        truncations.append(TopK(jnp.array(k_B, jnp.int32)))
    if keep_idle or any(p < 1 for p in p_B):
        truncations.append(TopP(jnp.array(p_B, jnp.float32)))
    if keep_idle or any(ratio > 0 for ratio in ratio_B):
        truncations.append(MinP(jnp.array(ratio_B, jnp.float32)))
    scale_B = jnp.array([check_scale(a) for a in scale], jnp.float32)
    return Policy(scale_B, tuple(truncations))


def _each_row(name: str, value: Any, rows: int) -> list[Any]:
    values = [value] * rows if np.ndim(value) == 0 else list(value)
    if len(values) != rows:
        raise CharlmError(
            f"{name} has {len(values)} values for {rows} rows: it must be one number, or one for "
            f"each row"
        )
    return values


def _descending(logits_BV: jax.Array) -> jax.Array:
    """Sort each row in descending order.

    XLA sorts integers on the CPU some ten times as fast as floats, whose comparison has to handle
    NaN. The bits of a float, with all but the sign flipped if that is set, are an integer with the
    same order.
    """

    def flip(bits_BV: jax.Array) -> jax.Array:
        return jnp.where(bits_BV < 0, bits_BV ^ jnp.int32(2**31 - 1), bits_BV)

    keys_BV = flip(jax.lax.bitcast_convert_type(logits_BV, jnp.int32))
    keys_BV = ~jax.lax.sort(~keys_BV, is_stable=False)
    return jax.lax.bitcast_convert_type(flip(keys_BV), jnp.float32)


def _pick(x_BV: jax.Array, index_B: jax.Array) -> jax.Array:
    """Return one entry of each row, at an index of its own."""
    return jnp.take_along_axis(x_BV, index_B[:, None], axis=-1)[:, 0]
