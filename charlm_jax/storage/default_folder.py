"""Default folders, one for each config and argument, even if their short names are the same."""

import os
from collections.abc import Callable
from pathlib import Path

from charlm_jax.config.loading import ConfigSource, default_names
from charlm_jax.config.schema import Config
from charlm_jax.core.errors import CharlmError
from charlm_jax.core.files import local_path, stored_path
from charlm_jax.data.dataset import load_dataset, with_absolute_paths
from charlm_jax.data.moved_text import is_gone
from charlm_jax.storage.workdir import Workdir

_RUNS = "runs"


def default_folder(spec: str, is_same: Callable[[Path], bool | None], suffix: str = "") -> Path:
    """Return the folder that a command with this config uses if none is named.

    A folder that holds the same is found again, under names of earlier versions too. Otherwise it
    is the first name that nothing else has taken.

    Args:
      spec: value of `--config`.
      is_same: returns whether a folder holds what this config makes; None if it holds nothing.
      suffix: end of the folder's name.
    """
    names = default_names(spec)
    several = dict.fromkeys([*names.names, names.former])
    paths = [Path(_RUNS, local_path(name) + suffix) for name in several]
    if len(paths) == 1:  # without an argument there is nothing to tell apart
        return paths[0]
    found = {path: is_same(path) for path in paths}
    same = [path for path in paths if found[path]]
    free = [path for path in paths[: len(names.names)] if found[path] is None]
    return [*same, *free, paths[len(names.names) - 1]][0]


def default_run_folder(spec: str, config: Config) -> Path:
    """Return the folder of the run that `charlm train --config=SPEC` makes or resumes.

    A run is this one if it was started with the same spec, wherever that was typed; or on the same
    text, if that is no longer where the run recorded it.

    Args:
      spec: value of `--config`.
      config: the config with its overrides.
    """
    here = with_absolute_paths(config)
    wanted = stored_path(ConfigSource(spec).with_absolute_paths(here).spec)

    def is_same(path: Path) -> bool | None:
        run_dir = Workdir(path)
        if not os.path.lexists(run_dir.config_file):
            return None
        try:
            recorded, there = run_dir.read_facts().get("config_spec"), run_dir.read_config()
            if recorded == wanted:
                return True
            if here.data.corpus == there.data.corpus:
                return recorded is None  # another spec was recorded, such as another size
            is_moved = is_gone(there.data.corpus) and not is_gone(here.data.corpus)
            return is_moved and load_dataset(here).fingerprint == run_dir.read_fingerprint()
        except CharlmError:  # the run is damaged, or the text cannot be used: training says so
            return None

    return default_folder(spec, is_same)
