"""A mixer outside the package, as a file that tests write."""

import hashlib
from pathlib import Path

SOURCE = '''\
"""Running sums."""

import jax.numpy as jnp
from flax import linen as nn


class Sum(nn.Module):
    size: int

    @classmethod
    def from_config(cls, model, width):
        return cls(model.hidden_size)

    @nn.compact
    def __call__(self, x_BTD, total_BH):
        total_BTH = total_BH[:, None] + jnp.cumsum(nn.Dense(self.size)(x_BTD), axis=1)
        self.sow("captured", "total", total_BTH)
        return jnp.tanh(total_BTH), total_BTH[:, -1]

    def initial_state(self, batch_size, context):
        return jnp.zeros((batch_size, self.size))
'''


def write_mixer(file: Path, more: str = "") -> str:
    """Write the module with more lines at its end; returns the hash of its bytes."""
    file.write_text(SOURCE + more, encoding="utf-8")
    return hashlib.sha256(file.read_bytes()).hexdigest()
