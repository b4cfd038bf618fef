"""Configs: validated frozen dataclasses, loaded from a file and overrides."""

from charlm_jax.config.schema import Config

__all__ = ["Config"]
