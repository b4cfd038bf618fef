"""Models: a stack of sequence mixers between an embedding and an output layer."""

from charlm_jax.models.language_model import LanguageModel, build_model, build_reader
from charlm_jax.models.remat import in_segments, rematerialize

__all__ = ["LanguageModel", "build_model", "build_reader", "in_segments", "rematerialize"]
