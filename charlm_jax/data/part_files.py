"""Files that are the parts of one text: train.txt, valid.txt and test.txt, or ptb.train.txt etc."""

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePath
from typing import NamedTuple

from charlm_jax.core.errors import CharlmError

PART_WORDS = {
    "train": "train",
    "valid": "valid",
    "validation": "valid",
    "val": "valid",
    "dev": "valid",
    "test": "test",
}
"""Words in the names of files, and the parts that they name."""

# A word of its own: not part of "training" or "test2".
_WORD = re.compile(rf"(?<![^\W_])({'|'.join(PART_WORDS)})(?![^\W_])", re.IGNORECASE)


class PartFiles(NamedTuple):
    """Files, or folders, whose paths are equal but for the word that names a part.

    Attributes:
      pattern: their common path, with an asterisk for the word; it ends in a slash for folders.
      files: part -> its files or folders, sorted.
    """

    pattern: str
    files: Mapping[str, list[str]]

    @property
    def is_split(self) -> bool:
        """True if there is one file for each part, and one of validation text."""
        is_one_each = all(len(files) == 1 for files in self.files.values())
        return is_one_each and "valid" in self.files and not self.pattern.endswith("/")

    def __str__(self) -> str:
        """List the names in the order in which files are joined."""
        *above, _ = self.pattern.rstrip("/").split("/")
        whole = sorted(itertools.chain(*self.files.values()))
        return ", ".join(path.removeprefix("/".join([*above, ""])) for path in whole)


def find_part_files(paths: Iterable[str]) -> list[PartFiles]:
    """Return the sets of files, or of folders of files, that are the parts of one text.

    Paths are a set if their names are equal but for a word such as `train` or `valid`; a set has
    training text and another part.
    """
    found: dict[str, dict[str, set[str]]] = {}
    for path in paths:
        for pattern, part, named in _readings(path):
            found.setdefault(pattern, {}).setdefault(part, set()).add(named)
    return [
        PartFiles(pattern, {part: sorted(named) for part, named in files.items()})
        for pattern, files in sorted(found.items())
        if "train" in files and len(files) > 1
    ]


def _readings(path: str) -> Iterator[tuple[str, str, str]]:
    """Yield pattern, part, and the file or folder that is named for it."""
    *folders, name = path.split("/")
    words = list(_WORD.finditer(name))
    if len(words) == 1:
        (word,) = words
        pattern = f"{name[: word.start()]}*{name[word.end() :]}"
        yield "/".join([*folders, pattern]), PART_WORDS[word[0].lower()], path
    for depth, folder in enumerate(folders):
        if part := PART_WORDS.get(folder.lower()):
            above = folders[:depth]
            yield "/".join([*above, "*", ""]), part, "/".join([*above, folder, ""])


def _names_alone(found: PartFiles, paths: Iterable[str]) -> bool:
    """Return whether the pattern of a set matches its own files and no others of some paths."""
    own = {*itertools.chain(*found.files.values())}
    return {path for path in paths if PurePath(path).match(found.pattern)} == own


def choose_part_files(spec: str, paths: Iterable[str]) -> dict[str, str]:
    """Return the file of each part of a text that is kept in files.

    Args:
      spec: folder or glob, for messages.
      paths: every file that it names.

    Returns:
      Part -> file, in the order train, valid, test.

    Raises:
      CharlmError: the files are not exactly one for each part; validation text is missing.
    """
    paths = sorted(paths)
    sets = find_part_files(paths)
    wanted = "config.split.kind=files needs a folder or glob with train.txt, valid.txt and test.txt"
    if not sets:
        raise CharlmError(f"{wanted} (or ptb.train.txt etc.): {spec!r} has no such files")
    if len(sets) > 1:
        patterns = ", ".join(found.pattern for found in sets)
        alone = [found.pattern for found in sets if _names_alone(found, paths)]
        way = f"name one, as in --config.data.corpus='{alone[0]}'" if alone else "move the others"
        raise CharlmError(f"{spec!r} has the parts of {len(sets)} texts ({patterns}): {way}")
    ((pattern, files),) = sets
    if pattern.endswith("/"):
        raise CharlmError(
            f"{wanted}, and {spec!r} has folders ({sets[0]}): join the files of each into one"
        )
    for part, several in files.items():
        if len(several) > 1:
            raise CharlmError(f"{spec!r} has two files of the part {part!r}: {', '.join(several)}")
    others = sorted({*paths}.difference(*files.values()))
    if others:
        way = f"leave it out with --config.data.corpus='{pattern}'"
        if not _names_alone(sets[0], paths):
            way = "move it to another folder"
        raise CharlmError(f"{others[0]} is no part of the text: {way}")
    if "valid" not in files:
        raise CharlmError(f"{spec!r} has no validation text: name a file such as valid.txt")
    return {part: files[part][0] for part in ("train", "valid", "test") if part in files}
