"""Command line of studies that have presets and records."""

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax

from charlm_jax.core.errors import CharlmError
from charlm_jax.core.limits import require_within
from charlm_jax.storage.workdir import Workdir
from experiments.recorded_training import RecordedTraining, RecordFolder
from experiments.results_folder import RESULTS, TABLES, refuse_other_results


class StudyFiles(NamedTuple):
    """Names of a study and of what it writes.

    Attributes:
      name: name of its package in experiments/.
      title: first line of its tables.md.
      figures: file names of its figures.
    """

    name: str
    title: str
    figures: Sequence[str]


class OpenStudy(NamedTuple):
    """A study whose results may be written.

    Attributes:
      folder: folder of the results.
      command: command line that makes the same results.
      training: training whose memory is the records.
      train: whether to train what is not on record.
    """

    folder: Path
    command: str
    training: RecordedTraining
    train: bool


def study_parser(
    study: StudyFiles, description: str, presets: Mapping[str, object]
) -> argparse.ArgumentParser:
    """Return a parser of the flags that all studies have.

    Args:
      study: names of the study.
      description: one line on what it does.
      presets: presets by name; one of them is `minutes`.
    """
    parser = argparse.ArgumentParser(
        prog=f"experiments.{study.name}",
        description=description,
        usage=argparse.SUPPRESS,  # one-line errors
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--preset", choices=tuple(presets), default="minutes", help="default: %(default)s")
    add("--workdir", help=f"folder of the results (default: runs/{study.name}-PRESET)")
    add("--records", help="folder of the records (default: records, in the folder of the results)")
    add("--jobs", type=int, default=1, help="number of runs trained at once (default: %(default)s)")
    add("--keep_runs", action="store_true", help="keep the folders of runs that are on record")
    add("--from_records", action="store_true", help="train nothing")
    return parser


def add_only(parser: argparse.ArgumentParser) -> None:
    """Add the flag that names the models to train."""
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="NAME",
        help="a model to train; may be repeated (default: all)",
    )


def check_only(only: Sequence[str], known: Sequence[str]) -> None:
    """Refuse a name that is not one of the preset's models.

    Raises:
      CharlmError: a name is unknown.
    """
    for name in only:
        if name not in known:
            raise CharlmError(f"--only={name} is not one of {', '.join(map(repr, known))}")


def open_study(study: StudyFiles, options: argparse.Namespace, *flags: str) -> OpenStudy:
    """Return the study that parsed flags describe.

    Args:
      study: names of the study.
      options: parsed flags of `study_parser`.
      *flags: further flags that change the results, as they are written.

    Raises:
      CharlmError: the folder holds other files or results of another command, or the
        number of jobs is not positive.
    """
    require_within("jobs", options.jobs, 1)
    folder = Workdir(options.workdir or f"runs/{study.name}-{options.preset}").path
    command = " ".join([f"python -m experiments.{study.name} --preset={options.preset}", *flags])
    files = [RESULTS, TABLES, *study.figures]
    refuse_other_results(folder, study=study.name, title=study.title, command=command, files=files)
    keep_programs(folder / "compiled")
    records = RecordFolder(Path(options.records or folder / "records"))
    training = RecordedTraining(records, folder / "runs", jobs=options.jobs, keep=options.keep_runs)
    return OpenStudy(folder, command, training, train=not options.from_records)


def keep_programs(folder: Path) -> None:
    """Share compiled programs with training processes, in a folder unless JAX's variable says."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder.resolve())
        jax.config.update("jax_compilation_cache_dir", str(folder.resolve()))
