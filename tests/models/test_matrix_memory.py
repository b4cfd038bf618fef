"""Matrix memories whose start XLA knows, in a process where no allocated memory is 0 by chance."""

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT

BODY = """
import jax
import jax.numpy as jnp
import numpy as np
from charlm_jax.models.matrix_memory import decayed_memory, delta_memory

B, T, H, K, P = 8, 7, 2, 64, 8
noise = np.random.default_rng(0)


def normal(*shape):
    return jnp.asarray(noise.normal(size=shape), jnp.float32)


keys, value, log_keep = 0.1 * normal(B, T, 1, K), normal(B, T, H, P), -abs(normal(B, T, H))
rate = jax.nn.sigmoid(normal(B, T, H))


def decayed(query, chunk_size):
    empty = jnp.zeros((B, H, K, P))
    return decayed_memory(
        query, keys, value, log_keep, empty, chunk_size=chunk_size, operand_dtype=jnp.float32
    )


def corrected(query, chunk_size):
    query, key = (jnp.broadcast_to(x, (B, T, H, K)) for x in (query, keys))
    empty = jnp.zeros((B, H, K, P))
    return delta_memory(
        query, key, value, log_keep, rate, empty, chunk_size=chunk_size, operand_dtype=jnp.float32
    )


query = normal(B, T, 1, K)
for memory in (decayed, corrected):
    def loss(query, chunk_size):
        return jnp.sum(jnp.sin(memory(query, chunk_size)[0]))

    gradient = jax.jit(jax.grad(loss), static_argnums=1)
    whole, plain = gradient(query, 32), gradient(query, 1)
    np.testing.assert_allclose(whole, plain, atol=1e-4)
"""


@pytest.mark.usefixtures("child_environment")
def test_gradients_of_an_empty_memory_do_not_depend_on_what_was_in_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MALLOC_PERTURB_", "128")  # glibc then fills what it allocates
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", BODY]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
