"""Configs: frozen dataclasses that hold every invariant, and loading from a file plus overrides."""

from charlm_jax.config.schema import Config, ModelConfig

__all__ = ["Config", "ModelConfig"]
