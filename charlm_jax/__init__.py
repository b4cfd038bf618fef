"""Character-level language models in JAX and Flax: train on a book, sample, and measure.

    config = charlm_jax.load_config("quickstart", {"train.max_steps": 500})
    run = charlm_jax.train(config, "runs/first")
    print(run.generate("The ", scale=2.0))

`charlm_jax.load_run` picks up a run that is there.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from charlm_jax.api import train
    from charlm_jax.config import Config
    from charlm_jax.config_files import load_config
    from charlm_jax.export import write_export
    from charlm_jax.interrupts import Interrupted
    from charlm_jax.report.runs_page import write_report
    from charlm_jax.run import Run, load_run
    from charlm_jax.types import CharlmError

__version__ = "0.1.0"
__all__ = [
    "CharlmError",
    "Config",
    "Interrupted",
    "Run",
    "load_config",
    "load_run",
    "train",
    "write_export",
    "write_report",
]

_HOMES = {
    "CharlmError": "types",
    "Config": "config",
    "Interrupted": "interrupts",
    "Run": "run",
    "load_config": "config_files",
    "load_run": "run",
    "train": "api",
    "write_export": "export",
    "write_report": "report.runs_page",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for: `charlm --help` does not wait for jax."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
