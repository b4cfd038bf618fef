"""Models: a stack of sequence mixers between an embedding and an output layer."""

from charlm_jax.models.language_model import LanguageModel, build_model
from charlm_jax.models.remat import rematerialize

__all__ = ["LanguageModel", "build_model", "rematerialize"]
