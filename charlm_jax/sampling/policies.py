"""Sampling policies: top-k, top-p and min-p truncation, then a scale factor (1 / temperature).

A policy first truncates the model's own distribution, that of scale 1. Each truncation sees what
the one before it left, renormalised, and the scale factor comes last:

  top-k   the k most probable symbols.
  top-p   the fewest of these, most probable first, whose probability reaches p (the nucleus).
  min-p   those of these that are at least min_p times as probable as the best.
  scale   one of these is drawn, with probability in proportion to exp(scale * logit).

What may be drawn therefore does not depend on the scale: scale 0 is uniform over it, infinity is
the best symbol under every truncation, and several scales choose from the same symbols. They stand
in the order of llama.cpp's default chain, which has more links. Hugging Face's transformers apply
the temperature first and then the same three: there a flat distribution lets more symbols into the
nucleus and past min-p.

Every truncation is a floor under the logits, so symbols that tie stay or go together: where
several tie for the last place, all of them stay.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from charlm_jax.core.errors import CharlmError
from charlm_jax.sampling.categorical import scaled_categorical, scaled_probabilities
from charlm_jax.sampling.params import check_scale, check_share, check_top_k


# Truncations and policies are named tuples, whose structures JAX tells apart. It takes those of two
# registered dataclasses with equally many fields for equal (seen in 0.10.2): now and then a
# compiled program for the one would then run for the other.
class Truncation(Protocol):
    """A rule that leaves symbols out, with a number of its own for every row."""

    @property
    def in_order(self) -> bool:
        """Whether the logits must come in descending order, which costs a sort."""

    def floor(self, left_BV: jax.Array) -> jax.Array:
        """The least logit that stays.

        Args:
          left_BV: logits; -inf is what has been left out before.

        Returns:
          floor_B; -inf leaves nothing more out.
        """


class TopK(NamedTuple):
    """The k most probable symbols; 0, and more than there are, is all of them.

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
    """The smallest set of symbols whose probability reaches p; 0 is the best alone, 1 is all.

    A set whose probability is within float32's rounding of p may count as either side of it, but
    p = 1 leaves out nothing, however small.

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
    """Symbols at least `ratio` times as probable as the best; 0 is all, 1 the best alone.

    Source: Nguyen et al. 2024 (Turning up the heat: min-p sampling, arXiv 2407.01082).
    """

    ratio_B: jax.Array

    @property
    def in_order(self) -> bool:
        return False

    def floor(self, left_BV: jax.Array) -> jax.Array:
        return jnp.max(left_BV, axis=-1) + jnp.log(self.ratio_B)


class Policy(NamedTuple):
    """Truncations and then a scale. Other numbers in the same arrays compile nothing new.

    Attributes:
      scale_B: each row's scale factor, in [0, inf].
      truncations: in the order in which they act; each that is listed costs time in every row.
    """

    scale_B: jax.Array
    truncations: tuple[Truncation, ...] = ()

    def sample(self, logits_BV: jax.Array, gumbel_BV: jax.Array) -> jax.Array:
        """Sample one symbol for each row, as `scaled_categorical` does from what is left.

        Args:
          logits_BV: scores, float32. Of -inf, a symbol is not drawn; a row of nothing else draws
            symbol 0.
          gumbel_BV: standard Gumbel noise.

        Returns:
          ids_B, int32.
        """
        return scaled_categorical(truncate(logits_BV, self.truncations), gumbel_BV, self.scale_B)


def probabilities(logits_BV: jax.Array, policy: Policy) -> jax.Array:
    """What `policy.sample` follows: probs_BV, float32, exactly 0 where nothing may be drawn."""
    return scaled_probabilities(truncate(logits_BV, policy.truncations), policy.scale_B)


def truncate(logits_BV: jax.Array, truncations: Sequence[Truncation]) -> jax.Array:
    """The same logits with -inf for what the truncations, one after another, leave out."""
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
    """The policy of so many rows as there are scales.

    Each truncation is one number, or one for each row.

    Args:
      scale: scale factors in [0, inf].
      top_k: symbols to choose from, from 1; 0 is all of them.
      top_p: probability of the nucleus, in [0, 1]; 1 is everything, 0 the best symbol.
      min_p: least probability beside the best symbol's, in [0, 1]; 0 is everything, 1 the best.
      keep_idle: whether a truncation that no row uses is in the policy all the same. It costs time
        then, but any other numbers for as many rows compile nothing new.

    Raises:
      CharlmError: a number that is not allowed, or not as many of them as there are rows.
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
            f"{name} has {len(values)} values for {rows} rows: it must be one number, or one a row"
        )
    return values


def _descending(logits_BV: jax.Array) -> jax.Array:
    """Each row, largest first.

    XLA sorts integers on the CPU some ten times as fast as floats, whose comparison has to think
    of NaN. The bits of a float, all but the sign flipped where that is set, are an integer with
    the same order.
    """

    def flip(bits_BV: jax.Array) -> jax.Array:
        return jnp.where(bits_BV < 0, bits_BV ^ jnp.int32(2**31 - 1), bits_BV)

    keys_BV = flip(jax.lax.bitcast_convert_type(logits_BV, jnp.int32))
    keys_BV = ~jax.lax.sort(~keys_BV, is_stable=False)
    return jax.lax.bitcast_convert_type(flip(keys_BV), jnp.float32)


def _pick(x_BV: jax.Array, index_B: jax.Array) -> jax.Array:
    """Return one entry of each row, at an index of its own."""
    return jnp.take_along_axis(x_BV, index_B[:, None], axis=-1)[:, 0]
