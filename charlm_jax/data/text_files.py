"""Files of a text: those of a folder or a glob, without what charlm_jax wrote itself."""

import fnmatch
import functools
import glob
import os
from collections.abc import Iterable, Iterator
from typing import NamedTuple, NoReturn

from charlm_jax.core.errors import CharlmError
from charlm_jax.core.folders import (
    Folder,
    describe_left_out,
    own_file,
    own_folder,
    refuse_too_many,
    walk,
)


class TextFiles(NamedTuple):
    """Files to read as one text.

    Attributes:
      paths: paths in sorted order.
      left_out: one line about what charlm_jax itself wrote there, which is not read; empty if there
        is nothing.
    """

    paths: list[str]
    left_out: str


def is_pattern(path: str) -> bool:
    """Return whether a path is a glob: it has `*`, `?` or `[`, and there is no such file."""
    return glob.has_magic(path) and not os.path.lexists(path)


def find_text_files(path: str) -> TextFiles:
    """Return the files of a text.

    A file is itself. A folder stands for every file in it and below it, a glob for every file that
    matches, both without names that begin with a dot, and without runs, sweeps, exported models,
    checkpoints, pages and figures of charlm_jax. Links to folders are followed, and every real file
    is read once.

    Args:
      path: path of a file, a folder or a glob; one that exists is not taken for a glob.

    Raises:
      CharlmError: there is no file to read, there are too many, or a folder cannot be listed.
    """
    if os.path.lexists(path) and not os.path.isdir(path):
        return TextFiles([path], "")
    search = _Search()
    found = [*search.matches(path)] if is_pattern(path) else [*search.files_below(path)]
    paths = _once(found)
    left_out = describe_left_out(
        {os.path.normpath(own): kind for own, kind in search.left_out.items()}
    )
    if not paths:
        raise CharlmError(_nothing(path, left_out))
    return TextFiles(paths, left_out)


class _Search:
    """One search for the files of a text.

    Attributes:
      left_out: path -> kind of what charlm_jax wrote itself.
    """

    def __init__(self) -> None:
        self.left_out: dict[str, str] = {}

    def files_below(self, root: str) -> Iterator[str]:
        """Yield the files in a folder and below it."""
        for folder in self.folders_below(root):
            for name in folder.files:
                yield from self.unless_own(os.path.join(folder.path, name))

    def folders_below(self, root: str) -> Iterator[Folder]:
        """Yield a folder and those below it, without what charlm_jax wrote."""
        own: list[str] = []
        for folder in walk(root, refuse=_refuse):
            if any(folder.real.startswith(f"{real}/") for real in own):  # through a link
                folder.folders.clear()
            elif kind := own_folder(folder.path, folder.names):
                self.left_out[folder.path] = kind
                own.append(folder.real)
                folder.folders.clear()
            else:
                yield folder

    def unless_own(self, path: str) -> Iterator[str]:
        """Yield a file, unless charlm_jax wrote it."""
        if kind := own_file(path):
            self.left_out[path] = kind
        else:
            yield path

    def matches(self, pattern: str) -> Iterator[str]:
        """Yield the files that match a pattern, perhaps several times."""
        start, parts = split_pattern(pattern)
        paths = [start]
        for number, part in enumerate(parts, start=1):
            is_last = number == len(parts)
            paths = [*dict.fromkeys(self.next_matches(paths, part, is_last=is_last))]
            refuse_too_many(len(paths), pattern)
        for path in paths:
            if not os.path.isdir(path or "."):
                yield from self.unless_own(path)

    def next_matches(self, paths: Iterable[str], part: str, *, is_last: bool) -> Iterator[str]:
        """Yield the paths that match one more part of a pattern."""
        for path in paths:
            if part != "**" and not os.path.isdir(path or "."):
                continue
            if part == "**":
                for folder in self.folders_below(path) if os.path.isdir(path or ".") else ():
                    yield folder.path
                    if is_last:
                        yield from (os.path.join(folder.path, name) for name in folder.files)
            elif kind := own_folder(path, names := _names(path)):
                self.left_out[path] = kind
            elif glob.has_magic(part) and not ("[" in part and part in names):
                yield from (os.path.join(path, name) for name in _matching(names, part))
            elif os.path.lexists(whole := os.path.join(path, part)):
                yield whole


def split_pattern(pattern: str) -> tuple[str, list[str]]:
    """Return the folder that a pattern begins with, and the parts after it.

    >>> split_pattern("src/lib/**/*.py"), split_pattern("/a/b*"), split_pattern("*")
    (('src/lib', ['**', '*.py']), ('/a', ['b*']), ('', ['*']))
    """
    parts = pattern.split("/")
    first = next(number for number, part in enumerate(parts) if glob.has_magic(part))
    while first < len(parts) - 1 and os.path.isdir("/".join(parts[: first + 1])):
        first += 1  # a folder of this very name, brackets and all
    start = "/".join(parts[:first]) or ("/" if first else "")
    return start, [part for part in parts[first:] if part]


def _names(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder or "."))
    except OSError as error:
        _refuse(error)


def _matching(names: Iterable[str], part: str) -> list[str]:
    """Return the names that match; those with a leading dot only if the pattern has one too."""
    return [
        name
        for name in fnmatch.filter(names, part)
        if part.startswith(".") or not name.startswith(".")
    ]


def _refuse(error: OSError) -> NoReturn:
    raise CharlmError(f"cannot read folder {error.filename}: {error.strerror}") from None


def _once(paths: Iterable[str]) -> list[str]:
    """Return one path for each real file, in sorted order: its own path if that is among them."""
    real_folder = functools.cache(os.path.realpath)

    def real_path(path: str) -> str:
        folder, name = os.path.split(path)
        is_link = os.path.islink(path)
        return os.path.realpath(path) if is_link else os.path.join(real_folder(folder), name)

    reals = {path: real_path(path) for path in sorted(paths)}
    own = {real: path for path, real in reals.items() if os.path.abspath(path) == real}
    first = {real: path for path, real in reversed(reals.items())}
    return sorted({**first, **own}.values())


def _nothing(path: str, left_out: str) -> str:
    if left_out:
        return f"{path!r} has no files to read: {left_out}"
    if "[" in path:
        escaped = path.replace("[", "[[]")
        return (
            f"{path!r} has no files to read: in a pattern, [...] stands for one of the characters "
            f"in it; if the brackets are part of a name, write {escaped!r}"
        )
    return f"{path!r} has no files to read; names that begin with a dot are ignored"
