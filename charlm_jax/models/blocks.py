"""What surrounds a mixer. Today: dropout on its input."""

from typing import Any

import jax
from flax import linen as nn

from charlm_jax.models.ops import dropout
from charlm_jax.types import ModelState


class Block(nn.Module):
    """A mixer with dropout on its input, never on its recurrence (Zaremba et al. 2014).

    Attributes:
      mixer: the sequence mixer.
      dropout: share of the input's values zeroed in training.
    """

    mixer: Any
    dropout: float

    @property
    def is_projectable(self) -> bool:
        """Whether the mixer's input projection may be applied by itself, to a table of inputs."""
        return hasattr(self.mixer, "project")

    def project(self, x: jax.Array) -> jax.Array:
        """The mixer's input projection."""
        return self.mixer.project(x)

    def mix(self, z_BTG: jax.Array, state: ModelState) -> tuple[jax.Array, ModelState]:
        """The rest of the block, on projected inputs."""
        return self.mixer.mix(z_BTG, state)

    def __call__(
        self, x_BTD: jax.Array, state: ModelState, key: jax.Array | None = None
    ) -> tuple[jax.Array, ModelState]:
        return self.mixer(dropout(x_BTD, rate=self.dropout, key=key), state)
