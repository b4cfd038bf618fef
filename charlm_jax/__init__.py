"""Character-level language models in JAX and Flax: train on a book, sample, and measure.

    config = charlm_jax.load_config("quickstart", {"train.max_steps": 500})
    run = charlm_jax.train(config, "runs/first")
    print(run.generate("The ", scale=2.0))

`charlm_jax.load_run` opens a trained run.
"""

from charlm_jax._version import __version__

# `typing` and `importlib` would take most of the time before `__main__` can handle signals.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from charlm_jax.config.loading import load_config as load_config
    from charlm_jax.config.schema import Config as Config
    from charlm_jax.core.errors import CharlmError as CharlmError
    from charlm_jax.core.signals import Interrupted as Interrupted
    from charlm_jax.inference.export import write_export as write_export
    from charlm_jax.inference.run import Run as Run
    from charlm_jax.inference.run import load_run as load_run
    from charlm_jax.report.playground.page import playground as playground
    from charlm_jax.report.playground.page import write_playground as write_playground
    from charlm_jax.report.plots import plot_attention as plot_attention
    from charlm_jax.report.plots import plot_gates as plot_gates
    from charlm_jax.report.plots import plot_loss as plot_loss
    from charlm_jax.report.plots import show_page as show_page
    from charlm_jax.report.plots import show_surprisal as show_surprisal
    from charlm_jax.report.runs_page import write_report as write_report
    from charlm_jax.training.api import train as train

_MODULES = {
    "CharlmError": "core.errors",
    "Config": "config",
    "Interrupted": "core.signals",
    "Run": "inference.run",
    "load_config": "config.loading",
    "load_run": "inference.run",
    "playground": "report.playground.page",
    "plot_attention": "report.plots",
    "plot_gates": "report.plots",
    "plot_loss": "report.plots",
    "show_page": "report.plots",
    "show_surprisal": "report.plots",
    "train": "training.api",
    "write_export": "inference.export",
    "write_playground": "report.playground.page",
    "write_report": "report.runs_page",
}

# Modules of 0.1.0 that notebooks may import, and their current locations.
_RENAMED = {
    "api": "training.api",
    "baselines": "evaluation.baselines",
    "checkpoint": "storage.checkpoint",
    "config_files": "config.loading",
    "corpora": "data.corpora",
    "evaluate": "evaluation.scoring",
    "generate": "sampling.decoding",
    "loop": "training.loop",
    "policies": "sampling.policies",
    "run": "inference.run",
    "statistics": "evaluation.bootstrap",
    "trained_model": "inference.trained_model",
}

__all__ = [*_MODULES, "__version__"]


def __getattr__(name: str) -> "Any":
    """Import a public name on first use, so that `charlm --help` does not import jax."""
    if name not in _MODULES:
        new = f": it is now {__name__}.{_RENAMED[name]}" if name in _RENAMED else ""
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}{new}")
    import importlib

    from charlm_jax.core.jax_variables import named_variables

    with named_variables():
        return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
