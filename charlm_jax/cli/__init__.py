"""The command line: parser, exit status, one module per command, the interactive prompt."""

from charlm_jax.cli.entry_point import main

__all__ = ["main"]
