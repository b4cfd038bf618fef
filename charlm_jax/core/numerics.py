"""JAX settings that determine results, fixed wherever the package computes.

A process may set them differently, by environment variables such as JAX_ENABLE_X64 or by
`jax.config.update`. Other dtypes, keys or products would then give other figures and texts for the
same seed, or fail. The process's own settings hold again as soon as a call returns.

Two settings without a context manager are avoided instead, by `jax.random.gumbel(..., mode="low")`
and by `root_key` in `prng.py`. Flags that choose how XLA compiles (XLA_FLAGS,
jax_disable_most_optimizations) and the device stay the process's own: `run.json` records them.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, ParamSpec, TypeVar

import jax

Setting = tuple[Callable[[Any], AbstractContextManager[Any]], Any]

SETTINGS: Mapping[str, Setting] = {
    # Values of arrays and keys.
    "jax_enable_x64": (jax.enable_x64, False),
    "jax_default_prng_impl": (jax.default_prng_impl, "threefry2x32"),
    "jax_threefry_partitionable": (jax.threefry_partitionable, True),
    "jax_default_matmul_precision": (jax.default_matmul_precision, None),
    "jax_softmax_custom_jvp": (jax.softmax_custom_jvp, False),
    "jax_allow_f16_reductions": (jax.allow_f16_reductions, True),
    # Eager operations round differently from fused ones.
    "jax_disable_jit": (jax.disable_jit, False),
    # Checks that a valid program may fail: optax mixes dtypes, masked values may be NaN, and one
    # key initializes the last norm and the output layer.
    "jax_numpy_dtype_promotion": (jax.numpy_dtype_promotion, "standard"),
    "jax_debug_nans": (jax.debug_nans, False),
    "jax_debug_infs": (jax.debug_infs, False),
    "jax_debug_key_reuse": (jax.debug_key_reuse, False),
    "jax_legacy_prng_key": (jax.legacy_prng_key, "allow"),
    "jax_transfer_guard": (jax.transfer_guard, "allow"),
}
"""Context manager and value of each setting, by its name in `jax.config`."""


@contextmanager
def fixed_numerics() -> Iterator[None]:
    """Compute under `SETTINGS`, in this thread; also a decorator for functions.

    Generator functions take `fixed_numerics_per_item`: their body runs after the call has returned.
    """
    with ExitStack() as stack:
        for setting, value in SETTINGS.values():
            stack.enter_context(setting(value))
        yield


P = ParamSpec("P")
Item = TypeVar("Item")


def fixed_numerics_per_item(function: Callable[P, Iterator[Item]]) -> Callable[P, Iterator[Item]]:
    """Decorate a generator function: `SETTINGS` hold while it computes an item, not between."""

    @functools.wraps(function)
    def items(*args: P.args, **kwargs: P.kwargs) -> Iterator[Item]:
        iterator = function(*args, **kwargs)
        while True:
            with fixed_numerics():
                try:
                    item = next(iterator)
                except StopIteration:
                    return
            yield item

    return items
