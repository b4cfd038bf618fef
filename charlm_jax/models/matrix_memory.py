"""Recurrences whose state is a matrix per head, in a plain and in a chunked form.

A memory maps keys of width K to values of width P. The plain forms read as the papers do and serve
single positions. The chunked forms compute C positions at once by matrix products and pass on only
the memory between chunks, so that time and memory are linear in T. Both give the same up to
rounding. Chunks take differences of sums of log keep; a sum g is rounded, and what it weighs is
then inexact by up to some 1e-7 |g|, such as 1e-4 where a chunk decays by exp(-400).

Letters: B rows, T positions, H heads, K key width, P value width, N chunks of C positions.
"""

from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from charlm_jax.models.ops import Dtype, batch_matmul, product, scan_time

_MOST_ROWS = 32  # of a triangular system that is solved row by row


def decayed_memory(
    query_BTHK: jax.Array,
    key_BTHK: jax.Array,
    value_BTHP: jax.Array,
    log_keep_BTH: jax.Array,
    memory_BHKP: jax.Array,
    *,
    chunk_size: int,
    operand_dtype: Dtype,
) -> tuple[jax.Array, jax.Array]:
    """Add values under keys to a memory that decays, and read it with queries.

        M_t = keep_t * M_(t-1) + k_t v_t^T
        o_t = M_t^T q_t

    In a chunk that starts from M, with g_t the sum of log keep up to t,

        o_t = exp(g_t) M^T q_t + sum over s <= t of exp(g_t - g_s) (q_t . k_s) v_s

    as in linear attention (Yang et al. 2024, arXiv 2312.06635, section 4) and SSD (Dao and Gu 2024,
    arXiv 2405.21060, section 6). No exponent is positive.

    Args:
      query_BTHK: queries of each head, or (B, T, 1, K) for all heads.
      key_BTHK: keys, as many as queries.
      value_BTHP: values.
      log_keep_BTH: log keep, at most 0.
      memory_BHKP: memory before the first position.
      chunk_size: C; 1 for the plain form.
      operand_dtype: dtype to which operands of matrix products are rounded.

    Returns:
      output_BTHP, and the memory after the last position.
    """
    multiply = partial(_multiply, operand_dtype=operand_dtype)
    length = query_BTHK.shape[1]
    if min(chunk_size, length) == 1:

        def step(
            memory_BHKP: jax.Array, inputs: tuple[jax.Array, ...]
        ) -> tuple[jax.Array, jax.Array]:
            query_BHK, key_BHK, value_BHP, log_keep_BH = inputs
            keep_BH11 = jnp.exp(log_keep_BH)[:, :, None, None]
            added_BHKP = _outer(key_BHK, _rounded(value_BHP, operand_dtype))
            memory_BHKP = keep_BH11 * memory_BHKP + added_BHKP
            query_BHK = jnp.broadcast_to(query_BHK, memory_BHKP.shape[:3])
            return memory_BHKP, multiply(query_BHK[:, :, None], memory_BHKP, exact="b")[:, :, 0]

        inputs = (query_BTHK, key_BTHK, value_BTHP, log_keep_BTH)
        memory_BHKP, output_BTHP = scan_time(step, memory_BHKP, inputs)
        return output_BTHP, memory_BHKP

    memory_BHKP = _in_memory(memory_BHKP)
    query, key, value = (_chunks(x, chunk_size) for x in (query_BTHK, key_BTHK, value_BTHP))
    total = jnp.cumsum(_chunks(log_keep_BTH[..., None], chunk_size), axis=-2)  # BHNC1
    last = total[..., -1:, :]
    scores = multiply(query, jnp.swapaxes(key, -1, -2), exact="b") * _decay(total)
    remaining = jnp.swapaxes(key * jnp.exp(last - total), -1, -2)
    added = multiply(remaining, value, exact="a")
    before, memory_BHKP = _pass_on(memory_BHKP, added, jnp.exp(last))
    query = jnp.broadcast_to(query, (*scores.shape[:-1], query.shape[-1]))
    output = multiply(scores, value, exact="a")
    output += jnp.exp(total) * multiply(query, before, exact="b")
    return _positions(output, length), memory_BHKP


