"""Seal of a run: contents of its files as checkpoints recorded them, and checks of the files.

`meta.json` of a checkpoint holds the run's config, symbols and fingerprint, and `rows.jsonl` its
metrics so far; `contents.json` has the hashes of both. `config.json`, `vocabulary.json` and
`metrics.jsonl` are copies for people and for speed. Whatever reads weights or metrics compares the
copies with a checkpoint, by the functions of this module.
"""

from typing import TYPE_CHECKING, Any, NamedTuple

from charlm_jax.config.schema import Config
from charlm_jax.core.caller_warnings import warn_caller
from charlm_jax.core.errors import CharlmError
from charlm_jax.data.vocabulary import Vocabulary
from charlm_jax.storage.checkpoint import Checkpoint, Checkpoints, DamagedCheckpoint
from charlm_jax.storage.compatibility import changes_of_model
from charlm_jax.storage.metrics_log import MetricsLog, MetricsRow, parse_rows
from charlm_jax.storage.workdir import Workdir

if TYPE_CHECKING:
    from charlm_jax.data.dataset import Dataset


class Seal(NamedTuple):
    """Contents of a run's other files as one checkpoint recorded them.

    Attributes:
      step: step of the checkpoint.
      config: config of the run when it was saved.
      fingerprint: fingerprint of text, vocabulary and split.
      symbols: symbols of the model; None if an earlier version saved the checkpoint.
      rows: lines of `metrics.jsonl` up to the step; None if an earlier version saved it, or if they
        were not read.
    """

    step: int
    config: Config
    fingerprint: str
    symbols: str | None
    rows: bytes | None


def sealed_values(config: Config, dataset: "Dataset") -> dict[str, Any]:
    """Return the values of `meta.json` that identify a run."""
    return {
        "config": config.to_dict(),
        "fingerprint": dataset.fingerprint,
        "symbols": dataset.vocabulary.symbols,
    }


def read_seal(checkpoint: Checkpoint) -> Seal:
    """Return the seal of a checkpoint.

    Raises:
      DamagedCheckpoint: it was sealed with values that no run has.
    """
    meta = checkpoint.meta
    try:
        config, fingerprint, symbols = Config.from_dict(meta["config"]), meta["fingerprint"], None
        if "symbols" in meta:
            symbols = Vocabulary(meta["symbols"]).symbols
        is_sound = isinstance(fingerprint, str)
    except (KeyError, TypeError, CharlmError):
        is_sound = False
    if not is_sound:
        raise DamagedCheckpoint(checkpoint.step, "its meta.json does not identify a run")
    return Seal(checkpoint.step, config, fingerprint, symbols, checkpoint.rows)


def latest_seal(workdir: Workdir) -> Seal | None:
    """Return the seal of a run's latest valid checkpoint; None if there is none."""
    checkpoint, _ = Checkpoints(workdir.checkpoints).latest_valid(items=["rows"])
    return None if checkpoint is None else read_seal(checkpoint)


def check_files(workdir: Workdir, seal: Seal, config: Config, vocabulary: Vocabulary) -> None:
    """Refuse files of a run that are not those it was trained with.

    Args:
      workdir: folder of the run.
      seal: seal of one of its checkpoints.
      config: content of its `config.json`. Fields with no bearing on the model and its losses may
        differ.
      vocabulary: content of its `vocabulary.json`.

    Raises:
      CharlmError: a file differs; the message names the first field or symbol.
    """
    of = f"that checkpoint {seal.step} was trained with"
    if changes := changes_of_model(seal.config, config, step=seal.step):
        raise CharlmError(
            f"{workdir.config_file} is not the config {of}: {'; '.join(changes)}: restore the file"
        )
    if seal.symbols not in (None, vocabulary.symbols):
        raise CharlmError(
            f"{workdir.vocabulary_file} does not have the symbols {of}: "
            f"{_first_difference(seal.symbols or '', vocabulary.symbols)}: restore the file"
        )
    if seal.fingerprint != workdir.read_fingerprint():
        raise CharlmError(
            f"{workdir.vocabulary_file} does not name the text {of}: restore the file"
        )


def read_checked_config(workdir: Workdir) -> Config:
    """Return a run's config, compared with its latest valid checkpoint, if there is one.

    Raises:
      CharlmError: a file is damaged, or is not the one that the run was trained with.
    """
    config, seal = workdir.read_config(), latest_seal(workdir)
    if seal is not None:
        check_files(workdir, seal, config, workdir.read_vocabulary())
    return config


def read_rows(workdir: Workdir) -> list[MetricsRow]:
    """Return a run's metrics, compared with its latest valid checkpoint, if there is one.

    Where they differ, the rows of the checkpoint are returned, with a warning.

    Raises:
      CharlmError: a line after the checkpoint is not a valid row.
    """
    seal = latest_seal(workdir)  # first: rows are appended while a run trains
    content = MetricsLog(workdir.metrics_file).content()
    if seal is None or seal.rows is None or content.startswith(seal.rows):
        return parse_rows(content, workdir.metrics_file)
    warn_caller(
        f"{workdir.metrics_file} {describe_lost_rows(content, seal.rows)} that checkpoint "
        f"{seal.step} recorded: they are read from the checkpoint",
    )
    return parse_rows(seal.rows, workdir.metrics_file)


def describe_lost_rows(content: bytes, sealed: bytes) -> str:
    r"""Describe how the lines of a file differ from those that were sealed.

    >>> describe_lost_rows(b"1\n", b"1\n2\n"), describe_lost_rows(b"1\n3\n", b"1\n2\n")
    ('has 1 of the 2 rows', 'does not have the 2 rows')
    """
    count = sealed.count(b"\n")
    noun = "row" if count == 1 else "rows"
    if sealed.startswith(content):
        found = content.count(b"\n")
        return f"has {found} of the {count} {noun}"
    return f"does not have the {count} {noun}"


def _first_difference(there: str, here: str) -> str:
    """Describe the first difference between two sets of symbols."""
    if len(there) != len(here):
        return f"it has {len(here)} instead of {len(there)}"
    number = next(n for n, (a, b) in enumerate(zip(there, here, strict=True)) if a != b)
    return f"symbol {number} is {there[number]!r} there and {here[number]!r} here"
