"""Protection of results folders: a study never overwrites other files."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from charlm_jax.core.errors import CharlmError
from charlm_jax.core.files import atomic_write
from charlm_jax.core.json_files import to_jsonable, write_json

RESULTS = "results.json"
TABLES = "tables.md"
_DIGITS = 9  # of numbers in results.json: sums of other processors differ in the last of 16
PAGES = ("index.md", "README.md")  # written by hand, only once results exist


def refuse_other_results(
    folder: Path, *, study: str, title: str, command: str, files: Sequence[str]
) -> None:
    """Refuse a folder in which the study would overwrite something else.

    The folder is accepted if the same command wrote its `results.json`, or if it holds none of the
    files that the study writes.

    Args:
      folder: output folder of the study; it need not exist.
      study: name of the study's package in experiments/.
      title: first line of the study's `tables.md`.
      command: command line of this study; `results.json` and `tables.md` contain it.
      files: names of all files that the study writes.

    Raises:
      CharlmError: the path is a file, or the folder holds unrelated files or results of another
        command.
    """
    if folder.exists() and not folder.is_dir():
        raise CharlmError(f"{folder} is not a folder: choose another")
    results, tables = folder / RESULTS, folder / TABLES
    if not os.path.lexists(results):
        for name in (*files, *PAGES):
            if os.path.lexists(folder / name):
                raise _not_ours(folder / name)
        return
    _refuse_other_command(results, study, _saved_command(results), command)
    if os.path.lexists(tables):
        first, *lines = _read(tables).splitlines() or [""]
        commands = (line.strip() for line in lines if line[:4] == "    ")
        saved = next(commands, None) if first == title else None
        _refuse_other_command(tables, study, saved, command)


def write_results_folder(
    folder: Path, *, values: Mapping[str, Any], draw: Callable[[Path], None], text: str
) -> None:
    """Write results.json, the figures and tables.md, and print the tables.

    Args:
      folder: folder to write into, which is created.
      values: content of results.json, with the `command` of the study.
      draw: function that draws the figures into the folder.
      text: content of tables.md.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / RESULTS, _rounded(to_jsonable(values)))  # first: it marks the folder
    draw(folder)
    atomic_write(folder / TABLES, text.encode())
    print(f"\n{text}\n{folder / TABLES}")


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return float(f"{value:.{_DIGITS}g}") if isinstance(value, float) else value


def _saved_command(results: Path) -> str | None:
    """Return the command recorded in a `results.json`; None if the file is damaged or foreign."""
    try:
        values = json.loads(_read(results))
    except (ValueError, RecursionError):
        return None
    command = values.get("command") if isinstance(values, dict) else None
    return command if isinstance(command, str) else None


def _refuse_other_command(file: Path, study: str, saved: str | None, command: str) -> None:
    if saved is None or not f"{saved} ".startswith(f"python -m experiments.{study} "):
        raise _not_ours(file)
    if saved != command:
        raise CharlmError(
            f"{file} is from another command ({saved}): choose another folder, or move it away"
        )


def _not_ours(file: Path) -> CharlmError:
    return CharlmError(f"{file} is not from this study: choose another folder")


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise _not_ours(file) from error