def delta_memory(
    query_BTHK: jax.Array,
    key_BTHK: jax.Array,
    value_BTHP: jax.Array,
    log_keep_BTH: jax.Array,
    rate_BTH: jax.Array,
    memory_BHKP: jax.Array,
    *,
    chunk_size: int,
    operand_dtype: Dtype,
) -> tuple[jax.Array, jax.Array]:
    """Correct, at a rate, the value that a decayed memory has under a key; read with queries.

        u_t = rate_t * (v_t - keep_t * M_(t-1)^T k_t)
        M_t = keep_t * M_(t-1) + k_t u_t^T
        o_t = M_t^T q_t

    which is M_t = keep_t * (I - rate_t k_t k_t^T) M_(t-1) + rate_t k_t v_t^T. In a chunk that
    starts from M, with g_t the sum of log keep up to t, the corrections solve a triangular system,

        u_t + rate_t * sum over s < t of exp(g_t - g_s) (k_t . k_s) u_s
            = rate_t * (v_t - exp(g_t) M^T k_t)

    whose solution is linear in M: u = U - W M, the WY form. U and W of all chunks are computed at
    once; then the u are added as values are in `decayed_memory` (Yang et al. 2025, arXiv
    2412.06464, section 3.3).

    Args:
      query_BTHK: queries.
      key_BTHK: keys, of length at most 1.
      value_BTHP: values.
      log_keep_BTH: log keep, at most 0.
      rate_BTH: rates, in [0, 1].
      memory_BHKP: memory before the first position.
      chunk_size: C; 1 for the plain form.
      operand_dtype: dtype to which operands of matrix products are rounded.

    Returns:
      output_BTHP, and the memory after the last position.
    """
    multiply = partial(_multiply, operand_dtype=operand_dtype)
    length = query_BTHK.shape[1]
    if min(chunk_size, length) == 1:

        def step(
            memory_BHKP: jax.Array, inputs: tuple[jax.Array, ...]
        ) -> tuple[jax.Array, jax.Array]:
            query_BHK, key_BHK, value_BHP, log_keep_BH, rate_BH = inputs
            memory_BHKP = jnp.exp(log_keep_BH)[:, :, None, None] * memory_BHKP
            found_BHP = multiply(key_BHK[:, :, None], memory_BHKP, exact="b")[:, :, 0]
            added_BHP = rate_BH[:, :, None] * (value_BHP - found_BHP)
            memory_BHKP += _outer(key_BHK, _rounded(added_BHP, operand_dtype))
            return memory_BHKP, multiply(query_BHK[:, :, None], memory_BHKP, exact="b")[:, :, 0]

        inputs = (query_BTHK, key_BTHK, value_BTHP, log_keep_BTH, rate_BTH)
        memory_BHKP, output_BTHP = scan_time(step, memory_BHKP, inputs)
        return output_BTHP, memory_BHKP

    memory_BHKP = _in_memory(memory_BHKP)
    query, key, value = (_chunks(x, chunk_size) for x in (query_BTHK, key_BTHK, value_BTHP))
    rate = _chunks(rate_BTH[..., None], chunk_size)  # BHNC1
    total = jnp.cumsum(_chunks(log_keep_BTH[..., None], chunk_size), axis=-2)
    last = total[..., -1:, :]
    key_transposed = jnp.swapaxes(key, -1, -2)
    decay = _decay(total)
    lower = jnp.tril(rate * multiply(key, key_transposed, exact="b") * decay, -1)
    width = value.shape[-1]
    sides = jnp.concatenate([rate * value, rate * jnp.exp(total) * key], axis=-1)
    solved = multiply(invert_unit_lower(lower, operand_dtype), sides, exact="a")
    fresh, erased = solved[..., :width], solved[..., width:]  # U and W
    scores = multiply(query, key_transposed, exact="b") * decay
    remaining = jnp.swapaxes(key * jnp.exp(last - total), -1, -2)

    def step_chunk(
        memory_BHKP: jax.Array, inputs: tuple[jax.Array, ...]
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        fresh_BHCP, erased_BHCK, remaining_BHKC, keep_BH11 = inputs
        added_BHCP = fresh_BHCP - multiply(erased_BHCK, memory_BHKP, exact="b")
        after_BHKP = keep_BH11 * memory_BHKP + multiply(remaining_BHKC, added_BHCP, exact="a")
        return after_BHKP, (memory_BHKP, added_BHCP)

    by_chunk = tuple(jnp.moveaxis(x, 2, 0) for x in (fresh, erased, remaining, jnp.exp(last)))
    memory_BHKP, (before, added) = jax.lax.scan(step_chunk, memory_BHKP, by_chunk)
    before, added = jnp.moveaxis(before, 0, 2), jnp.moveaxis(added, 0, 2)
    output = multiply(scores, added, exact="a")
    output += jnp.exp(total) * multiply(query, before, exact="b")
    return _positions(output, length), memory_BHKP


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def invert_unit_lower(lower: jax.Array, operand_dtype: Dtype) -> jax.Array:
    """Return the inverse of I + L by forward substitution, row by row for all matrices at once.

    Up to 32 rows are sums in float32. For small matrices this is faster on a CPU than LAPACK's
    solver, which takes them one by one, and more accurate than a product of powers of L. Larger
    ones are inverted by halves: for more rows at once, XLA computes each row several times on a
    CPU.

    Args:
      lower: L (..., C, C), strictly lower triangular.
      operand_dtype: dtype to which operands of products are rounded: the gradient's, and those of
        halves.
    """
    return _substitute(lower, operand_dtype)


def _invert_forward(lower: jax.Array, operand_dtype: Dtype) -> tuple[jax.Array, jax.Array]:
    inverse = _substitute(lower, operand_dtype)
    return inverse, inverse


def _invert_backward(
    operand_dtype: Dtype, inverse: jax.Array, gradient: jax.Array
) -> tuple[jax.Array]:
    transposed = jnp.swapaxes(inverse, -1, -2)
    left = product(transposed, gradient, operand_dtype)
    return (-jnp.tril(product(left, transposed, operand_dtype), -1),)


invert_unit_lower.defvjp(_invert_forward, _invert_backward)


def _substitute(lower: jax.Array, operand_dtype: Dtype) -> jax.Array:
    axis, size = lower.ndim - 2, lower.shape[-1]
    if size > _MOST_ROWS:
        half = size // 2

        def multiply(a: jax.Array, b: jax.Array) -> jax.Array:
            return product(*_operands(a, b, exact="a", operand_dtype=operand_dtype), operand_dtype)

        first = _substitute(lower[..., :half, :half], operand_dtype)
        second = _substitute(lower[..., half:, half:], operand_dtype)
        corner = -multiply(multiply(second, lower[..., half:, :half]), first)
        top = jnp.concatenate([first, jnp.zeros_like(jnp.swapaxes(corner, -1, -2))], axis=-1)
        return jnp.concatenate([top, jnp.concatenate([corner, second], axis=-1)], axis=-2)

    def invert_row(row: jax.Array, inverse: jax.Array) -> jax.Array:
        weights = jax.lax.dynamic_index_in_dim(lower, row, axis, keepdims=False)
        own = jnp.broadcast_to(jax.nn.one_hot(row, size), weights.shape)
        value = own - jnp.sum(weights[..., None] * inverse, axis=axis)
        return jax.lax.dynamic_update_index_in_dim(inverse, value, row, axis)

    # Rows below the one that is computed are still 0.
    return jax.lax.fori_loop(0, size, invert_row, jnp.zeros_like(lower))


def _multiply(
    a: jax.Array, b: jax.Array, *, exact: Literal["a", "b"], operand_dtype: Dtype
) -> jax.Array:
    """Return a @ b for stacks of matrices, with one operand rounded."""
    a, b = _operands(a, b, exact=exact, operand_dtype=operand_dtype)
    return batch_matmul(a, b, operand_dtype=operand_dtype)


def _operands(
    a: jax.Array, b: jax.Array, *, exact: Literal["a", "b"], operand_dtype: Dtype
) -> tuple[jax.Array, jax.Array]:
    """Return operands whose product, after rounding, is a @ b with one operand exact.

    The exact operand is passed as the sum of two rounded numbers. Memories and their increments are
    kept exact, since the plain and the chunked form would round them differently, and a norm after
    a small reading magnifies the difference.
    """
    if operand_dtype == jnp.float32:
        return a, b
    if exact == "a":
        return _parts(a, operand_dtype, -1), jnp.concatenate([b, b], axis=-2)
    return jnp.concatenate([a, a], axis=-1), _parts(b, operand_dtype, -2)


def _parts(x: jax.Array, operand_dtype: Dtype, axis: int) -> jax.Array:
    """Return x as two rounded numbers that add up to it, along an axis of twice the length."""
    coarse = _rounded(x, operand_dtype)
    return jnp.concatenate([coarse, x - coarse], axis=axis)


def _rounded(x: jax.Array, operand_dtype: Dtype) -> jax.Array:
    return x.astype(operand_dtype).astype(jnp.float32)


def _in_memory(memory_BHKP: jax.Array) -> jax.Array:
    """Return a memory that XLA does not know to be constant.

    jax 0.10.2 on a CPU reads memory that was never written in the gradient of a product with a
    broadcast constant, such as an empty memory, that is summed over heads.
    """
    hidden: jax.Array = jax.lax.optimization_barrier(memory_BHKP)  # type: ignore[no-untyped-call]
    return hidden


def _outer(key_BHK: jax.Array, value_BHP: jax.Array) -> jax.Array:
    return key_BHK[:, :, :, None] * value_BHP[:, :, None, :]


def _pass_on(
    memory_BHKP: jax.Array, added: jax.Array, keep: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Return the memories before each chunk (B, H, N, K, P), and the memory after the last."""

    def step(memory_BHKP: jax.Array, inputs: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        added_BHKP, keep_BH11 = inputs
        return keep_BH11 * memory_BHKP + added_BHKP, memory_BHKP

    by_chunk = tuple(jnp.moveaxis(x, 2, 0) for x in (added, keep))
    memory_BHKP, before = jax.lax.scan(step, memory_BHKP, by_chunk)
    return jnp.moveaxis(before, 0, 2), memory_BHKP


def _decay(total: jax.Array) -> jax.Array:
    """Return exp(g_t - g_s) for s <= t, and 0 elsewhere: (B, H, N, C, C)."""
    size = total.shape[-2]
    is_seen_CC = np.tril(np.ones((size, size), bool))
    exponent = total - jnp.swapaxes(total, -1, -2)
    # Exponents of later positions may be large: they are replaced before the exponential.
    return jnp.exp(jnp.where(is_seen_CC[None, None, None], exponent, -jnp.inf))


def _chunks(x_BTHK: jax.Array, chunk_size: int) -> jax.Array:
    """Cut positions into chunks, heads first: (B, H, N, C, K). The last is filled with zeros.

    A position of zeros keeps the memory and adds nothing to it.
    """
    batch, length, heads, width = x_BTHK.shape
    size = min(chunk_size, length)
    count = -(-length // size)
    filled = jnp.pad(x_BTHK, ((0, 0), (0, count * size - length), (0, 0), (0, 0)))
    return jnp.transpose(filled.reshape(batch, count, size, heads, width), (0, 3, 1, 2, 4))


def _positions(x_BHNCP: jax.Array, length: int) -> jax.Array:
    """Return chunks as positions (B, T, H, P), without what fills the last chunk."""
    batch, heads, count, size, width = x_BHNCP.shape
    x_BTHP = jnp.transpose(x_BHNCP, (0, 2, 3, 1, 4)).reshape(batch, count * size, heads, width)
    return x_BTHP[:, :length]
