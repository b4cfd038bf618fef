"""Pages in Markdown: their tables, and whether one may be replaced."""

import os
from collections.abc import Sequence
from pathlib import Path

from charlm_jax.core.errors import CharlmError


def head(*cells: object) -> tuple[str, str]:
    """A table's first two lines."""
    return row(*cells), "|" + "---|" * len(cells)


def row(*cells: object) -> str:
    """Any further line."""
    return f"| {' | '.join(map(str, cells))} |"


def refuse_other_page(
    folder: Path, title: str, command: str, *, beside: Sequence[str] = ()
) -> None:
    """Refuse a folder whose README.md is another's, before anything is computed for it.

    Args:
      folder: where a page is to be written.
      title: the first line of the study's pages.
      command: that makes this page; it stands on every page, indented.
      beside: files that are written after the page: without it, they are somebody else's.

    Raises:
      CharlmError: the folder has a page of something else, or one that another command made; or it
        is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise CharlmError(f"{folder} is not a folder: choose another")
    file = folder / "README.md"
    if not file.exists():
        for name in beside:
            if os.path.lexists(folder / name):
                raise CharlmError(f"{folder / name} is not of this study: choose another folder")
        return
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    if lines[:1] != [title]:
        raise CharlmError(f"{file} is not of this study: choose another folder")
    if f"    {command}" not in lines:
        raise CharlmError(
            f"{file} is of another command, and stays: choose another folder, or move it away"
        )
