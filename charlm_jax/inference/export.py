"""Export of a run's model: a folder that both `load_run` and other programs can read."""

import os
from collections.abc import Mapping
from pathlib import Path

from charlm_jax.core.errors import CharlmError, write_error
from charlm_jax.core.files import atomic_write
from charlm_jax.core.json_files import dump_json
from charlm_jax.inference.run import Run
from charlm_jax.storage.mixer_sources import recorded_mixers
from charlm_jax.storage.safetensors_format import pack
from charlm_jax.storage.workdir import Workdir


def write_export(run: Run, folder: Path | str | None = None) -> list[Path]:
    """Export a run's model in the format of `charlm_jax.storage.safetensors_format`.

    Files are never overwritten: an existing file must be identical to the new one.

    Args:
      run: run at one of its checkpoints, from `charlm_jax.load_run`.
      folder: output folder; if None, one named after the step in the run's `export/`.

    Returns:
      Paths of the files.

    Raises:
      CharlmError: the folder is a run, has a different file of that name, or cannot be written.
    """
    source = Workdir(run.workdir)
    average = "_average" if run.weights == "average" else ""
    own = source.export / f"step_{run.checkpoint}{average}"
    workdir = Workdir(own if folder is None else folder)
    if workdir.checkpoints.exists() or workdir.lock_file.exists():
        raise CharlmError(f"{workdir.path} is a run: name another folder")
    contents = _contents(run, source, workdir)
    try:
        missing = [file for file, data in contents.items() if not is_written(file, data)]
        workdir.path.mkdir(parents=True, exist_ok=True)
        for file in missing:
            atomic_write(file, contents[file])
    except OSError as error:
        raise write_error(workdir.path, error) from error
    return list(contents)


def _contents(run: Run, source: Workdir, workdir: Workdir) -> Mapping[Path, bytes]:
    """Return file -> content. The weights come last: they make a folder an exported model."""
    fingerprint = source.read_fingerprint()
    symbols = {"symbols": run.vocabulary.symbols, "fingerprint": fingerprint}
    config, vocabulary = dump_json(run.config.to_dict()), dump_json(symbols)
    mixers = [mixer._asdict() for mixer in recorded_mixers(source, run.config.model)]
    weights = pack(
        run.params,
        {workdir.config_file.name: config, workdir.vocabulary_file.name: vocabulary},
        checkpoint=run.checkpoint,
        weights=run.weights,
        fingerprint=fingerprint,
        **({"mixers": mixers} if mixers else {}),
    )
    return {
        workdir.config_file: config,
        workdir.vocabulary_file: vocabulary,
        workdir.exported_file: weights,
    }


def is_written(file: Path, data: bytes, *, instead: str = "another folder") -> bool:
    """Return whether a file already has this content.

    Args:
      file: path of the file.
      data: content to write.
      instead: what else the error advises to name.

    Raises:
      CharlmError: the file exists and has other content.
    """
    if not os.path.lexists(file):
        return False
    if file.is_symlink() or not file.is_file() or file.read_bytes() != data:
        raise CharlmError(
            f"{file} already exists and is a different file: move it away, or name {instead}"
        )
    return True
