"""Training from a notebook or a script, in one call."""

from contextlib import nullcontext
from pathlib import Path

from charlm_jax.config.schema import Config
from charlm_jax.core.errors import CharlmError
from charlm_jax.core.jax_variables import named_variables
from charlm_jax.data.download import DownloadProgress
from charlm_jax.inference.run import Run, load_run
from charlm_jax.training.loop import train_and_evaluate
from charlm_jax.training.progress_bar import training_view


@named_variables()
def train(
    config: Config,
    workdir: Path | str,
    *,
    fresh: bool = False,
    quiet: bool = False,
    branch_from: Path | str | None = None,
) -> Run:
    """Train a model as `charlm train` does, and load the run.

    Called again with the same config and folder, it resumes a run that was stopped; a run that has
    finished is only loaded.

    Args:
      config: config of the run; `charlm_jax.load_config` returns one.
      workdir: the run's folder, which is created or already holds this very run.
      fresh: move an existing run aside and begin again.
      quiet: show no progress.
      branch_from: folder of a run that differs in length, decay, `data.length_schedule` and fields
        that may change on resume alone; a new run starts from its latest checkpoint before rates
        or sequence lengths differ, and ends as if trained alone.

    Returns:
      The run at its best checkpoint; at its last if no text is held out.

    Raises:
      CharlmError: the text, config or workdir cannot be used, a loss is not finite, or JAX has no
        such device as an environment variable names.
      Interrupted: Ctrl-C, SIGTERM or SIGHUP was received; the run was saved first.
    """
    if not isinstance(config, Config):
        raise CharlmError(f"config={config!r} is not a Config: charlm_jax.load_config returns one")
    with nullcontext() if quiet else training_view() as view:
        train_and_evaluate(
            config,
            workdir,
            fresh=fresh,
            branch_from=branch_from,
            view=view,
            progress=None if quiet else DownloadProgress(),
        )
    return load_run(workdir)
