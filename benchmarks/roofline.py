"""What the machine can do at best: matrix products in JAX, and nothing else."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from benchmarks.worker import TakeTurn
from charlm_jax.models.ops import matmul, operand_dtype


def product(*, precision: str, rows: int, inner: int, columns: int, repeats: int) -> TakeTurn:
    """A turn is `repeats` products (rows, inner) @ (inner, columns), each from the last one's.

    Operands are rounded as the models round them (`charlm_jax.models.ops.matmul`). Blocks of
    columns are added up to what the next product reads: all of the last one is needed.

    Args:
      precision: of the operands, float32 or bfloat16.
      rows: of the first operand.
      inner: the axis that is summed over; a divisor of `columns`.
      columns: of the second operand.
      repeats: of a turn, in one program.

    Returns:
      A program whose amount is floating-point operations.
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
