"""JavaScript of the playground: plain functions, joined in a fixed order."""

from collections.abc import Sequence
from importlib.resources import files

ENGINE: Sequence[str] = (
    "engine/random.js",
    "engine/arrays.js",
    "engine/layers.js",
    "engine/recurrent.js",
    "engine/scans.js",
    "engine/memories.js",
    "engine/attention.js",
    "engine/mixers.js",
    "engine/model.js",
    "engine/trail.js",
    "engine/sampling.js",
    "engine/vocabulary.js",
)
"""Files that compute the model. They use the language alone, so that any engine runs them."""

APP: Sequence[str] = (
    "app/limits.js",
    "app/scale.js",
    "app/dom.js",
    "app/signs.js",
    "app/stream.js",
    "app/text_view.js",
    "app/inspector.js",
    "app/column.js",
    "app/colours.js",
    "app/reading.js",
    "app/main.js",
)
"""Files that connect the model with the page."""


def join_scripts(names: Sequence[str]) -> str:
    """Return the files' code in order; all of them share one scope."""
    return "\n".join(read_file(name) for name in names)


def read_file(name: str) -> str:
    """Return a file of this package."""
    return (files(__package__) / name).read_text(encoding="utf-8")
