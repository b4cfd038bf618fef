"""Training from a notebook or a script, in one call."""

from pathlib import Path

from charlm_jax.config.schema import Config
from charlm_jax.core.errors import CharlmError
from charlm_jax.data.download import DownloadProgress
from charlm_jax.inference.run import Run, load_run
from charlm_jax.training.loop import train_and_evaluate
from charlm_jax.training.progress_bar import NullProgress, training_view


def train(config: Config, workdir: Path | str, *, fresh: bool = False, quiet: bool = False) -> Run:
    """Train a model as `charlm train` does, and pick it up.

    Called again with the same config and folder it goes on where it was stopped, or, after the end,
    only picks the run up.

    Args:
      config: what to train; `charlm_jax.load_config` makes one.
      workdir: the run's folder; it is made, or it already holds this very run.
      fresh: move a run that is there aside, and begin again.
      quiet: say nothing on the way.

    Returns:
      The run at its best checkpoint; at its last, where nothing is held out.

    Raises:
      CharlmError: a text, config or workdir that cannot be used; a loss that is not finite.
      Interrupted: Ctrl-C, SIGTERM or SIGHUP came; the run was saved first.
    """
    if not isinstance(config, Config):
        raise CharlmError(f"config={config!r} is not a Config: charlm_jax.load_config makes one")
    if quiet:
        train_and_evaluate(config, workdir, fresh=fresh, view=NullProgress())
    else:
        with training_view() as view:
            progress = DownloadProgress()
            train_and_evaluate(config, workdir, fresh=fresh, view=view, progress=progress)
    return load_run(workdir)
