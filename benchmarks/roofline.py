"""Peak throughput of the machine: matrix products in JAX alone."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from benchmarks.worker import TakeTurn
from charlm_jax.models.ops import matmul, operand_dtype


def product(*, precision: str, rows: int, inner: int, columns: int, repeats: int) -> TakeTurn:
    """Build a program whose turn is `repeats` chained products (rows, inner) @ (inner, columns).

    Operands are rounded as in the models (`charlm_jax.models.ops.matmul`). Blocks of columns are
    summed to form the input of the next product, so that the whole result is needed.

    Args:
      precision: precision of the operands, float32 or bfloat16.
      rows: number of rows of the first operand.
      inner: size of the contracted axis; a divisor of `columns`.
      columns: number of columns of the second operand.
      repeats: number of products per turn, in one compiled program.

    Returns:
      A program whose amount is the number of floating-point operations.
    """
    dtype, blocks = operand_dtype(precision), columns // inner
    keys = jax.random.split(jax.random.key(0))
    x = jax.random.normal(keys[0], (rows, inner))
    kernel = (jax.random.normal(keys[1], (inner, columns)) * columns**-0.5).astype(dtype)

    def one(_: int, x: jax.Array) -> jax.Array:
        z = matmul(x, kernel, operand_dtype=dtype)
        return jnp.sum(jnp.reshape(z, (rows, blocks, inner)), axis=1)

    many = jax.jit(lambda x: jax.lax.fori_loop(0, repeats, one, x))

    def turn() -> float:
        jax.block_until_ready(many(x))
        return 2.0 * rows * inner * columns * repeats

    return turn


PROGRAMS: Mapping[str, Callable[..., TakeTurn]] = {"product": product}
