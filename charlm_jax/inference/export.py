"""Taking a model out of its run: a folder that other programs can read, and `load_run` as well."""

import os
from collections.abc import Mapping
from pathlib import Path

from charlm_jax.core.errors import CharlmError, write_error
from charlm_jax.core.files import atomic_write
from charlm_jax.core.json_files import dump_json
from charlm_jax.inference.run import Run
from charlm_jax.storage.safetensors_format import pack
from charlm_jax.storage.workdir import Workdir


def write_export(run: Run, folder: Path | str | None = None) -> list[Path]:
    """Write a run's model as `charlm_jax.storage.safetensors_format` describes.

    Nothing is overwritten: a file that is there already must be what would be written.

    Args:
      run: as `charlm_jax.load_run` gives it, at one of its checkpoints.
      folder: where to; one that is named by the step, in `export/` in the run's own, if None.

    Returns:
      The files.

    Raises:
      CharlmError: the folder is a run, or has another file of such a name; it cannot be written.
    """
    source = Workdir(run.workdir)
    average = "_average" if run.weights == "average" else ""
    own = source.export / f"step_{run.checkpoint}{average}"
    workdir = Workdir(own if folder is None else folder)
    if workdir.checkpoints.exists() or workdir.lock_file.exists():
        raise CharlmError(f"{workdir.path} is a run: name another folder (--out)")
    contents = _contents(run, source.read_fingerprint(), workdir)
    try:
        missing = [file for file, data in contents.items() if not _is_there(file, data)]
        workdir.path.mkdir(parents=True, exist_ok=True)
        for file in missing:
            atomic_write(file, contents[file])
    except OSError as error:
        raise write_error(workdir.path, error) from error
    return list(contents)


def _contents(run: Run, fingerprint: str, workdir: Workdir) -> Mapping[Path, bytes]:
    """File -> what it holds. The weights come last: they make a folder an exported model."""
    symbols = {"symbols": run.vocabulary.symbols, "fingerprint": fingerprint}
    config, vocabulary = dump_json(run.config.to_dict()), dump_json(symbols)
    weights = pack(
        run.params,
        {workdir.config_file.name: config, workdir.vocabulary_file.name: vocabulary},
        checkpoint=run.checkpoint,
        weights=run.weights,
        fingerprint=fingerprint,
    )
    return {
        workdir.config_file: config,
        workdir.vocabulary_file: vocabulary,
        workdir.exported_file: weights,
    }


def _is_there(file: Path, data: bytes) -> bool:
    """Whether a file is what is to be written; one that is something else is a `CharlmError`."""
    if not os.path.lexists(file):
        return False
    if file.is_symlink() or not file.is_file() or file.read_bytes() != data:
        raise CharlmError(
            f"{file} is there already and is something else: move it away, or name another "
            f"folder (--out)"
        )
    return True
