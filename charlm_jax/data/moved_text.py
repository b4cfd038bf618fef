"""Search for a text that is no longer where a run recorded it."""

import glob
import os
from collections.abc import Iterable
from pathlib import Path

from charlm_jax.core.errors import CharlmError
from charlm_jax.data.corpora import is_registered
from charlm_jax.data.text_files import find_text_files, is_pattern

_MOST_ENDS = 3


def is_gone(corpus: str) -> bool:
    """Return whether a recorded path or glob has no file any more; False for a registered name."""
    if is_registered(corpus) or os.path.lexists(corpus):
        return False
    if is_pattern(corpus):
        try:
            find_text_files(corpus)
        except CharlmError:
            return True
        return False
    return os.path.isabs(corpus)


def likely_places(corpus: str, folders: Iterable[Path]) -> list[str]:
    """Return paths below some folders that end as a recorded path or glob does.

    Only those are returned that exist, or are a glob in a folder that does. Whether one of them is
    the text is for its content to decide.

    Args:
      corpus: recorded path or glob.
      folders: folders to look in, the most likely first.
    """
    parts = corpus.split("/")
    patterns = (number for number, part in enumerate(parts) if glob.has_magic(part))
    first = next(patterns, len(parts))
    ends = [parts[start:] for start in range(first - 1, max(0, first - 1 - _MOST_ENDS), -1)]
    places = {
        os.path.join(folder, *end): os.path.join(folder, *end[: first - len(parts) or None])
        for folder in folders
        for end in ends
    }
    return [place for place, fixed in places.items() if os.path.lexists(fixed)]
