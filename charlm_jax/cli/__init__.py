"""Command-line interface: parser, exit status, one module per command, interactive prompt."""

from charlm_jax.cli.entry_point import main

__all__ = ["main"]
